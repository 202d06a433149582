"""Training of the voxelization network through the Poisson solver: true, noised and half-generated points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from MedShapeCore.training import Task
from torch import Tensor, nn
from torch.nn import functional as F

from ..head import FIELD_LIMIT_MM
from ..roi import RIM_REACH_MM, ROI_STEP_MM
from ..voxelization import VoxelizationNetwork, indicator
from .case_source import CaseFolder, filled_truth, grid_tensor
from .pack import PackedSkull

EDGE_MM = 2.0  # of the target's step
BAND_MM = 6.0
MAX_POINTS = 5000


def task(skulls: list[PackedSkull], folder: Path) -> Task:
    """The stage `voxelization`; `folder` has the cases, the skulls are not used."""
    source = CaseFolder(folder)

    def sample(generator: np.random.Generator) -> tuple[Tensor, ...]:
        case = source.draw(generator)
        points, normals = filled_truth(case)
        wall = case.channels[3].astype(np.float32) * 20.0
        closed = np.maximum(case.truth.astype(np.float32) * FIELD_LIMIT_MM, wall - RIM_REACH_MM)
        given_normals = normals
        kind = generator.random()
        if kind > 0.3:  # noised points
            if kind > 0.65:  # on the way from a dome sample, as an imperfect generator leaves them
                member = int(generator.integers(len(case.guess_points)))
                share = generator.uniform(0.6, 1.0)
                points = case.guess_points[member] + share * (points - case.guess_points[member])
                given_normals = case.guess_normals[member]
            points = points + generator.normal(0, generator.uniform(0.1, 0.8), points.shape)
        chosen = generator.permutation(len(points))[:MAX_POINTS]
        scale = len(points) / len(chosen)
        return (
            grid_tensor(case.channels),
            grid_tensor(points[chosen]),
            grid_tensor(given_normals[chosen] * scale),
            torch.from_numpy(case.kind[chosen].astype(np.int64)),
            grid_tensor(case.low),
            grid_tensor(closed),
        )

    return Task(VoxelizationNetwork(), sample, voxelization_loss, batch=1, rate=1e-3)


def voxelization_loss(network: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
    """Squared error of the indicator against a soft step of the true closed solid, near its surface."""
    channels, points, normals, kind, low, closed = batch
    one_hot = F.one_hot(kind, 3).to(points.dtype)[:1]
    moved, oriented = network(channels, points, normals, one_hot, low[0], ROI_STEP_MM)
    field = indicator(moved, oriented, low[0], tuple(closed.shape[1:]), ROI_STEP_MM)  # type: ignore[arg-type]
    target = 0.5 * torch.tanh(closed / EDGE_MM)
    weight = (closed.abs() < BAND_MM).to(field.dtype)
    loss = ((field - target) ** 2 * weight).sum() / weight.sum().clamp_min(1)
    clear = weight * (closed.abs() > ROI_STEP_MM / 2)
    wrong = (((field < 0) != (closed < 0)) * clear).sum() / weight.sum().clamp_min(1)
    return 10 * loss, {"wrong_sign": float(wrong)}
