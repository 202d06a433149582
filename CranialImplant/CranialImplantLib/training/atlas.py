"""The atlas of the head frame: the mean signed distance of many skulls and of their mirror images.

Groupwise: in every round each skull is registered to the mean of the round before by a similarity, the distances are
averaged anew, and the frame is moved so that the mean's own symmetry plane is x = 0. At the end the frame is scaled so
that the median skull has size 1. Where the origin comes to lie in the symmetry plane depends on the first skull (a
quarter of the public skulls gives an atlas 1.3 mm off the bundled one): with a new atlas, everything is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from MedShapeCore.errors import RefusedInput
from safetensors.torch import save_file
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..head import head_occupancy, inside_scan
from ..pose import ATLAS_GRID, Grid, HeadPose, bone_points, register
from .pack import upright_start

ROUNDS = 4
POINTS = 4000  # of a skull's surface for its registration
LIMIT_MM = 16.0  # distances are clipped here
FIELD_GRID = Grid((-112.0, -136.0, -112.0), (113, 137, 113), 2.0)  # the atlas's box with room for turned heads
BONE_SHARE = 0.4  # of a 2 mm voxel: half would lose thin bone
MIN_SHARE = 0.06  # of the skulls that must know a place; elsewhere it counts as far from bone


@dataclass(frozen=True)
class AtlasSkull:
    """One skull, shifted so that its braincase is about where the atlas has it."""

    name: str
    points: np.ndarray  # (n, 3) mm on the bone's surface
    field: np.ndarray  # (K, J, I) float16, signed mm on FIELD_GRID, NaN outside the scan


def build_atlas(
    skulls: Iterable[tuple[str, np.ndarray, np.ndarray]], rounds: int = ROUNDS,
    progress: Callable[[str], None] = print,
) -> np.ndarray:
    """Atlas (K, J, I) float32 on ATLAS_GRID, signed mm clipped at LIMIT_MM, symmetric about x = 0.

    skulls : name, mask (K, J, I) bool and ijk_to_lps (4, 4) of upright heads, only such as may be trained on; the
    first one gives the first round its atlas. Raises RefusedInput for no skulls.
    """
    group = [atlas_skull(*skull) for skull in skulls]
    if not group:
        raise RefusedInput("no-skulls", "An atlas needs at least one skull.", "Give some.")
    matrices = [np.eye(4) for _ in group]
    atlas = np.nan_to_num(moved_field(group[0], matrices[0]), nan=LIMIT_MM)
    for number in range(rounds):
        found = [register(s.points, atlas, ATLAS_GRID, m) for s, m in zip(group, matrices, strict=True)]
        residual = np.array([residual_mm for _, residual_mm in found])
        mean = mean_field(moved_field(s, m) for s, (m, _) in zip(group, found, strict=True))
        upright = onto_symmetry_plane(mean)
        matrices = [upright @ m for m, _ in found]
        atlas = moved(mean, upright)
        atlas = (atlas + atlas[:, :, ::-1]) / 2
        progress(f"atlas round {number + 1}: residual {np.median(residual):.2f} mm, at most {residual.max():.2f} mm")
    size = float(np.median([np.cbrt(np.linalg.det(m[:3, :3])) for m in matrices]))
    return np.clip(moved(atlas, np.diag([1 / size, 1 / size, 1 / size, 1.0])) / size, -LIMIT_MM, LIMIT_MM)


def save_atlas(atlas: np.ndarray, path: Path) -> None:
    """Writes atlas.safetensors; half precision is exact to 0.01 mm."""
    save_file({"atlas": torch.from_numpy(atlas.astype(np.float16))}, path)


def atlas_skull(name: str, mask: np.ndarray, ijk_to_lps: np.ndarray) -> AtlasSkull:
    """Surface points and distances of a skull (K, J, I) bool, after a shift along LPS alone."""
    points = bone_points(mask, ijk_to_lps, POINTS, np.random.default_rng(0))
    if not len(points):
        raise RefusedInput("empty", f"The mask of {name} is empty.", "Leave it out.")
    start = upright_start(points)
    pose = HeadPose(start, 1.0, 0.0)
    bone = head_occupancy(mask, ijk_to_lps, pose, FIELD_GRID) >= BONE_SHARE
    half = FIELD_GRID.step / 2  # from a voxel's centre to its face, where the surface is
    outside_mm, inside_mm = (
        ndimage.distance_transform_edt(part, sampling=FIELD_GRID.step) - half for part in (~bone, bone)
    )
    field = np.clip(np.where(bone, -inside_mm, outside_mm), -LIMIT_MM, LIMIT_MM)
    field[~inside_scan(mask.shape, ijk_to_lps, pose, FIELD_GRID)] = np.nan
    return AtlasSkull(name, pose.to_head(points), field.astype(np.float16))


def moved_field(skull: AtlasSkull, matrix: np.ndarray) -> np.ndarray:
    """The skull's distances on ATLAS_GRID after a similarity (4, 4), in the atlas's mm; NaN where unknown."""
    scale = np.float32(np.cbrt(np.linalg.det(matrix[:3, :3])))
    return scale * FIELD_GRID.sample(skull.field.astype(np.float32), sources(matrix), np.nan)


def moved(field: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A field on ATLAS_GRID after a similarity (4, 4), its values as they are."""
    return ATLAS_GRID.sample(field, sources(matrix), LIMIT_MM)


def sources(matrix: np.ndarray) -> np.ndarray:
    """(K, J, I, 3) where the voxels of ATLAS_GRID come from under a similarity (4, 4)."""
    inverse = np.linalg.inv(matrix).astype(np.float32)
    return ATLAS_GRID.points() @ inverse[:3, :3].T + inverse[:3, 3]


def mean_field(fields: Iterable[np.ndarray]) -> np.ndarray:
    """Mean over fields (K, J, I) where they are known; LIMIT_MM where hardly one is."""
    total, known, number = np.zeros(ATLAS_GRID.shape), np.zeros(ATLAS_GRID.shape), 0
    for field in fields:
        finite = np.isfinite(field)
        total += np.where(finite, field, 0.0)
        known += finite
        number += 1
    enough = known >= max(1.0, MIN_SHARE * number)
    return np.where(enough, total / np.maximum(known, 1.0), LIMIT_MM).astype(np.float32)


def onto_symmetry_plane(field: np.ndarray) -> np.ndarray:
    """The rigid motion (4, 4) that takes the symmetry plane of a field's zero set to x = 0.

    The motion that lays the head onto its reflection at x = 0 is twice the motion from its own plane to that one.
    """
    bone = field < 0
    surface = np.argwhere(bone & ~ndimage.binary_erosion(bone))
    points = surface[:, ::-1] * ATLAS_GRID.step + np.array(ATLAS_GRID.low)
    twice, _ = register(points, np.ascontiguousarray(field[:, :, ::-1]), ATLAS_GRID, np.eye(4), with_scale=False)
    turn = Rotation.from_rotvec(Rotation.from_matrix(twice[:3, :3]).as_rotvec() / 2).as_matrix()
    half = np.eye(4)
    half[:3, :3] = turn
    half[:3, 3] = np.linalg.solve(turn + np.eye(3), twice[:3, 3])  # half @ half = twice
    return half
