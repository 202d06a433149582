"""Several implants for one hole: mean, variance, agreement, checks, ranking, and their spread in mm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from MedShapeCore.errors import FailedResult
from MedShapeCore.metrics import pairwise_dice
from MedShapeCore.notices import Notice
from MedShapeCore.volumes import Box, box_of, cropped_matrix, lps_from_ijk, sample, spacing_of
from scipy import ndimage
from scipy.spatial import cKDTree

from .skull import Skull
from .subtraction import implant_from_field

THICKNESS_MM = (2.0, 15.0)  # median; bone of the vault has 3 to 12 mm
VOLUME_ML = (1.0, 300.0)
VOLUME_RATIO = 2.0  # to the median of the members
AGREEMENT_BELOW = 0.1  # DSC below the median member from which a member is an outlier ...
AGREEMENT_DEVIATIONS = 4.0  # ... and at least so many median absolute deviations
RIM_SHARE = 0.7  # of 36 directions around the middle in which the implant must touch bone
TRACING_STEPS = 4  # the error falls by 1 - cos of the angle between the two surfaces' normals each step
FARTHEST_MM = 10.0  # of a member's surface from the mean one
OUTER_SAMPLES, INNER_SAMPLES = 5000, 30000  # vertices for the thickness; half a mm apart in the largest hole

Surface = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class MemberReport:
    """What is measured on one implant, and which checks it fails."""

    volume_ml: float
    area_cm2: float  # of the outer surface: the size of the hole it covers
    thickness_mm: float  # median
    thickness_p05_mm: float
    agreement: float  # mean DSC to the other members; 1 for a single member
    bone_overlap_voxels: int
    components: int
    watertight: bool
    passed: bool
    failed: tuple[str, ...] = ()  # of empty, bone, pieces, watertight, thickness, volume, rim, outlier
    tunnels: int = 0  # holes through the implant


@dataclass(frozen=True)
class SpreadSurface:
    """Surface of the mean implant with the members' standard deviation along its normal."""

    vertices_lps: np.ndarray  # (V, 3) float32
    triangles: np.ndarray  # (T, 3) int32
    spread_mm: np.ndarray  # (V,) float32
    side: np.ndarray  # (V,) int8: 0 rim, 1 outer, 2 inner


@dataclass(frozen=True)
class ImplantEnsemble:
    """The result of `generate_implants`; all arrays live in the crop `box` of the skull's grid."""

    skull: Skull
    box: Box
    implants: np.ndarray  # (N, k, j, i) bool: members, cleaned, never on bone
    mean: np.ndarray  # (k, j, i) bool
    variance: np.ndarray  # (k, j, i) float32: over the members' soft occupancy
    agreement: np.ndarray  # (k, j, i) uint8: how many members fill the voxel
    ranking: tuple[int, ...]  # member indices, best first
    checks: tuple[MemberReport, ...]  # one per member
    mean_report: MemberReport
    spread: SpreadSurface
    notices: tuple[Notice, ...]
    report: dict

    def __str__(self) -> str:
        volumes = ", ".join(f"{c.volume_ml:.1f}" for c in self.checks)
        passed = sum(c.passed for c in self.checks)
        return (f"{len(self.checks)} implants of {volumes} ml for {self.skull.name}, {passed} pass all checks, "
                f"mean {self.mean_report.volume_ml:.1f} ml, median spread {median(self.spread.spread_mm):.2f} mm")


@dataclass(frozen=True)
class EnsembleParts:
    """What `build_ensemble_parts` computes of an ImplantEnsemble; the same names and meanings."""

    mean: np.ndarray
    variance: np.ndarray
    agreement: np.ndarray
    ranking: tuple[int, ...]
    checks: tuple[MemberReport, ...]
    mean_report: MemberReport
    spread: SpreadSurface
    notices: tuple[Notice, ...]
    pairwise_dsc: np.ndarray  # (N, N) float
    surfaces: tuple[Surface, ...]  # of each member, then of the mean: (V, 3) float32 LPS mm, (T, 3) int32


def median(values: np.ndarray) -> float:
    """Median, 0 for no values."""
    return float(np.median(values)) if len(values) else 0.0


def soft_occupancy(field_mm: np.ndarray, bone: np.ndarray, region: np.ndarray, half_width_mm: float) -> np.ndarray:
    """How much of each voxel an implant fills: 1 inside, 0 outside, a ramp within half_width_mm of the surface.

    field_mm (..., k, j, i) float32, negative inside; bone, region (k, j, i) bool. Returns float32 in [0, 1], 0 on bone
    and outside the region. With half a voxel as half width, five members give many more than three levels of variance.
    """
    occupancy = np.clip(0.5 - field_mm / np.float32(2.0 * half_width_mm), 0.0, 1.0, dtype=np.float32)
    occupancy *= region & ~bone
    return occupancy


