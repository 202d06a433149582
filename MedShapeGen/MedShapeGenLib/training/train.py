"""The stages of training, by name: skeletons, autoencoder, level, ordered, latents, diffusion, features, export.

Everything lies in one folder: skeletons and latents in subfolders; for each network the checkpoint from which a later
call goes on, the averaged weights and the log.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from MedShapeCore.errors import OptionError, RefusedInput
from MedShapeCore.training import Loop, Task, chosen_device, named, run_loop
from MedShapeCore.weights import open_weights
from safetensors.torch import load_file, save_file
from torch import nn

from ..autoencoder import AutoEncoder, AutoEncoderOptions
from ..categories import CATEGORIES
from ..models import WEIGHTS
from .shape_pack import PackedCategory, read_categories

STAGES = ("skeletons", "autoencoder", "level", "ordered", "latents", "diffusion", "features", "export")


def train(
    stage: str, pack: str | Path | None, out: str | Path, minutes: float = 30.0, device: str = "auto", seed: int = 0,
    without_sources: frozenset[str] = frozenset(), options: AutoEncoderOptions | None = None,
    threads: int | None = None, progress: Callable[[str], None] = print, names: tuple[str, ...] | None = None,
    start: Path | None = None, weights: Path | None = None,
) -> Path:  # fmt: skip
    """Runs one stage and returns what it wrote; a network trains for `minutes` and goes on from its checkpoint in `out`.

    pack    : folder made by `medshapegen prepare`; without_sources : keys of data sources that are left out.
    names   : categories to train on, those for measurements alone too; None: all of the bundled model that the pack has.
    start   : a folder of weights from which a network without a checkpoint goes on; None: random weights.
    weights : the folder that `export` writes; None: the bundled one.
    Raises OptionError for wrong options, RefusedInput for missing data, FailedResult where the loss is no number.
    """
    if stage not in STAGES:
        raise OptionError("stage", stage, "one of " + ", ".join(STAGES))
    if not (math.isfinite(minutes) and minutes > 0):
        raise OptionError("minutes", minutes, "a number above 0")
    if stage not in ("diffusion", "export") and pack is None:
        raise OptionError("data", None, f"a pack for the stage {stage}: a folder made by `medshapegen prepare`")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    if stage == "export":
        from .export import export_weights

        return export_weights(folder, weights or WEIGHTS)
    categories: list[PackedCategory] = []
    if pack is not None and stage != "diffusion":
        categories = read_categories(Path(pack), list(names), without_sources) if names else bundled(Path(pack), without_sources)
    if stage == "skeletons":
        from .autoencoder_task import save_skeletons

        return save_skeletons(categories, folder, seed)
    if stage == "ordered":
        from .diffusion_task import save_ordered

        return save_ordered(categories, folder, seed)
    if stage in ("level", "latents"):
        network = AutoEncoder(options)
        network.load_state_dict(named(load_file(folder / "autoencoder.checkpoint.safetensors"), "average"))
        if stage == "level":
            from .level import save_level

            return save_level(categories, folder, network.eval(), seed)
        from .diffusion_task import save_latents

        return save_latents(categories, folder, network.eval())
    with torch.random.fork_rng(devices=[]):  # the first weights come from the seed, the caller's generator stays
        torch.manual_seed(seed)
        task = network_task(stage, categories, folder, options)
    if start is not None:
        load_start(task.network, stage, start)
    loop = Loop(task, folder / f"{stage}.checkpoint.safetensors", chosen_device(device), seed)
    run_loop(loop, stage, minutes, folder / f"{stage}.csv", progress)
    written = folder / f"{stage}.safetensors"
    save_file({n: t.to("cpu", torch.float16).contiguous() for n, t in loop.average.items()}, written)
    return written


def load_start(network: nn.Module, stage: str, folder: Path) -> None:
    """Puts the weights of a folder into a network; a checkpoint, where there is one, replaces them later."""
    try:
        network.load_state_dict(open_weights(folder).tensors(stage))
    except RuntimeError as error:
        raise RefusedInput("weights-architecture", f"The weights of {stage} in {folder.name} do not fit the network.",
                           "Train with the same options, or from the beginning.") from error


def bundled(pack: Path, without_sources: frozenset[str]) -> list[PackedCategory]:
    """The categories of the bundled model that the pack has; shapes of other categories only serve measurements."""
    there = [c.name for c in CATEGORIES if (pack / "shapes" / f"{c.name}.npz").is_file()]
    return read_categories(pack, there, without_sources)


def network_task(stage: str, categories: list[PackedCategory], folder: Path, options: AutoEncoderOptions | None) -> Task:
    """What a network's stage trains on."""
    if stage == "autoencoder":
        from .autoencoder_task import task as autoencoder

        return autoencoder(categories, folder, options)
    if stage == "features":
        from .features_task import task as features

        return features(categories)
    from .diffusion_task import task as diffusion

    return diffusion(folder)
