"""A head that is a spherical shell around the head frame's origin: every radius, area and normal is known."""

from __future__ import annotations

from functools import cache

import numpy as np
from CranialImplantLib.defect import FINE_MAP, Outline, VaultBone, vault_bone
from CranialImplantLib.dome import Dome, DomeModel
from CranialImplantLib.head import FIELD_LIMIT_MM, HEAD_GRID
from CranialImplantLib.vault import VAULT_MAP

OUTER_MM, INNER_MM = 80.0, 74.0
DOMAIN_DEG = 100.0  # the model speaks down to here
TOP, LEFT, BACK, RIGHT = (0.0, 0.0, 1.0), (1.0, 0.2, 0.5), (0.1, 1.0, 0.3), (-0.8, -0.5, 0.6)


def unit(direction):
    return np.asarray(direction, float) / np.linalg.norm(direction)


def angle_rad(points, direction):
    """Angle (...) between points (..., 3) and a direction."""
    cosine = points @ unit(direction).astype(points.dtype) / np.maximum(np.linalg.norm(points, axis=-1), 1e-9)
    return np.arccos(np.clip(cosine, -1, 1))


def shell_mm(points, holes=()):
    """Signed mm to the shell at points (..., 3); holes = (direction, radius along the outer surface in mm)."""
    radius = np.linalg.norm(points, axis=-1)
    field = np.maximum(radius - OUTER_MM, INNER_MM - radius)
    for direction, hole_mm in holes:
        field = np.maximum(field, (hole_mm / OUTER_MM - angle_rad(points, direction)) * radius)
    return field


@cache
def grid_band():
    """Which voxels of HEAD_GRID lie within the fields' limit of the shell, and their points (n, 3)."""
    points = HEAD_GRID.points()
    radius = np.linalg.norm(points, axis=-1)
    near = (radius > INNER_MM - FIELD_LIMIT_MM) & (radius < OUTER_MM + FIELD_LIMIT_MM)
    return near, points[near]


def shell_on_grid(holes=()):
    """The shell as a field on HEAD_GRID: float32, clipped as `head_field` clips."""
    near, points = grid_band()
    field = np.full(HEAD_GRID.shape, FIELD_LIMIT_MM, np.float32)
    field[near] = np.clip(shell_mm(points, holes), -FIELD_LIMIT_MM, FIELD_LIMIT_MM)
    return field


def cap_cm2(hole_mm, radius_mm=OUTER_MM):
    """Area of the spherical cap that such a hole takes out."""
    return 2 * np.pi * radius_mm**2 * (1 - np.cos(hole_mm / OUTER_MM)) / 100


def shell_model(modes=6, residual_mm=0.5, radius_mm=OUTER_MM, lengths_mm=(60.0, 12.0), mirroring=0.7, **options):
    """A shape model whose mean is the shell and whose modes are smooth: size, two tilts, and waves.

    Its local parts have 95 and 5 % of the variance of residual_mm, its noise is 0.2 mm outside and 0.6 mm inside.
    """
    domain = VAULT_MAP.polar_deg() < DOMAIN_DEG
    x, y, z = VAULT_MAP.directions()[domain].T
    waves = np.stack([np.ones_like(x), x, y, z, x**2 - y**2, x * y, z**2][:modes])
    both = np.stack([waves, 0.9 * waves], 1) * 2.0  # (Q, 2, P), mm per standard deviation
    mean = np.stack([np.full(len(x), radius_mm), np.full(len(x), radius_mm - OUTER_MM + INNER_MM)])
    local = residual_mm * np.sqrt(np.array([0.95, 0.05]))[:, None, None] * np.ones((2, 2, len(x)))
    noise = np.array([[0.2], [0.6]]) * np.ones((2, len(x)))
    parts = (mean, both, lengths_mm, local, (0.8, 0.3), (mirroring, mirroring), noise)
    return DomeModel(domain, *(np.asarray(part, np.float32) for part in parts), **options)


def shell_bone(holes=(), model=None) -> VaultBone:
    inside = np.ones(HEAD_GRID.shape, bool)
    return vault_bone(shell_on_grid(holes), inside, model or shell_model())


def shell_dome(outer_mm=OUTER_MM, inner_mm=INNER_MM) -> Dome:
    """The shell as a dome without samples."""
    outer, inner = (np.full(VAULT_MAP.shape, r, np.float32) for r in (outer_mm, inner_mm))
    none = np.zeros((0, *VAULT_MAP.shape), np.float32)
    return Dome(outer, inner, np.zeros((2, *outer.shape), np.float32), none, none)


def cap_outline(direction, radius_mm) -> Outline:
    """The exact outline of a round hole."""
    distance = (angle_rad(FINE_MAP.directions(), direction) * OUTER_MM - radius_mm).astype(np.float32)
    return Outline(distance < 0, distance)