def soft_variance(fields_mm: np.ndarray, bone: np.ndarray, region: np.ndarray, half_width_mm: float) -> np.ndarray:
    """Variance over members (divided by N) of their soft occupancy: (N, k, j, i) -> (k, j, i) float32; 0 for N = 1."""
    total = np.zeros(fields_mm.shape[1:], np.float32)
    first = soft_occupancy(fields_mm[0], bone, region, half_width_mm)
    squares = np.zeros_like(total)
    for field in fields_mm[1:]:  # relative to the first member: exactly 0 where all agree
        difference = soft_occupancy(field, bone, region, half_width_mm) - first
        total += difference
        squares += difference**2
    return np.maximum(squares / len(fields_mm) - (total / len(fields_mm)) ** 2, 0.0)


def build_ensemble_parts(
    fields_mm: np.ndarray, implants: np.ndarray, bone: np.ndarray, region: np.ndarray, ijk_to_lps: np.ndarray,
    centre_lps: np.ndarray | None = None, progress: Callable[[float], None] | None = None,
) -> EnsembleParts:
    """Everything that is said about N members of one hole.

    fields_mm  : (N, k, j, i) float32, signed distances of the completed bone in mm, negative inside.
    implants   : (N, k, j, i) bool, `implant_from_field` of each.
    bone, region : (k, j, i) bool; ijk_to_lps : (4, 4) of this crop.
    centre_lps : (3,) a point inside the head, to tell outer from inner; None = centre of a sphere through the bone.
    progress   : is told the share that is done.
    Raises FailedResult when no member holds an implant. Empty members stay, ranked last.
    """
    told = progress or (lambda fraction: None)
    spacing_mm = spacing_of(ijk_to_lps)
    wide = np.ceil(4.0 / spacing_mm[::-1]).astype(int)
    box = box_of(np.asarray(implants.any(0)), wide)
    if box is None:
        raise FailedResult("no-implant", f"None of the {len(implants)} members closes the hole with an implant.",
                           "Check the place of the hole, or give it with a point or a region.")
    whole_shape = bone.shape
    matrix = cropped_matrix(ijk_to_lps, box)
    fields, members = fields_mm[(slice(None), *box)], implants[(slice(None), *box)]
    bone, region = bone[box], region[box]

    mean = implant_from_field(fields.mean(0, dtype=np.float32), bone, region, spacing_mm)
    if not mean.any():  # members too different to have a mean surface: the voxels most of them fill
        mean = 2 * members.sum(0) > len(members)
    if not mean.any():
        mean = members[int(np.argmax(members.reshape(len(members), -1).sum(1)))].copy()
    near = ndimage.binary_dilation(members.any(0) | mean) & region  # not the layers on bone which were cleaned away
    variance = soft_variance(fields, bone, near, float(np.cbrt(np.prod(spacing_mm)) / 2))
    told(0.2)

    surfaces = [surface_of(mask, matrix) for mask in (*members, mean)]
    told(0.5)
    centre = head_centre(surfaces[-1][0], bone, matrix) if centre_lps is None else np.asarray(centre_lps, float)
    pairs = pairwise_dice(members)
    count = len(members)
    agreements = (pairs.sum(1) - 1.0) / (count - 1) if count > 1 else np.ones(count)
    measured = [
        measure_member(mask, surface, bone, matrix, centre, float(agreement))
        for mask, surface, agreement in zip(
            (*members, mean), surfaces, (*agreements, float(agreements.mean())), strict=True
        )
    ]
    checks = compared(measured[:-1])
    spread = spread_surface(surfaces[-1], fields, bone, matrix, centre)
    told(1.0)
    return EnsembleParts(
        placed(mean, box, whole_shape), placed(variance, box, whole_shape),
        placed(members.sum(0, dtype=np.uint8), box, whole_shape), ranked(checks), checks, measured[-1], spread,
        notices_about(checks, measured[-1]), pairs, tuple(surfaces),
    )


