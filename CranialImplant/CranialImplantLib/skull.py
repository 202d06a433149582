"""The input: a file or a CT volume becomes a Skull, or is refused with a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from MedShapeCore.errors import OptionError, RefusedInput
from MedShapeCore.notices import Notice
from MedShapeCore.segments import read_nrrd_header, segment_mask, segments_of
from MedShapeCore.volumes import box_of, lps_from_ijk, read_layers
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from .segments import choose_segment, label_mask
from .skullcheck import check_is_skull, check_voxel_size, coarse_look

__all__ = ["Notice", "Skull", "bone_from_ct", "check_is_skull", "load_skull"]

ISLAND_ML = 0.3  # smaller loose pieces are noise
INSIDE_SHARE = 0.6  # of a loose piece that must lie within the skull's hull for it to be kept as an island of bone
TISSUE_HU = -300.0
METAL_HU = 2900.0  # enamel and cortical bone stay below
METAL_ML = 2.0
USUAL_HU = (100.0, 1200.0)
LOOSE_SHARE = 0.05  # of a mask's voxels apart from the largest piece, from which this is said; real skulls: up to 5 %


@dataclass(frozen=True)
class Skull:
    """Bone of one head: `mask` (K, J, I) bool and `ijk_to_lps` (4, 4); `warnings` were found while reading."""

    mask: np.ndarray
    ijk_to_lps: np.ndarray
    name: str = "skull"
    warnings: tuple[Notice, ...] = ()

    def __str__(self) -> str:
        k, j, i = self.mask.shape
        ml = np.count_nonzero(self.mask) * abs(np.linalg.det(self.ijk_to_lps[:3, :3])) / 1000.0
        return f"{self.name}: {i} x {j} x {k} voxels, {ml:.0f} ml of bone, {len(self.warnings)} warnings"


def load_skull(path: str | Path, segment: str | None = None, bone_threshold: float | None = None) -> Skull:
    """Reads the skull of a mask, a segmentation or a head CT; refuses (RefusedInput) what cannot be one.

    path           : .nrrd, .nii, .nii.gz, .mha (mask of 0 and one value, label map, or CT) or .seg.nrrd.
    segment        : name or ID of a segment, or number of a label; None = the only one, or the only one called bone.
    bone_threshold : HU from which a CT volume is bone; None = the file is a mask.
    Returns a Skull on the file's own grid, its warnings included. Codes of refusals: no-file, unreadable, not-3d,
    too-large, geometry, option, voxel-size, empty, not-binary, several-labels, several-segments, unknown-segment,
    no-bone, threshold-too-low, fractional, and those of `check_is_skull`.
    """
    path = Path(path)
    volume = read_layers(path)
    header = read_nrrd_header(path) if path.suffix.lower() == ".nrrd" else {}
    segments = segments_of(header)
    check_voxel_size(volume.spacing_mm, path.name)  # before anything is measured in ml
    notices: list[Notice] = []
    if bone_threshold is not None:
        if segments:
            raise OptionError("bone-threshold", bone_threshold, f"left out, because {path.name} is a segmentation")
        if segment is not None:
            raise OptionError("segment", segment, "left out together with --bone-threshold")
        mask, found = bone_from_ct(scalar(volume.array, path.name), volume.ijk_to_lps, bone_threshold)
        notices += found
    elif segments:
        if "fractional" in header.get("Segmentation_MasterRepresentation", "").lower():
            raise RefusedInput("fractional", f"{path.name} holds a fractional labelmap, not a binary one.",
                               "Make the binary labelmap the source representation and save it again.")
        chosen = choose_segment(segments, segment, path.name)
        mask = segment_mask(volume.array, chosen, path.name)
        if not mask.any():
            message = f'The segment "{chosen.name}" of {path.name} is empty.'
            raise RefusedInput("empty", message, "Choose another with --segment NAME.")
        if len(segments) > 1 and segment is None:
            notices.append(Notice("segment-chosen", f'Of {len(segments)} segments, "{chosen.name}" was taken as bone.',
                                  "Choose another with --segment NAME."))
    else:
        mask = label_mask(scalar(volume.array, path.name), segment, volume.voxel_ml, path.name)
    notices += check_is_skull(mask, volume.ijk_to_lps, path.name)
    if bone_threshold is None:
        notices += loose_parts(mask, volume.voxel_ml)
    name = path.name
    for ending in (".gz", ".nii", ".nrrd", ".seg", ".mha"):
        name = name.removesuffix(ending)
    return Skull(mask, volume.ijk_to_lps, name or "skull", tuple(notices))


def scalar(array: np.ndarray, name: str) -> np.ndarray:
    """(K, J, I) of a volume with one number per voxel; several are refused."""
    if array.ndim == 3:
        return array
    raise RefusedInput("not-3d", f"{name} is not a 3-D image with one value per voxel ({array.shape[-1]} values).",
                       "Export one segmentation or one volume.")


def loose_parts(mask: np.ndarray, voxel_ml: float) -> list[Notice]:
    """Says how much of a given mask lies apart from its largest piece; it is kept: a mask is the user's word."""
    box = box_of(mask)
    if box is None:
        return []
    label, count = ndimage.label(mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(label.ravel())[1:]
    loose = int(sizes.sum() - sizes.max())
    if count < 2 or loose < LOOSE_SHARE * sizes.sum():
        return []
    share = f"{loose * voxel_ml:.0f} ml of the mask ({100 * loose / sizes.sum():.0f} %)"
    return [Notice("loose-parts", f"{share} lie apart from the skull in {count - 1} pieces.",
                   "Remove head rest, tubes and vertebrae from the mask.")]


def bone_from_ct(array: np.ndarray, ijk_to_lps: np.ndarray, threshold_hu: float) -> tuple[np.ndarray, list[Notice]]:
    """Bone of a head CT: threshold, then the largest piece and the islands in its hull; the rest is removed and said.

    array : (K, J, I) numbers in HU (NaN counts as air); ijk_to_lps : (4, 4); threshold_hu : bone is at or above.
    Returns the mask (K, J, I) bool and notices. Refuses a threshold with no bone or with more than bone above it.

    Loose pieces of at least ISLAND_ML stay where most of their voxels lie within the skull's convex hull, or under the
    skin in the upper half (an island of bone in a craniotomy bulges out of the hull). A head rest does neither.
    """
    if not np.isfinite(threshold_hu):
        raise OptionError("bone-threshold", threshold_hu, "a number of HU, for instance 300")
    notices = []
    if not USUAL_HU[0] <= threshold_hu <= USUAL_HU[1] and threshold_hu != 0.5:
        message = f"A bone threshold of {threshold_hu:g} HU is unusual."
        notices.append(Notice("threshold", message, "150 to 400 HU fit most head CTs."))
    mask = np.asarray(array >= threshold_hu)
    box = box_of(mask)
    if box is None:
        top = float(np.nanmax(array)) if array.size else float("nan")
        message = f"No voxel reaches the bone threshold of {threshold_hu:g} HU; the highest value is {top:g}."
        raise RefusedInput("no-bone", message, "Lower --bone-threshold, or leave it out if the file is a mask.")
    share = float(mask.mean())
    if share > 0.35:
        raise RefusedInput("threshold-too-low", f"{100 * share:.0f} % of the volume lie above the bone "
                           f"threshold of {threshold_hu:g} HU; that is more than bone.",
                           "Raise --bone-threshold, for instance to 300.")
    voxel_ml = abs(np.linalg.det(ijk_to_lps[:3, :3])) / 1000.0
    label, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))  # thin bone hangs together by edges and corners
    sizes = np.bincount(label.ravel())
    sizes[0] = 0
    main = int(np.argmax(sizes))
    corner = np.array([s.start for s in box])
    keep = np.zeros(len(sizes), bool)
    keep[main] = True
    large = [n for n in np.flatnonzero(sizes * voxel_ml >= ISLAND_ML) if n != main]
    boxes, equations, middle = [], None, 0.0
    if large:
        boxes = ndimage.find_objects(label)
        outline = lps_from_ijk(ijk_to_lps, surface_index(label == main) + corner)
        equations = hull_of(outline)
        middle = float(outline[:, 2].min() + outline[:, 2].max()) / 2
        under_skin = head_of(array, ijk_to_lps)
    for n in large if equations is not None else []:
        part = boxes[n - 1]
        index = np.argwhere(label[part] == n)[::7] + corner + np.array([s.start for s in part])
        points = lps_from_ijk(ijk_to_lps, index)
        in_hull = (points @ equations[:, :3].T + equations[:, 3] <= 2.0).all(1)  # type: ignore[index]
        in_head = under_skin(points) & (points[:, 2] > middle)
        keep[n] = max(in_hull.mean(), in_head.mean()) >= INSIDE_SHARE
    bone = np.zeros(mask.shape, bool)
    bone[box] = keep[label]
    gone = [n for n in large if not keep[n]]
    if gone:
        volumes = sorted((sizes[n] * voxel_ml for n in gone), reverse=True)
        notices.append(Notice("parts-removed", f"{len(gone)} parts apart from the skull ({sum(volumes):.0f} ml, the "
                              f"largest {volumes[0]:.0f} ml) were removed: head rest, vertebrae, jaw or tubes.",
                              "Check the skull in the picture."))
    metal_ml = np.count_nonzero(array[box][bone[box]] >= METAL_HU) * voxel_ml
    if metal_ml > METAL_ML:
        message = f"{metal_ml:.0f} ml lie above {METAL_HU:g} HU: metal or contrast counts as bone."
        notices.append(Notice("metal", message, "Take plates, clips and streaks near the hole out of the mask."))
    return bone, notices


