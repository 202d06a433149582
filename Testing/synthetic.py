"""Parametric test skulls: an egg-shaped vault of known thickness with base, orbits, face and, if wanted, holes.

Head frame: x to the left, y to the back, z up, mm, origin in the middle of the braincase; the vault is 150 mm wide,
185 mm long and, with its base, 130 mm high. Everything is analytic, so any grid gives the same head.

    skull = shell_skull(2.5, holes=(Hole((0, 0.5, 1), 30),))       # bone with a hole, ready for the pipeline
    case = shell_case(2.5, holes=(Hole((1, 0, 0.6), 25),))         # skull, complete, implant, field
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from CranialImplantLib.skull import Skull
from MedShapeCore.volumes import lps_from_ijk

RADII_MM = np.array([75.0, 92.5, 78.0])  # outer table, before the forehead is narrowed
BASE_MM = -52.0  # underside of the skull base
THICKNESS_MM = 6.0
EGG = 0.15  # the forehead is narrower than the parietal bones by this share of the half width


@dataclass(frozen=True)
class Hole:
    """A hole through the vault around the ray from the origin along `direction` (x, y, z of the head frame)."""

    direction: tuple[float, float, float]
    radius_mm: float = 30.0
    square: bool = False  # a box of edge 2 * radius in place of a cylinder

    def signed_mm(self, points: np.ndarray) -> np.ndarray:
        """Signed distance to the hole's side wall at head points (..., 3), negative inside the hole."""
        axis = np.array(self.direction, float) / np.linalg.norm(self.direction)
        helper = np.eye(3)[int(np.argmin(np.abs(axis)))]
        first = np.cross(axis, helper) / np.linalg.norm(np.cross(axis, helper))
        u, v, along = points @ first, points @ np.cross(axis, first), points @ axis
        across = np.maximum(np.abs(u), np.abs(v)) if self.square else np.hypot(u, v)
        return np.maximum(across - self.radius_mm, -along)


@dataclass(frozen=True)
class Case:
    """A skull with holes and its truth, all on one grid."""

    skull: Skull
    complete: np.ndarray  # (K, J, I) bool
    implant: np.ndarray  # (K, J, I) bool: complete and not bone
    field_mm: np.ndarray  # (K, J, I) float32: distance of the complete bone, negative inside, first order


