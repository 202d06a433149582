"""Everything about a case before the members part: pose, hole, first guess, and the region that the networks see."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from MedShapeCore.errors import FailedResult, RefusedInput
from MedShapeCore.notices import Notice
from scipy import ndimage

from .defect import (
    HALF_THICKNESS_MM,
    Hole,
    Outline,
    VaultBone,
    around_cut,
    choose_hole,
    find_gaps,
    fine_outline,
    vault_bone,
)
from .dome import Dome, posterior
from .head import HEAD_GRID, head_field
from .look import head_centre, look, look_input, look_matrix, similarity_from_look
from .models import Models
from .options import ImplantOptions
from .other_side import mirror_near, other_radii
from .pose import ATLAS_GRID, HeadPose, bone_points, own_mirror, pose_from_similarity, register
from .roi import Patch, mirrored_structures, patch_around, roi_channels
from .skull import Skull
from .vault import VAULT_MAP

Progress = Callable[..., None]  # (stage, fraction, event=None); may raise Cancelled

POSE_POINTS = 30_000  # of the bone: with fewer, the pose depends on the order in which the file stores its axes
WORST_RESIDUAL_MM = 2.5  # of the pose's registration; real skulls: up to 0.9


def silent(stage: str, fraction: float, event: dict | None = None) -> None:
    """The progress callback that tells nobody."""


class Clock:
    """Seconds per stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 3)
        self._last = now


@dataclass(frozen=True)
class Located:
    """A skull in its head frame with its holes."""

    pose: HeadPose
    mirror_head: np.ndarray  # (4, 4) reflection about the head's own symmetry plane, head frame
    field: np.ndarray  # signed mm on HEAD_GRID
    bone: VaultBone
    gaps: list[Hole]  # see find_gaps

    @property
    def holes(self) -> list[Hole]:
        """Those that are sure, largest first."""
        return [gap for gap in self.gaps if not gap.faint]


@dataclass(frozen=True)
class Prepared:
    """Everything the members share."""

    located: Located
    hole: Hole
    dome: Dome
    outline: Outline
    patch: Patch
    channels: np.ndarray  # (6, D, H, W)
    other_side: np.ndarray  # (D, H, W) signed mm, see mirrored_structures
    notices: tuple[Notice, ...]


def locate(skull: Skull, models: Models, progress: Progress = silent, clock: Clock | None = None) -> Located:
    """Pose and holes of a skull. Raises RefusedInput where there is no bone or the bone is no skull."""
    if not skull.mask.any():
        raise RefusedInput("empty", f"{skull.name} is empty: no voxel is set.", "Choose the segment of the skull.")
    clock = clock or Clock()
    progress("looking at the whole head", 0.04)
    centre = head_centre(skull.mask, skull.ijk_to_lps)
    frame = look_matrix(centre)
    channels = look_input(skull.mask, skull.ijk_to_lps, frame)
    missing, coordinates = look(models.look, channels, models.device)
    start = similarity_from_look(channels, coordinates, frame)
    clock.lap("whole-head look")
    progress("finding the pose", 0.1)
    points = bone_points(skull.mask, skull.ijk_to_lps, POSE_POINTS, np.random.default_rng(0))
    matrix, residual = register(points, models.atlas, ATLAS_GRID, start)
    pose = pose_from_similarity(matrix, residual)
    if residual > WORST_RESIDUAL_MM or not 0.6 < pose.scale < 1.6:
        known = np.isfinite(residual) and 0.1 < pose.scale < 10
        fit = f" (misfit {residual:.1f} mm, size {pose.scale:.2f} of a mean head)" if known else ""
        raise RefusedInput(
            "not-a-skull", f"The bone does not look like a skull{fit}.",
            "Choose the segment of the skull; check the voxel size.",
        )
    clock.lap("pose")
    progress("resampling the bone", 0.16)
    field, inside = head_field(skull.mask, skull.ijk_to_lps, pose)
    clock.lap("head field")
    mirror = own_mirror(pose.to_head(points), field, HEAD_GRID)
    clock.lap("symmetry")
    progress("finding the hole", 0.28)
    bone = vault_bone(field, inside, models.dome, mirror)
    rays = VAULT_MAP.directions() * (bone.expected - HALF_THICKNESS_MM)[..., None]
    look_index = np.linalg.inv(frame) @ pose.lps_from_head
    index = (rays @ look_index[:3, :3].T + look_index[:3, 3])[..., ::-1]
    opinion = ndimage.map_coordinates(missing, np.moveaxis(index, -1, 0), order=1, mode="constant", output=np.float32)
    gaps = find_gaps(bone, models.dome, opinion)
    clock.lap("hole")
    return Located(pose, mirror, field, bone, gaps)


def prepare(
    skull: Skull, options: ImplantOptions, models: Models, draws: np.ndarray | None, progress: Progress = silent,
    clock: Clock | None = None,
) -> Prepared:
    """Everything the members share: pose, hole, first guess with its samples, patch and channels."""
    clock = clock or Clock()
    located = locate(skull, models, progress, clock)
    hole, notices = choose_hole(located.gaps, options.hole, *_place_head(options, located.pose))
    progress("guessing the dome", 0.32)
    field, bone = located.field, located.bone
    pixels = np.any([h.pixels for h in (*located.holes, hole)], 0)
    gone, (outer, inner), doubt_mm = around_cut(pixels, np.stack([bone.outer, bone.inner]), bone.facing)
    mirror = mirror_near(field, located.mirror_head, hole.centre_head)
    other = other_radii(field, mirror, hole.pixels, bone.expected)
    dome = posterior(models.dome, outer, inner, gone, draws, other, doubt_mm)
    clock.lap("first guess")
    outline = fine_outline(field, dome, hole)
    if outline.missing.sum() < 100:
        message = "The outline of the hole could not be found."
        raise FailedResult("no-outline", message, "Give a point in the middle of the defect.")
    patch = patch_around(outline, dome, hole.centre_head)
    channels = roi_channels(field, located.mirror_head, dome, outline, patch)
    other_side = mirrored_structures(field, mirror, bone.outer, bone.inner, outline, patch, models.dome.domain)
    clock.lap("patch")
    return Prepared(located, hole, dome, outline, patch, channels, other_side, tuple(notices))


def _place_head(options: ImplantOptions, pose: HeadPose) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The user's point (3,) and the points (n, 3) of the user's box, in the head frame."""
    point = box = None
    if options.point_lps is not None:
        point = pose.to_head(np.array([options.point_lps], float))[0]
    if options.roi_lps is not None:
        axes = [np.linspace(options.roi_lps[a], options.roi_lps[a + 3], 8) for a in range(3)]
        box = pose.to_head(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3))
    return point, box


def side_of(centre_head: np.ndarray) -> str:
    """left, right or middle, for a head-frame point (3,) in mm."""
    return "middle" if abs(centre_head[0]) < 15 else ("left" if centre_head[0] > 0 else "right")
