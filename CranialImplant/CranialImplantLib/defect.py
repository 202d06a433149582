"""Where bone is missing: holes as blobs of the vault map, confirmed by the whole-head look, and their exact outline.

A ray from the middle of the braincase that meets no bone within the vault is a missing pixel. Natural openings lie
outside the model's domain; what is left of chance is told from a real hole by its size and by the look network's
opinion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from MedShapeCore.errors import RefusedInput
from MedShapeCore.notices import Notice
from scipy import ndimage
from scipy.spatial import cKDTree

from .dome import Dome, DomeModel, mean_maps
from .head import FIELD_LIMIT_MM, HEAD_GRID
from .pose import MIRROR
from .vault import VAULT_MAP, MapGrid, cast

RIM_PIXELS = 2  # pixels around a hole that are restored, too
REACH_PIXELS = 6  # how far from a hole a ray may meet the wall of a slanted cut
WALL_FACING = 0.85  # cosine between bone's own normal and the expected one below which it is that wall
SLANT_MM = 3.0  # noise of a radius beside the hole where bone faces across, times 1 - cosine
ROUNDED_MM = 2.2  # by which it is met too deep there, times 1 - cosine; the mean of 20 cut skulls
EDGE_MM = 0.2  # noise of a radius at the very edge, which the field rounds
MIN_AREA_CM2 = 3.0  # smaller gaps are burr holes, sutures or thin bone
SURE_AREA_CM2 = 4.0  # from here on a hole needs no support by the look: 74 complete skulls show no gap above 1 cm2
MIN_SUPPORT = 0.1
FAINT_AREA_CM2 = 1.0  # smallest gap that is a hole where a person points at it
SUNKEN_MM = 8.0  # below the domain a ray is missing where its bone lies this much deeper than on the other side
POINT_REACH_MM = 25.0  # how far from a hole the user's point may lie
BOX_REACH_MM = 10.0  # and the user's box
OUTLINE_MM = 40.0  # distances to the outline end here
FINE_MAP = MapGrid(192, 2.0 / 3.0)  # the outline: 1 mm between pixels
HALF_THICKNESS_MM = 3.0  # of the vault
BONE_SHARE = 0.5  # a fine ray is missing when less of its expected bone is there


@dataclass(frozen=True)
class Hole:
    """One hole on the vault map."""

    pixels: np.ndarray  # (H, W) bool on VAULT_MAP
    area_cm2: float
    centre_head: np.ndarray  # (3,) on the expected outer surface, mm
    support: float  # mean probability of missing bone in the whole-head look
    faint: bool = False  # too small, or too little supported, to be a hole unless a person says so


@dataclass(frozen=True)
class VaultBone:
    """What the rays of the vault map met."""

    outer: np.ndarray  # (H, W) mm, NaN where no bone
    inner: np.ndarray
    expected: np.ndarray  # (H, W) mm, where the outer surface should be
    seen: np.ndarray  # (H, W) bool, the expected place lies inside the scan
    other: np.ndarray  # (2, H, W) mm, outer and inner radius of the head's mirror image below the domain, else NaN
    facing: np.ndarray  # (2, H, W), see bone_facing


def vault_bone(
    field: np.ndarray, inside: np.ndarray, model: DomeModel, mirror_head: np.ndarray = MIRROR
) -> VaultBone:
    """Casts the vault map through the bone.

    field : signed mm to bone on HEAD_GRID; inside : bool on HEAD_GRID, the part that was scanned; mirror_head : (4, 4)
    reflection about the head's symmetry plane. The expected outer surface is the model's mean, scaled to the bone that
    is there; without bone it is the mean.
    """
    directions = VAULT_MAP.directions()
    filled = mean_maps(model)[0]
    coarse = cast(field, HEAD_GRID, directions[::4, ::4])[0]
    ratio = np.nanmedian((coarse / filled[::4, ::4])[model.domain[::4, ::4]]) if np.isfinite(coarse).any() else 1.0
    expected = filled * float(np.clip(np.nan_to_num(ratio, nan=1.0), 0.7, 1.3))
    outer, inner = cast(field, HEAD_GRID, directions, expected)
    middle = (directions * (expected - HALF_THICKNESS_MM)[..., None]).astype(np.float32)
    seen = HEAD_GRID.sample(inside.astype(np.float32), middle, 0.0) > 0.5
    other = np.full((2, *model.domain.shape), np.nan, np.float32)
    low = ~model.domain
    other[:, low] = cast(field, HEAD_GRID, directions[low], expected[low], mirror_head)
    return VaultBone(outer, inner, expected, seen, other, bone_facing(field, np.stack([outer, inner]), model))


def bone_facing(field: np.ndarray, radii: np.ndarray, model: DomeModel) -> np.ndarray:
    """How bone faces where rays meet it: (2, H, W) cosine between its normal and that of the model's mean tables.

    field : signed mm to bone on HEAD_GRID; radii : (2, H, W) mm, outer and inner. A table faces nearly as expected, the wall
    of a cut across. 0 where there is no bone, 1 below the model's domain, where nothing is expected.
    """
    directions = VAULT_MAP.directions().astype(np.float32)
    facing = np.zeros(radii.shape, np.float32)
    for radius, mean, sign, cosine in zip(radii, mean_maps(model), (1, -1), facing, strict=True):
        expected = VAULT_MAP.normals(ndimage.gaussian_filter(mean, 1.0))
        met = np.isfinite(radius)
        points = directions[met] * radius[met][:, None].astype(np.float32)
        steps = HEAD_GRID.step * np.eye(3, dtype=np.float32)
        ahead, behind = (HEAD_GRID.sample(field, points[:, None] + s * steps, FIELD_LIMIT_MM) for s in (1, -1))
        slope = ahead - behind  # (n, 3), along the bone's normal
        length = np.maximum(np.linalg.norm(slope, axis=-1), 1e-6)
        cosine[met] = sign * (slope * expected[met]).sum(-1) / length
        cosine[~model.domain] = 1.0
    return facing


def find_holes(bone: VaultBone, model: DomeModel, missing_probability: np.ndarray) -> list[Hole]:
    """All holes of the vault that are sure, largest first; none gives an empty list. See find_gaps."""
    return [gap for gap in find_gaps(bone, model, missing_probability) if not gap.faint]


def find_gaps(bone: VaultBone, model: DomeModel, missing_probability: np.ndarray) -> list[Hole]:
    """All holes of the vault, largest first, those that are faint at the end; none gives an empty list.

    missing_probability : (H, W) on VAULT_MAP, the look's opinion in the bone along each ray.
    """
    candidate = model.domain & ~np.isfinite(bone.outer) & bone.seen
    candidate = ndimage.binary_opening(candidate, iterations=1)
    labels, count = ndimage.label(candidate)
    directions = VAULT_MAP.directions()
    step = np.radians(VAULT_MAP.step_deg)
    polar = np.radians(VAULT_MAP.polar_deg())
    pixel_cm2 = (bone.expected * step) ** 2 * np.sinc(polar / np.pi) / 100
    holes = []
    for n in range(1, count + 1):
        pixels = labels == n
        area = float(pixel_cm2[pixels].sum())
        support = float(missing_probability[pixels].mean())
        if area < FAINT_AREA_CM2:
            continue
        faint = area < MIN_AREA_CM2 or (support < MIN_SUPPORT and area < SURE_AREA_CM2)
        pixels = with_lower_part(pixels, bone, model.domain)
        area = float(pixel_cm2[pixels].sum())
        surface = directions[pixels] * bone.expected[pixels][:, None]
        middle = np.average(surface, 0, pixel_cm2[pixels])
        centre = middle / np.linalg.norm(middle) * float(np.median(bone.expected[pixels]))
        holes.append(Hole(pixels, area, centre, support, faint))
    return sorted(holes, key=lambda h: (h.faint, -h.area_cm2))


def with_lower_part(pixels: np.ndarray, bone: VaultBone, domain: np.ndarray) -> np.ndarray:
    """A hole's pixels and, joined to them, those below the model's domain where only the other side has bone.

    There (orbital roof, temporal fossa) no expectation holds for all heads, but the head's own other side tells what
    should be there. pixels, domain : (H, W) bool; returns (H, W) bool.
    """
    other = bone.other[0]
    with np.errstate(invalid="ignore"):
        gone = np.isfinite(other) & bone.seen & (~np.isfinite(bone.outer) | (bone.outer < other - SUNKEN_MM))
    lower = ndimage.binary_opening(gone & ~domain) | pixels
    labels, _ = ndimage.label(lower)
    touched = np.unique(labels[pixels])
    return np.isin(labels, touched[touched > 0])


def choose_hole(
    gaps: list[Hole], number: int | None, point_head: np.ndarray | None, box_head: np.ndarray | None
) -> tuple[Hole, list[Notice]]:
    """The hole to close: the largest, or the one the user means, who may mean a faint one where there is no other.

    gaps : see find_gaps; number : 1 = largest; point_head : (3,) mm, a point in or near it; box_head : (n, 3) mm, points
    that fill the user's box. A point goes before a box, a box before a number.
    Raises RefusedInput where there is no hole, none at the point or in the box, or no such number.
    """
    holes = [gap for gap in gaps if not gap.faint]
    placed = point_head is not None or box_head is not None
    if not (gaps if placed else holes):
        raise RefusedInput(
            "no-hole", f"This skull has no hole in the vault larger than {MIN_AREA_CM2:.0f} cm2.",
            "Check that the right segment was chosen, or give a point in a smaller hole; a skull whose hole was closed by a "
            "segmentation program must be segmented again.",
        )
    if point_head is not None:
        return _at(gaps, point_head[None], POINT_REACH_MM), []
    if box_head is not None:
        return _at(gaps, box_head, BOX_REACH_MM), []
    if number is not None:
        if number > len(holes):
            found = "1 hole was" if len(holes) == 1 else f"{len(holes)} holes were"
            raise RefusedInput(
                "hole-number", f"Hole {number} was asked for, but only {found} found.", "Choose a smaller number."
            )
        return holes[number - 1], []
    notices = []
    if len(holes) > 1:
        areas = ", ".join(f"{h.area_cm2:.0f}" for h in holes)
        notices.append(Notice(
            "several-holes", f"{len(holes)} holes were found ({areas} cm2); the largest is closed.",
            "Choose another one by its number, a point or a region.",
        ))
    return holes[0], notices


def _at(gaps: list[Hole], points_head: np.ndarray, reach_mm: float) -> Hole:
    """The hole at points (n, 3) mm: of one point the nearest, of a box the largest, a faint one where no other is there."""
    distance = np.array([_distance_mm(gap, points_head) for gap in gaps])
    faint = np.array([gap.faint for gap in gaps])
    for near in (np.flatnonzero((distance <= reach_mm) & ~faint), np.flatnonzero((distance <= reach_mm) & faint)):
        if len(near):
            return gaps[near[int(np.argmin(distance[near]))] if len(points_head) == 1 else near[0]]
    if len(points_head) > 1:
        raise RefusedInput("no-hole-there", "There is no hole in the given region.", "Draw the region around the defect.")
    raise RefusedInput(
        "no-hole-there",
        f"There is no hole within {reach_mm:.0f} mm of the given point; the nearest is {distance.min():.0f} mm away.",
        "Place the point in the middle of the defect.",
    )


def _distance_mm(hole: Hole, points_head: np.ndarray) -> float:
    """Least distance in mm of points (n, 3) to the hole's expected surface."""
    directions = VAULT_MAP.directions()[hole.pixels]
    radius = float(np.linalg.norm(hole.centre_head))
    surface = directions * radius
    return float(min(np.linalg.norm(surface - p, axis=1).min() for p in points_head))


