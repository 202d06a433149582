"""From checkpoints to the bundled weights: averaged networks in half precision, checked, with their manifest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from MedShapeCore.errors import FailedResult, RefusedInput
from MedShapeCore.training import named
from MedShapeCore.weights import write_manifest
from safetensors.torch import load_file, save_file
from torch import nn

from ..autoencoder import AutoEncoder
from ..categories import CATEGORIES
from ..diffusion import LatentDiffusion
from ..models import WEIGHTS
from .level import levelled, read_level

ABOUT: dict[str, Any] = {"name": "MedShapeGen", "version": 2, "licence": "CC BY-NC-SA 4.0"}
REQUIRED = ("autoencoder", "diffusion")


def export_weights(checkpoints: Path, weights: Path = WEIGHTS, about: dict[str, Any] | None = None) -> Path:
    """Writes the averaged weights of all checkpoints and the manifest; nothing where a part is missing or unfit.

    The auto-encoder's surface is levelled by what the stage `level` measured. What `checkpoints` does not have stays as
    `weights` has it, or is the bundled one.
    """
    ready: dict[str, dict[str, torch.Tensor]] = {}
    copies: dict[str, Path] = {}
    for name, network in networks().items():
        path = checkpoints / f"{name}.checkpoint.safetensors"
        if path.is_file():
            average = named(load_file(path), "average")
            if name == "autoencoder":
                average = levelled(average, read_level(checkpoints))
            ready[name] = half_precision(name, network, average)
            continue
        there = [place / f"{name}.safetensors" for place in (weights, WEIGHTS) if (place / f"{name}.safetensors").is_file()]
        if there:
            copies[name] = there[0]
        elif name in REQUIRED:
            raise RefusedInput("weights-missing", f"There is neither a checkpoint of {name} nor an earlier version.",
                               f"Train the stage `{name}` first.")
    weights.mkdir(parents=True, exist_ok=True)
    for path in copies.values():
        if path.resolve() != (weights / path.name).resolve():
            shutil.copyfile(path, weights / path.name)
    for name, tensors in ready.items():
        save_file(tensors, weights / f"{name}.safetensors")
        (weights / f"{name}.safetensors").chmod(0o644)  # safetensors keeps what it writes to its owner
    level = {"level_spacings": read_level(checkpoints)} if "autoencoder" in ready else {}
    write_manifest(weights, about or ABOUT | level)
    return weights


def networks() -> dict[str, nn.Module]:
    """The networks that are bundled."""
    from ..features import FeatureNetwork

    return {"autoencoder": AutoEncoder(), "diffusion": LatentDiffusion(len(CATEGORIES)), "features": FeatureNetwork()}


def half_precision(name: str, network: nn.Module, average: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The averaged weights of one network as float16, checked against its architecture."""
    try:
        network.load_state_dict(average)
    except RuntimeError as error:
        raise RefusedInput("weights-architecture", f"The checkpoint of {name} does not fit the network.",
                           "Train it again with this version.") from error
    tensors = {n: t.to(torch.float16).contiguous() for n, t in average.items()}
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise FailedResult("weights-values", f"The weights of {name} exceed half precision.", "Train it again.")
    return tensors
