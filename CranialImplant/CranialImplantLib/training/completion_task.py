"""Training of the point diffusion: from dome samples to true bone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from MedShapeCore.training import Task
from torch import Tensor, nn

from ..completion import JITTER_MM, CompletionNetwork, Source
from ..roi import ROI_STEP_MM
from .case_source import OUTLIER_MM, CaseFolder, grid_tensor
from .pack import PackedSkull

POINTS = 1500
MEAN_SHARE = 0.25  # of the draws start from the dome's mean, as the first member does


def task(skulls: list[PackedSkull], folder: Path) -> Task:
    """The stage `completion`; `folder` has the cases, the skulls are not used."""
    source = CaseFolder(folder)

    def sample(generator: np.random.Generator) -> tuple[Tensor, ...]:
        case = source.draw(generator)
        true = case.true_points
        gap = np.linalg.norm(case.guess_points - true, axis=-1)  # (1 + S, n)
        good = np.isfinite(gap).all(0) & (gap[0] < OUTLIER_MM)
        # Pair the truth with the nearest of a case's samples (mini-batch optimal transport): straight, diverse flows.
        member = 1 + int(np.argmin((gap[1:, good] ** 2).mean(1))) if good.any() else 1
        if generator.random() < MEAN_SHARE:
            member = 0
        chosen = generator.permutation(len(true))[:POINTS]
        return (
            grid_tensor(case.channels),
            grid_tensor(np.nan_to_num(true[chosen])),
            grid_tensor(good[chosen]),
            grid_tensor(case.guess_points[member][chosen]),
            grid_tensor(case.guess_normals[member][chosen]),
            grid_tensor(case.guess_points[0][chosen]),
            torch.from_numpy(case.kind[chosen].astype(np.int64)),
            grid_tensor(case.low),
            grid_tensor(generator.normal(size=(len(chosen), 3))),
            torch.tensor(generator.random(), dtype=torch.float32),
        )

    return Task(CompletionNetwork(), sample, completion_loss, batch=1, rate=2e-3)


def completion_loss(network: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
    """Flow matching: mean squared error of the velocity over points whose truth is known, in mm^2."""
    channels, true, good, points, normals, mean_points, kind, low, noise, t = batch
    source = Source(points, normals, kind[0], mean_points, low[0], ROI_STEP_MM)
    start = points + JITTER_MM * noise
    at = (1 - t[:, None, None]) * start + t[:, None, None] * true
    encoded = network.encoder(channels)  # type: ignore[operator,union-attr]
    velocity = network.velocity(encoded, channels, at, t, source)  # type: ignore[operator,union-attr]
    wanted = true - start
    weight = good[..., None] / good.sum().clamp_min(1)
    error = ((velocity - wanted) ** 2 * weight).sum()
    end = at + (1 - t[:, None, None]) * velocity
    miss = (((end - true) * source.normals).sum(-1).abs() * good).sum() / good.sum().clamp_min(1)
    before = (((points - true) * source.normals).sum(-1).abs() * good).sum() / good.sum().clamp_min(1)
    return error, {"miss_mm": float(miss.detach()), "before_mm": float(before)}
