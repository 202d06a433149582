"""Where the head is: a rigid head frame found by registering bone to a symmetric atlas.

The head frame is x to the left, y to the back, z up, in mm, with its origin in the middle of the braincase; x = 0 is
the symmetry plane. The atlas is the mean signed distance of many registered skulls and of their mirror images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])  # the reflection about the head frame's own symmetry plane


@dataclass(frozen=True)
class Grid:
    """A box grid in the head frame: voxel (k, j, i) sits at low + step * (i, j, k)."""

    low: tuple[float, float, float]  # x, y, z of the first voxel's centre, mm
    shape: tuple[int, int, int]  # K, J, I
    step: float  # mm

    def points(self) -> np.ndarray:
        """(K, J, I, 3) head-frame points of all voxels, float32."""
        axes = [
            np.float32(low) + np.float32(self.step) * np.arange(n, dtype=np.float32)
            for low, n in zip(self.low, self.shape[::-1], strict=True)
        ]
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        return np.stack([x, y, z], -1)

    def kji(self, points_head: np.ndarray) -> np.ndarray:
        """(..., 3) head-frame points -> (..., 3) continuous array indices (k, j, i)."""
        return ((points_head - np.asarray(self.low, points_head.dtype)) / self.step)[..., ::-1]

    def sample(self, array: np.ndarray, points_head: np.ndarray, outside: float, order: int = 1) -> np.ndarray:
        """Values (...) float32 of `array` (K, J, I) at points (..., 3) of the grid's frame; `outside` beyond it."""
        index = np.moveaxis(self.kji(points_head), -1, 0)
        return ndimage.map_coordinates(array, index, order=order, mode="constant", cval=outside, output=np.float32)


ATLAS_GRID = Grid((-100.0, -124.0, -100.0), (54, 63, 51), 4.0)


@dataclass(frozen=True)
class HeadPose:
    """Rigid pose of a head and its size against the atlas."""

    head_from_lps: np.ndarray  # (4, 4), rotation and translation only
    scale: float  # size of the head / size of the atlas
    residual_mm: float  # median distance of the used bone points to the atlas surface

    @property
    def lps_from_head(self) -> np.ndarray:
        """(4, 4), the inverse of head_from_lps."""
        return np.linalg.inv(self.head_from_lps)

    def to_head(self, points_lps: np.ndarray) -> np.ndarray:
        """(n, 3) points in LPS mm -> (n, 3) in the head frame."""
        return points_lps @ self.head_from_lps[:3, :3].T + self.head_from_lps[:3, 3]

    def to_lps(self, points_head: np.ndarray) -> np.ndarray:
        """(n, 3) points in the head frame -> (n, 3) in LPS mm."""
        return (points_head - self.head_from_lps[:3, 3]) @ self.head_from_lps[:3, :3]


