"""Everything that was learned from data, loaded once per run from the bundled weights."""

from __future__ import annotations

from dataclasses import dataclass, fields
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
    digest: str  # of all weights, for the report


def load_models(device: torch.device, folder: Path = WEIGHTS) -> Models:
    """Loads and checks the bundled weights; raises FailedResult where they are missing or changed."""
    weights = open_weights(folder)
    return Models(
        atlas=atlas_of(weights),
        dome=dome_of(weights),
        look=_ready(LookNetwork(), "look", weights, device),
        completion=_ready(CompletionNetwork(), "completion", weights, device),
        voxelization=_ready(VoxelizationNetwork(), "voxelization", weights, device),
        refinement=_ready(RefinementNetwork(), "refinement", weights, device),
        device=device,
        digest=weights.digest,
    )


def atlas_of(weights: WeightsFolder) -> np.ndarray:
    """(K, J, I) float32, signed mm on ATLAS_GRID."""
    return weights.tensors("atlas")["atlas"].numpy()


def dome_of(weights: WeightsFolder) -> DomeModel:
    """The shape model of the vault."""
    shape = {name: tensor.numpy() for name, tensor in weights.tensors("dome").items()}
    parts = {f.name: shape[f.name].astype(np.float32) for f in fields(DomeModel) if f.name in shape}
    return DomeModel(**parts | {"domain": shape["domain"].astype(bool)})


def _ready(network: N, name: str, weights: WeightsFolder, device: torch.device) -> N:
    """The network with its weights, for inference on a device; FailedResult where they are not its own."""
    try:
        network.load_state_dict(weights.tensors(name))
    except RuntimeError as error:
        message = f"The weights of {name} do not fit the network."
        raise FailedResult("weights-architecture", message, str(error)[:200]) from error
    return network.to(device).eval().requires_grad_(False)
