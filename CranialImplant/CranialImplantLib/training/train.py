"""The stages of training, by name.

Stages in order: `kernel`, `dome` and `cases` (see `prepare`), then the networks. Everything lies in one folder: the cases in its
subfolder, for each network the checkpoint from which a later call goes on, the averaged weights and the log.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from MedShapeCore.errors import OptionError
from MedShapeCore.training import Loop, Task, chosen_device, run_loop
from safetensors.torch import save_file

from .case_source import CASES
from .kernel import kernel_of
from .pack import PackedSkull, read_pack
from .prepare import save_dome, spread_cases

# facts of the public data: skulls kept for choosing between networks, and for the last judgement
DEVELOPMENT = ("004", "009", "013", "019", "029", "054", "060", "068", "073", "083")
VALIDATION = ("008", "018", "020", "022", "031", "032", "039", "047", "056", "058", "062", "072", "074", "077", "089")
SAME_SCAN = ("t003",)  # this challenge skull is validation skull 018: vaults 0.2 mm apart, all others above 0.7

PREPARATIONS = ("dome", "cases")
READS_PACK = ("kernel", *PREPARATIONS, "look")  # the other stages read the cases alone


def stages() -> dict[str, Callable[[list[PackedSkull], Path], Task]]:
    """Names of the networks' stages and what builds their tasks from the skulls and the folder of cases."""
    from .completion_task import task as completion
    from .kernel_task import task as kernel
    from .look_task import task as look
    from .refinement_task import task as refinement
    from .voxelization_task import task as voxelization

    return {"kernel": kernel, "look": look, "completion": completion, "voxelization": voxelization, "refinement": refinement}


def training_skulls(skulls: list[PackedSkull], with_development: bool) -> list[PackedSkull]:
    """The skulls that may be trained on; the development skulls only for weights that are no longer chosen between."""
    kept_out = VALIDATION + SAME_SCAN + (() if with_development else DEVELOPMENT)
    return [s for s in skulls if s.name not in kept_out]


def train(
    stage: str, pack: str | Path | None, out: str | Path, minutes: float, device: str = "auto", seed: int = 0,
    with_development: bool = False, threads: int | None = None, progress: Callable[[str], None] = print,
) -> Path:
    """Runs one stage for `minutes` and returns what it wrote: the averaged weights, or the folder of cases.

    A network goes on from its checkpoint in `out`; the learning rate falls to 2 % within the time of every call.
    pack : file of the skulls, needed by the stages in READS_PACK; threads : of the processor, and processes of the
    stage `cases`, None = all. Raises RefusedInput for wrong options and missing data, FailedResult where the loss is
    no number.
    """
    table = stages()
    names = ["kernel", *PREPARATIONS, *(name for name in table if name != "kernel")]
    if stage not in names:
        raise OptionError("stage", stage, "one of " + ", ".join(names))
    if not (math.isfinite(minutes) and minutes > 0):
        raise OptionError("minutes", minutes, "a number above 0")
    if threads is not None and threads < 1:
        raise OptionError("threads", threads, "a whole number from 1 on")
    if stage in READS_PACK and pack is None:
        raise OptionError("data", None, f"a pack for the stage {stage}: a file made by `cranial-implant pack`")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    skulls = training_skulls(read_pack(Path(pack)), with_development) if stage in READS_PACK and pack else []
    if stage == "cases":
        return spread_cases(skulls, kernel_of(folder), folder / CASES, minutes, seed, threads, progress)
    if stage == "dome":
        return save_dome(skulls, kernel_of(folder), folder / "dome.safetensors")
    if threads:
        torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):  # the first weights come from the seed, the caller's generator stays
        torch.manual_seed(seed)
        task = table[stage](skulls, folder / CASES)
    loop = Loop(task, folder / f"{stage}.checkpoint.safetensors", chosen_device(device), seed)
    run_loop(loop, stage, minutes, folder / f"{stage}.csv", progress)
    weights = folder / f"{stage}.safetensors"
    save_file({n: t.to("cpu", torch.float16).contiguous() for n, t in loop.average.items()}, weights)
    return weights
