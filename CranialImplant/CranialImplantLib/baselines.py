"""Simple ways to fill a hole, told where it is: what a trained network must beat.

All share one signature, so that any of them runs beside the others: `BASELINES[name](hole) -> implant`, with the
implant (k, j, i) bool on `hole.box` of the skull's grid, never on bone, empty where the method finds nothing to go by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from MedShapeCore.volumes import Box, box_of, cropped_matrix, kji_from_lps, lps_from_ijk, sample, spacing_of
from scipy import ndimage

from .skull import Skull

ROOM_MM = 30.0  # bone that a HoleCase shows around the region
OPENING_MM = 1.0  # thinner than twice this is no implant but a difference of two surfaces

BALL_MM = 80.0  # radius of the ball above which the thin plate has its heights: about the vault's
COLUMN_MM = 1.0  # distance of the columns in which it sees the bone
HEIGHT_ROOM_MM = 10.0  # how far the columns reach beyond the region
HEIGHT_MM = 0.5  # and the step along them
DIPLOE_MM = 3.0  # a gap in a column up to this long is inside the bone
WALL_MM = 6.0  # columns this near to the hole may cut its slanted wall and are not trusted
RING_MM = 22.0  # columns up to this far from the hole shape the plate
PLATE_POINTS = 500  # of these columns; a spline through more costs time and says nothing new
SMOOTHING = 50.0  # of the spline (mm^2 for the kernel r^2 log r): surfaces of real bone are rough by 0.3 mm
THICKEST_MM = 25.0  # a column through more bone than this runs along it
FEWEST_COLUMNS = 30  # a plate through fewer is a guess
OUTLIER_MM = 3.0  # what departs more from a first plate is not vault (arch, ear canal, debris) and left out


@dataclass(frozen=True)
class HoleCase:
    """A hole in a skull, as found: all that a baseline is told."""

    skull: Skull
    box: Box  # part of the skull's grid with the hole and at least 25 mm of bone around it
    region: np.ndarray  # (k, j, i) bool on the box: where an implant may be
    outward_lps: np.ndarray  # (3,) unit vector out of the head in the middle of the hole
    centre_lps: np.ndarray  # (3,) a point on the missing surface, mm
    mirror_lps: np.ndarray  # (4, 4) reflection about the head's symmetry plane
    context: object = None  # what the pipeline's own baselines need besides; the others never look at it

    @property
    def bone(self) -> np.ndarray:
        """(k, j, i) bool on the box."""
        return self.skull.mask[self.box]

    @property
    def ijk_to_lps(self) -> np.ndarray:
        """(4, 4) of the box."""
        return cropped_matrix(self.skull.ijk_to_lps, self.box)


def hole_case(
    skull: Skull,
    box: Box,
    region: np.ndarray,
    outward_lps: np.ndarray,
    centre_lps: np.ndarray,
    mirror_lps: np.ndarray,
    context: object = None,
) -> HoleCase:
    """A HoleCase from a box that fits the region tightly: it is widened to hold the bone which the baselines need.

    region : (k, j, i) bool on `box`. The other arguments are those of HoleCase.
    """
    room = np.ceil(ROOM_MM / spacing_of(skull.ijk_to_lps)[::-1]).astype(int)
    low = [max(s.start - int(n), 0) for s, n in zip(box, room, strict=True)]
    high = [min(s.stop + int(n), size) for s, n, size in zip(box, room, skull.mask.shape, strict=True)]
    wide = slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])
    padded = np.pad(region, [(s.start - a, b - s.stop) for s, a, b in zip(box, low, high, strict=True)])
    return HoleCase(skull, wide, padded, outward_lps, centre_lps, mirror_lps, context)


def mirror_implant(
    bone: np.ndarray,
    ijk_to_lps: np.ndarray,
    mirror_lps: np.ndarray,
    region: np.ndarray,
    skull: np.ndarray,
    skull_ijk_to_lps: np.ndarray,
) -> np.ndarray:
    """The other side's bone, mirrored into the hole.

    bone, region : (k, j, i) bool on the grid `ijk_to_lps` (4, 4): own bone, and where an implant may be.
    mirror_lps   : (4, 4) reflection that takes one side of the head to the other.
    skull        : (K, J, I) bool on the grid `skull_ijk_to_lps`: the whole skull, to look at its other side.
    Returns (k, j, i) bool. Empty where the other side has no bone either: holes on the midline.
    """
    index = np.argwhere(region & ~bone)
    points_lps = lps_from_ijk(ijk_to_lps, index) @ mirror_lps[:3, :3].T + mirror_lps[:3, 3]  # (n, 3)
    implant = np.zeros(bone.shape, bool)
    implant[tuple(index.T)] = sample(skull, skull_ijk_to_lps, points_lps, 0.0) > 0.5
    return largest_part(opened(implant, spacing_of(ijk_to_lps)[::-1], OPENING_MM))


def thin_plate_implant(
    bone: np.ndarray, ijk_to_lps: np.ndarray, region: np.ndarray, outward_lps: np.ndarray, centre_lps: np.ndarray
) -> np.ndarray:
    """The space between two thin-plate splines through the outer and the inner bone surface around the hole.

    bone, region : (k, j, i) bool on the grid `ijk_to_lps` (4, 4): own bone with at least 25 mm around the hole, and
                   where an implant may be.
    outward_lps  : (3,) out of the head.
    centre_lps   : (3,) mm, a point near the missing surface. Heights of bone are taken above a ball of the vault's size
                   through it: above a plane, the flanks of a wide hole are too steep.
    Returns (k, j, i) bool. Empty where no column of the region is open, or too little bone surrounds it.
    """
    nothing = np.zeros(bone.shape, bool)
    box = box_of(region)
    if box is None:
        return nothing
    frame = _ball_frame(outward_lps, centre_lps)
    columns = _columns(bone, region, ijk_to_lps, frame)
    heights_mm = _surface_heights(columns)
    hole = _largest_hole(columns.region.any(2) & ~(columns.bone & columns.region).any(2))
    surfaces: list[np.ndarray] = []
    for _ in range(3):  # a better plate knows better which columns are open, and the reverse; it settles at once
        away_mm = ndimage.distance_transform_edt(~hole, sampling=COLUMN_MM)
        ring = np.isfinite(heights_mm).all(0) & (away_mm > WALL_MM) & (away_mm <= RING_MM)
        if not hole.any() or ring.sum() < FEWEST_COLUMNS:
            return nothing
        wanted = columns.region.any(2) | hole
        surfaces = [_plate(h, ring, wanted) for h in heights_mm]
        hole = _largest_hole(wanted & (_bone_share(columns, *surfaces) < 0.5))

    index = np.argwhere(region & ~bone)
    uvw = _uvw_from_lps(lps_from_ijk(ijk_to_lps, index), frame)  # (n, 3)
    place = ((uvw[:, :2] - columns.low_mm[:2]) / COLUMN_MM).T
    near_hole = ndimage.distance_transform_edt(~hole, sampling=COLUMN_MM) <= WALL_MM + COLUMN_MM
    outer, inner = (np.where(near_hole, s, np.nan) for s in surfaces)
    outer, inner = (ndimage.map_coordinates(s, place, order=1, mode="constant", cval=np.nan) for s in (outer, inner))
    implant = nothing
    implant[tuple(index.T)] = (uvw[:, 2] < outer) & (uvw[:, 2] > inner)  # false beside the hole, where both are NaN
    return largest_part(opened(implant, spacing_of(ijk_to_lps)[::-1], OPENING_MM))


@dataclass(frozen=True)
class _Columns:
    """Bone and region in columns that stand on the ball; indices [u, v, w]."""

    bone: np.ndarray  # (U, V, W) bool
    region: np.ndarray  # (U, V, W) bool
    low_mm: np.ndarray  # (3,) u, v, w of the first sample


def _ball_frame(outward_lps: np.ndarray, centre_lps: np.ndarray) -> np.ndarray:
    """(4, 4): LPS mm -> mm from the middle of a ball of BALL_MM whose pole, on the third axis, is the hole's centre."""
    w = np.asarray(outward_lps, float) / np.linalg.norm(outward_lps)
    u = np.cross(w, np.eye(3)[np.argmin(np.abs(w))])
    u /= np.linalg.norm(u)
    frame = np.eye(4)
    frame[:3, :3] = [u, np.cross(w, u), w]
    frame[:3, 3] = -frame[:3, :3] @ (np.asarray(centre_lps, float) - BALL_MM * w)
    return frame


