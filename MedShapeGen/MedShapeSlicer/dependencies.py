"""What the workers need beyond Slicer's own packages, found without importing any of it, installed after consent."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import slicer
from slicer.i18n import tr as _

REQUIREMENTS = {"safetensors": "safetensors>=0.4", "scikit-image": "scikit-image>=0.22", "trimesh": "trimesh>=4.0"}
KEPT = ("numpy", "scipy", "vtk", "SimpleITK", "requests", "packaging", "pydicom")  # Slicer's own: never replaced
# Wheels of 2.13 hold paths that are too long for the default folder of Windows.
TORCH = ">=2.4,<2.13" if sys.platform == "win32" else ">=2.4"


def installedVersion(name: str) -> str | None:
    """A package's version from its metadata; None where it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torchState() -> str:
    """ready, missing, or broken: half an installation leaves metadata without a package, or a package without its code."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        spec = None
    whole = spec is not None and spec.origin is not None
    version = installedVersion("torch")
    if whole and version:
        return "ready"
    return "missing" if spec is None and version is None else "broken"


def missingPackages() -> list[str]:
    """Requirements beside torch that are not installed."""
    return [requirement for name, requirement in REQUIREMENTS.items() if installedVersion(name) is None]


def constraints() -> list[str]:
    """Lines for pip that keep Slicer's own packages as they are."""
    return [f"{name}=={version}" for name in KEPT if (version := installedVersion(name)) is not None]


def pytorchLogic() -> object | None:
    """The logic of the PyTorch extension; None where that is not installed."""
    try:
        import PyTorchUtils
    except ImportError:
        return None
    return PyTorchUtils.PyTorchUtilsLogic()


def ready() -> bool:
    return torchState() == "ready" and not missingPackages()


def makeReady(ask: Callable[[str], bool], tell: Callable[[str], None]) -> bool:
    """Installs what is missing if the user agrees; True when a run can start now.

    ask(question) -> answer; tell(message). Nothing is installed unasked, and torch only by the PyTorch extension.
    """
    state, packages = torchState(), missingPackages()
    if state == "ready" and not packages:
        return True
    logic = None
    if state != "ready":
        logic = pytorchLogic()
        if logic is None:
            tell(_("The PyTorch extension is needed. Install it with the Extensions Manager (search for PyTorch), restart "
                   "Slicer and come back. Without internet: install it from a file there."))  # fmt: skip
            return False
    folder = sysconfig.get_paths()["purelib"]
    if not os.access(folder, os.W_OK):
        tell(_("Packages cannot be installed: the folder {folder} is write-protected. Ask the administrator, or use a copy of "
               "Slicer in a folder of your own.").format(folder=folder))  # fmt: skip
        return False
    names = (["PyTorch"] if state != "ready" else []) + packages
    if not ask(_("The calculation needs Python packages that are not installed yet: {names}.\n\nThey are downloaded from the "
                 "internet now (PyTorch: up to 3 GB, some minutes). Slicer's own packages stay as they are. Install?"
                 ).format(names=", ".join(names))):  # fmt: skip
        return False
    try:
        if packages:
            install(packages)
        if logic is not None:
            if state == "broken":
                logic.uninstallTorch()  # type: ignore[attr-defined]
            # It imports torch here, in the application: hence the restart.
            logic.installTorch(askConfirmation=False, torchVersionRequirement=TORCH)  # type: ignore[attr-defined]
    except Exception as error:
        logging.exception("MedShapeGen: installing packages failed")
        tell(_("The installation failed: {error}\n\nWithout internet, or behind a firewall: prepare Slicer on another computer of "
               "the same kind, where this works, and copy its whole folder here.").format(error=error))  # fmt: skip
        return False
    if logic is not None:
        tell(_("PyTorch is installed. Save your work, restart Slicer and click again."))
        return False
    return ready()


def install(requirements: Sequence[str]) -> None:
    """pip, with Slicer's own packages constrained to what is there."""
    with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(constraints()) + "\n", encoding="utf-8")
        try:
            from slicer.packaging import pip_install  # 5.12 and later
        except ImportError:
            slicer.util.pip_install([*requirements, "--constraint", str(file)])
        else:
            pip_install(list(requirements), constraints=str(file))


def licenceAccepted(module: str, ask: Callable[[str], bool]) -> bool:
    """Whether the weights' licence was acknowledged; asks once, and remembers a yes."""
    settings, key = slicer.app.userSettings(), f"{module}/WeightsLicenceAccepted"
    if str(settings.value(key, "")) == "CC BY-NC-SA 4.0":
        return True
    if not ask(_("This module is for research, not for clinical use.\n\nThe bundled networks were trained on public data and carry "
                 "the licence CC BY-NC-SA 4.0: no commercial use, name the source, share alike. (The program itself is "
                 "Apache-2.0.)\n\nDo you accept this?")):  # fmt: skip
        return False
    settings.setValue(key, "CC BY-NC-SA 4.0")
    return True


def computerReport(findings: Sequence[dict]) -> str:
    """Plain text about this computer, to be copied into a question on the forum; names no person and no folder."""
    lines = [f"3D Slicer {slicer.app.applicationVersion}, revision {slicer.app.repositoryRevision}"]
    lines += [f"{'ok  ' if finding['good'] else 'BAD '} {finding['item']}: {finding['value']}" for finding in findings]
    return "\n".join(lines)
