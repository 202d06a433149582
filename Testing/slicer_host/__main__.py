"""A fresh host in a process of its own, started as the application is on a command line; exit code 1 for any fault."""

import argparse
import logging
import sys

from . import missing

parser = argparse.ArgumentParser("slicer_host", description=__doc__)
parser.add_argument("--module-paths", nargs="*", default=[], metavar="FOLDER")
parser.add_argument("--self-test", nargs="*", default=[], metavar="NAME")
parser.add_argument("--python-code", default="", help="`host` is the Host")
chosen = parser.parse_args()
if missing():
    sys.exit(missing())
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

from .host import Host  # noqa: E402 (needs what is missing)

host = Host(chosen.module_paths)
for name in chosen.self_test:
    host.run_self_test(name)
exec(chosen.python_code, {"host": host})
host.raise_faults()
