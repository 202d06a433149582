"""A made-up ensemble on a spherical-shell skull: everything about it is known, and it needs no network."""

from __future__ import annotations

import numpy as np
from CranialImplantLib.ensemble import ImplantEnsemble, MemberReport, SpreadSurface
from CranialImplantLib.skull import Notice, Skull
from MedShapeCore.surfaces import mask_surface, surface_area_cm2, vertex_normals
from MedShapeCore.volumes import box_of, cropped_matrix, lps_from_ijk

OUTER_MM, INNER_MM, HOLE_DEG = 50.0, 42.0, 38.0
CENTRE_LPS = np.array([5.0, -8.0, 20.0])


def oblique_matrix(spacing_mm: tuple[float, float, float] = (1.6, 1.7, 2.1), mirrored: bool = False) -> np.ndarray:
    """A tilted grid of 72 x 70 x 60 (i, j, k) voxels around CENTRE_LPS; `mirrored` makes it left-handed."""
    a, b = np.radians(20), np.radians(-12)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ tilt @ np.diag([-1.0 if mirrored else 1.0, 1, 1]) * spacing_mm
    matrix[:3, 3] = CENTRE_LPS - matrix[:3, :3] @ (np.array([72, 70, 60]) / 2)
    return matrix


def shell_ensemble(
    members: int = 3, direction_lps: tuple[float, float, float] = (1, 0.3, 0.5), mirrored: bool = False,
    name: str = "shell", notices: tuple[Notice, ...] = (), failed: tuple[int, ...] = (),
) -> ImplantEnsemble:  # fmt: skip
    """A shell of 8 mm with a round hole toward `direction_lps`; member m lies 0.6 mm * m farther out in its middle.

    The last member is ranked best. The mean is the middle of the members; the spread is their analytic one.
    """
    matrix = oblique_matrix(mirrored=mirrored)
    points = lps_from_ijk(matrix, np.stack(np.indices((60, 70, 72)), -1).reshape(-1, 3)) - CENTRE_LPS
    radius = np.linalg.norm(points, axis=1).reshape(60, 70, 72)
    toward = np.array(direction_lps) / np.linalg.norm(direction_lps)
    angle = np.degrees(np.arccos(np.clip((points @ toward).reshape(radius.shape) / np.maximum(radius, 1e-6), -1, 1)))
    shell = (radius < OUTER_MM) & (radius > INNER_MM)
    bone = shell & (angle > HOLE_DEG)
    bulge = np.clip((HOLE_DEG - angle) / 15.0, 0, 1)  # the members meet the rim at the same place
    shifts = 0.6 * np.arange(members)

    def cap(shift_mm: float) -> np.ndarray:
        return (angle <= HOLE_DEG) & (np.abs(radius - shift_mm * bulge - (OUTER_MM + INNER_MM) / 2) < 4.0)

    implants, mean = np.stack([cap(s) for s in shifts]), cap(shifts.mean())
    box = box_of(implants.any(axis=0), 3)
    assert box is not None
    implants, mean = implants[:, *box], mean[box]
    sub = cropped_matrix(matrix, box)
    vertices, triangles = mask_surface(mean, sub)
    away = vertices - CENTRE_LPS
    normals = vertex_normals(vertices, triangles)
    slope = np.einsum("ij,ij->i", normals, away / np.linalg.norm(away, axis=1, keepdims=True))
    off = np.degrees(np.arccos(np.clip(away @ toward / np.linalg.norm(away, axis=1), -1, 1)))
    spread = (shifts.std() * np.clip((HOLE_DEG - off) / 15.0, 0, 1)).astype(np.float32)
    side = np.select([slope > 0.7, slope < -0.7], [1, 2], 0).astype(np.int8)
    voxel_ml = abs(np.linalg.det(matrix[:3, :3])) / 1000

    def check(mask: np.ndarray, passed: bool) -> MemberReport:
        surface = mask_surface(mask, sub)
        return MemberReport(
            volume_ml=float(mask.sum() * voxel_ml), area_cm2=surface_area_cm2(*surface), thickness_mm=8.0,
            thickness_p05_mm=7.0, agreement=0.9, bone_overlap_voxels=0, components=1, watertight=True,
            passed=passed, failed=() if passed else ("thin",),
        )  # fmt: skip

    return ImplantEnsemble(
        skull=Skull(bone, matrix, name), box=box, implants=implants, mean=mean,
        variance=implants.astype(np.float32).var(axis=0), agreement=implants.sum(axis=0).astype(np.uint8),
        ranking=tuple(range(members))[::-1],
        checks=tuple(check(implant, number not in failed) for number, implant in enumerate(implants)),
        mean_report=check(mean, True), spread=SpreadSurface(vertices, triangles, spread, side), notices=notices,
        report={"options": {"seed": 7, "point_lps": None}, "seconds": {"completion": 1.5}, "pose": np.eye(4)},
    )  # fmt: skip
