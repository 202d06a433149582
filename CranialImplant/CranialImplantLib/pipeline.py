"""The one entry: a skull with a hole becomes an ensemble of implants.

Chapters, in the order of the data: pose, hole, first guess, missing points, solid, refined field, implant, ensemble.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from MedShapeCore import __version__
from MedShapeCore.devices import choose_device
from MedShapeCore.errors import FailedResult, RefusedInput
from MedShapeCore.notices import Notice
from MedShapeCore.volumes import spacing_of
from scipy import ndimage

from .baselines import HoleCase, hole_case
from .defect import HALF_THICKNESS_MM, RIM_PIXELS, Hole, Outline, choose_hole, find_holes, fine_outline, vault_bone
from .dome import Dome, posterior
from .ensemble import ImplantEnsemble, build_ensemble_parts
from .head import HEAD_GRID, head_field
from .look import head_centre, look, look_input, look_matrix, similarity_from_look
from .members import (
    QUALITIES,
    Progress,
    member_draws,
    member_solid,
    missing_points,
    native_field,
    refined_field,
    shared_correction,
    silent,
)
from .models import Models, load_models
from .options import ImplantOptions
from .pose import ATLAS_GRID, HeadPose, bone_points, own_mirror, pose_from_similarity, register
from .roi import (
    NativeRegion,
    Patch,
    mirrored_structures,
    native_region,
    patch_around,
    roi_channels,
)
from .skull import Skull
from .subtraction import implant_from_field
from .vault import VAULT_MAP

POSE_POINTS = 30_000  # of the bone: with fewer, the pose depends on the order in which the file stores its axes
MIRROR_REACH_MM = 60.0  # around the hole: bone on which its mirror image is laid
MIRROR_POINTS = 6000  # of it
WORST_RESIDUAL_MM = 2.5  # of the pose's registration; real skulls: up to 0.9


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
    outer: np.ndarray  # (H, W) mm on VAULT_MAP
    inner: np.ndarray
    other: np.ndarray  # (2, H, W) mm, see VaultBone
    holes: list[Hole]


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


def generate_implants(
    skull: Skull, options: ImplantOptions, progress: Progress = silent, models: Models | None = None
) -> ImplantEnsemble:
    """Several implants for one hole of a skull, their mean, variance and agreement.

    progress(stage, fraction, event) is told the share of the work that is done, and the surface of the first member
    when it is there; what it raises (Cancelled) ends the run. Raises RefusedInput where there is no hole to close and
    FailedResult where no implant could be made.
    """
    clock = Clock()
    progress("loading the networks", 0.0)
    device, device_note = choose_device(options.device)
    models = models or load_models(device)
    clock.lap("networks")
    try:
        return _generate(skull, options, progress, models, clock, device_note)
    except torch.OutOfMemoryError:
        cpu = torch.device("cpu")
        note = "The graphics card ran out of memory; the run went on on the processor."
        return _generate(skull, options, progress, load_models(cpu), clock, note)


def _generate(
    skull: Skull, options: ImplantOptions, progress: Progress, models: Models, clock: Clock, device_note: str
) -> ImplantEnsemble:
    quality = QUALITIES[options.quality]
    steps = options.steps or quality.steps
    draws = member_draws(models, options.seed, options.members)
    prepared = prepare(skull, options, models, draws, progress, clock)
    region = implant_region(skull, prepared)
    if not region.region.any():
        message = "The hole lies at the border of the scan; there is no room for an implant."
        raise FailedResult("no-room", message, "Pad or rescan.")
    clock.lap("region")
    fields: list[np.ndarray] = []
    implants: list[np.ndarray] = []
    points = missing_points(prepared, options, models, steps, quality, progress)
    clock.lap("points")
    shared = shared_correction(prepared, models)
    clock.lap("refinement")
    spacing = spacing_of(region.ijk_to_lps)
    for n in range(options.members):
        solid = member_solid(points, n, prepared, models, quality)
        clock.lap("solids")
        refined = refined_field(solid, prepared, models, member=True, shared=shared)
        clock.lap("refinement")
        fields.append(native_field(refined, prepared.patch, region, prepared.located.pose))
        implants.append(implant_from_field(fields[-1], region.bone, region.region, spacing))
        clock.lap("native grid")
        progress("making members", 0.5 + 0.35 * (n + 1) / options.members, member_event(n, implants[-1], region))
    progress("comparing members", 0.86)
    centre_lps = prepared.located.pose.to_lps(np.zeros((1, 3)))[0]
    parts = build_ensemble_parts(
        np.stack(fields), np.stack(implants), region.bone, region.region, region.ijk_to_lps, centre_lps,
        lambda share: progress("comparing members", 0.86 + 0.13 * share),
    )
    clock.lap("ensemble")
    progress("comparing members", 1.0)
    report = run_report(skull, options, models, prepared, steps, clock, device_note)
    report["pairwise_dsc"] = np.round(parts.pairwise_dsc, 4).tolist()
    return ImplantEnsemble(
        skull=skull, box=region.box, implants=np.stack(implants), mean=parts.mean, variance=parts.variance,
        agreement=parts.agreement, ranking=parts.ranking, checks=parts.checks, mean_report=parts.mean_report,
        spread=parts.spread,
        notices=(*skull.warnings, *prepared.notices, *parts.notices), report=report,
    )


def member_event(number: int, implant: np.ndarray, region: NativeRegion) -> dict | None:
    """The first member's surface, so that there is something to look at while the others are made."""
    if number or not implant.any():
        return None
    from MedShapeCore.surfaces import mask_surface

    vertices, triangles = mask_surface(implant, region.ijk_to_lps)
    return {"member": 1, "surface": (vertices, triangles)}


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
    holes = find_holes(bone, models.dome, opinion)
    clock.lap("hole")
    return Located(pose, mirror, field, bone.outer, bone.inner, bone.other, holes)


