"""Signed Euclidean distance in millimetres with sub-voxel accuracy, from masks, occupancies and level-set fields.

The idea is the anti-aliased distance transform of Gustavson and Strand, Pattern Recognition Letters 32 (2011): a plain
transform finds the nearest boundary voxel, and what that voxel knows about the surface inside it (offset and normal)
corrects the distance. Here every boundary voxel carries a small patch of surface, and one projection onto the tangent
plane looks for a better patch than the one of the nearest centre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

# Gaussian smoothing before the surface is located, voxels. A mask needs enough to turn a staircase into a slope; an
# occupancy is smooth already and needs just enough to wash out the kinks of averaging over voxels.
MASK_SMOOTHING = 0.7
OCCUPANCY_SMOOTHING = 0.5
# Half width of the patch of surface which one boundary voxel stands for, in voxels: half the distance to the next one.
PATCH_RADIUS = 0.5
# Voxels treated at once, so that the work arrays stay in the cache.
BLOCK = 1 << 16


def signed_distance(occupancy: np.ndarray, spacing_mm: Sequence[float], limit_mm: float) -> np.ndarray:
    """Signed distance to the surface of a mask, or to the 0.5 level of an occupancy.

    occupancy  : (K, J, I) bool, or float in [0, 1]. A float array of zeros and ones only is taken as a mask. The
                 surface of a mask runs between its voxels, smoothed a little; every voxel of a mask stays inside and
                 every other voxel outside, so plates and gaps of one voxel survive. Of an occupancy only what reaches
                 0.5 is inside. The border of the array is no surface.
    spacing_mm : (3,) along k, j, i.
    limit_mm   : the distance is cut to [-limit_mm, limit_mm].
    Returns (K, J, I) float32 in mm, negative inside. Empty: limit_mm everywhere; full: -limit_mm everywhere.
    Raises ValueError for a wrong shape, spacing or limit, and for values outside [0, 1] or not finite.
    """
    raw = np.subtract(0.5, occupancy, dtype=np.float32)
    if raw.size and np.abs(raw).max() > 0.51:  # a little overshoot of an interpolation is no harm
        raise ValueError(f"an occupancy lies between 0 and 1, not from {np.min(occupancy)} to {np.max(occupancy)}")
    sigma = MASK_SMOOTHING if np.all(np.abs(raw) == 0.5) else OCCUPANCY_SMOOTHING

    def straightened(values: np.ndarray) -> np.ndarray:
        """A smoothed edge is a Gaussian integral whatever its width; the inverse makes it a straight line."""
        smooth = ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)
        return special.ndtri(np.clip(smooth + 0.5, 1e-3, 1.0 - 1e-3)).astype(np.float32)

    return _redistance(raw, straightened, spacing_mm, limit_mm)


def zero_set_distance(field: np.ndarray, spacing_mm: Sequence[float], limit_mm: float) -> np.ndarray:
    """Signed distance to the zero level of any field which is negative inside, e.g. a DPSR indicator.

    field      : (K, J, I) float, any unit; only its sign and its slope at the zero level matter. Zero counts as inside.
    spacing_mm, limit_mm, returns and errors as in signed_distance. A field of one sign only gives the limit everywhere.
    """
    return _redistance(np.asarray(field, np.float32), None, spacing_mm, limit_mm)


@dataclass(frozen=True)
class _Patches:
    """One small patch of surface per boundary voxel, in mm from the centre of voxel (0, 0, 0), axes (k, j, i)."""

    voxels: np.ndarray  # (n,) flat voxel index, ascending
    feet_mm: np.ndarray  # (n, 3) float32, surface point nearest to the voxel's centre
    normals: np.ndarray  # (n, 3) float32, unit, outward


def _redistance(
    raw: np.ndarray,
    straightened: Callable[[np.ndarray], np.ndarray] | None,
    spacing_mm: Sequence[float],
    limit_mm: float,
) -> np.ndarray:
    """Signed distance to the zero level of `raw`, whose sign is kept; `straightened(raw)` is where it is located."""
    _check_grid(raw, spacing_mm, limit_mm)
    boundary = _boundary(raw <= 0.0)
    distance = np.where(raw <= 0.0, np.float32(-limit_mm), np.float32(limit_mm))
    if boundary.any():
        box = _band_box(boundary, spacing_mm, limit_mm)
        part, boundary, spacing = np.ascontiguousarray(raw[box]), boundary[box], np.asarray(spacing_mm, np.float32)
        field = part if straightened is None else straightened(part)
        patches = _surface_patches(field, part, boundary, spacing)
        distance[box] *= _unsigned_distance(patches, boundary, spacing, limit_mm) / np.float32(limit_mm)
    return distance


def _unsigned_distance(patches: _Patches, boundary: np.ndarray, spacing: np.ndarray, limit_mm: float) -> np.ndarray:
    """Distance (K, J, I) float32 in mm, at most limit_mm, of every voxel centre to the patches."""
    away_mm, nearest = ndimage.distance_transform_edt(~boundary, sampling=spacing, return_indices=True)
    # Which patch belongs to the boundary voxel nearest to each voxel.
    patch_of = np.zeros(boundary.size, np.int32)
    patch_of[patches.voxels] = np.arange(len(patches.voxels), dtype=np.int32)
    patch_of = patch_of[np.ravel_multi_index(tuple(nearest), boundary.shape).ravel()]
    # The centre of a boundary voxel is at most one voxel from the surface: what is farther away stays at the limit.
    band = np.flatnonzero(away_mm.ravel() <= limit_mm + float(spacing.max()))
    distance_mm = np.full(boundary.size, limit_mm, np.float32)
    for start in range(0, len(band), BLOCK):
        block = band[start : start + BLOCK]
        distance_mm[block] = _distance_to_patches(block, patch_of, patches, boundary.shape, spacing)
    return np.minimum(distance_mm, np.float32(limit_mm)).reshape(boundary.shape)


def _distance_to_patches(
    voxels: np.ndarray, patch_of: np.ndarray, patches: _Patches, shape: tuple[int, ...], spacing: np.ndarray
) -> np.ndarray:
    """Unsigned distance in mm (n,) of voxels, flat (n,), to the best of three patches.

    The first is that of the nearest boundary centre. Centres are up to one voxel off the surface, so it can lie several
    voxels aside, or on the wrong one of two sheets. The second is the one found where the first tangent plane puts the
    foot point, the third is the first of the voxel one step farther away from the surface, where the other sheet wins.
    """
    index = np.stack(np.unravel_index(voxels, shape), axis=0)  # (3, n)
    step = spacing[:, None]
    centres_mm = index.astype(np.float32) * step
    feet, normals = patches.feet_mm.T, patches.normals.T
    top = np.array(shape)[:, None] - 1

    def measure(patch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance (n,) to one patch per voxel, and the vector (3, n) from its plane to the voxel."""
        offset, normal = centres_mm - feet[:, patch], normals[:, patch]
        above = np.einsum("an,an->n", offset, normal) * normal
        beside = np.maximum(np.abs(offset - above) - PATCH_RADIUS * step, 0.0)
        return np.sqrt(np.einsum("an,an->n", above, above) + np.einsum("an,an->n", beside, beside)), above

    def patch_at(place: np.ndarray) -> np.ndarray:
        """The patch of the voxel at index (3, n), moved into the array."""
        place = np.clip(np.rint(place).astype(np.int32), 0, top)
        return patch_of[(place[0] * shape[1] + place[1]) * shape[2] + place[2]]

    best_mm, above = measure(patch_of[voxels])
    above /= step
    reach = np.maximum(np.abs(above).max(axis=0), np.float32(1e-6))  # voxels to the surface along the steepest axis
    away = above / reach
    foot = index - away * np.maximum(reach, 1.0)  # at least one voxel off, or it would be the same patch again
    best_mm = np.minimum(best_mm, measure(patch_at(foot))[0])
    return np.minimum(best_mm, measure(patch_at(index + away))[0])