def placed(part: np.ndarray, box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """An array of `shape` which is 0 but for `part` at `box`."""
    whole = np.zeros(shape, part.dtype)
    whole[box] = part
    return whole


def surface_of(mask: np.ndarray, ijk_to_lps: np.ndarray) -> Surface:
    """Closed surface of a mask, (V, 3) LPS mm and (T, 3); both (0, 3) for an empty one."""
    from MedShapeCore.surfaces import mask_surface

    return mask_surface(mask, ijk_to_lps)


def head_centre(vertices_lps: np.ndarray, bone: np.ndarray, ijk_to_lps: np.ndarray) -> np.ndarray:
    """(3,) centre of the sphere with least squared error through implant and bone around it: the inside of the head.

    |p|^2 = 2 p . c + (r^2 - |c|^2) is linear in the unknowns.
    """
    index = np.argwhere(bone)
    around = lps_from_ijk(ijk_to_lps, index[:: max(1, len(index) // 5000)])
    points = np.concatenate([vertices_lps[:: max(1, len(vertices_lps) // 5000)], around]).astype(float)
    middle = points.mean(0)
    points -= middle
    system = np.column_stack([2 * points, np.ones(len(points))])
    return middle + np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0][:3]


def sides_of(
    vertices_lps: np.ndarray, normals: np.ndarray, bone: np.ndarray, ijk_to_lps: np.ndarray, centre_lps: np.ndarray
) -> np.ndarray:
    """(V,) int8 for vertices (V, 3) with outward unit normals: 0 within one voxel of bone, 1 outer, 2 inner."""
    outward = ((vertices_lps - centre_lps) * normals).sum(1) >= 0
    side = np.where(outward, np.int8(1), np.int8(2))
    side[sample(bone, ijk_to_lps, vertices_lps, 0.0) > 0.02] = 0
    return side


def measure_member(
    mask: np.ndarray, surface: Surface, bone: np.ndarray, ijk_to_lps: np.ndarray, centre_lps: np.ndarray,
    agreement: float,
) -> MemberReport:
    """All figures and own checks of one implant (k, j, i) bool; an empty one fails as `empty`.

    Thickness is the distance from points of the outer surface to the inner one, away from the rim; it is twice the
    inside distance on the medial ridge where both sides are parallel.
    """
    from MedShapeCore.surfaces import is_watertight, vertex_normals

    vertices, triangles = surface
    if not mask.any():
        return MemberReport(0.0, 0.0, 0.0, 0.0, agreement, 0, 0, False, False, ("empty",))
    normals = vertex_normals(vertices, triangles)
    side = sides_of(vertices, normals, bone, ijk_to_lps, centre_lps)
    outer, inner = np.flatnonzero(side == 1), np.flatnonzero(side == 2)
    thickness = np.zeros(0)
    if len(outer) and len(inner):
        outer = outer[:: max(1, len(outer) // OUTER_SAMPLES)]
        inner = inner[:: max(1, len(inner) // INNER_SAMPLES)]
        thickness = cKDTree(vertices[inner]).query(vertices[outer])[0]
    volume_ml = float(np.count_nonzero(mask) * abs(np.linalg.det(ijk_to_lps[:3, :3])) / 1000.0)
    overlap = int(np.count_nonzero(mask & bone))
    pieces = int(ndimage.label(mask)[1])
    watertight = is_watertight(triangles)
    thick = median(thickness)
    failed = [name for name, bad in (
        ("bone", overlap > 0), ("pieces", pieces != 1), ("watertight", not watertight),
        ("thickness", not THICKNESS_MM[0] <= thick <= THICKNESS_MM[1]),
        ("volume", not VOLUME_ML[0] <= volume_ml <= VOLUME_ML[1]),
        ("rim", rim_share(vertices, side, centre_lps) < RIM_SHARE),
    ) if bad]
    return MemberReport(
        volume_ml, outer_area_cm2(surface, centre_lps), thick,
        float(np.percentile(thickness, 5)) if len(thickness) else 0.0, agreement, overlap, pieces, watertight,
        not failed, tuple(failed), tunnels_of(surface, pieces),
    )


def tunnels_of(surface: Surface, bodies: int) -> int:
    """How many holes lead through closed bodies: V - E + F = 2 (bodies - tunnels), and E = 3 F / 2 for triangles."""
    vertices, triangles = surface
    return max(0, round(bodies - (len(vertices) - len(triangles) / 2) / 2))


def outer_area_cm2(surface: Surface, centre_lps: np.ndarray) -> float:
    """Area of the triangles that face away from the head within 45 degrees: the rim's wall and its edges do not."""
    corners = surface[0][surface[1]].astype(float)  # (T, 3, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2.0
    outward = corners.mean(1) - centre_lps
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)
    area = np.linalg.norm(normal, axis=1)
    return float(area[(normal * outward).sum(1) > 0.7 * area].sum() / 100.0)


def rim_share(vertices_lps: np.ndarray, side: np.ndarray, centre_lps: np.ndarray) -> float:
    """Share of 36 directions around the implant's middle, seen along the outward axis, in which it touches bone."""
    if not (side == 0).any():
        return 0.0
    middle = vertices_lps.mean(0)
    axis = (middle - centre_lps) / max(float(np.linalg.norm(middle - centre_lps)), 1e-9)
    first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    first /= np.linalg.norm(first)
    arms = vertices_lps[side == 0] - middle
    angle = np.arctan2(arms @ np.cross(axis, first), arms @ first)
    return len(np.unique(np.floor((angle + np.pi) / (2 * np.pi) * 35.999).astype(int))) / 36.0


def compared(reports: list[MemberReport]) -> tuple[MemberReport, ...]:
    """Adds the checks that need the other members: volume beside their median, and agreement as an outlier."""
    if len(reports) < 3:
        return tuple(reports)
    volumes = np.array([r.volume_ml for r in reports])
    agreements = np.array([r.agreement for r in reports])
    middle = float(np.median(agreements))
    limit = middle - max(AGREEMENT_BELOW, AGREEMENT_DEVIATIONS * float(np.median(np.abs(agreements - middle))))
    usual_ml = float(np.median(volumes))
    checked = []
    for r in reports:
        failed = list(r.failed)
        if "volume" not in failed and "empty" not in failed and not (
            usual_ml / VOLUME_RATIO <= r.volume_ml <= usual_ml * VOLUME_RATIO
        ):
            failed.append("volume")
        if r.agreement < limit:
            failed.append("outlier")
        checked.append(replace(r, passed=not failed, failed=tuple(failed)))
    return tuple(checked)


def ranked(checks: tuple[MemberReport, ...]) -> tuple[int, ...]:
    """Member indices, best first: empty ones last, fewest failed checks first, then agreement; ties keep order."""
    return tuple(sorted(
        range(len(checks)), key=lambda n: ("empty" in checks[n].failed, len(checks[n].failed), -checks[n].agreement)
    ))


def spread_surface(
    surface: Surface, fields_mm: np.ndarray, bone: np.ndarray, ijk_to_lps: np.ndarray, centre_lps: np.ndarray
) -> SpreadSurface:
    """Standard deviation over members (divided by N) of their surface's place along the normal of the mean implant.

    From each vertex the member's surface is sought along the normal in steps of the member's own distance (sphere
    tracing, Hart 1996): t <- t - f_m(v + t n). At the rim bone ends every member: what reaches into bone counts as 0.
    """
    from MedShapeCore.surfaces import vertex_normals

    vertices, triangles = surface
    normals = vertex_normals(vertices, triangles)
    side = sides_of(vertices, normals, bone, ijk_to_lps, centre_lps)
    total, squares = np.zeros(len(vertices)), np.zeros(len(vertices))
    for field in fields_mm:
        offset = np.zeros(len(vertices))
        for _ in range(TRACING_STEPS):
            offset -= sample(field, ijk_to_lps, vertices + offset[:, None] * normals, 0.0)
            offset = np.clip(offset, -FARTHEST_MM, FARTHEST_MM)
        offset[side == 0] = np.minimum(offset[side == 0], 0.0)
        total += offset
        squares += offset**2
    count = len(fields_mm)
    spread = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
    return SpreadSurface(vertices, triangles, spread.astype(np.float32), side)


def notices_about(checks: tuple[MemberReport, ...], mean_report: MemberReport) -> tuple[Notice, ...]:
    """What a person should know of the checks; empty when everything passed."""
    notices = []
    bad = [(n + 1, r) for n, r in enumerate(checks) if not r.passed]
    if bad:
        shown = "; ".join(f"implant {n}: {', '.join(r.failed)}" for n, r in bad)
        notices.append(Notice("member-checks", f"{len(bad)} of {len(checks)} implants fail a check ({shown}).",
                              "Prefer the implants at the top of the ranking."))
    if not mean_report.passed:
        notices.append(Notice("mean-checks", f"The mean implant fails a check ({', '.join(mean_report.failed)}).",
                              "Look at it before use; give the hole's place with a point or a region and run again."))
    if mean_report.tunnels:
        holes = "a small hole leads" if mean_report.tunnels == 1 else f"{mean_report.tunnels} small holes lead"
        notices.append(Notice("perforated", f"Where it is thinnest, {holes} through the mean implant.",
                              "Choose a member without, or thicken and close it before printing."))
    return tuple(notices)
