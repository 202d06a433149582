"""Points and grids of one patch: reading features at points, pooling points into cells, the point networks' body."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import UNet3d, Unit

CELL = 4  # edge of a pooling cell in ROI voxels
RAW_CHANNELS = 6
PLACE_MM = 50.0  # the point networks are given positions divided by this


def grid_sample_points(grid: Tensor, index_xyz: Tensor) -> Tensor:
    """Trilinear values of (B, C, D, H, W) at continuous voxel indices (B, N, 3) in x, y, z order: (B, N, C).

    Beyond the border the border's value.
    """
    size = torch.tensor([grid.shape[4], grid.shape[3], grid.shape[2]], dtype=index_xyz.dtype, device=index_xyz.device)
    place = (index_xyz + 0.5) / size * 2 - 1
    values = F.grid_sample(grid, place[:, :, None, None], mode="bilinear", padding_mode="border", align_corners=False)
    return values[..., 0, 0].transpose(1, 2)


def pool_points(features: Tensor, cell: Tensor, cells: int) -> Tensor:
    """Mean of (B, N, C) over the points of each of `cells` cells: (B, cells, C); empty cells are 0.

    cell : (B, N) int64, the cell of every point.
    """
    total = features.new_zeros(features.shape[0], cells, features.shape[2] + 1)
    ones = torch.ones_like(features[..., :1])
    total.scatter_add_(1, cell[..., None].expand(-1, -1, total.shape[2]), torch.cat([features, ones], 2))
    return total[..., :-1] / total[..., -1:].clamp_min(1.0)


class BoneEncoder(nn.Module):
    """Features of the bone around the hole at twice the ROI's step, computed once per case.

    (1, 6, D, H, W) -> (1, C, D/2, H/2, W/2).
    """

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64)) -> None:
        super().__init__()
        self.unet = UNet3d(RAW_CHANNELS, widths)
        self.width = widths[0]

    def forward(self, channels: Tensor) -> Tensor:
        return self.unet(channels)


class Exchange(nn.Module):
    """Lets the points of a patch see each other through a coarse grid.

    h (B, N, width), index_xyz (B, N, 3) continuous voxels, shape (D, H, W) of the patch grid -> (B, N, width).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.grid = nn.Sequential(Unit(width, width), Unit(width, width))
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, index_xyz: Tensor, shape: tuple[int, int, int]) -> Tensor:
        d, hh, w = (max(1, n // CELL) for n in shape)
        at = index_xyz.detach() / CELL
        limit = torch.tensor([w - 1, hh - 1, d - 1], dtype=at.dtype, device=at.device)
        cell = torch.minimum(at.floor().clamp_min(0), limit).long()
        flat = (cell[..., 2] * hh + cell[..., 1]) * w + cell[..., 0]
        pooled = pool_points(h, flat, d * hh * w).transpose(1, 2).reshape(h.shape[0], h.shape[2], d, hh, w)
        pooled = self.grid(pooled.contiguous(memory_format=torch.channels_last_3d))
        return h + self.mix(torch.cat([h, grid_sample_points(pooled, at - 0.5)], 2))


class PointBody(nn.Module):
    """Per-point features: what the bone says at the point, what the point knows of itself, what the others say."""

    def __init__(self, encoder_width: int, own: int, width: int = 64, rounds: int = 2) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Linear(encoder_width + RAW_CHANNELS + own, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.rounds = nn.ModuleList(Exchange(width) for _ in range(rounds))

    def forward(self, encoded: Tensor, channels: Tensor, index_xyz: Tensor, own: Tensor) -> Tensor:
        """encoded (1, C, D/2, H/2, W/2), channels (1, 6, D, H, W), index_xyz and own (B, N, .) -> (B, N, width)."""
        flat = index_xyz.reshape(1, -1, 3)  # (1, B N, 3): one case, however many members
        near = torch.cat([grid_sample_points(encoded, (flat - 0.5) / 2), grid_sample_points(channels, flat)], 2)
        h = self.first(torch.cat([near.reshape(*index_xyz.shape[:2], -1), own], 2))
        for exchange in self.rounds:
            h = exchange(h, index_xyz, tuple(channels.shape[2:]))  # type: ignore[arg-type]
        return h


def wave(t: Tensor, count: int = 4) -> Tensor:
    """Sines and cosines of a number in [0, 1]: (B,) -> (B, 2 count)."""
    angle = t[:, None] * (math.pi * 2.0 ** torch.arange(count, device=t.device, dtype=t.dtype))
    return torch.cat([torch.sin(angle), torch.cos(angle)], 1)
