"""Solids whose distances and medial axes are known: ball, ellipsoid, straight tubes. Lengths in u."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

POINTS = 2560  # surface points of a shape, as the networks take them


@dataclass(frozen=True)
class Solid:
    """A solid with known distances. axis_distance and signed_distance map (m, 3) to (m,); the latter is negative inside."""

    name: str
    points: np.ndarray  # (n, 3) on the surface, area-uniform
    normals: np.ndarray  # (n, 3) outward
    axis_distance: Callable[[np.ndarray], np.ndarray]
    signed_distance: Callable[[np.ndarray], np.ndarray]


def ball(rng: np.random.Generator, n: int = POINTS) -> Solid:
    points = rng.normal(size=(n, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Solid("ball r 1", points, points, lambda x: np.linalg.norm(x, axis=1), lambda x: np.linalg.norm(x, axis=1) - 1)


def ellipsoid(rng: np.random.Generator, n: int = POINTS) -> Solid:
    """Half axes 1, 0.7, 0.6; its medial axis is the flat ellipse z = 0 with half axes (a^2 - c^2)/a and (b^2 - c^2)/b."""
    half = np.array([1.0, 0.7, 0.6])

    directions = rng.normal(size=(8 * n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    stretch = np.linalg.norm(directions / half, axis=1)  # area of the image of a piece of the sphere, up to a constant
    directions = directions[rng.random(8 * n) < stretch / stretch.max()][:n]
    normals = directions / half
    flat = rng.uniform(-1, 1, (20_000, 2))
    flat = flat[(flat**2).sum(1) <= 1] * (half[:2] ** 2 - half[2] ** 2) / half[:2]
    disc = cKDTree(np.pad(flat, ((0, 0), (0, 1))))

    def signed_distance(x: np.ndarray) -> np.ndarray:
        # The foot of x is half^2 x / (half^2 + t) with the largest t that puts it on the ellipsoid: bisection.
        low, high = -half[2] ** 2 + np.zeros(len(x)), np.full(len(x), 10.0)
        for _ in range(60):
            t = (low + high) / 2
            outside = ((half * x / (half**2 + t[:, None])) ** 2).sum(1) > 1
            low, high = np.where(outside, t, low), np.where(outside, high, t)
        foot = half**2 * x / (half**2 + high[:, None])
        return np.linalg.norm(x - foot, axis=1) * np.sign(high)

    return Solid(
        "ellipsoid 1/0.7/0.6",
        directions * half,
        normals / np.linalg.norm(normals, axis=1, keepdims=True),
        lambda x: disc.query(x)[0],
        signed_distance,
    )


def tubes(name: str, ends: np.ndarray, radius: float, rng: np.random.Generator, n: int = POINTS) -> Solid:
    """Separate straight tubes with round ends; ends (k, 2, 3) of their centrelines. The medial axis is the centrelines."""
    ends = np.asarray(ends, float)
    along = ends[:, 1] - ends[:, 0]
    lengths = np.linalg.norm(along, axis=1)
    which = rng.choice(len(ends), size=n, p=(lengths + 2 * radius) / (lengths + 2 * radius).sum())
    unit = along / lengths[:, None]
    position = rng.uniform(-radius, lengths[which] + radius)  # Archimedes: a cap has the area of its cylinder
    inner = np.clip(position, 0, lengths[which])
    over = (position - inner) / radius
    side = rng.normal(size=(n, 3))
    side -= (side * unit[which]).sum(1, keepdims=True) * unit[which]
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    normals = side * np.sqrt(1 - over**2)[:, None] + over[:, None] * unit[which]

    def axis_distance(x: np.ndarray) -> np.ndarray:
        t = np.clip(((x[:, None] - ends[:, 0]) * unit).sum(2), 0, lengths)  # (m, k)
        return np.linalg.norm(x[:, None] - ends[:, 0] - t[..., None] * unit, axis=2).min(1)

    points = ends[which, 0] + inner[:, None] * unit[which] + radius * normals
    return Solid(name, points, normals, axis_distance, lambda x: axis_distance(x) - radius)


def solids(seed: int = 0) -> list[Solid]:
    """The test shapes, each with 2,560 random points of uniform density."""
    rng = np.random.default_rng(seed)
    made = [ball(rng), ellipsoid(rng)]
    for radius in (0.03, 0.06, 0.09, 0.12):
        made.append(tubes(f"tube r {radius}", [[[radius - 1, 0, 0], [1 - radius, 0, 0]]], radius, rng))
    for radius in (0.03, 0.06, 0.12):
        made.append(tubes(f"two tubes r {radius}, gap 0.06", parallel(radius, 0.06), radius, rng))
    made.append(tubes("six tubes r 0.03", [[[-0.97, y, z], [0.97, y, z]] for y in (-0.5, 0, 0.5) for z in (-0.4, 0.4)], 0.03, rng))
    return made


def parallel(radius: float, gap: float) -> list:
    """Ends of two tubes side by side with a gap between their walls."""
    y = radius + gap / 2
    return [[[radius - 1, y, 0], [1 - radius, y, 0]], [[radius - 1, -y, 0], [1 - radius, -y, 0]]]