def _surface_patches(field: np.ndarray, raw: np.ndarray, boundary: np.ndarray, spacing: np.ndarray) -> _Patches:
    """Foot point and normal of each boundary voxel from the level crossings on its six edges to its neighbours.

    A crossing at distance a along axis i fixes |normal_i| a = distance to the surface. Crossings are interpolated,
    which stays right where (field / gradient) fails: at the saturated flanks of an indicator.
    """
    voxels = np.flatnonzero(boundary)
    index = np.stack(np.unravel_index(voxels, boundary.shape), axis=1)  # (n, 3)
    field, raw = field.ravel(), raw.ravel()
    inside = raw <= 0.0
    here_inside = inside[voxels]
    side = np.where(here_inside, np.float32(-1.0), np.float32(1.0))
    crossing = np.full((len(voxels), 3), np.inf, np.float32)  # mm to the surface along each axis
    gradient = np.zeros((len(voxels), 3), np.float32)
    strides = (boundary.shape[1] * boundary.shape[2], boundary.shape[2], 1)
    for axis, stride in enumerate(strides):
        place, last = index[:, axis], boundary.shape[axis] - 1
        # Clamped at the border of the array, where the neighbour is the voxel itself and nothing crosses.
        line = [voxels + (np.clip(place + step, 0, last) - place) * stride for step in (-2, -1, 0, 1, 2)]
        crosses = {step: inside[line[2 + step]] != here_inside for step in (-1, 1)}
        width = np.maximum((line[3] - line[1]) // stride, 1) * spacing[axis]
        slope = (field[line[3]] - field[line[1]]) / width
        for step in (-1, 1):
            near, far = line[2 + step], line[2 + 2 * step]
            # One voxel of bone or of gap: smoothing moves both its faces, the values as given know better.
            thin = crosses[-step] | (inside[far] == here_inside)
            here = np.where(thin, raw[voxels], field[voxels])
            there = np.where(thin, raw[near], field[near])
            fraction, rise = _crossing(here, there, side)
            length = np.where(crosses[step], np.maximum(fraction, 1e-3) * spacing[axis], np.inf)
            nearer = length < crossing[:, axis]
            crossing[nearer, axis] = length[nearer]
            direction = -step * side[nearer]  # where along this axis is outside
            # Over two voxels a thin plate has no slope; what crosses the level here does.
            least = 0.25 * rise[nearer] / spacing[axis]
            slope[nearer] = direction * np.maximum(direction * slope[nearer], least)
        gradient[:, axis] = slope
    normals = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    crossed = np.isfinite(crossing)
    distance = np.sum(np.abs(normals) * np.where(crossed, crossing, 0.0), axis=1) / crossed.sum(axis=1)
    feet_mm = index * spacing - normals * (side * distance)[:, None]
    return _Patches(voxels, feet_mm.astype(np.float32), normals.astype(np.float32))


def _crossing(here: np.ndarray, there: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where between two voxels (0 to 1) the level is crossed, when `here` should have the sign `side`, and the rise.

    A value that smoothing has put on the wrong side of the level counts as just on the right one.
    """
    here, there = np.maximum(side * here, np.float32(1e-9)), np.maximum(-side * there, np.float32(1e-9))
    return here / (here + there), here + there


def _boundary(inside: np.ndarray) -> np.ndarray:
    """Voxels (K, J, I) bool, on either side, with a face neighbour on the other side."""
    boundary = np.zeros(inside.shape, bool)
    for axis in range(3):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        change = inside[low] != inside[high]
        boundary[low] |= change
        boundary[high] |= change
    return boundary


def _band_box(boundary: np.ndarray, spacing_mm: Sequence[float], limit_mm: float) -> tuple[slice, slice, slice]:
    """Box around all boundary voxels with room for the limit; beyond it every distance is the limit."""
    slices = []
    for axis in range(3):
        used = np.flatnonzero(boundary.any(axis=tuple(a for a in range(3) if a != axis)))
        room = int(np.ceil(min(limit_mm / float(spacing_mm[axis]), boundary.shape[axis]))) + 2
        slices.append(slice(max(int(used[0]) - room, 0), min(int(used[-1]) + room + 1, boundary.shape[axis])))
    return slices[0], slices[1], slices[2]


def _check_grid(array: np.ndarray, spacing_mm: Sequence[float], limit_mm: float) -> None:
    if array.ndim != 3:
        raise ValueError(f"expected an array of three axes (k, j, i), not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("the array holds values which are not finite")
    spacing = np.asarray(spacing_mm, float)
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0.0)):
        raise ValueError(f"spacing must be three positive numbers in mm, not {spacing_mm}")
    if not limit_mm > 0.0 or not np.isfinite(limit_mm):
        raise ValueError(f"the limit must be a positive number in mm, not {limit_mm}")
