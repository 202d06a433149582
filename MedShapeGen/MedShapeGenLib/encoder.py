"""Skeletal encoder: surface points and a skeleton in, a few learned features per skeleton point out.

Two branches (Zhang et al. 2026, 3.2.2): one follows the surface points, one the skeleton points, with shared residual
blocks; after each level the skeleton points gather the surface points that are nearest to them, first in space and then
in feature space. All sums and maxima are over unordered neighbours: the order of the points does not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 12  # learned channels of a latent point, beside x, y, z and radius


class Residual(nn.Module):
    """Linear, norm, GELU, linear, norm and a shortcut; on the last axis."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, outputs)
        self.second = nn.Linear(outputs, outputs)
        self.norms = nn.ModuleList([nn.LayerNorm(outputs), nn.LayerNorm(outputs)])
        self.shortcut = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.gelu(self.norms[0](self.first(x)))
        return nn.functional.gelu(self.norms[1](self.second(inner)) + self.shortcut(x))


class Aggregation(nn.Module):
    """The maximum over a skeleton point's neighbours of what it makes of their features and places."""

    def __init__(self, width: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.offset = nn.Linear(8, width)
        self.surface = nn.Linear(width, width)
        self.block = Residual(width, width)
        self.merge = Residual(2 * width, width)

    def forward(self, surface: Tensor, skeleton: Tensor, near: Tensor, places: Tensor) -> Tensor:
        """surface (B, n, w), skeleton (B, m, w), near (B, m, k) indices, places (B, m, k, 8) -> (B, m, w)."""
        tokens = gather(self.surface(surface), near) + self.offset(places)  # (B, m, k, w)
        return self.merge(torch.cat([skeleton, self.block(tokens).amax(2)], -1))


class Standardised(nn.Module):
    """Shifts and scales every channel to mean 0 and variance 1 over the training data: one pair for all points.

    The published network has one pair per point index, which meets the wrong points after generation.
    """

    def __init__(self, channels: int, momentum: float = 0.02) -> None:
        super().__init__()
        self.momentum = momentum
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean, variance = x.mean((0, 1)), x.var((0, 1))
            with torch.no_grad():
                self.mean.lerp_(mean.detach(), self.momentum)
                self.variance.lerp_(variance.detach(), self.momentum)
        else:
            mean, variance = self.mean, self.variance
        return (x - mean) * (variance + 1e-4).rsqrt()


class SkeletalEncoder(nn.Module):
    """Features of the skeleton points of closed surfaces."""

    def __init__(self, width: int = 64, near: int = 24, alike: int = 16) -> None:
        super().__init__()
        self.near, self.alike = near, alike
        self.surface = nn.Linear(6, width)
        self.skeleton = nn.Linear(4, width)
        self.blocks = nn.ModuleList([Residual(width, width) for _ in range(2)])
        self.aggregations = nn.ModuleList([Aggregation(width, near), Aggregation(width, near), Aggregation(width, alike)])
        self.head = nn.Sequential(Residual(3 * width, width), nn.Linear(width, FEATURES))
        self.standardised = Standardised(FEATURES)

    def forward(self, points: Tensor, normals: Tensor, skeleton: Tensor) -> Tensor:
        """(B, m, 12) features; points, normals (B, n, 3) in u and outward, skeleton (B, m, 4) x, y, z, radius in u."""
        on_surface = self.surface(torch.cat([points, normals], -1))
        own = self.skeleton(skeleton)
        near = nearest(skeleton[..., :3], points, self.near)
        scale = spacing(skeleton[..., :3])[..., None, None]  # (B, m, 1, 1)
        places = relative(points, normals, skeleton, near, scale)
        own = self.aggregations[0](on_surface, own, near, places)
        for block, aggregation in zip(self.blocks, list(self.aggregations)[1:], strict=True):
            on_surface, own = block(on_surface), block(own)
            if aggregation is self.aggregations[-1]:  # neighbours in the space of features
                near = nearest(own, on_surface, self.alike)
                places = relative(points, normals, skeleton, near, scale)
            own = aggregation(on_surface, own, near, places)
        whole = torch.cat([own.amax(1, keepdim=True), own.mean(1, keepdim=True)], -1).expand(-1, own.shape[1], -1)
        return self.standardised(self.head(torch.cat([own, whole], -1)))


def relative(points: Tensor, normals: Tensor, skeleton: Tensor, near: Tensor, scale: Tensor) -> Tensor:
    """(B, m, k, 8): offset over the skeleton's spacing, its length, normal, and their product, of the neighbours."""
    offset = (gather(points, near) - skeleton[:, :, None, :3]) / scale
    normal = gather(normals, near)
    length = (offset**2).sum(-1, keepdim=True).add(1e-12).sqrt()
    offset = offset / length.clamp_min(4.0) * 4.0  # neighbours in feature space may lie far away
    return torch.cat([offset, length.clamp_max(4.0), normal, (offset * normal).sum(-1, keepdim=True)], -1)


def nearest(centres: Tensor, points: Tensor, count: int) -> Tensor:
    """(B, m, count) indices of the points (B, n, c) that are nearest to the centres (B, m, c)."""
    with torch.no_grad():
        return torch.cdist(centres, points).topk(count, largest=False, sorted=False).indices


def gather(values: Tensor, indices: Tensor) -> Tensor:
    """(B, m, k, c): the rows `indices` (B, m, k) of values (B, n, c)."""
    batch = torch.arange(len(values), device=values.device)[:, None, None]
    return values[batch, indices]


def spacing(positions: Tensor, neighbours: int = 4) -> Tensor:
    """(B, m) mean distance of each of (B, m, 3) positions to its nearest others, not below 0.01 u."""
    distances = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
    near = distances.topk(min(neighbours + 1, positions.shape[1]), largest=False).values[..., 1:]
    return near.mean(-1).clamp_min(0.01)