@dataclass(frozen=True)
class Outline:
    """The hole at about 1 mm on FINE_MAP."""

    missing: np.ndarray  # (H, W) bool on FINE_MAP: rays without their bone
    distance_mm: np.ndarray  # (H, W) float32, signed mm along the surface to the outline, negative inside


def fine_outline(field: np.ndarray, dome: Dome, hole: Hole) -> Outline:
    """The rays of FINE_MAP in and around the hole along which the expected bone is missing.

    field : signed mm to bone on HEAD_GRID. `missing` is all False where no such ray is found.
    """
    around = ndimage.binary_dilation(hole.pixels, iterations=4)
    zoom = VAULT_MAP.step_deg / FINE_MAP.step_deg
    axes = [(np.arange(n) - FINE_MAP.half) / zoom + VAULT_MAP.half for n in FINE_MAP.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    wanted = VAULT_MAP.sample(around.astype(np.float32), index, 0.0) > 0.5
    outer = VAULT_MAP.sample(dome.outer, index[wanted])
    inner = VAULT_MAP.sample(dome.inner, index[wanted])
    directions = FINE_MAP.directions()[wanted].astype(np.float32)
    share = np.linspace(0.1, 0.9, 7, dtype=np.float32)
    radii = inner[:, None] + (outer - inner)[:, None] * share
    profile = HEAD_GRID.sample(field, directions[:, None] * radii[..., None], 6.0)
    missing = np.zeros(FINE_MAP.shape, bool)
    missing[wanted] = (profile < 0).mean(1) < BONE_SHARE
    missing = ndimage.binary_opening(missing, iterations=1)
    labels, _ = ndimage.label(missing)
    core = VAULT_MAP.sample(hole.pixels.astype(np.float32), index, 0.0) > 0.5
    keep = np.unique(labels[core & missing])
    missing = np.isin(labels, keep[keep > 0])
    missing = ndimage.binary_fill_holes(missing)
    radius = VAULT_MAP.sample(ndimage.gaussian_filter(dome.outer, 2.0), index)
    return Outline(missing, outline_distance(missing, radius))


def outline_distance(missing: np.ndarray, radius_mm: np.ndarray) -> np.ndarray:
    """Signed mm (H, W) from every pixel of FINE_MAP to the border of `missing` (H, W), negative inside, float32.

    radius_mm : (H, W) of the surface on which it is measured, as an angle times the pixel's radius: the map itself is
    stretched sideways far from the vertex. It ends at OUTLINE_MM; without a border it is that everywhere.
    """
    places = []
    for axis in (0, 1):
        crossed = np.argwhere(np.diff(missing, axis=axis)).astype(float)
        crossed[:, axis] += 0.5  # the border runs in the middle between two pixels
        places.append(crossed)
    border = np.concatenate(places)
    distance = np.full(missing.shape, np.inf)
    if len(border):
        reach = OUTLINE_MM / float(radius_mm.min())
        tree = cKDTree(FINE_MAP.directions(border[:, 0], border[:, 1]))
        chord = tree.query(FINE_MAP.directions(), distance_upper_bound=reach)[0]
        distance = 2 * np.arcsin(np.minimum(chord / 2, 1.0)) * radius_mm
    return (np.minimum(distance, OUTLINE_MM) * np.where(missing, -1, 1)).astype(np.float32)


def around_cut(
    pixels: np.ndarray, radii: np.ndarray, facing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What to restore of a hole and around it, and what may be believed of the radii met there.

    pixels : (H, W) bool, of the hole; radii : (2, H, W) mm, outer and inner; facing : (2, H, W), see bone_facing. Rays beside
    a slanted cut meet its wall, outside on one rim and inside on the other: what faces across and hangs together with the
    hole is wall. Nearer to a table, it is a table's edge, which the field rounds.
    Returns (H, W) bool, the pixels to restore; (2, H, W) mm, the radii without that rounding; and (2, H, W) mm, their noise
    besides bone's own, infinite where it is no table's.
    """
    square = np.ones((3, 3), bool)
    wall = (facing < WALL_FACING) & ndimage.binary_dilation(pixels, square, iterations=REACH_PIXELS)
    labels, _ = ndimage.label(wall.any(0) | pixels, square)
    joined = np.isin(labels, np.unique(labels[pixels]))
    gone = ndimage.binary_dilation(pixels, iterations=RIM_PIXELS) | ndimage.binary_dilation(joined)
    slant = 1 - facing
    doubt_mm = SLANT_MM * slant + EDGE_MM * ndimage.binary_dilation(pixels, square)
    rounded_mm = ROUNDED_MM * slant * ndimage.binary_dilation(pixels, square, iterations=RIM_PIXELS)
    edges = radii + rounded_mm * np.array([1, -1])[:, None, None]
    return gone, edges.astype(np.float32), np.where((wall & joined) | pixels, np.inf, doubt_mm)