def prepare(
    skull: Skull, options: ImplantOptions, models: Models, draws: np.ndarray | None, progress: Progress = silent,
    clock: Clock | None = None,
) -> Prepared:
    """Everything the members share: pose, hole, first guess with its samples, patch and channels."""
    clock = clock or Clock()
    located = locate(skull, models, progress, clock)
    hole, notices = choose_hole(located.holes, options.hole, *_place_head(options, located.pose))
    progress("guessing the dome", 0.32)
    gone = ndimage.binary_dilation(np.any([h.pixels for h in located.holes], 0), iterations=RIM_PIXELS)
    outer, inner = (np.where(gone, np.nan, image) for image in (located.outer, located.inner))
    dome = posterior(models.dome, outer, inner, gone, draws, located.other)
    clock.lap("first guess")
    outline = fine_outline(located.field, dome, hole)
    if outline.missing.sum() < 100:
        message = "The outline of the hole could not be found."
        raise FailedResult("no-outline", message, "Give a point in the middle of the defect.")
    patch = patch_around(outline, dome, hole.centre_head)
    channels = roi_channels(located.field, located.mirror_head, dome, outline, patch)
    other_side = mirrored_structures(
        located.field, mirror_near(located, hole), located.outer, located.inner, outline, patch, models.dome.domain
    )
    clock.lap("patch")
    return Prepared(located, hole, dome, outline, patch, channels, other_side, tuple(notices))


def mirror_near(located: Located, hole: Hole) -> np.ndarray:
    """The reflection (4, 4), head frame, that lays the other side best onto the bone around the hole.

    A face is symmetric piece by piece: about the whole head's plane an orbit may lie 3 mm off. With too little bone near
    the hole it is the whole head's reflection.
    """
    surface = np.argwhere(np.abs(located.field) < HEAD_GRID.step / 2)[:, ::-1]
    points = surface * HEAD_GRID.step + np.array(HEAD_GRID.low)
    near = points[np.linalg.norm(points - hole.centre_head, axis=1) < MIRROR_REACH_MM]
    if len(near) < MIRROR_POINTS // 10:
        return located.mirror_head
    return own_mirror(near[:: -(-len(near) // MIRROR_POINTS)], located.field, HEAD_GRID, located.mirror_head)


def implant_region(skull: Skull, prepared: Prepared) -> NativeRegion:
    """The part of the skull's grid around the hole, and where in it an implant may be."""
    structures = (prepared.patch, prepared.other_side)
    pose = prepared.located.pose
    return native_region(skull.mask, skull.ijk_to_lps, pose, prepared.outline, prepared.dome, structures)


def _place_head(options: ImplantOptions, pose: HeadPose) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The user's point (3,) and the points (n, 3) of the user's box, in the head frame."""
    point = box = None
    if options.point_lps is not None:
        point = pose.to_head(np.array([options.point_lps], float))[0]
    if options.roi_lps is not None:
        axes = [np.linspace(options.roi_lps[a], options.roi_lps[a + 3], 8) for a in range(3)]
        box = pose.to_head(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3))
    return point, box


def describe_hole(skull: Skull, options: ImplantOptions, models: Models | None = None) -> HoleCase:
    """The hole that `generate_implants` would close, with all that the simple baselines need.

    Its context is (Prepared, Models). Raises what `prepare` raises.
    """
    models = models or load_models(torch.device("cpu"))
    prepared = prepare(skull, options, models, None)
    pose = prepared.located.pose
    region = implant_region(skull, prepared)
    centre = prepared.hole.centre_head
    outward = pose.lps_from_head[:3, :3] @ (centre / np.linalg.norm(centre))
    mirror = pose.lps_from_head @ prepared.located.mirror_head @ pose.head_from_lps
    centre_lps = pose.to_lps(centre[None])[0]
    return hole_case(skull, region.box, region.region, outward, centre_lps, mirror, (prepared, models))


def run_report(
    skull: Skull, options: ImplantOptions, models: Models, prepared: Prepared, steps: int, clock: Clock,
    device_note: str,
) -> dict:
    """What a report needs besides the ensemble's own figures."""
    pose, hole = prepared.located.pose, prepared.hole
    return {
        "options": asdict(options) | {"steps": steps},
        "device": {"used": str(models.device), "why": device_note},
        "versions": {"medshapegen": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "weights": models.digest,
        "seconds": dict(clock.seconds),
        "pose": {
            "head_from_lps": pose.head_from_lps.round(5).tolist(), "scale": round(pose.scale, 4),
            "misfit_mm": round(pose.residual_mm, 3),
        },
        "hole": {
            "area_cm2": round(hole.area_cm2, 1), "centre_lps": pose.to_lps(hole.centre_head[None])[0].round(1).tolist(),
            "side": side_of(hole.centre_head), "support": round(hole.support, 3),
            "found": [round(h.area_cm2, 1) for h in prepared.located.holes],
        },
    }


def side_of(centre_head: np.ndarray) -> str:
    """left, right or middle, for a head-frame point (3,) in mm."""
    return "middle" if abs(centre_head[0]) < 15 else ("left" if centre_head[0] > 0 else "right")
