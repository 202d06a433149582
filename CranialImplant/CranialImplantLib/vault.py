"""The vault as a map: outer and inner bone surface as radii over the directions from the middle of the braincase.

A map is an image in azimuthal equidistant projection: the pixel's distance from the image centre is the angle to "up"
in the head frame, its bearing is the direction to the left (+x, column) and to the back (+y, row). On such a map a hole
is a blob of missing pixels, a dome is a smooth function, and a shape model is a Gaussian process (`dome`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .pose import Grid, reflected_points

RADIUS_MM = (32.0, 128.0)  # where bone is looked for along a ray
RAY_STEP_MM = 0.75
GAP_MM = 3.0  # air inside bone up to this length along a ray does not end the bone
REACH_MM = 10.0  # bone farther than this outside the expected outer surface is not the vault (ear, bandage, head rest)
DEPTH_MM = 28.0  # nor is bone deeper than this below it (skull base, petrous bone)


@dataclass(frozen=True)
class MapGrid:
    """An azimuthal equidistant image of directions: (2 n + 1) square, `step_deg` per pixel."""

    half: int
    step_deg: float

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of a map."""
        return (2 * self.half + 1, 2 * self.half + 1)

    def directions(self, row: np.ndarray | None = None, column: np.ndarray | None = None) -> np.ndarray:
        """Unit vectors in the head frame: (H, W, 3) of all pixels, or (..., 3) of continuous rows and columns (...)."""
        if row is None or column is None:
            row, column = np.meshgrid(*[np.arange(n, dtype=float) for n in self.shape], indexing="ij")
        y, x = (row - self.half) * self.step_deg, (column - self.half) * self.step_deg
        polar = np.radians(np.hypot(x, y))
        sinc = np.sinc(polar / np.pi)  # sin(polar) / polar
        return np.stack([np.radians(x) * sinc, np.radians(y) * sinc, np.cos(polar)], -1)

    def polar_deg(self) -> np.ndarray:
        """(H, W) angle of every pixel to "up"."""
        row, column = np.meshgrid(*[np.arange(n) - self.half for n in self.shape], indexing="ij")
        return np.hypot(row, column) * self.step_deg

    def pixels(self, points_head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (..., 3) in the head frame -> continuous (row, column) (..., 2) on the map, and radius (...) in mm."""
        radius = np.linalg.norm(points_head, axis=-1)
        flat = np.hypot(points_head[..., 0], points_head[..., 1])
        polar = np.degrees(np.arctan2(flat, points_head[..., 2]))
        factor = polar / (np.maximum(flat, 1e-6) * self.step_deg)
        index = np.stack([points_head[..., 1] * factor, points_head[..., 0] * factor], -1) + self.half
        return index, radius

    def normals(self, radius_mm: np.ndarray) -> np.ndarray:
        """(H, W, 3) unit vectors, head frame, outward from the surface of a radius map (H, W) without NaN."""
        surface = self.directions() * radius_mm[..., None]
        normals = np.cross(np.gradient(surface, axis=1), np.gradient(surface, axis=0))
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
        return np.asarray(normals * np.sign((normals * surface).sum(-1, keepdims=True)))

    def sample(self, image: np.ndarray, index: np.ndarray, outside: float | None = None) -> np.ndarray:
        """Values of a map (H, W) at continuous (row, column) (..., 2), float32.

        Beyond its border `outside`, or the border's value for None.
        """
        mode, value = ("nearest", 0.0) if outside is None else ("constant", outside)
        place = np.moveaxis(index, -1, 0)
        return ndimage.map_coordinates(image, place, order=1, mode=mode, cval=value, output=np.float32)


VAULT_MAP = MapGrid(64, 2.0)  # 128 degrees from the vertex, 3 mm between pixels


def cast(
    field: np.ndarray, grid: Grid, directions: np.ndarray, expected_outer_mm: np.ndarray | float | None = None,
    mirror_head: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Outer and inner bone radius along rays from the head frame's origin.

    field : (K, J, I) signed distance to bone on `grid` in mm, negative inside; directions : (..., 3) unit vectors;
    expected_outer_mm : (...) where the outer surface should be; bone more than REACH_MM above it or DEPTH_MM below it
    is passed over; mirror_head : (4, 4), a reflection: the rays run through the bone's mirror image.
    Returns outer and inner radius in mm, float32 (...), NaN where the ray meets no bone or does not leave it again.
    """
    radii = np.arange(*RADIUS_MM, RAY_STEP_MM, dtype=np.float32)
    shape = directions.shape[:-1]
    rays = directions.reshape(-1, 1, 3).astype(np.float32) * radii[:, None]  # (N, R, 3)
    if mirror_head is not None:
        rays = reflected_points(rays, mirror_head)
    profile = grid.sample(field, rays, 99.0)
    bone = profile < 0
    if expected_outer_mm is not None:
        expected = np.broadcast_to(np.asarray(expected_outer_mm, np.float32), shape).reshape(-1, 1)
        bone &= (radii < expected + REACH_MM) & (radii > expected - DEPTH_MM)
    count = bone.shape[1]
    last = count - 1 - np.argmax(bone[:, ::-1], 1)  # outermost bone sample
    found = bone.any(1) & (last < count - 1)
    gap = int(round(GAP_MM / RAY_STEP_MM))
    closed = ndimage.binary_closing(np.pad(bone, ((0, 0), (gap, gap))), np.ones((1, gap + 1), bool))[:, gap:-gap]
    inward = closed[:, ::-1]
    position = np.arange(count)
    after = position[None] >= (count - 1 - last)[:, None]
    leaves = after & ~inward
    first = count - 1 - np.argmax(leaves, 1) + 1  # innermost bone sample of the outermost run
    rows = np.arange(len(bone))

    def crossing(inner_index: np.ndarray, outer_index: np.ndarray) -> np.ndarray:
        a, b = profile[rows, inner_index], profile[rows, outer_index]
        share = np.clip(a / np.where(np.abs(a - b) < 1e-6, 1e-6, a - b), 0, 1)
        return radii[inner_index] + share * RAY_STEP_MM

    outer = crossing(last, np.minimum(last + 1, count - 1))
    inner = crossing(np.maximum(first - 1, 0), np.minimum(first, count - 1))
    found &= leaves.any(1) & (first >= 1)
    return (np.where(found, outer, np.nan).reshape(shape).astype(np.float32),
            np.where(found, inner, np.nan).reshape(shape).astype(np.float32))
