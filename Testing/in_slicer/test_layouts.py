"""Both modules run in the three layouts in which Slicer finds them, without the project being installed."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def merged(folder):
    """The extension as Slicer packages it: both modules' files in one folder."""
    for module in ("CranialImplant", "MedShapeGen"):
        without = shutil.ignore_patterns("__pycache__", "weights", "demo", "training", "CMakeLists.txt")
        shutil.copytree(ROOT / module, folder, ignore=without, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize("layout", ["source tree", "one module alone", "merged"])
def test_self_tests_pass(layout, fresh_host, tmp_path):
    both = [ROOT / "CranialImplant", ROOT / "MedShapeGen"]
    folders = {"source tree": both, "one module alone": both[:1], "merged": []}[layout] or [merged(tmp_path / "qt-scripted-modules")]
    tests = ["CranialImplant"] if layout == "one module alone" else ["CranialImplant", "MedShapeGen"]
    answer = fresh_host(folders, self_test=tests, timeout_s=200)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-3000:]


def test_importing_both_modules_is_quick_and_loads_no_torch(fresh_host):
    code = f"""
import sys, time, importlib.util
import slicer, vtk, qt, ctk, slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper
def load(path):
    spec = importlib.util.spec_from_file_location(path.rsplit("/", 1)[-1][:-3] + "Again", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
# The processor's time: other work on this computer is not the modules' fault.
started = time.process_time()
load({str(ROOT / "CranialImplant" / "CranialImplant.py")!r})
load({str(ROOT / "MedShapeGen" / "MedShapeGen.py")!r})
seconds = time.process_time() - started
assert seconds < 0.3, seconds
heavy = [name for name in ("torch", "scipy", "SimpleITK", "skimage", "trimesh") if name in sys.modules]
assert not heavy, heavy
assert not any(name.startswith(("CranialImplantLib", "MedShapeGenLib")) for name in sys.modules)
print("seconds", seconds)
"""
    answer = fresh_host([], code=code)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-3000:]