def ellipsoid_mm(points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """First-order signed distance f / |grad f| to an ellipsoid at points (..., 3), negative inside."""
    inner = np.linalg.norm(points / radii, axis=-1)
    slope = np.linalg.norm(points / radii**2, axis=-1)
    distance = inner * (inner - 1) / np.maximum(slope, 1e-9)
    return np.where(inner < 1e-3, -radii.min(), distance).astype(np.float32)  # the formula has a hole in the middle


def shell_field(
    points: np.ndarray, thickness_mm: float = THICKNESS_MM, face: bool = True, base: bool = True
) -> np.ndarray:
    """Signed distance in mm of the complete bone at head points (..., 3), negative inside, float32, (...)."""
    egg = points.copy()
    egg[..., 0] = egg[..., 0] / (1 + EGG * np.clip(egg[..., 1] / RADII_MM[1], -1, 1) * (egg[..., 1] < 0))
    outer = ellipsoid_mm(egg, RADII_MM)
    x, y, z = np.moveaxis(points, -1, 0)
    vault = np.maximum(np.abs(outer + thickness_mm / 2) - thickness_mm / 2, BASE_MM - z)
    orbits = np.hypot(np.abs(x) - 32.0, z + 30.0) - 17.0
    vault = np.maximum(vault, -np.maximum(orbits, y + 20.0))
    bone = vault
    if base:
        floor = np.maximum(np.maximum(BASE_MM - z, z - BASE_MM - thickness_mm), outer)
        bone = np.minimum(bone, np.maximum(floor, 17.0 - np.hypot(x, y - 35.0)))  # the foramen magnum stays open
    if face:
        jaw = ellipsoid_mm(points - np.array([0.0, -58.0, -70.0]), np.array([45.0, 36.0, 40.0]))
        jaw = np.maximum(np.abs(jaw + 2.5) - 2.5, z - BASE_MM)
        bone = np.minimum(bone, jaw)
    return bone.astype(np.float32)


def head_grid(
    spacing_mm: float | tuple[float, float, float] = 2.5, axes: np.ndarray | None = None,
    lps_from_head: np.ndarray | None = None, margin_mm: float = 12.0, top_cut_mm: float = 0.0,
    bottom_cut_mm: float = 0.0,
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (K, J, I) and ijk_to_lps of a grid around the head.

    axes : (3, 3), its columns are the LPS directions of i, j, k: permuted, flipped, oblique, sheared; None = identity.
    top_cut_mm, bottom_cut_mm : how much of the head the field of view loses at its superior and inferior end.
    """
    axes = np.eye(3) if axes is None else np.asarray(axes, float)
    step = axes * np.broadcast_to(np.asarray(spacing_mm, float), 3)
    low = np.array([-RADII_MM[0], -RADII_MM[1], -112.0])
    corners = np.array([[x, y, z] for x in (low[0], -low[0]) for y in (-96.0, -low[1]) for z in (low[2], RADII_MM[2])])
    if lps_from_head is not None:
        corners = corners @ lps_from_head[:3, :3].T + lps_from_head[:3, 3]
    index = corners @ np.linalg.inv(step).T
    pad = margin_mm / np.linalg.norm(step, axis=0)
    first, last = index.min(0) - pad, index.max(0) + pad
    up = int(np.argmax(np.abs(step[2])))
    for cut_mm, at_top in ((top_cut_mm, True), (bottom_cut_mm, False)):
        if cut_mm:
            cut = pad[up] + cut_mm / np.linalg.norm(step[:, up])
            if (step[2, up] > 0) == at_top:
                last[up] -= cut
            else:
                first[up] += cut
    matrix = np.eye(4)
    matrix[:3, :3] = step
    matrix[:3, 3] = step @ first
    i, j, k = np.ceil(last - first).astype(int) + 1
    return (int(k), int(j), int(i)), matrix


def head_points(
    shape: tuple[int, ...], ijk_to_lps: np.ndarray, lps_from_head: np.ndarray | None = None
) -> np.ndarray:
    """(K, J, I, 3) head-frame points of all voxels."""
    points = lps_from_ijk(ijk_to_lps, np.moveaxis(np.indices(shape), 0, -1))
    if lps_from_head is not None:
        inverse = np.linalg.inv(lps_from_head)
        points = points @ inverse[:3, :3].T + inverse[:3, 3]
    return points


def shell_case(
    spacing_mm: float | tuple[float, float, float] = 2.5, holes: tuple[Hole, ...] = (), *,
    thickness_mm: float = THICKNESS_MM, face: bool = True, base: bool = True, axes: np.ndarray | None = None,
    lps_from_head: np.ndarray | None = None, margin_mm: float = 12.0, top_cut_mm: float = 0.0,
    bottom_cut_mm: float = 0.0,
    name: str = "synthetic",
) -> Case:
    """A test skull with its truth; see `head_grid` for the geometry options."""
    shape, matrix = head_grid(spacing_mm, axes, lps_from_head, margin_mm, top_cut_mm, bottom_cut_mm)
    points = head_points(shape, matrix, lps_from_head)
    field = shell_field(points, thickness_mm, face, base)
    complete = field <= 0
    bone = complete.copy()
    for hole in holes:
        bone &= hole.signed_mm(points) > 0
    return Case(Skull(bone, matrix, name), complete, complete & ~bone, field)


def case_around(
    hole: Hole, spacing_mm: float | tuple[float, float, float], half_mm: float, *, axes: np.ndarray | None = None,
    lps_from_head: np.ndarray | None = None,
) -> Case:
    """The part of `shell_case` (no face) in a grid of edge 2 * half_mm around one hole: fine voxels at little cost."""
    step = (np.eye(3) if axes is None else axes) * np.broadcast_to(np.asarray(spacing_mm, float), 3)
    size = np.ceil(2 * half_mm / np.linalg.norm(step, axis=0)).astype(int)
    head = np.eye(4) if lps_from_head is None else lps_from_head
    axis = np.array(hole.direction, float) / np.linalg.norm(hole.direction)
    matrix = np.eye(4)
    matrix[:3, :3] = step
    matrix[:3, 3] = head[:3, :3] @ (RADII_MM.min() * axis) + head[:3, 3] - step @ (size / 2)
    points = head_points((int(size[2]), int(size[1]), int(size[0])), matrix, head).astype(np.float32)
    field = shell_field(points, face=False)
    complete = field <= 0
    bone = complete & (hole.signed_mm(points) > 0)
    return Case(Skull(bone, matrix, "around the hole"), complete, complete & ~bone, field)


def shell_skull(
    spacing_mm: float | tuple[float, float, float] = 2.5, holes: tuple[Hole, ...] = (), *,
    thickness_mm: float = THICKNESS_MM, face: bool = True, base: bool = True, axes: np.ndarray | None = None,
    lps_from_head: np.ndarray | None = None, margin_mm: float = 12.0, top_cut_mm: float = 0.0,
    bottom_cut_mm: float = 0.0,
    name: str = "synthetic",
) -> Skull:
    """Only the skull of `shell_case`."""
    return shell_case(
        spacing_mm, holes, thickness_mm=thickness_mm, face=face, base=base, axes=axes, lps_from_head=lps_from_head,
        margin_mm=margin_mm, top_cut_mm=top_cut_mm, bottom_cut_mm=bottom_cut_mm, name=name,
    ).skull


def turned(
    angle_deg: float, axis: tuple[float, float, float] = (1, 0, 0), shift_mm: tuple[float, float, float] = (0, 0, 0)
) -> np.ndarray:
    """(4, 4) rotation about `axis` by `angle_deg`, then a shift: an lps_from_head for the functions above."""
    a = np.array(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -a[2], a[1]], [a[2], 0, -a[0]], [-a[1], a[0], 0]])
    angle = np.deg2rad(angle_deg)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = shift_mm
    return matrix


def head_ct(
    skull: Skull, rng: np.random.Generator, noise_hu: float = 15.0, bone_hu: float = 900.0, tissue_hu: float = 40.0,
    rest_hu: float = 500.0, lps_from_head: np.ndarray | None = None,
) -> np.ndarray:
    """A head CT made from a mask: bone, soft tissue up to a skin, air, a head rest, noise; (K, J, I) int16.

    The rest is a 4 mm shell of an eighth of a cylinder behind the skin; rest_hu = -1000 leaves it out.
    """
    points = head_points(skull.mask.shape, skull.ijk_to_lps, lps_from_head)
    skin = ellipsoid_mm(points - np.array([0.0, -2.0, -20.0]), np.array([82.0, 100.0, 106.0]))
    hu = np.full(skull.mask.shape, -1000.0, np.float32)
    hu[skin <= 0] = tissue_hu
    hu[skull.mask] = bone_hu
    radius = np.hypot(points[..., 0], points[..., 1])
    rest = (np.abs(radius - 106.0) <= 2.0) & (points[..., 1] > np.abs(points[..., 0])) & (np.abs(points[..., 2]) < 60.0)
    hu[rest & (skin > 0)] = rest_hu
    hu += rng.normal(0.0, noise_hu, hu.shape).astype(np.float32)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
