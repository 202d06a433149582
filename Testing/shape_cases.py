"""Closed meshes with known distances, and files of them."""

import numpy as np


def sphere(radius_mm=10.0, centre_lps=(0.0, 0.0, 0.0), rings=16):
    """Latitude-longitude mesh with its vertices on a sphere: vertices (V, 3) float64, triangles (F, 3), outward."""
    polar = np.linspace(0, np.pi, rings + 1)[1:-1]
    around = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    ring = np.stack(np.broadcast_arrays(
        np.sin(polar)[:, None] * np.cos(around), np.sin(polar)[:, None] * np.sin(around), np.cos(polar)[:, None]
    ), -1)  # fmt: skip
    vertices = np.concatenate([ring.reshape(-1, 3), [[0, 0, 1.0], [0, 0, -1.0]]])
    n, count = 2 * rings, len(vertices)
    at = np.arange(count - 2).reshape(rings - 1, n)
    right = np.roll(at, -1, axis=1)
    upper, lower = (at[:-1].ravel(), right[:-1].ravel()), (at[1:].ravel(), right[1:].ravel())
    triangles = np.concatenate([
        np.stack([upper[0], lower[0], upper[1]], 1), np.stack([upper[1], lower[0], lower[1]], 1),
        np.stack([np.full(n, count - 2), at[0], right[0]], 1), np.stack([np.full(n, count - 1), right[-1], at[-1]], 1),
    ])  # fmt: skip
    return vertices * radius_mm + centre_lps, triangles.astype(np.int32)


def cube(half_mm=10.0):
    """Twelve triangles around the origin, outward."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float) * half_mm
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return corners, np.array(triangles, np.int32)


def together(*surfaces):
    """Several surfaces as one."""
    start = np.cumsum([0] + [len(vertices) for vertices, _ in surfaces])
    return (
        np.concatenate([vertices for vertices, _ in surfaces]),
        np.concatenate([triangles + first for (_, triangles), first in zip(surfaces, start, strict=False)]),
    )


def euler(vertices, triangles):
    """Vertices - edges + faces of a closed mesh: 2 for each body without handles."""
    return len(vertices) - len(triangles) // 2
