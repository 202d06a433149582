"""A stand-in for PythonSlicer: a launcher that starts the interpreter as its child, as Slicer's does.

Killing the launcher leaves the interpreter running, which knows nothing of the modules' folders: PYTHONPATH is dropped and
an editable installation of this project hidden, so a worker has to be started with its packages' folders given.
"""

import os
import shlex
import sys
from pathlib import Path

HIDE_EDITABLE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
"""
# The first line of both languages: a path in #! may not hold a space, and the shell hands over to Python.
LAUNCHER = """#!/bin/sh
''''exec {quoted} "$0" "$@" # '''
import os, subprocess, sys
environment = dict(os.environ, PYTHONPATH={site!r}, SLICER_LAUNCHER_PID=str(os.getpid()))
child = subprocess.Popen([{python!r}, *sys.argv[1:]], env=environment)
sys.exit(child.wait())
"""


def install(folder: Path) -> Path:
    """Writes PythonSlicer into `folder` and puts that in front of PATH, where shutil.which finds it."""
    site = folder / "site"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(HIDE_EDITABLE, encoding="utf-8")
    path = folder / "PythonSlicer"
    text = LAUNCHER.format(quoted=shlex.quote(sys.executable), python=sys.executable, site=str(site))
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    os.environ["PATH"] = str(folder) + os.pathsep + os.environ["PATH"]
    return path
