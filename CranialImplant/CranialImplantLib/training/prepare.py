"""What is made from the pack before the networks are trained: the cases around holes, and the dome's shape model."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from MedShapeCore.errors import FailedResult, RefusedInput
from safetensors.torch import save_file

from ..dome import DomeModel
from .cases import CASE_FILES, folded_models, whole_maps, write_numbered_cases
from .kernel import Kernel
from .pack import PackedSkull
from .shape_model import dome_model, fit_shape

MIN_COMPLETE = 30  # a quarter fewer, each also mirrored, must carry the shape model's modes
TELL_SECONDS = 20.0


def enough_complete(skulls: list[PackedSkull]) -> list[PackedSkull]:
    """The complete skulls; refuses where they are too few for a shape model."""
    complete = [s for s in skulls if s.complete]
    if len(complete) < MIN_COMPLETE:
        raise RefusedInput(
            "few-skulls", f"The pack has {len(complete)} complete skulls to train on; {MIN_COMPLETE} are needed.",
            "Pack more skulls without a hole.",
        )  # fmt: skip
    return complete


def spread_cases(
    skulls: list[PackedSkull], kernel: Kernel, folder: Path, minutes: float, seed: int = 0, processes: int | None = None,
    progress: Callable[[str], None] = print,
) -> Path:
    """Writes cases into `folder` for `minutes`, in several processes (None = one per processor core).

    Case number n depends on the skulls, the seed and n alone; a later call goes on with the numbers that are missing,
    whatever the number of processes.
    """
    start = time.monotonic()
    enough_complete(skulls)
    models, number = folded_models(skulls, kernel)
    folder.mkdir(parents=True, exist_ok=True)
    left = 60 * minutes - (time.monotonic() - start)
    progress(f"cases seconds={time.monotonic() - start:.0f} shape models fitted" + " but no time left" * (left <= 0))
    count = processes or os.cpu_count() or 1
    # A fork shares the skulls (700 MB for 170) with the processes; where it is not safe they are sent to each of them.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    shared = (skulls, models, number, folder, seed)
    workers = [context.Process(target=_work, args=(*shared, n, count, left), daemon=True) for n in range(count)]
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            told = time.monotonic()
            for worker in workers:
                worker.join(max(0.0, told + TELL_SECONDS - time.monotonic()))
            progress(f"cases seconds={time.monotonic() - start:.0f} files={len(list(folder.glob(CASE_FILES)))}")
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()  # files are written whole or not at all
    if any(worker.exitcode for worker in workers):
        raise FailedResult("cases", "Making the cases ended early; see the messages above.")
    return folder


def _work(
    skulls: list[PackedSkull], models: list[DomeModel], number: np.ndarray, folder: Path, seed: int, first: int,
    step: int, seconds: float,
) -> None:
    write_numbered_cases(skulls, models, number, folder, seed, itertools.count(first, step), seconds)


def save_dome(skulls: list[PackedSkull], kernel: Kernel, path: Path) -> Path:
    """Fits the shape model to all skulls, their own holes filled, and writes it with its kernel as safetensors."""
    enough_complete(skulls)
    tensors = dome_tensors(dome_model(fit_shape(*whole_maps(skulls, kernel)), kernel))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors | {f"kernel.{name}": value for name, value in kernel.state_dict().items()}, path)
    return path


def dome_tensors(model: DomeModel) -> dict[str, torch.Tensor]:
    """The shape model as tensors; deviations in half precision, whose steps stay below 0.02 mm up to 32 mm."""
    single = ("mean", "lengths_mm", "couplings", "mirrorings")
    half = ("modes", "local_mm", "noise_mm")
    tensors = {name: torch.from_numpy(getattr(model, name).astype(np.float32)) for name in single}
    tensors |= {name: torch.from_numpy(getattr(model, name).astype(np.float16)) for name in half}
    return {"domain": torch.from_numpy(model.domain.astype(np.uint8)), **tensors}
