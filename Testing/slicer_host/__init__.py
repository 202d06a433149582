"""A strict stand-in for the 3D Slicer application, to run scripted modules and their self tests without it.

Real: MRML, storage, module logics, segmentation conversion, displayable managers and slicer.util (slicer-core), Qt
(PySide6). Stand-ins: what Slicer makes of Qt, PythonQt's way of speaking to Qt, the Python base classes, the launcher
PythonSlicer. What the application does not have is not here either: an unknown attribute, signal, widget class or type of
parameter raises. More lenient than the application: PythonQt's ownership of objects and its crashes; modules are found in
given folders only; nothing is translated; dialogs answer at once; whole features are absent (DICOM, effects, CLIs).

slicer-core, vtk and numpy need nothing but the C and C++ libraries. PySide6 is linked to the libraries below, which no
package of PyPI carries; Debian: libegl1 libgl1 libglib2.0-0 libfontconfig1 libdbus-1-3 libxkbcommon0 fonts-dejavu-core, and
for pictures of views libegl-mesa0 libgl1-mesa-dri. `missing()` tells, and the tests are skipped with what it says.
"""

import ctypes.util
import importlib.util
import sys

LINUX_LIBRARIES = "EGL GL glib-2.0 fontconfig dbus-1 xkbcommon".split()


def missing() -> str:
    """Why the host cannot start on this machine, as a sentence for a skipped test; "" when it can."""
    for package, distribution in (("slicer_core", "slicer-core"), ("PySide6", "PySide6-Essentials")):
        if importlib.util.find_spec(package) is None:
            return f"the Slicer host needs {distribution} (pip install -c constraints.txt {distribution})"
    absent = [name for name in LINUX_LIBRARIES if sys.platform == "linux" and ctypes.util.find_library(name) is None]
    return f"Qt needs libraries that this machine lacks: lib{', lib'.join(absent)} (Testing/slicer_host/__init__.py)" if absent else ""
