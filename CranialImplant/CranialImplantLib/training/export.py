"""From checkpoints to a folder of weights: averaged networks in half precision, atlas, shape model and manifest."""

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

from ..completion import CompletionNetwork
from ..look import LookNetwork
from ..models import WEIGHTS
from ..refinement import RefinementNetwork
from ..voxelization import VoxelizationNetwork

NETWORKS: dict[str, type[nn.Module]] = {
    "look": LookNetwork,
    "completion": CompletionNetwork,
    "voxelization": VoxelizationNetwork,
    "refinement": RefinementNetwork,
}
FITTED = ("atlas", "dome")
ABOUT = {"name": "CranialImplant", "version": 4, "licence": "CC BY-NC-SA 4.0"}


def export_weights(checkpoints: Path, weights: Path, about: dict[str, Any]) -> None:
    """Writes the averaged weights of all checkpoints and the manifest with `about` into the folder `weights`.

    What `checkpoints` does not have stays as `weights` has it, or is the bundled one. Nothing is written where a part
    is nowhere, does not fit its network, or holds no numbers in half precision (RefusedInput, FailedResult).
    """
    ready: dict[str, dict[str, torch.Tensor]] = {}
    copies: dict[str, Path] = {}
    for name in (*FITTED, *NETWORKS):
        checkpoint = checkpoints / f"{name}.checkpoint.safetensors"
        if checkpoint.is_file() and name in NETWORKS:
            ready[name] = half_precision(name, named(load_file(checkpoint), "average"))
            continue
        places = [folder / f"{name}.safetensors" for folder in (weights, WEIGHTS)]
        if name in FITTED:
            places.insert(0, checkpoints / f"{name}.safetensors")
        there = [path for path in places if path.is_file()]
        if not there:
            raise RefusedInput("weights-missing", f"There is neither a checkpoint of {name} nor an earlier version.",
                               f"Train the stage `{name}` first.")
        copies[name] = there[0]
    weights.mkdir(parents=True, exist_ok=True)
    for name, path in copies.items():
        if path.resolve() != (weights / f"{name}.safetensors").resolve():
            shutil.copyfile(path, weights / f"{name}.safetensors")
    for name, tensors in ready.items():
        save_file(tensors, weights / f"{name}.safetensors")
    for name in (*copies, *ready):
        (weights / f"{name}.safetensors").chmod(0o644)  # safetensors keeps what it writes to its owner
    write_manifest(weights, about)


def half_precision(name: str, average: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The averaged weights of one network as float16, checked against its architecture."""
    try:
        NETWORKS[name]().load_state_dict(average)
    except RuntimeError as error:
        raise RefusedInput("weights-architecture", f"The checkpoint of {name} does not fit the network.",
                           "Train it again with this version.") from error
    tensors = {n: t.to(torch.float16).contiguous() for n, t in average.items()}
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise FailedResult("weights-values", f"The weights of {name} exceed half precision.", "Train it again.")
    return tensors
