"""Where a piece of a surface lies in a shape of the model: centre and size, by least squares on the shape's field.

A scanner's axes are assumed: nothing is turned. Residuals are the field's values at the given points, in mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

CELLS = 32  # of the coarse grid along each side of the cube
CUBE_U = 1.2  # half of the cube's side
TOLERANCE = 0.03  # of the scale: how far a random shape of the category is off a given one, roughly
SIZE_WEIGHT = 0.5  # of the category's spread of sizes, against the mean squared residual in tolerances
NORMAL_WEIGHT = 2.0  # of the mean of 1 - cos of the angle between the piece's normals and the field's

Values = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # places (n, m, 3) u -> field (n, m) u, its gradient (n, m, 3)


@dataclass(frozen=True)
class Placement:
    """Places of n shapes; u = (x - centre_lps) / scale_mm."""

    centre_lps: np.ndarray  # (n, 3) mm
    scale_mm: np.ndarray  # (n,) mm per u

    def places_u(self, points_lps: np.ndarray) -> np.ndarray:
        """Points (m, 3) in mm -> (n, m, 3) in each shape's u."""
        return (points_lps[None] - self.centre_lps[:, None]) / self.scale_mm[:, None, None]

    def __len__(self) -> int:
        return len(self.scale_mm)


@dataclass(frozen=True)
class Sizes:
    """What sizes are likely: ln(scale in mm) is normal."""

    mean: np.ndarray  # (n,) of ln(mm)
    deviation: float

    def off(self, scale_mm: np.ndarray) -> np.ndarray:
        """(n,) standard deviations from the mean."""
        return (np.log(scale_mm) - self.mean) / self.deviation


def improved(placement: Placement, points_lps: np.ndarray, values: Values, sizes: Sizes, steps: int) -> Placement:
    """Gauss-Newton steps on centre and size of each shape; points_lps (m, 3)."""
    for _ in range(steps):
        places = placement.places_u(points_lps)  # (n, m, 3)
        distance, gradient = values(places)
        scale = placement.scale_mm
        weight = 1.0 / (len(points_lps) * (TOLERANCE * scale) ** 2)  # (n,) of one squared mm
        residual = distance * scale[:, None]  # mm
        # d residual / d centre = -gradient;  d residual / d ln scale = residual - scale gradient . u
        along = np.einsum("nmc,nmc->nm", gradient, places) * scale[:, None]
        jacobian = np.concatenate([-gradient, (residual - along)[..., None]], -1)  # (n, m, 4)
        normal = np.einsum("nmi,nmj->nij", jacobian, jacobian) * weight[:, None, None]
        slope = np.einsum("nmi,nm->ni", jacobian, residual) * weight[:, None]
        slope[:, 3] += SIZE_WEIGHT / sizes.deviation * sizes.off(scale)
        normal[:, 3, 3] += SIZE_WEIGHT / sizes.deviation**2
        # A plane leaves two directions free: hold them where they are rather than let them run away.
        damping = np.stack([0.01 / (TOLERANCE * scale) ** 2] * 3 + [np.full(len(scale), 1e-3)], -1)
        normal[:, range(4), range(4)] += damping
        step = -np.linalg.solve(normal, slope[..., None])[..., 0]  # (n, 4)
        longest = 0.2 * scale / np.maximum(np.linalg.norm(step[:, :3], axis=1), 1e-9)
        step[:, :3] *= np.minimum(longest, 1.0)[:, None]
        placement = Placement(placement.centre_lps + step[:, :3], scale * np.exp(np.clip(step[:, 3], -0.2, 0.2)))
    return placement


def misfit(
    placement: Placement, points_lps: np.ndarray, normals: np.ndarray, values: Values, sizes: Sizes
) -> np.ndarray:
    """(n,) how badly points (m, 3) with outward normals (m, 3) fit the placed shapes; about 1 is good, 4 is not."""
    distance, gradient = values(placement.places_u(points_lps))
    length = np.maximum(np.linalg.norm(gradient, axis=-1), 1e-6)
    cosine = np.einsum("nmc,mc->nm", gradient, normals) / length
    return (
        ((distance / TOLERANCE) ** 2).mean(axis=1)
        + NORMAL_WEIGHT * (1 - cosine).mean(axis=1)
        + SIZE_WEIGHT * sizes.off(placement.scale_mm) ** 2
    )


def first_placement(
    grid: np.ndarray, points_lps: np.ndarray, normals: np.ndarray, log_scale: float, deviation: float
) -> tuple[Placement, float]:
    """The best of many starts for one shape, and its misfit.

    grid      : (CELLS + 1,)*3 values of the field in u, [k, j, i], over the cube of +-CUBE_U.
    points_lps: (m, 3) mm; normals (m, 3) outward; log_scale, deviation: of the shape's likely ln(scale in mm).
    """
    values = grid_values(grid)
    inside = np.argwhere(grid < 0)[:, ::-1] / CELLS * 2 * CUBE_U - CUBE_U  # (v, 3) x, y, z in u
    shape_low, shape_high = (inside.min(axis=0), inside.max(axis=0)) if len(inside) else (-np.ones(3), np.ones(3))
    low, high = points_lps.min(axis=0), points_lps.max(axis=0)
    centres, scales = [], []
    for factor in (-1.0, 0.0, 1.0):
        scale = float(np.exp(log_scale + factor * deviation))
        for ends in product((0.0, 0.5, 1.0), repeat=3):
            # The piece's box at the lower end, the middle or the upper end of the shape's box, along each axis.
            share = np.array(ends)
            in_shape = shape_low + share * (shape_high - shape_low)
            in_piece = low + share * (high - low)
            centres.append(in_piece - scale * in_shape)
            scales.append(scale)
    sizes = Sizes(np.full(len(scales), log_scale), deviation)
    starts = improved(Placement(np.array(centres), np.array(scales)), points_lps, values, sizes, 12)
    bad = misfit(starts, points_lps, normals, values, sizes)
    best = int(np.argmin(bad))
    return Placement(starts.centre_lps[best : best + 1], starts.scale_mm[best : best + 1]), float(bad[best])


def grid_places_u() -> np.ndarray:
    """((CELLS + 1)^3, 3) x, y, z of the coarse grid's points in u, in the order of its values [k, j, i]."""
    line = np.linspace(-CUBE_U, CUBE_U, CELLS + 1)
    k, j, i = np.meshgrid(line, line, line, indexing="ij")
    return np.stack([i, j, k], axis=-1).reshape(-1, 3)


def grid_values(grid: np.ndarray) -> Values:
    """Trilinear field and gradient from a coarse grid; beyond the cube the way back to it is added."""
    step = 2 * CUBE_U / CELLS
    slopes = np.gradient(grid, step)[::-1]  # along x, y, z
    arrays = [grid, *slopes]

    def values(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        within = np.clip(places, -CUBE_U, CUBE_U)
        index = ((within + CUBE_U) / step)[..., ::-1].reshape(-1, 3).T  # k, j, i
        found = [ndimage.map_coordinates(a, index, order=1, mode="nearest").reshape(places.shape[:-1]) for a in arrays]
        beyond = places - within
        length = np.linalg.norm(beyond, axis=-1)
        outward = beyond / np.maximum(length, 1e-9)[..., None]
        return found[0] + length, np.where(length[..., None] > 0, outward, np.stack(found[1:], axis=-1))

    return values