def procrustes(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Similarity target = scale * R @ source + t with least weighted squares (Umeyama 1991).

    source, target : (n, 3) mm, at least three points that are not on a line; weights : (n,), not all zero.
    Returns R (3, 3) without reflection, t (3,) mm, scale.
    """
    w = weights / weights.sum()
    a, b = w @ source, w @ target
    p, q = source - a, target - b
    u, s, vt = np.linalg.svd((q * w[:, None]).T @ p)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    scale = float((s * np.diag(flip)).sum() / (w @ (p**2).sum(1)))
    return rotation, b - scale * rotation @ a, scale


def bone_points(mask: np.ndarray, ijk_to_lps: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random surface voxels of a mask as (n, 3) LPS points (fewer where the mask has fewer)."""
    surface = mask & ~ndimage.binary_erosion(mask)
    index = np.argwhere(surface)
    if len(index) > count:
        index = index[rng.choice(len(index), count, replace=False)]
    return index[:, ::-1] @ ijk_to_lps[:3, :3].T + ijk_to_lps[:3, 3]


def register(
    points: np.ndarray, field: np.ndarray, grid: Grid, start: np.ndarray, with_scale: bool = True,
    steps: int = 40, clip_mm: float = 16.0,
) -> tuple[np.ndarray, float]:
    """Moves points onto the zero set of a signed distance field: robust Gauss-Newton on a similarity.

    points : (n, 3) mm; field : (K, J, I) signed mm on `grid`, clipped at clip_mm; start : (4, 4) similarity,
    grid <- points; with_scale : False keeps the scale of `start`.
    Returns the (4, 4) similarity and the median |distance| in mm of the points within 4 mm; infinite where none is.
    """
    matrix = start.copy()
    gradient = [np.ascontiguousarray(g) for g in np.gradient(field, grid.step)][::-1]  # along x, y, z
    distance = np.zeros(len(points))
    width = clip_mm / 2
    for step in range(steps):
        moved = points @ matrix[:3, :3].T + matrix[:3, 3]
        index = np.moveaxis(grid.kji(moved), -1, 0)
        distance = ndimage.map_coordinates(field, index, order=1, mode="constant", cval=clip_mm)
        slope = np.stack([ndimage.map_coordinates(g, index, order=1, mode="constant") for g in gradient], 1)
        width = max(1.5, 0.85 * width)  # graduated robustness: far points first pull, then are ignored
        weight = 1.0 / (1.0 + (distance / width) ** 2) ** 2
        weight[np.abs(distance) > clip_mm - 0.5] = 0
        centre = moved.mean(0)
        arm = moved - centre
        columns = [slope, np.cross(arm, slope)]
        if with_scale:
            columns.append((slope * arm).sum(1, keepdims=True))
        jacobian = np.concatenate(columns, 1)
        normal = jacobian.T @ (jacobian * weight[:, None])
        if not normal.any():  # no point is near the surface
            break
        normal += 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal))
        change = -np.linalg.solve(normal, jacobian.T @ (weight * distance))
        turn = Rotation.from_rotvec(change[3:6]).as_matrix()
        factor = 1.0 + float(change[6]) if with_scale else 1.0
        update = np.eye(4)
        update[:3, :3] = factor * turn
        update[:3, 3] = centre + change[:3] - update[:3, :3] @ centre
        matrix = update @ matrix
        if step > 15 and np.abs(change[:3]).max() < 1e-3 and np.abs(change[3:6]).max() < 1e-5:
            break
    near = np.abs(distance) < 4.0
    return matrix, float(np.median(np.abs(distance[near]))) if near.any() else float("inf")


def own_mirror(points_head: np.ndarray, field: np.ndarray, grid: Grid, start: np.ndarray = MIRROR) -> np.ndarray:
    """The reflection that lays a head's mirror image best onto the head itself: (4, 4), near MIRROR.

    start : (4, 4) where the search begins, and what is returned where it finds nothing.

    points_head : (n, 3) bone points in mm; field : (K, J, I) signed mm to bone on `grid`. A head is not quite symmetric
    about the atlas's plane; holes on one side count as outliers. A reflection that lies far from MIRROR is no find.
    """
    matrix, _ = register(points_head, field, grid, start, with_scale=False, steps=25, clip_mm=6.0)
    shift = np.abs(matrix[:3, 3]).max()
    return matrix if shift < 12.0 else start.copy()


def reflected_points(points_head: np.ndarray, mirror_head: np.ndarray) -> np.ndarray:
    """(..., 3) head-frame points as the (4, 4) reflection moves them."""
    m = mirror_head.astype(points_head.dtype)
    return points_head @ m[:3, :3].T + m[:3, 3]


def pose_from_similarity(matrix: np.ndarray, residual_mm: float) -> HeadPose:
    """The pose of a (4, 4) similarity atlas <- LPS: the head frame has the atlas's origin and axes, but keeps mm."""
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    rigid = np.eye(4)
    rigid[:3, :3] = matrix[:3, :3] / scale
    rigid[:3, 3] = matrix[:3, 3] / scale
    return HeadPose(rigid, 1.0 / scale, residual_mm)