def _uvw_from_lps(points_lps: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """(..., 3) LPS mm -> (..., 3): u, v in mm along the ball from its pole, and the height w in mm above the ball."""
    points = points_lps @ frame[:3, :3].T + frame[:3, 3]
    radius = np.linalg.norm(points, axis=-1)
    across = np.hypot(points[..., 0], points[..., 1])
    arc = BALL_MM * np.arctan2(across, points[..., 2]) / np.maximum(across, 1e-9)
    return np.stack([points[..., 0] * arc, points[..., 1] * arc, radius - BALL_MM], -1)


def _lps_from_uvw(uvw: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The inverse of `_uvw_from_lps`."""
    arc = np.hypot(uvw[..., 0], uvw[..., 1])
    across = np.sin(arc / BALL_MM) / np.maximum(arc, 1e-9)
    direction = np.stack([uvw[..., 0] * across, uvw[..., 1] * across, np.cos(arc / BALL_MM)], -1)
    points = direction * (BALL_MM + uvw[..., 2:])
    return (points - frame[:3, 3]) @ frame[:3, :3]


def _columns(bone: np.ndarray, region: np.ndarray, ijk_to_lps: np.ndarray, frame: np.ndarray) -> _Columns:
    """Samples the region and the ring around it."""
    uvw = _uvw_from_lps(lps_from_ijk(ijk_to_lps, np.argwhere(region)), frame)
    low = uvw.min(0) - [RING_MM, RING_MM, HEIGHT_ROOM_MM]
    high = uvw.max(0) + [RING_MM, RING_MM, HEIGHT_ROOM_MM]
    steps = (COLUMN_MM, COLUMN_MM, HEIGHT_MM)
    axes = [np.arange(a, b, s) for a, b, s in zip(low, high, steps, strict=True)]
    sampled = np.zeros((2, *(len(a) for a in axes)), bool)
    # Linear between voxels: a ray meets the stairs of a mask too early from either side, and bone would seem too thick.
    masks = bone.astype(np.float32), region.astype(np.float32)
    for row, u in enumerate(axes[0]):  # one sheet of columns at a time, to spare memory
        sheet = np.stack(np.meshgrid(u, axes[1], axes[2], indexing="ij"), -1)[0]  # (V, W, 3)
        index = np.moveaxis(kji_from_lps(ijk_to_lps, _lps_from_uvw(sheet, frame)), -1, 0)
        for mask, samples in zip(masks, sampled, strict=True):
            samples[row] = ndimage.map_coordinates(mask, index, order=1, mode="constant") > 0.5
    return _Columns(sampled[0], sampled[1], low)


def _largest_hole(open_columns: np.ndarray) -> np.ndarray:
    """(U, V) bool: the largest connected set of open columns, with what it encloses."""
    return np.asarray(ndimage.binary_fill_holes(largest_part(open_columns)))


def _bone_share(columns: _Columns, outer_mm: np.ndarray, inner_mm: np.ndarray) -> np.ndarray:
    """(U, V): how much of each column between two surfaces is bone; 1 where there are none (NaN)."""
    height_mm = columns.low_mm[2] + HEIGHT_MM * np.arange(columns.bone.shape[2])
    between = (height_mm < outer_mm[..., None]) & (height_mm > inner_mm[..., None])
    return np.where(between.any(2), (columns.bone & between).sum(2) / np.maximum(between.sum(2), 1), 1.0)


def _surface_heights(columns: _Columns) -> np.ndarray:
    """Heights (2, U, V) in mm of the outer surface and of the inner one below it; NaN where a column meets no bone."""
    gap = round(DIPLOE_MM / HEIGHT_MM)
    # Closed along the columns, so that a hollow diploe does not end the bone; from outside inwards.
    solid = ndimage.binary_closing(np.pad(columns.bone, ((0, 0), (0, 0), (gap, gap))), np.ones((1, 1, gap + 1)))
    solid = solid[:, :, gap:-gap][:, :, ::-1]
    first = solid.argmax(2)  # (U, V)
    empty_below = ~solid & (np.arange(solid.shape[2]) > first[..., None])
    last = np.where(empty_below.any(2), empty_below.argmax(2), solid.shape[2])  # first sample under the bone
    top_mm = columns.low_mm[2] + HEIGHT_MM * (solid.shape[2] - 1)
    met = solid.any(2) & empty_below.any(2)
    met &= HEIGHT_MM * (last - first) < THICKEST_MM
    return np.where(met, top_mm - HEIGHT_MM * (np.stack([first, last]) - 0.5), np.nan)


def _plate(heights_mm: np.ndarray, ring: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Heights (U, V) of a thin plate in the columns `wanted`, NaN elsewhere, shaped by those in the columns `ring`."""
    known_mm, values_mm = np.argwhere(ring) * COLUMN_MM, heights_mm[ring]
    known_mm, values_mm = _fitting(known_mm, values_mm, _robust_misfit(known_mm, values_mm), 2 * OUTLIER_MM)
    known_mm, values_mm = _thinned(known_mm, PLATE_POINTS), _thinned(values_mm, PLATE_POINTS)
    plate = _spline(known_mm, values_mm)
    plate = _spline(*_fitting(known_mm, values_mm, np.abs(plate(known_mm) - values_mm), OUTLIER_MM))
    surface_mm = np.full(heights_mm.shape, np.nan)
    surface_mm[wanted] = plate(np.argwhere(wanted) * COLUMN_MM)
    return surface_mm


def _spline(known_mm: np.ndarray, values_mm: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from scipy.interpolate import RBFInterpolator  # slow to import, and rarely needed

    return RBFInterpolator(known_mm, values_mm, kernel="thin_plate_spline", smoothing=SMOOTHING)


def _robust_misfit(known_mm: np.ndarray, values_mm: np.ndarray) -> np.ndarray:
    """Distances (n,) in mm from a paraboloid through most of the points: a spline alone would follow the others.

    Least squares, reweighted by Cauchy's function, started at the median.
    """
    x, y = (known_mm - known_mm.mean(0)).T / 50.0
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
    misfit_mm = values_mm - np.median(values_mm)
    for _ in range(20):
        weighted = terms.T / (1 + (misfit_mm / OUTLIER_MM) ** 2)  # (6, n)
        misfit_mm = values_mm - terms @ np.linalg.lstsq(weighted @ terms, weighted @ values_mm, rcond=None)[0]
    return np.abs(misfit_mm)


def _fitting(
    known_mm: np.ndarray, values_mm: np.ndarray, misfit_mm: np.ndarray, limit_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """The points with a misfit below the limit, unless hardly any would be left."""
    fits = misfit_mm < limit_mm
    return (known_mm[fits], values_mm[fits]) if fits.sum() >= FEWEST_COLUMNS else (known_mm, values_mm)


def _thinned(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows of an array, spread evenly over it."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def opened(mask: np.ndarray, spacing_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    """Opening of a mask (k, j, i) bool by a ball in mm; spacing_mm (3,) along k, j, i. An empty mask stays empty."""
    box = box_of(mask, np.ceil(radius_mm / spacing_mm).astype(int) + 1)
    result = np.zeros(mask.shape, bool)
    if box is not None:
        core = ndimage.distance_transform_edt(np.pad(mask[box], 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1] > radius_mm
        if core.any():
            result[box] = mask[box] & (ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= radius_mm)
    return result


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest face-connected part of a mask (k, j, i) bool; an empty mask stays empty."""
    labels, count = ndimage.label(mask)
    return mask if count < 2 else labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _mirror(hole: HoleCase) -> np.ndarray:
    skull = hole.skull
    return mirror_implant(hole.bone, hole.ijk_to_lps, hole.mirror_lps, hole.region, skull.mask, skull.ijk_to_lps)


def _thin_plate(hole: HoleCase) -> np.ndarray:
    return thin_plate_implant(hole.bone, hole.ijk_to_lps, hole.region, hole.outward_lps, hole.centre_lps)


# name -> function of a HoleCase that returns the implant (k, j, i) bool on its box. A new baseline: a new line here.
BASELINES: dict[str, Callable[[HoleCase], np.ndarray]] = {"mirror": _mirror, "thin plate": _thin_plate}
