"""Shapes between two shapes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from MedShapeCore.jobs import Progress, no_progress, part_of
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .models import ShapeModels
from .options import InterpolateOptions
from .reconstruct import between, encoded_shape, solid_of
from .shapes import Shape
from .solid import Solid

FEATURE_WEIGHT = 0.02  # u2 of place per squared step of one standardised feature, see `matched`


@dataclass(frozen=True)
class Interpolation:
    """Shapes from the reconstruction of `first` to that of `second`."""

    first: Shape
    second: Shape
    options: InterpolateOptions
    shares: tuple[float, ...]  # 0 .. 1
    solids: tuple[Solid, ...]
    moved_u: float  # mean way of a latent point from the first to the second, in halves of the longest side
    seconds: dict[str, float]

    @property
    def passed(self) -> bool:
        return all(solid.figures.passed for solid in self.solids)


def interpolate(
    first: Shape, second: Shape, models: ShapeModels, options: InterpolateOptions, progress: Progress = no_progress
) -> Interpolation:
    """`options.steps` shapes; the first and the last are the reconstructions of the inputs, in their places.

    The shapes are matched with the centres of their bounding boxes on each other and without turning them. In between
    the latent points move along straight lines, so does the centre, and the size changes by equal factors.
    """
    started = time.perf_counter()
    progress("encoding", 0.0)
    a = encoded_shape(first, models, options.seed)
    b = encoded_shape(second, models, options.seed)
    b = replace(b, latent=matched(a.latent, b.latent))
    moved_u = float((b.latent[:, :3] - a.latent[:, :3]).norm(dim=1).mean())
    seconds = {"encoding": round(time.perf_counter() - started, 2)}
    shares = tuple(np.linspace(0.0, 1.0, options.steps).tolist())
    solids = []
    for number, share in enumerate(shares):
        at = 0.1 + 0.9 * number / options.steps
        stage = f"step {number + 1} of {options.steps}"
        part = part_of(progress, at, at + 0.9 / options.steps)
        part(stage, 0.0)
        solids.append(solid_of(between(a, b, share), models, options.resolution))
        part(stage, 1.0, {"shape": number + 1, "surface": solids[-1].surface})
    seconds["decoding"] = round(sum(solid.figures.seconds for solid in solids), 2)
    return Interpolation(first, second, options, shares, tuple(solids), moved_u, seconds)


def matched(target: Tensor, latent: Tensor) -> Tensor:
    """The points of `latent` (n_s, 16) in the order in which point k belongs to point k of `target`.

    One to one, at the least total cost: squared way in u, plus the squared step of the features, which carry what a
    normal would say (two walls of a thin sheet lie close together and differ in nothing else).
    """
    a, b = target.detach().cpu().numpy().astype(float), latent.detach().cpu().numpy().astype(float)
    place = ((a[:, None, :3] - b[None, :, :3]) ** 2).sum(axis=-1)  # (n_s, n_s) u2
    feature = ((a[:, None, 4:] - b[None, :, 4:]) ** 2).mean(axis=-1)
    _, order = linear_sum_assignment(place + FEATURE_WEIGHT * feature)
    return latent[order.tolist()]
