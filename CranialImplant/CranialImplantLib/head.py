"""The skull in its own head frame: one signed distance grid of 1.5 mm from which everything after it is cut.

The input's voxels are averaged before they are resampled, so the surface keeps its place between voxels; the diploe is
filled (thin slices leave it hollow), because a completed bone is solid.
"""

from __future__ import annotations

import numpy as np
from MedShapeCore.distance import signed_distance
from MedShapeCore.volumes import box_of, cropped_matrix, spacing_of
from scipy import ndimage

from .pose import Grid, HeadPose

HEAD_GRID = Grid((-90.0, -112.5, -66.0), (113, 151, 121), 1.5)
FIELD_LIMIT_MM = 6.0  # signed distances are clipped here
DIPLOE_MM = 2.25  # gaps of twice this width inside bone are filled


def averaged(mask: np.ndarray, ijk_to_lps: np.ndarray, step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Occupancy of blocks of voxels not wider than `step_mm`, and the ijk_to_lps of the coarser grid.

    mask : (K, J, I) bool. Returns float32 in [0, 1] and (4, 4); the mask itself where its voxels are wider.
    """
    factor = np.maximum(1, np.floor(step_mm / spacing_of(ijk_to_lps) + 0.01).astype(int))[::-1]  # k, j, i
    size = -(-np.array(mask.shape) // factor)
    if (size * factor != mask.shape).any():
        mask = np.pad(mask, [(0, int(w)) for w in size * factor - mask.shape])
    blocks = mask.reshape(size[0], factor[0], size[1], factor[1], size[2], factor[2])
    occupancy = np.zeros(size, np.float32)
    for a in range(factor[0]):
        for b in range(factor[1]):
            for c in range(factor[2]):
                occupancy += blocks[:, a, :, b, :, c]
    matrix = ijk_to_lps @ np.diag([*factor[::-1], 1.0])
    matrix[:3, 3] = ijk_to_lps[:3, :3] @ ((factor[::-1] - 1) / 2) + ijk_to_lps[:3, 3]
    return occupancy / np.float32(factor.prod()), matrix


def head_occupancy(mask: np.ndarray, ijk_to_lps: np.ndarray, pose: HeadPose, grid: Grid = HEAD_GRID) -> np.ndarray:
    """Bone occupancy of a mask (K, J, I) on a head-frame grid: float32 in [0, 1], 0 outside the scan."""
    occupancy, matrix = averaged(mask, ijk_to_lps, 0.8 * grid.step)
    index_kji = grid_index(grid, matrix, pose)[..., ::-1]
    return ndimage.map_coordinates(
        occupancy, np.moveaxis(index_kji, -1, 0), order=1, mode="constant", output=np.float32
    )


def grid_index(grid: Grid, ijk_to_lps: np.ndarray, pose: HeadPose) -> np.ndarray:
    """Continuous (i, j, k) of all voxels of a head-frame grid in an input grid, (K, J, I, 3) float32."""
    ijk_from_head = (np.linalg.inv(ijk_to_lps) @ pose.lps_from_head).astype(np.float32)
    return grid.points() @ ijk_from_head[:3, :3].T + ijk_from_head[:3, 3]


def filled_diploe(occupancy: np.ndarray, step_mm: float) -> np.ndarray:
    """Occupancy (K, J, I) with narrow gaps inside the bone (diploe, small cells) filled; cubic voxels of step_mm."""
    bone = occupancy > 0.5
    near = ndimage.distance_transform_edt(~bone, sampling=step_mm).astype(np.float32) <= DIPLOE_MM
    closed = ndimage.distance_transform_edt(near, sampling=step_mm) > DIPLOE_MM
    added = (closed & ~bone) | (ndimage.binary_fill_holes(bone) & ~bone)
    return np.where(added, np.float32(1.0), occupancy)


def head_field(mask: np.ndarray, ijk_to_lps: np.ndarray, pose: HeadPose) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance to bone on HEAD_GRID, and where that grid lies inside the scan.

    mask : (K, J, I) bool; ijk_to_lps : (4, 4). Returns (113, 151, 121) float32 mm, negative inside, clipped at 6 mm,
    and bool. An empty mask gives +6 and False everywhere.
    """
    box = box_of(mask, 2)
    if box is None:
        return np.full(HEAD_GRID.shape, FIELD_LIMIT_MM, np.float32), np.zeros(HEAD_GRID.shape, bool)
    occupancy = head_occupancy(mask[box], cropped_matrix(ijk_to_lps, box), pose)
    occupancy = filled_diploe(occupancy, HEAD_GRID.step)
    field = signed_distance(occupancy, (HEAD_GRID.step,) * 3, FIELD_LIMIT_MM)
    return field, inside_scan(mask.shape, ijk_to_lps, pose)


def inside_scan(shape: tuple[int, ...], ijk_to_lps: np.ndarray, pose: HeadPose, grid: Grid = HEAD_GRID) -> np.ndarray:
    """Where a head-frame grid lies inside the scanned volume of `shape` (K, J, I), bool."""
    index = grid_index(grid, ijk_to_lps, pose)
    return np.asarray(((index > -0.5) & (index < np.array(shape[::-1]) - 0.5)).all(-1))
