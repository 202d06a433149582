"""How radii of neighbouring places hang together: the few numbers behind the local parts of the dome's prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from MedShapeCore.training import named
from MedShapeCore.weights import open_weights
from safetensors.torch import load_file
from torch import Tensor, nn

from ..models import WEIGHTS

LENGTHS_MM = (10.0, 20.0, 40.0, 70.0)  # where the kernels' lengths start
PLACES = 4  # functions of place, see places()
REFERENCE_MM = 0.3  # roughness of the middle of the vault


@dataclass(frozen=True)
class Local:
    """A kernel at the points of a map: the fields of Prior of the same names."""

    lengths_mm: Tensor
    local_mm: Tensor
    couplings: Tensor
    mirrorings: Tensor
    noise_mm: Tensor


class Kernel(nn.Module):
    """The local parts of the prior and its noise as functions of place and roughness; float64."""

    def __init__(self) -> None:
        super().__init__()
        count = len(LENGTHS_MM)

        def numbers(*values: object) -> nn.Parameter:
            return nn.Parameter(torch.tensor(values, dtype=torch.float64))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=torch.float64))

        self.length = numbers(*(math.log(length) for length in LENGTHS_MM))
        self.level = numbers([-0.8, -0.3], [-0.3, -0.2], [0.1, 0.0], [-0.7, -0.8])  # log mm; outer, inner
        self.power = numbers([1.0, 1.0], [0.3, 0.3], [0.0, 0.0], [0.0, 0.0])  # of the roughness
        self.slope = zeros(count, 2, PLACES)
        self.coupling = numbers(-0.8, 1.0, 2.5, 0.8)  # logits
        self.mirroring = numbers(0.7, 0.7, 0.7, 0.7)
        self.noise = numbers([-2.2, -0.6], [-2.2, -0.2])  # log mm everywhere, log factor of the roughness
        self.noise_slope = zeros(2, PLACES)
        self.belief = numbers(-0.3, -0.5)  # log factor of the first mode's variance, and what the last has more

    def forward(self, roughness_mm: Tensor, points: Tensor) -> Local:
        """roughness_mm : (2, P); points : (P, 3) mm in the head frame."""
        here = places(points)
        relative = torch.log(roughness_mm.clamp(min=0.02) / REFERENCE_MM)
        local = self.level[..., None] + self.power[..., None] * relative + self.slope @ here
        factor = torch.exp(2 * (self.noise[:, 1:] + self.noise_slope @ here))
        noise = torch.exp(2 * self.noise[:, :1]) + factor * roughness_mm**2
        return Local(
            torch.exp(self.length), torch.exp(local), torch.sigmoid(self.coupling), torch.sigmoid(self.mirroring),
            torch.sqrt(noise),
        )

    def believed(self, modes: int) -> Tensor:
        """(Q,) factors of the variance of that many modes: fewer skulls than numbers make sample modes too large."""
        return torch.exp(self.belief[0] + self.belief[1] * torch.linspace(0, 1, modes, dtype=torch.float64))


def places(points: Tensor) -> Tensor:
    """(PLACES, P): front to back, height, distance from the middle squared, depth below the braincase's middle."""
    x, y, z = points.unbind(-1)
    return torch.stack([y / 100, z / 100 - 0.3, (x / 80) ** 2 - 0.4, z.clamp(max=0) / 50])


def kernel_of(folder: Path) -> Kernel:
    """The kernel that the stage `kernel` left in a folder, else the one behind the bundled shape model."""
    trained = folder / "kernel.safetensors"
    kernel = Kernel()
    kernel.load_state_dict(load_file(trained) if trained.is_file() else named(open_weights(WEIGHTS).tensors("dome"), "kernel"))
    return kernel.requires_grad_(False)
