"""From a signed distance function in u to a closed triangle mesh, asking for few of the grid's points.

Coarse to fine on nested grids. A signed distance cannot change faster than the way gone, so a known point answers for
the sign of every point nearer to it than the surface is: only where no neighbour answers is the function asked. A
learned function keeps that rule nearly; `safety` covers the rest, and where the surface found leaves the asked region,
its surroundings are asked too, so that no surface ends in the void. `fraction` is the published rule instead: ask the
nearest points to the skeleton, a fixed share of the grid (Zhang et al. 2026, section 3.4), which loses the surface of
bulky organs.

Grid arrays are [k, j, i] = z, y, x; u is the shape's normalised unit (half of the longest box side).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from MedShapeCore.errors import FailedResult, OptionError
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from torch import Tensor

Field = Callable[["Tensor"], "Tensor"]  # (m, 3) u -> (m,) u, negative inside
Values = Callable[[np.ndarray], np.ndarray]  # flat indices of grid points (m,) -> (m,) float32 u
Progress = Callable[..., None]  # (stage, fraction); may raise Cancelled

STRIDES = (8, 4, 2, 1)  # of the nested grids, in fine steps
# A point of a coarse grid is asked when it may be this near to the surface (in its own strides) and not only when its
# sign is in doubt: it then answers for its finer neighbours. These ask least in all on balls, ellipsoids and tubes.
WORTH_ASKING = {4: 1.0, 2: 0.6, 1: 0.0}
AXES = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


@dataclass(frozen=True)
class DecodeOptions:
    """How finely and how carefully a field is turned into a surface."""

    resolution: int = 128  # cells along each side of the cube; the grid has one point more
    safety: float = 1.1  # fastest change of the field per way gone; 1 = an exact signed distance
    margin_u: float = 0.005  # and what a learned field may be off besides; 0.3 cells at 128
    fraction: float | None = None  # the published rule: this share of the points, nearest to the skeleton
    components: int | None = 1  # largest bodies to keep, without their cavities; None keeps everything
    chunk: int = 65536  # points per call of the field

    def __post_init__(self) -> None:
        if not (8 <= self.resolution <= 512 and self.resolution % STRIDES[0] == 0):
            raise OptionError("resolution", self.resolution, f"a multiple of {STRIDES[0]} from 8 to 512")
        if not 1.0 <= self.safety <= 10.0:
            raise OptionError("safety", self.safety, "a number from 1 to 10")
        if not 0.0 <= self.margin_u <= 1.0:
            raise OptionError("margin_u", self.margin_u, "a length from 0 to 1 u")
        if self.fraction is not None and not 0.0 < self.fraction <= 1.0:
            raise OptionError("fraction", self.fraction, "a share above 0, at most 1")
        if self.components is not None and self.components < 1:
            raise OptionError("components", self.components, "a whole number from 1 on, or none")
        if self.chunk < 1:
            raise OptionError("chunk", self.chunk, "a whole number from 1 on")


@dataclass(frozen=True)
class SurfaceU:
    """A closed surface in u and what it took to find it."""

    vertices_u: np.ndarray  # (V, 3) float32
    triangles: np.ndarray  # (T, 3) int32, counter-clockwise seen from outside
    evaluated_fraction: float  # asked points / points of the grid
    bodies_found: int  # closed bodies before the largest were kept
    signs: np.ndarray  # (n, n, n) bool, inside, of the whole grid before bodies were dropped

    def __str__(self) -> str:
        return f"{len(self.triangles)} triangles, {100 * self.evaluated_fraction:.1f} % of the grid asked"


def decode_surface(
    field: Field,
    options: DecodeOptions = DecodeOptions(),
    bounds_u: tuple[float, float] = (-1.1, 1.1),
    progress: Progress | None = None,
    skeleton_u: np.ndarray | None = None,
    device: str = "cpu",
) -> SurfaceU:
    """The zero level of `field` in the cube from bounds_u[0] to bounds_u[1] along each axis, as a closed surface.

    field      : (m, 3) float32 u on `device` -> (m,) u, negative inside; called with at most options.chunk points.
    skeleton_u : (s, 3), needed by options.fraction alone.
    A body that leaves the cube is closed at its border. Raises FailedResult where the field has no surface in the cube
    or answers with what is no number; what `progress` raises passes through.
    """
    grid = _Grid(field, options, bounds_u, device, progress or _silent)
    if options.fraction is not None:
        if skeleton_u is None or len(skeleton_u) == 0:
            raise OptionError("fraction", options.fraction, "none where there is no skeleton")
        _ask_nearest(grid, skeleton_u, options.fraction)
    else:
        _ask_coarse_to_fine(grid)
        _follow_surface(grid)
        _fill_by_bound(grid)
    asked = float(grid.asked.mean())
    signs = grid.value < 0
    if not signs.any():
        raise FailedResult("no-surface", "The shape's field has no inside.", "Try another seed, or another input.")
    vertices, triangles = _mesh(grid)
    vertices, triangles, bodies = keep_largest(vertices, triangles, options.components)
    return SurfaceU(vertices, triangles, asked, bodies, signs)


def _silent(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""


class _Grid:
    """Values of the field at the points asked so far, and for all points a lower bound of the distance with its sign."""

    def __init__(self, field: Field, options: DecodeOptions, bounds_u: tuple[float, float], device: str,
                 progress: Progress) -> None:  # fmt: skip
        self.low, high = bounds_u
        if not self.low < high:
            raise OptionError("bounds_u", bounds_u, "two numbers in rising order")
        self.options, self.device, self.progress, self._field = options, device, progress, field
        self.count = options.resolution + 1
        self.step = (high - self.low) / options.resolution  # u
        shape = (self.count,) * 3
        self.value = np.zeros(shape, np.float32)  # where asked
        self.asked = np.zeros(shape, bool)
        # What is surely passed before the surface comes, positive outside, negative inside, 0 = unknown.
        self.bound = np.zeros(shape, np.float32)

    def points_u(self, flat: np.ndarray) -> np.ndarray:
        """(m, 3) float32 x, y, z of grid points (m,)."""
        k, j, i = np.unravel_index(flat, self.value.shape)
        return (self.low + self.step * np.stack([i, j, k], axis=1)).astype(np.float32)

    def ask(self, flat: np.ndarray) -> None:
        """Values and bounds at flat indices (m,)."""
        import torch

        chunk = self.options.chunk
        for start in range(0, len(flat), chunk):
            part = flat[start : start + chunk]
            with torch.inference_mode():
                answer = self._field(torch.from_numpy(self.points_u(part)).to(self.device))
            values = answer.detach().float().cpu().numpy().reshape(-1)
            if not np.isfinite(values).all():
                raise FailedResult("field-values", "The shape's field holds values that are no numbers.",
                                   "Report the input and the seed; the weights may be damaged.")  # fmt: skip
            self.value.ravel()[part] = values
        values = self.value.ravel()[flat]
        sure = np.maximum(np.abs(values) - self.options.margin_u, 0.0) / self.options.safety
        self.bound.ravel()[flat] = np.copysign(sure, values)
        self.asked.ravel()[flat] = True


def _ask_coarse_to_fine(grid: _Grid) -> None:
    """Asks the whole coarsest grid, then on each finer one only points for which no known neighbour answers."""
    first = STRIDES[0]
    grid.ask(np.ravel_multi_index(np.ix_(*[np.arange(0, grid.count, first)] * 3), grid.value.shape).ravel())
    for done, stride in enumerate(STRIDES[1:], start=1):
        worth = np.float32(WORTH_ASKING[stride] * stride * grid.step)
        for axes in AXES:  # middles of edges, then of faces, then of cells: each uses the ones before
            places = tuple(slice(stride if a in axes else 0, None, 2 * stride) for a in range(3))
            bound = _bound_from_neighbours(grid.bound, axes, stride, np.float32(grid.step))
            doubtful = np.argwhere(np.abs(bound) <= worth)
            grid.bound[places] = bound
            index = doubtful * (2 * stride) + [stride if a in axes else 0 for a in range(3)]
            grid.ask(np.ravel_multi_index(tuple(index.T), grid.value.shape))
        grid.progress("decoding", done / len(STRIDES))


def _bound_from_neighbours(bound: np.ndarray, axes: tuple[int, ...], stride: int, step: np.float32) -> np.ndarray:
    """Signed lower bounds at the points which lie in the middle along `axes` between points of the coarser grid.

    Neighbours: those half a coarse step away along one, two or all of `axes`; the ones along fewer axes lie nearer.
    Each known distance shrinks by the way. Neighbours on both sides that contradict each other give 0.
    """
    count = len(range(0, bound.shape[0], 2 * stride))
    shape = tuple(count - 1 if a in axes else count for a in range(3))
    outside = np.zeros(shape, np.float32)
    inside = np.zeros(shape, np.float32)
    for moved in (m for size in range(1, len(axes) + 1) for m in combinations(axes, size)):
        way = np.float32(stride * np.sqrt(len(moved))) * step
        for ends in np.ndindex(*(2,) * len(moved)):
            end = dict(zip(moved, ends, strict=True))
            # Along a moved axis the neighbour is on the coarser grid; along the others it shares the middle.
            start = [2 * stride * end[a] if a in end else (stride if a in axes else 0) for a in range(3)]
            places = tuple(slice(s, s + 2 * stride * (n - 1) + 1, 2 * stride)
                           for s, n in zip(start, shape, strict=True))  # fmt: skip
            other = bound[places]
            np.maximum(outside, other - way, out=outside)
            np.minimum(inside, other + way, out=inside)
    return np.where((outside > 0) & (inside < 0), np.float32(0), outside + inside)


def _follow_surface(grid: _Grid) -> None:
    """Asks the unasked ends of edges on which the sign changes, until every crossing lies between asked points.

    For an exact distance this only completes the surface's cells. For a learned one it walks after a surface that
    leaves the asked region.
    """
    while True:
        flat = _unasked_ends(grid.asked, np.where(grid.asked, grid.value, grid.bound) < 0)
        if len(flat) == 0:
            return
        grid.ask(flat)
        grid.progress("decoding", 0.9)


def _unasked_ends(asked: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Flat indices of unasked points with a neighbour along an axis on the other side."""
    ends = np.zeros(asked.shape, bool)
    for low, high in _neighbours(asked.shape):
        changes = inside[low] != inside[high]
        ends[low] |= changes
        ends[high] |= changes
    return np.flatnonzero(ends & ~asked)


