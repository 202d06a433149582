"""Everything that was learned from data, loaded once per run from the bundled weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from MedShapeCore.errors import FailedResult
from MedShapeCore.weights import WeightsFolder, open_weights
from torch import nn

from .completion import CompletionNetwork
from .dome import DomeModel
from .look import LookNetwork
from .refinement import RefinementNetwork
from .voxelization import VoxelizationNetwork

WEIGHTS = Path(__file__).parent / "weights"
N = TypeVar("N", bound=nn.Module)
NETWORKS = ("look", "completion", "voxelization", "refinement")


@dataclass(frozen=True)
class Models:
    """Atlas, shape model and the four networks, on one device and ready for inference."""

    atlas: np.ndarray  # (K, J, I) float32 signed mm on ATLAS_GRID
    dome: DomeModel
    look: LookNetwork
    completion: CompletionNetwork
    voxelization: VoxelizationNetwork
    refinement: RefinementNetwork
    device: torch.device
    digest: str


def load_models(device: torch.device, folder: Path = WEIGHTS) -> Models:
    """Loads and checks the bundled weights; raises FailedResult where they are missing or changed."""
    weights = open_weights(folder)
    return Models(
        atlas_of(weights), dome_of(weights), _ready(LookNetwork(), "look", weights, device),
        _ready(CompletionNetwork(), "completion", weights, device), _ready(VoxelizationNetwork(), "voxelization", weights, device),
        _ready(RefinementNetwork(), "refinement", weights, device), device, weights.digest,
    )


def atlas_of(weights: WeightsFolder) -> np.ndarray:
    """(K, J, I) float32, signed mm on ATLAS_GRID."""
    return weights.tensors("atlas")["atlas"].numpy()


def dome_of(weights: WeightsFolder) -> DomeModel:
    """The shape model of the vault."""
    shape = {name: tensor.numpy() for name, tensor in weights.tensors("dome").items()}
    return DomeModel(shape["domain"].astype(bool), shape["mean"], shape["modes"], shape["residual_mm"])


def _ready(network: N, name: str, weights: WeightsFolder, device: torch.device) -> N:
    try:
        network.load_state_dict(weights.tensors(name))
    except RuntimeError as error:
        raise FailedResult("weights-architecture", f"The weights of {name} do not fit the network.", str(error)[:200]) from error
    return network.to(device).eval().requires_grad_(False)
