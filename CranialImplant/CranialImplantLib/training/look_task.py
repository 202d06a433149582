"""Training of the whole-head look: turned, scaled and cropped heads with and without a hole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from MedShapeCore.training import Task
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn import functional as F

from ..head import HEAD_GRID
from ..look import COORDINATE_MM, LOOK_SIZE, LOOK_STEP_MM, LookNetwork
from ..vault import VAULT_MAP, cast
from .defects import random_cutter
from .pack import QUANTUM_MM, PackedSkull

MAX_TURN_DEG = 45.0
AIR_MM = 6.0


def task(skulls: list[PackedSkull], folder: Path) -> Task:
    """The stage `look`; it needs the skulls of the pack, `folder` is not used."""
    maps = [_outer_map(s) for s in skulls]
    own_holes = [None if s.complete else _own_hole(m) for s, m in zip(skulls, maps, strict=True)]

    def sample(generator: np.random.Generator) -> tuple[Tensor, ...]:
        n = int(generator.integers(len(skulls)))
        return look_sample(skulls[n], maps[n], own_holes[n], generator)

    return Task(LookNetwork(), sample, look_loss, batch=2, rate=1.5e-3)


def _outer_map(skull: PackedSkull) -> np.ndarray:
    return cast(skull.field.astype(np.float32) * QUANTUM_MM, HEAD_GRID, VAULT_MAP.directions())[0]


def _own_hole(outer_map: np.ndarray) -> np.ndarray:
    """Pixels of the vault map around the hole a challenge skull came with."""
    missing = ~np.isfinite(outer_map) & (VAULT_MAP.polar_deg() < 80)
    return ndimage.binary_dilation(missing, iterations=2)


def look_sample(
    skull: PackedSkull, outer_map: np.ndarray, own_hole: np.ndarray | None, generator: np.random.Generator
) -> tuple[Tensor, ...]:
    """One look at a turned, scaled, cropped and cut head.

    Input (2, 64^3), missing occupancy and its weight (1, 64^3), head coordinates (3, 32^3) and their weight (1, 32^3).
    """
    flip = -1.0 if generator.random() < 0.5 else 1.0
    angle = generator.uniform(0, MAX_TURN_DEG if generator.random() < 0.7 else 8.0)
    axis = generator.normal(size=3)
    turn = Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
    scale = np.exp(generator.normal(0, 0.06, 3)) * np.exp(generator.normal(0, 0.04))
    # head (of the pack) <- look grid: flip * scale * turn
    linear = np.diag([flip, 1, 1]) @ np.diag(1 / scale) @ turn
    middle = np.array([0.0, 0.0, 5.0]) + generator.normal(0, 9, 3)
    step = LOOK_STEP_MM
    axis_mm = ((np.arange(LOOK_SIZE) - (LOOK_SIZE - 1) / 2) * step).astype(np.float32)
    z, y, x = np.meshgrid(axis_mm, axis_mm, axis_mm, indexing="ij")
    grid = np.stack([x, y, z], -1)  # (64, 64, 64, 3) mm around the grid's centre
    points = grid @ linear.T.astype(np.float32) + middle.astype(np.float32)
    field = HEAD_GRID.sample(skull.field.astype(np.float32) * np.float32(QUANTUM_MM), points, AIR_MM)
    inside = HEAD_GRID.sample(skull.inside.astype(np.float32), points, 0.0) > 0.5
    below = points[..., 2] < HEAD_GRID.low[2]  # the pack ends here: as outside the scan
    outside = ~inside & (below | (np.abs(field) >= AIR_MM))
    outside |= below
    outside |= _cut_view(grid, generator)
    missing_field = np.full_like(field, AIR_MM)
    kind = generator.random()
    holes = 0 if kind < 0.12 else (1 if kind < 0.9 else 2)
    bone = field
    for _ in range(holes):
        cut = random_cutter(generator, outer_map, VAULT_MAP)(points)
        missing_field = np.minimum(missing_field, np.maximum(field, cut))
        bone = np.maximum(bone, -cut)
    if generator.random() < 0.25:  # a missing face or base: everything below a plane
        bone = np.where(points[..., 2] < generator.uniform(-60, -30), AIR_MM, bone)
    occupancy = _occupancy(bone, generator) * ~outside
    target = _occupancy(missing_field, None) * ~outside
    weight = np.ones_like(target)
    if own_hole is not None:
        index, _ = VAULT_MAP.pixels(points)
        weight[VAULT_MAP.sample(own_hole.astype(np.float32), index, 0.0) > 0.1] = 0.0
    if generator.random() < 0.3:
        occupancy = np.clip(occupancy + generator.normal(0, 0.05, occupancy.shape), 0, 1)
    coordinates = points * np.array([flip, 1, 1], np.float32)  # the flipped head has its own left
    half = coordinates.reshape(32, 2, 32, 2, 32, 2, 3).mean((1, 3, 5)) / COORDINATE_MM
    bone_half = (occupancy.reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5)) > 0.05).astype(np.float32)
    return (
        torch.from_numpy(np.stack([occupancy, outside]).astype(np.float32)),
        torch.from_numpy(target[None].astype(np.float32)), torch.from_numpy(weight[None].astype(np.float32)),
        torch.from_numpy(np.moveaxis(half, -1, 0).astype(np.float32)), torch.from_numpy(bone_half[None]),
    )


def _occupancy(field: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
    """Averaged occupancy of a voxel of 4 mm from the signed distance at its centre, with a threshold's play."""
    offset = 0.0 if generator is None else generator.normal(0, 0.3)
    return np.clip(0.5 - (field + offset) / 5.0, 0, 1)


def _cut_view(grid: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """What the field of view leaves out: a tilted plane below, now and then a shaved top or side."""
    tilt = generator.normal(0, 0.15, 2)
    height = grid[..., 2] + tilt[0] * grid[..., 0] + tilt[1] * grid[..., 1]
    out = height < generator.uniform(-110, -50)
    if generator.random() < 0.08:
        out |= height > generator.uniform(70, 95)
    return out


def look_loss(network: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy and soft Dice of the missing bone, mean error of the head coordinates where bone is."""
    channels, target, weight, coordinates, bone = batch
    logits, predicted = network(channels)
    rare = weight * (1 + 9 * target)  # few voxels of a head are missing
    cross = F.binary_cross_entropy_with_logits(logits, target, rare, reduction="sum") / weight.sum()
    probability = torch.sigmoid(logits) * weight
    target = target * weight
    overlap = 2 * (probability * target).sum((1, 2, 3, 4)) + 5
    dice = (1 - overlap / (probability.sum((1, 2, 3, 4)) + target.sum((1, 2, 3, 4)) + 5)).mean()
    place = (((predicted - coordinates).abs() * (bone + 0.02)).sum() / ((bone + 0.02).sum() * 3)) * 10
    figures = {"cross": cross.detach(), "dice": dice.detach(), "place_mm": 10 * place.detach()}
    return 10 * cross + dice + place, {name: float(value) for name, value in figures.items()}