def head_of(array: np.ndarray, ijk_to_lps: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A test for points (n, 3) in LPS mm: do they lie under the skin? Nowhere if the scan has no air around the head.

    The opening takes off what is thinner than 16 mm, head rests among it.
    """
    tissue = np.asarray(array > TISSUE_HU)
    look = coarse_look(tissue, ijk_to_lps)
    if tissue.mean() > 0.8 or look.share.size == 0:
        return lambda points_lps: np.zeros(len(points_lps), bool)
    steps = np.indices((5, 5, 5)) - 2
    filled = ndimage.binary_closing(look.share > 0.25, np.ones((3, 3, 3)))  # cells between coarse voxels may be empty
    opened = ndimage.binary_opening(filled, (steps**2).sum(0) <= 5)
    label, count = ndimage.label(opened)
    head = label == 1 + int(np.argmax(np.bincount(label.ravel())[1:])) if count else opened
    return lambda points_lps: look.at(head, points_lps)


def surface_index(mask: np.ndarray) -> np.ndarray:
    """(n, 3) indices of the first and last voxel of every row along i, enough for a hull. Empty for an empty mask."""
    k, j = np.nonzero(mask.any(2))
    rows = mask[k, j]
    first, last = rows.argmax(1), mask.shape[2] - 1 - rows[:, ::-1].argmax(1)
    return np.concatenate([np.stack([k, j, first], 1), np.stack([k, j, last], 1)])


def hull_of(points_lps: np.ndarray) -> np.ndarray | None:
    """(m, 4) outward planes of the convex hull; None when the points span no volume."""
    try:
        return ConvexHull(points_lps).equations
    except (QhullError, ValueError):
        return None
