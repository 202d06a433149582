"""Whether this computer can do the work: packages, graphics card, memory, disk, weights, and a short run."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MedShapeError
from .jobs import versions

if TYPE_CHECKING:
    from .jobs import Progress

NEEDED_GB = 4.0  # of memory, for a scan of 512 x 512 x 240
NEEDED_DISK_GB = 1.0


@dataclass(frozen=True)
class Finding:
    """One line of the check; `good` is False for what must be mended before a run can work."""

    item: str
    value: str
    good: bool = True


def check_computer(
    folder: Path, weights_folder: Path, progress: Progress, short_run: Callable[[], tuple[str, bool]] | None = None
) -> list[Finding]:
    """Everything that is asked first when something does not work; raises for nothing that it finds.

    folder : where runs put their files; short_run : does a little of the real work and returns (what it made, good).
    """
    progress("checking the packages", 0.02)
    found = versions()
    findings = [Finding(name, found[name]) for name in found]
    findings += [
        Finding(name, "not installed", False) for name in ("torch", "safetensors", "numpy", "scipy") if name not in found
    ]
    progress("looking for a graphics card", 0.1)
    findings.append(graphics_card())
    progress("checking memory and disk", 0.3)
    memory = memory_gb()
    if memory is not None:
        findings.append(Finding("memory", f"{memory:.0f} GB", memory >= NEEDED_GB))
    free_gb = shutil.disk_usage(folder).free / 2**30
    findings.append(Finding("free disk space", f"{free_gb:.0f} GB", free_gb >= NEEDED_DISK_GB))
    progress("checking the weights", 0.35)
    findings.append(weights(weights_folder))
    if short_run is not None and all(finding.good for finding in findings):
        progress("making a test run", 0.4)
        findings.append(timed(short_run))
    progress("done", 1.0)
    return findings


def graphics_card() -> Finding:
    """The CUDA device, or why there is none; both are good, for a processor is enough."""
    try:
        import torch
    except Exception as error:  # half an installation raises anything from ImportError to OSError
        return Finding("PyTorch", f"cannot be loaded: {error}", False)
    if not hasattr(torch, "__version__"):
        return Finding("PyTorch", "is half installed; uninstall it and install it again", False)
    if torch.version.cuda is None:
        return Finding("graphics card", "not used: this PyTorch is built for the processor alone")
    if not torch.cuda.is_available():
        return Finding("graphics card", f"none that PyTorch (CUDA {torch.version.cuda}) can use; check the driver")
    name, (free, total) = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
    try:
        torch.zeros(8, device="cuda").add_(1).cpu()
    except RuntimeError as error:
        return Finding("graphics card", f"{name} does not work with this PyTorch: {error}", False)
    return Finding("graphics card", f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GB free")


def memory_gb() -> float | None:
    """Memory of this computer in GB; None where it does not tell."""
    if sys.platform == "win32":
        buffer = (ctypes.c_uint64 * 8)()  # MEMORYSTATUSEX: length and load share the first, then total physical
        ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(buffer)
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(buffer))
        return buffer[1] / 2**30
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return None


def weights(folder: Path) -> Finding:
    """Whether every file of weights is the one of the manifest."""
    from .weights import open_weights

    try:
        opened = open_weights(folder)
        names = [Path(file).stem for file in opened.manifest["files"]]
        for name in names:
            opened.tensors(name)
    except (MedShapeError, ImportError) as error:
        return Finding("weights", str(error), False)
    return Finding("weights", f"{len(names)} files, {opened.digest}, as published")


def timed(short_run: Callable[[], tuple[str, bool]]) -> Finding:
    """The short run with the time it took; its refusal is a finding, its being cancelled is not."""
    started = time.perf_counter()
    try:
        made, good = short_run()
    except MedShapeError as error:
        if error.code == "cancelled":
            raise
        return Finding("test run", str(error), False)
    return Finding("test run", f"{made} in {time.perf_counter() - started:.0f} s", good)
