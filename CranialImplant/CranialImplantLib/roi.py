"""The region around the hole in its patch frame: what the networks see, and the way back to the input's voxels.

The patch frame has its origin at the hole's middle on the outer surface and z along the outward normal; its rotation is
the smallest that takes the head's "up" onto that normal, and holes on the right are mirrored to the left: wherever the
hole is, the vault looks like the same dome.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from MedShapeCore.volumes import Box, cropped_matrix, kji_from_lps, spacing_of
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .contours import level_lines
from .defect import FINE_MAP, Outline
from .dome import Dome, extended
from .head import FIELD_LIMIT_MM, HEAD_GRID
from .pose import Grid, HeadPose, reflected_points
from .vault import VAULT_MAP

REGION_MM = 3.0  # an implant may reach this far beyond the outline (slanted rims)
ABOVE_MM, BELOW_MM = 16.0, 25.0  # and this far above and below the dome (arch, orbital roof)
ROOM_MM = 12.0  # bone around the hole that the networks see
ROI_STEP_MM = 2.0  # facts/benchmarks.md C7: the grid is not the limit at 2 mm
ROI_MULTIPLE = 16
RIM_REACH_MM = 1.5  # the implant's closed surface ends this far inside the bone
SHELL_MM = 2.0  # a mirrored vault's surface may lie this far off the measured one and still be the vault
BESIDE_MM = 14.0  # how far beside the outline a missing structure may go on
CLEAR_MM = 1.5  # and how far from this side's bone it then lies: nearer, it is the same bone, not quite symmetric
RADIUS_MM = 85.0  # of an average vault: turns distances along it into angles
WALL_RINGS = 3  # of points between the tables on the rim wall
FINE_ZOOM = VAULT_MAP.step_deg / FINE_MAP.step_deg


@dataclass(frozen=True)
class Patch:
    """A grid in the patch frame of one hole."""

    head_from_patch: np.ndarray  # (4, 4), a rotation, or a rotation and a reflection
    grid: Grid  # its low, shape and step are in the patch frame

    def points_head(self) -> np.ndarray:
        """(D, H, W, 3) head-frame points of all voxels."""
        return self.to_head(self.grid.points())

    def to_head(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) points of the patch frame -> (..., 3) in the head frame, same dtype."""
        m = self.head_from_patch.astype(points.dtype)
        return points @ m[:3, :3].T + m[:3, 3]

    def from_head(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) points of the head frame -> (..., 3) in the patch frame, same dtype."""
        m = self.head_from_patch.astype(points.dtype)
        return (points - m[:3, 3]) @ m[:3, :3]


def patch_around(
    outline: Outline, dome: Dome, centre_head: np.ndarray, step_mm: float = ROI_STEP_MM, multiple: int = ROI_MULTIPLE
) -> Patch:
    """The patch frame and grid of a hole; sizes are multiples of `multiple`, the hole plus ROOM_MM fits in.

    centre_head : (3,) mm, the frame's origin. The outline must have missing rays.
    """
    normal = centre_head / np.linalg.norm(centre_head)
    axis = np.cross([0.0, 0.0, 1.0], normal)
    length = np.linalg.norm(axis)
    turn = Rotation.from_rotvec(axis / max(length, 1e-9) * np.arctan2(length, normal[2])).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([-1.0, 1.0, 1.0]) if normal[0] < 0 else turn
    matrix[:3, 3] = centre_head
    frame = Patch(matrix, HEAD_GRID)
    points = frame.from_head(missing_points(outline, dome))
    low, high = points.min(0) - ROOM_MM, points.max(0) + ROOM_MM
    size = np.ceil((high - low) / step_mm / multiple).astype(int) * multiple
    start = (low + high) / 2 - step_mm * (size - 1) / 2
    shape = (int(size[2]), int(size[1]), int(size[0]))
    return Patch(matrix, Grid((float(start[0]), float(start[1]), float(start[2])), shape, step_mm))


def missing_points(outline: Outline, dome: Dome) -> np.ndarray:
    """(n, 3) head-frame points of the missing outer and inner surface, 2 mm apart; none for an empty outline."""
    directions = FINE_MAP.directions()[::2, ::2][outline.missing[::2, ::2]]
    index, _ = VAULT_MAP.pixels(directions)
    return np.concatenate([directions * VAULT_MAP.sample(image, index)[:, None] for image in (dome.outer, dome.inner)])


def wall_distance(outline: Outline, map_index: np.ndarray) -> np.ndarray:
    """Signed mm (...) along the surface to the hole's outline, negative inside.

    map_index : (..., 2) row and column of VAULT_MAP.
    """
    return FINE_MAP.sample(outline.distance_mm, (map_index - VAULT_MAP.half) * FINE_ZOOM + FINE_MAP.half, 99.0)


def shell_field(outer: np.ndarray, inner: np.ndarray, outline: Outline, points_head: np.ndarray) -> np.ndarray:
    """Signed mm (...) to the closed surface between two radius maps (H, W) and the rim wall, negative inside.

    points_head : (..., 3) mm. Exact at the surface, near it a bound from below: the largest of three distances.
    """
    index, radius = VAULT_MAP.pixels(points_head)
    wall = wall_distance(outline, index) - np.float32(RIM_REACH_MM)
    shell = np.maximum(radius - VAULT_MAP.sample(outer, index), VAULT_MAP.sample(inner, index) - radius)
    return np.maximum(shell, wall).astype(np.float32)


def roi_channels(field: np.ndarray, mirror_head: np.ndarray, dome: Dome, outline: Outline, patch: Patch) -> np.ndarray:
    """What every network sees of a case: (6, D, H, W) float32 on the patch grid.

    0 bone, 1 mirrored bone, 2 first guess (closed dome), all signed distances / 6 mm in [-1, 1]; 3 signed distance to
    the hole's outline / 20 mm in [-1, 1]; 4, 5 head-frame y and z / 100 mm.
    field : signed mm to bone on HEAD_GRID; mirror_head : (4, 4) reflection about the head's symmetry plane.
    """
    points = patch.points_head()
    bone = HEAD_GRID.sample(field, points, FIELD_LIMIT_MM)
    mirrored = HEAD_GRID.sample(field, reflected_points(points, mirror_head), FIELD_LIMIT_MM)
    guess = shell_field(dome.outer, dome.inner, outline, points)
    index, _ = VAULT_MAP.pixels(points)
    wall = np.clip(wall_distance(outline, index) / 20.0, -1, 1)
    fields = np.clip(np.stack([bone, mirrored, guess]) / FIELD_LIMIT_MM, -1, 1)
    place = np.moveaxis(points[..., 1:], -1, 0) / 100
    return np.concatenate([fields, wall[None], place]).astype(np.float32)


def mirrored_structures(
    field: np.ndarray, mirror_head: np.ndarray, outer: np.ndarray, inner: np.ndarray, outline: Outline, patch: Patch,
    domain: np.ndarray,
) -> np.ndarray:
    """Where the other side has bone that is no vault and this side lacks it: orbital roof, sphenoid ridge, arch.

    field, mirror_head : as in roi_channels; outer, inner : (H, W) mm, the measured maps; domain : (H, W) bool, where
    the dome model speaks. Bone counts as vault there within SHELL_MM of the maps; that part is the dome's to restore.
    Beside the outline, where a slanted cut reaches under bone that stayed, up to BESIDE_MM of what hangs together with
    the structures within counts too. Returns (D, H, W) float32, signed mm, negative inside.
    """
    points = patch.points_head()
    reflected = reflected_points(points, mirror_head)
    index, radius = VAULT_MAP.pixels(reflected)
    above = radius - VAULT_MAP.sample(extended(outer), index)
    below = VAULT_MAP.sample(extended(inner), index) - radius
    modelled = VAULT_MAP.sample(domain.astype(np.float32), index, 0.0) > 0.5
    vault = np.where(modelled, SHELL_MM - np.maximum(above, below), -FIELD_LIMIT_MM)
    mirrored = np.maximum(HEAD_GRID.sample(field, reflected, FIELD_LIMIT_MM), vault)
    own_index, _ = VAULT_MAP.pixels(points)
    wall = wall_distance(outline, own_index)
    within = np.maximum(mirrored, wall)
    clear = CLEAR_MM - HEAD_GRID.sample(field, points, FIELD_LIMIT_MM)
    beside = np.maximum(mirrored, np.maximum(wall - BESIDE_MM, clear))
    pieces, _ = ndimage.label(np.minimum(within, beside) < 0)
    touched = np.unique(pieces[within < 0])
    joined = np.isin(pieces, touched[touched > 0])
    return np.where(joined, np.minimum(within, beside), within).astype(np.float32)


@dataclass(frozen=True)
class SurfaceRays:
    """The implant's closed surface as points on rays: radius = inner + share * (outer - inner) per direction."""

    directions: np.ndarray  # (n, 3) unit vectors, head frame
    share: np.ndarray  # (n,) 1 outer table, 0 inner table, between: rim wall
    kind: np.ndarray  # (n,) 0 rim wall, 1 outer, 2 inner
    wall_normals: np.ndarray  # (n, 3) unit, head frame, away from the hole for wall points, 0 elsewhere

    def points(self, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
        """(n, 3) head-frame points for radius maps (H, W)."""
        index, _ = VAULT_MAP.pixels(self.directions)
        a, b = VAULT_MAP.sample(inner, index), VAULT_MAP.sample(outer, index)
        return (self.directions * (a + self.share * (b - a))[:, None]).astype(np.float32)


def surface_rays(outline: Outline, spacing_mm: float, generator: np.random.Generator) -> SurfaceRays:
    """Directions of the closed surface's points at about `spacing_mm`, jittered by a generator.

    The outline must have missing rays.
    """
    pixel_mm = RADIUS_MM * np.radians(FINE_MAP.step_deg)
    step = spacing_mm / pixel_mm
    inside = outline.distance_mm < RIM_REACH_MM
    rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
    axes = [np.arange(used[0], used[-1] + 1, step) for used in (rows, columns)]
    row, column = np.meshgrid(*axes, indexing="ij")
    place = np.stack([row.ravel(), column.ravel()], -1)
    tables = []
    for table in (1, 2):
        moved = place + generator.uniform(-0.35, 0.35, place.shape) * step
        keep = FINE_MAP.sample(outline.distance_mm, moved, 99.0) < RIM_REACH_MM - 0.3
        # Pixels far from the vertex stand for less surface: thin them by sin(angle) / angle.
        polar = np.radians(np.hypot(*(moved - FINE_MAP.half).T) * FINE_MAP.step_deg)
        keep &= generator.random(len(moved)) < np.sinc(polar / np.pi)
        tables.append((moved[keep], np.full(int(keep.sum()), table)))
    wall_place, wall_share = [], []
    for contour in level_lines(outline.distance_mm, RIM_REACH_MM - 0.05):
        around = FINE_MAP.directions(contour[:, 0], contour[:, 1]) * RADIUS_MM  # the map is stretched, the rim is not
        lengths = np.r_[0, np.cumsum(np.linalg.norm(np.diff(around, axis=0), axis=1))]
        count = max(8, int(lengths[-1] / spacing_mm))
        at = np.linspace(0, lengths[-1], count, endpoint=False)
        ring = np.stack([np.interp(at, lengths, contour[:, n]) for n in range(2)], -1)
        for level in range(1, WALL_RINGS + 1):
            wall_place.append(ring)
            wall_share.append(np.clip(level / (WALL_RINGS + 1) + generator.uniform(-0.1, 0.1, count), 0.02, 0.98))
    places = np.concatenate([*[t[0] for t in tables], *wall_place])
    kind = np.concatenate([*[t[1] for t in tables], np.zeros(sum(map(len, wall_place)), int)])
    share = np.concatenate([(kind[: len(tables[0][0]) + len(tables[1][0])] == 1).astype(float), *wall_share])
    directions = FINE_MAP.directions(places[:, 0], places[:, 1])
    wall_normals = _away_from_the_hole(outline, places, directions) * (kind == 0)[:, None]
    return SurfaceRays(directions.astype(np.float32), share.astype(np.float32), kind, wall_normals.astype(np.float32))


def _away_from_the_hole(outline: Outline, places: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(n, 3) unit vectors along which the distance to the outline grows fastest, across `directions` (n, 3).

    places : (n, 2) row and column of FINE_MAP, whose stretch is taken out.
    """
    slope = np.stack([FINE_MAP.sample(g.astype(np.float32), places) for g in np.gradient(outline.distance_mm)], -1)
    small = 0.5
    sides = np.stack([
        FINE_MAP.directions(places[:, 0] + small * (n == 0), places[:, 1] + small * (n == 1)) - directions
        for n in range(2)
    ], 1)  # (n, 2, 3)
    along = np.linalg.solve(sides @ sides.transpose(0, 2, 1), slope[..., None])
    outward = (along * sides).sum(1)
    outward -= (outward * directions).sum(1, keepdims=True) * directions
    return outward / np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)


def surface_normals(rays: SurfaceRays, outer: np.ndarray, inner: np.ndarray, spacing_mm: float) -> np.ndarray:
    """(n, 3) outward head-frame normals of the closed surface between radius maps (H, W).

    Their length is the area in mm^2 for which a point of rays `spacing_mm` apart stands.
    """
    directions = rays.directions
    right = np.cross(directions, np.where(np.abs(directions[:, 2:]) > 0.9, [[1.0, 0, 0]], [[0, 0, 1.0]]))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.cross(directions, right)
    small = 0.03  # radians, about one pixel of the vault map
    corners = []
    for side in (right, up):
        pair = []
        for sign in (small, -small):
            turned = directions + sign * side
            turned /= np.linalg.norm(turned, axis=1, keepdims=True)
            beside = SurfaceRays(turned, (rays.kind != 2).astype(np.float32), rays.kind, rays.wall_normals)
            pair.append(beside.points(outer, inner))
        corners.append(pair[0] - pair[1])
    normals = np.cross(corners[0], corners[1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    normals *= np.sign((normals * directions).sum(1, keepdims=True))
    normals[rays.kind == 2] *= -1
    wall = rays.kind == 0
    normals[wall] = rays.wall_normals[wall]
    index, _ = VAULT_MAP.pixels(directions)
    thickness = VAULT_MAP.sample(outer, index) - VAULT_MAP.sample(inner, index)
    radius = np.where(rays.kind == 2, VAULT_MAP.sample(inner, index), VAULT_MAP.sample(outer, index))
    tilt = np.abs((normals * directions).sum(1))
    area = (spacing_mm * radius / RADIUS_MM) ** 2 / np.maximum(tilt, 0.3)
    area[wall] = (spacing_mm * radius[wall] / RADIUS_MM) * thickness[wall] / WALL_RINGS
    return (normals * area[:, None]).astype(np.float32)


@dataclass(frozen=True)
class NativeRegion:
    """The part of the input grid around the hole."""

    box: Box
    ijk_to_lps: np.ndarray  # (4, 4) of the box
    bone: np.ndarray  # (k, j, i) bool
    region: np.ndarray  # (k, j, i) bool, where an implant may be
    points_head: np.ndarray  # (n, 3) float32 head-frame points of the region's voxels


def native_region(
    mask: np.ndarray, ijk_to_lps: np.ndarray, pose: HeadPose, outline: Outline, dome: Dome,
    structures: tuple[Patch, np.ndarray] | None = None,
) -> NativeRegion:
    """Cuts the input grid around the hole and marks where an implant may be.

    mask : (K, J, I) bool; ijk_to_lps : (4, 4); structures : a patch and its field (D, H, W) in mm from
    `mirrored_structures`, inside which an implant may also be. The region is empty where the hole lies outside the scan.
    """
    points = missing_points(outline, dome)
    if structures is not None:
        points = np.concatenate([points, structures[0].points_head()[structures[1] < 0]])
    corners = np.array(list(product(*zip(points.min(0) - ROOM_MM, points.max(0) + ROOM_MM, strict=True))))
    index = kji_from_lps(ijk_to_lps, pose.to_lps(corners))
    first = np.clip(np.floor(index.min(0)).astype(int), 0, np.array(mask.shape) - 1)
    last = np.clip(np.ceil(index.max(0)).astype(int) + 1, first + 1, mask.shape)
    cuts = [slice(int(a), int(b)) for a, b in zip(first, last, strict=True)]
    box: Box = (cuts[0], cuts[1], cuts[2])
    matrix = cropped_matrix(ijk_to_lps, box)
    bone = mask[box]
    to_head = (pose.head_from_lps @ matrix).astype(np.float32)
    # Decide on blocks of about 2 mm: most of the box is far from the hole.
    step = np.maximum(1, np.round(2.0 / spacing_of(matrix)).astype(int))[::-1]
    axes = [
        np.arange(0, n, s, dtype=np.float32) + np.float32((s - 1) / 2) for n, s in zip(bone.shape, step, strict=True)
    ]
    k, j, i = np.meshgrid(*axes, indexing="ij")
    blocks = np.stack([i, j, k], -1) @ to_head[:3, :3].T + to_head[:3, 3]
    map_index, radius = VAULT_MAP.pixels(blocks)
    near = wall_distance(outline, map_index) < REGION_MM
    near &= radius < VAULT_MAP.sample(dome.outer, map_index) + ABOVE_MM
    near &= radius > VAULT_MAP.sample(dome.inner, map_index) - BELOW_MM
    if structures is not None:
        patch, field = structures
        near |= patch.grid.sample(field, patch.from_head(blocks), FIELD_LIMIT_MM) < 2.0
    region = near.repeat(step[0], 0).repeat(step[1], 1).repeat(step[2], 2)
    region = region[: bone.shape[0], : bone.shape[1], : bone.shape[2]]
    return NativeRegion(box, matrix, bone, region, region_points(region, matrix, pose))


def region_points(region: np.ndarray, ijk_to_lps: np.ndarray, pose: HeadPose) -> np.ndarray:
    """(n, 3) float32 head-frame points in mm of the voxels of a region (k, j, i) bool, in the order of the mask."""
    to_head = (pose.head_from_lps @ ijk_to_lps).astype(np.float32)
    return np.argwhere(region)[:, ::-1].astype(np.float32) @ to_head[:3, :3].T + to_head[:3, 3]
