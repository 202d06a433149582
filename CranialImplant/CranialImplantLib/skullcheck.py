"""Is this mask a skull in millimetres? Size, amount of bone, and a thin shell around a braincase that opens somewhere.

All shape questions are asked on a coarse grid in LPS (about 4 mm), so that axis order, flips, tilt and resolution do
not matter. The limits are tolerant: they separate skulls (whole, vault only, with holes of 150 ml) from other bones,
solid bodies and wrong units, not good skulls from bad ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from MedShapeCore.errors import RefusedInput
from MedShapeCore.notices import Notice
from MedShapeCore.volumes import lps_from_ijk, spacing_of
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

CELL_MM = 4.0
VOXEL_MM = (0.1, 6.0)  # per axis; beyond these the numbers are not millimetres, or no bone can be seen
COARSE_MM = 3.0  # warn above
BONE_ML = (100.0, 2500.0)  # 89 real skulls: 350 to 720; a vault alone 150; with neck and jaw, diploe filled: 1500
EXTENT_MM = (110.0, 90.0, 35.0)  # least size along the longest, middle and shortest side; a mere cap is 140 x 180 x 40
LARGEST_MM = 450.0
CAVITY_MM = (25.0, 100.0)  # radius of the largest ball in the braincase; adults 55 to 65
COVERED = 0.35  # least share of all directions in which bone is seen from the middle; a ring of pelvis or ribs has less
HEMISPHERE = 0.6  # the same in the best covered half
THROUGH = 0.9  # two opposite openings like those of a tube or a ring, as a share of the directions in cones
OPENING_DEG = 30.0  # ... of this half angle
THICKNESS_MM = 30.0  # most, median over directions
VAULT_DEPTH_MM = 1.5  # how much of the vault a face may shave off before it is said
VAULT_RADIUS_MM = 80.0

_HINT = "Choose the segment with the skull's bone, or check what was exported."


@dataclass(frozen=True)
class Shell:
    """What the coarse look measures, seen from the middle of the largest enclosed space."""

    cavity_mm: float  # radius of the largest ball in the enclosed space, 0 = there is none
    covered: float  # share of directions in which bone is hit
    hemisphere: float  # the same in the best covered half
    below: float  # the same within 60 degrees of straight down
    through: float  # share of open directions in two opposite cones (OPENING_DEG), the less open one, at the worst axis
    thickness_mm: float  # median over the directions that hit bone
    closed: bool  # no way out of the cavity


def check_voxel_size(spacing_mm: np.ndarray, name: str) -> list[Notice]:
    """Refuses voxels that cannot be mm and says what they may be; warns of coarse ones."""
    low, high = float(np.min(spacing_mm)), float(np.max(spacing_mm))
    shown = " x ".join(f"{s:g}" for s in np.round(np.asarray(spacing_mm, float), 6))
    if low < VOXEL_MM[0] or high > VOXEL_MM[1]:
        guess = ""
        for unit, factor in (("metres", 1000.0), ("centimetres", 10.0), ("micrometres", 0.001)):
            if 0.2 <= low * factor and high * factor <= VOXEL_MM[1] and not guess:
                guess = f" They look like {unit}."
        raise RefusedInput(
            "voxel-size",
            f"The voxels of {name} measure {shown} mm, which cannot be millimetres of a head scan "
            f"({VOXEL_MM[0]:g} to {VOXEL_MM[1]:g}).{guess}",
            "Correct the spacing in the file's header, in mm.",
        )
    if high > 1.01 * COARSE_MM:
        return [Notice("coarse", f"The voxels measure {shown} mm; the implant cannot be finer than that.",
                       f"Use slices of at most {COARSE_MM:g} mm.")]
    return []


@dataclass(frozen=True)
class CoarseLook:
    """Share of a mask in cells of an LPS grid, with an empty cell around."""

    share: np.ndarray  # (S, P, L) float32 from 0 to 1; (0, 0, 0) for an empty mask
    corner_lps: np.ndarray  # (3,) low corner of the first cell
    cell_mm: float

    def largest(self, least_share: float = 0.1) -> np.ndarray:
        """(S, P, L) bool: the largest piece of the cells that hold more than `least_share`."""
        used = self.share > least_share
        label, count = ndimage.label(used, np.ones((3, 3, 3)))
        return used if count < 2 else label == 1 + int(np.argmax(np.bincount(label.ravel())[1:]))

    def at(self, cells: np.ndarray, points_lps: np.ndarray) -> np.ndarray:
        """(n,) bool: which points (n, 3) lie in true cells of an array (S, P, L) on this grid; outside is false."""
        index = np.floor((points_lps - self.corner_lps) / self.cell_mm).astype(int)[:, ::-1]
        within = ((index >= 0) & (index < cells.shape)).all(1)
        found = np.zeros(len(index), bool)
        found[within] = cells[tuple(index[within].T)]
        return found


def coarse_look(mask: np.ndarray, ijk_to_lps: np.ndarray) -> CoarseLook:
    """Averages a mask (K, J, I) bool on LPS cells of CELL_MM, or of 1.5 voxels where voxels are coarser."""
    cell_mm = max(CELL_MM, 1.5 * float(spacing_of(ijk_to_lps).max()))
    factors = np.maximum(1, np.floor(cell_mm / 2 / spacing_of(ijk_to_lps)[::-1])).astype(int)  # along k, j, i
    counts: np.ndarray = mask
    for axis, factor in enumerate(factors):
        counts = np.add.reduceat(counts, np.arange(0, mask.shape[axis], factor), axis=axis, dtype=np.uint16)
    index = np.argwhere(counts)
    if len(index) == 0:
        return CoarseLook(np.zeros((0, 0, 0), np.float32), np.zeros(3), cell_mm)
    weight = counts[tuple(index.T)].astype(np.float64) * abs(np.linalg.det(ijk_to_lps[:3, :3])) / cell_mm**3
    points = lps_from_ijk(ijk_to_lps, index * factors + (factors - 1) / 2)
    corner = points.min(0) - 1.5 * cell_mm
    cell = np.floor((points - corner) / cell_mm).astype(int)[:, ::-1]
    shape = tuple(int(n) + 2 for n in cell.max(0))
    flat = np.bincount(np.ravel_multi_index(tuple(cell.T), shape), weight, int(np.prod(shape)))
    return CoarseLook(np.minimum(flat, 1.0).reshape(shape).astype(np.float32), corner, cell_mm)


def directions(count: int) -> np.ndarray:
    """(count, 3) nearly even unit vectors (golden spiral)."""
    z = 1 - (2 * np.arange(count) + 1) / count
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], 1)


def measure_shell(look: CoarseLook) -> Shell:
    """Looks at bone from the middle of the braincase; not for an empty mask."""
    cell_mm = look.cell_mm
    bone = look.largest()
    seen = np.zeros(bone.shape, np.int8)  # along how many of the six axes bone is met
    for axis in range(3):
        seen += np.maximum.accumulate(bone, axis)
        seen += np.flip(np.maximum.accumulate(np.flip(bone, axis), axis), axis)
    inside = (seen >= 4) & ~bone  # a hole and the field of view may each open one
    if not inside.any():
        return Shell(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    distance = np.where(inside, ndimage.distance_transform_edt(~bone), 0.0)
    deepest = np.argwhere(distance > 0.9 * distance.max())  # a line of cells in a tube: its middle, not one of its ends
    centre = deepest[np.argmin(((deepest - deepest.mean(0)) ** 2).sum(1))].astype(float)
    rays = directions(400)  # (n, 3) in L, P, S
    along = np.arange(0.5, 200.0 / cell_mm, 0.5)
    index = centre[:, None, None] + rays.T[::-1, :, None] * along  # (3, n, steps)
    share = ndimage.map_coordinates(look.share * bone, index, order=1, mode="constant")
    met = share > 0.1
    hit = met.any(1)
    first = np.argmax(met, 1)
    near = (np.arange(len(along)) >= first[:, None]) & (np.arange(len(along)) < first[:, None] + 80.0 / cell_mm)
    run = near & (np.cumsum(~met & near, 1) == 0)  # the first stretch of bone
    thickness = (share * run).sum(1) * 0.5 * cell_mm
    axes = directions(60)
    halves = axes @ rays.T > 0
    cone = axes @ rays.T > np.cos(np.deg2rad(OPENING_DEG))
    opposite = axes @ rays.T < -np.cos(np.deg2rad(OPENING_DEG))
    open_ends = np.minimum((cone * ~hit).sum(1) / cone.sum(1), (opposite * ~hit).sum(1) / opposite.sum(1))
    below = rays[:, 2] < -0.5
    outside = np.pad(~bone, 1, constant_values=True)
    label, _ = ndimage.label(outside)
    closed = bool(label[tuple(centre.astype(int) + 1)] != label[0, 0, 0])
    return Shell(
        float(distance.max() * cell_mm), float(hit.mean()), float(((halves * hit).sum(1) / halves.sum(1)).max()),
        float(hit[below].mean()), float(open_ends.max()), float(np.median(thickness[hit])) if hit.any() else 0.0,
        closed,
    )


def check_is_skull(mask: np.ndarray, ijk_to_lps: np.ndarray, name: str = "the mask") -> list[Notice]:
    """Refuses (RefusedInput) what cannot be a skull; returns what a person should know of the rest.

    mask (K, J, I) bool; ijk_to_lps (4, 4), any axis order, oblique and sheared ones included. Codes of refusals: empty,
    voxel-size, too-small, too-large, bone-volume, not-a-skull. Codes of notices: coarse, no-base, vault-cut.
    """
    notices = check_voxel_size(spacing_of(ijk_to_lps), name)
    look = coarse_look(mask, ijk_to_lps)
    if look.share.size == 0:
        raise RefusedInput("empty", f"{name} is empty: no voxel is set.", "Choose the segment with the skull's bone.")
    used = look.largest(0.05)
    sides = np.sort([look.cell_mm * used.any(tuple(a for a in range(3) if a != axis)).sum() for axis in range(3)])[::-1]
    shown = " x ".join(f"{s:.0f}" for s in sides)
    if (sides < EXTENT_MM).any():
        raise RefusedInput("too-small", f"The bone in {name} measures {shown} mm; that is too small for a skull.",
                           "Check the voxel size in the file's header, or choose the segment with the skull's bone.")
    if sides[0] > LARGEST_MM:
        raise RefusedInput("too-large", f"The bone in {name} measures {shown} mm; that is more than a head.",
                           "Crop the scan to the head, or check the voxel size in the file's header.")
    bone_ml = float(np.count_nonzero(mask) * abs(np.linalg.det(ijk_to_lps[:3, :3])) / 1000.0)
    if not BONE_ML[0] <= bone_ml <= BONE_ML[1]:
        message = f"{name} holds {bone_ml:.0f} ml of bone; a skull has {BONE_ML[0]:.0f} to {BONE_ML[1]:.0f} ml."
        raise RefusedInput("bone-volume", message, "The mask must hold the skull's bone and nothing else.")
    shell = measure_shell(look)
    reason = reason_against(shell)
    if reason:
        raise RefusedInput("not-a-skull", f"{name} is not a skull: {reason}.", _HINT)
    if shell.below < 0.3:
        notices.append(Notice("no-base", f"The skull's base is missing: bone is seen in {100 * shell.below:.0f} % of "
                              "the directions below the brain.", "The pose is less certain; a longer scan helps."))
    return notices + vault_cut(mask, ijk_to_lps, look)


def reason_against(shell: Shell) -> str:
    """Why a shell is no skull, as the end of a sentence; empty if it may be one."""
    if not CAVITY_MM[0] <= shell.cavity_mm <= CAVITY_MM[1]:
        return (f"the largest space it encloses has a radius of {shell.cavity_mm:.0f} mm, "
                f"a braincase {CAVITY_MM[0]:.0f} to {CAVITY_MM[1]:.0f} mm")
    if shell.covered < COVERED or shell.hemisphere < HEMISPHERE:
        return f"from its middle, bone is seen in only {100 * shell.covered:.0f} % of all directions"
    if shell.through > THROUGH:
        return "it is open at two opposite ends, like a ring or a tube"
    if shell.thickness_mm > THICKNESS_MM:
        return f"its wall is {shell.thickness_mm:.0f} mm thick, a skull's at most {THICKNESS_MM:.0f} mm"
    if shell.closed:
        return "its wall is closed all around, and a skull has openings at its base"
    return ""


def vault_cut(mask: np.ndarray, ijk_to_lps: np.ndarray, look: CoarseLook) -> list[Notice]:
    """Says when a face of the grid, other than the lowest, cuts the upper part of the skull; (K, J, I) bool, not empty.

    The lost depth follows from the area inside the cut: a cap of height h on a sphere of radius R covers 2 pi R h.
    """
    axes = ijk_to_lps[:3, :3]
    column_of = (2, 1, 0)  # array axis k, j, i -> column of the matrix
    normals = {}
    for axis in range(3):
        others = [axes[:, column_of[a]] for a in range(3) if a != axis]
        normal = np.cross(others[0], others[1]) / np.linalg.norm(np.cross(others[0], others[1]))
        inward_is_up = normal @ axes[:, column_of[axis]] > 0
        for end, sign in ((0, -1.0), (mask.shape[axis] - 1, 1.0)):
            normals[axis, end] = normal * (sign if inward_is_up else -sign)
    lowest = min(normals, key=lambda face: normals[face][2])
    heights = lps_from_ijk(ijk_to_lps, np.argwhere(mask[::4, ::4, ::4]) * 4)[:, 2]
    middle = float(np.mean([heights.min(), heights.max()])) if len(heights) else 0.0
    skull = look.largest()
    notices = []
    for face, normal in normals.items():
        if face == lowest:
            continue
        axis, end = face
        index = np.argwhere(np.take(mask, end, axis))
        index = np.insert(index, axis, end, axis=1)
        points = lps_from_ijk(ijk_to_lps, index)
        points = points[(points[:, 2] > middle) & look.at(skull, points)]  # not a head rest that leaves the scan
        helper = np.eye(3)[int(np.argmin(np.abs(normal)))]
        first = np.cross(normal, helper) / np.linalg.norm(np.cross(normal, helper))
        flat = np.stack([points @ first, points @ np.cross(normal, first)], 1)
        try:
            area_mm2 = float(ConvexHull(flat).volume) if len(flat) > 2 else 0.0  # in 2-D, volume is the area
        except QhullError:  # all on one line
            area_mm2 = 0.0
        depth_mm = area_mm2 / (2 * np.pi * VAULT_RADIUS_MM)
        slice_mm = abs(normal @ axes[:, column_of[axis]])
        if depth_mm > VAULT_DEPTH_MM + slice_mm:
            axis_lps = int(np.argmax(np.abs(normal)))
            where = (("right", "left"), ("front", "back"), ("bottom", "top"))[axis_lps][int(normal[axis_lps] > 0)]
            notices.append(Notice(
                "vault-cut", f"The field of view cuts the vault at the {where}: {area_mm2 / 100:.0f} cm2 of the skull "
                "lie open in the outermost slice.",
                "An implant cannot reach beyond the scan; use one that holds the whole vault."))
    return notices