def _fill_by_bound(grid: _Grid) -> None:
    """Gives the unasked points their region's sign; none of them is an end of a crossed edge, so the value is free."""
    unasked = ~grid.asked
    grid.value[unasked] = np.where(grid.bound[unasked] < 0, -1.0, 1.0) * np.float32(grid.step)


def _ask_nearest(grid: _Grid, skeleton_u: np.ndarray, fraction: float) -> None:
    """The published rule. Unasked regions that reach the cube's border are outside, others as most asked points around."""
    every = np.arange(grid.value.size)
    distance = cKDTree(skeleton_u).query(grid.points_u(every))[0]
    grid.ask(np.sort(np.argsort(distance, kind="stable")[: int(fraction * grid.value.size)]))
    labels, _ = ndimage.label(~grid.asked)
    signs = np.where(grid.value < 0, -1, 1)
    vote = np.zeros(int(labels.max()) + 1)
    for near, far in _neighbours(labels.shape):
        for here, there in ((near, far), (far, near)):
            touching = (labels[here] > 0) & grid.asked[there]
            vote += np.bincount(labels[here][touching], signs[there][touching], len(vote))
    border = np.ones(labels.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    vote[np.unique(labels[border])] = 1
    unasked = ~grid.asked
    grid.value[unasked] = np.where(vote[labels[unasked]] < 0, -1.0, 1.0) * np.float32(grid.step)


def _neighbours(shape: tuple[int, ...]) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For each axis the places of all points but the last and of all but the first: ends of the grid's edges."""
    return [
        (tuple(slice(None, -1) if a == axis else slice(None) for a in range(len(shape))),
         tuple(slice(1, None) if a == axis else slice(None) for a in range(len(shape))))
        for axis in range(len(shape))
    ]  # fmt: skip


def _mesh(grid: _Grid) -> tuple[np.ndarray, np.ndarray]:
    """Closed surface of the grid's values, (V, 3) float32 u and (T, 3) int32; only the box of the inside is looked at."""
    from MedShapeCore.surfaces import field_surface

    tight = ndimage.find_objects((grid.value < 0).astype(np.uint8))[0]
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in tight)
    corner_ijk = np.array([s.start for s in box[::-1]])
    ijk_to_u = np.diag([grid.step] * 3 + [1.0])
    ijk_to_u[:3, 3] = grid.low + grid.step * corner_ijk
    # The mesher wants the inside above a positive level; clipped, so that the sum keeps its digits near the surface.
    inside_u = np.clip(-grid.value[box] / grid.step, -1.0, 1.0)
    return field_surface(inside_u + np.float32(1.0), 1.0, ijk_to_u)


def keep_largest(
    vertices: np.ndarray, triangles: np.ndarray, count: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """The `count` bodies with the largest volume, without cavities, and how many bodies there were; None keeps all.

    vertices (V, 3), triangles (T, 3) of closed surfaces, outward. Unused vertices are dropped.
    """
    if len(triangles) == 0:
        return vertices, triangles, 0
    rows, columns = triangles[:, [0, 1]].ravel(), triangles[:, [1, 2]].ravel()
    graph = sparse.coo_matrix((np.ones(len(rows), np.uint8), (rows, columns)), (len(vertices),) * 2)
    label = sparse.csgraph.connected_components(graph, directed=False)[1][triangles[:, 0]]  # (T,)
    corners = vertices[triangles].astype(np.float64)  # (T, 3, 3)
    volume = np.bincount(label, np.linalg.det(corners) / 6)  # of the cone to the origin; negative for a cavity's wall
    order = np.argsort(-volume, kind="stable")
    bodies = int((volume > 0).sum())
    if count is None:
        return vertices, triangles, bodies
    kept = triangles[np.isin(label, order[: min(count, max(bodies, 1))])]
    used, index = np.unique(kept, return_inverse=True)
    return vertices[used], index.reshape(-1, 3).astype(np.int32), bodies
