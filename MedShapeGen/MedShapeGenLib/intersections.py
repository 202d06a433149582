"""Where a surface runs through itself: pairs of triangles that cross."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

BLOCK = 1 << 18  # pairs treated at once


def crossing_triangles(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Pairs (n, 2) int64 of triangles which cross and share no vertex, each once, sorted.

    vertices (V, 3), triangles (F, 3). Triangles which only touch, or lie in one plane, do not count; neighbours (which
    share a vertex) are not looked at. (0, 2) for a clean surface and for no triangles.
    """
    corners = np.asarray(vertices, np.float64)[triangles]  # (F, 3 corners, 3)
    found = [
        pairs[_cross(corners[pairs[:, 0]], corners[pairs[:, 1]])]
        for pairs in _near_pairs(corners, np.asarray(triangles))
    ]
    pairs = np.sort(np.concatenate([np.zeros((0, 2), np.int64), *found]), axis=1)
    return np.unique(pairs, axis=0)


def _near_pairs(corners: np.ndarray, triangles: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks (n, 2) of pairs without a common vertex whose boxes overlap.

    Triangles are grouped by size, so that a few large ones do not make every search wide: a triangle looks for those of
    its own and of smaller groups.
    """
    low, high = corners.min(axis=1), corners.max(axis=1)
    centre, radius = (low + high) / 2, np.linalg.norm(high - low, axis=1) / 2
    group = np.ceil(np.log2(np.maximum(radius, 1e-12))).astype(int)
    for size in np.unique(group):
        members = np.flatnonzero(group == size)
        tree = cKDTree(centre[members])
        seekers = np.flatnonzero(group >= size)
        for start in range(0, len(seekers), BLOCK // 16):
            some = seekers[start : start + BLOCK // 16]
            near = tree.query_ball_point(centre[some], radius[some] + radius[members].max(), return_sorted=False)
            first = np.repeat(some, [len(n) for n in near])
            second = members[np.concatenate([np.asarray(n, np.int64) for n in near])] if len(first) else first
            once = (group[first] > size) | (first < second)
            first, second = first[once], second[once]
            apart = (low[first] > high[second]).any(axis=1) | (low[second] > high[first]).any(axis=1)
            first, second = first[~apart], second[~apart]
            common = (triangles[first][:, :, None] == triangles[second][:, None, :]).any(axis=(1, 2))
            yield np.stack([first[~common], second[~common]], axis=1).astype(np.int64)


def _cross(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(n,) bool: triangles one and two (n, 3 corners, 3) cross: an edge of either runs through the other."""
    straddles = _straddles(one, two) & _straddles(two, one)
    answer = np.zeros(len(one), bool)
    left = np.flatnonzero(straddles)
    a, b = one[left], two[left]
    hit = np.zeros(len(left), bool)
    for edge in range(3):
        hit |= _pierces(a[:, edge], a[:, (edge + 1) % 3], b)
        hit |= _pierces(b[:, edge], b[:, (edge + 1) % 3], a)
    answer[left] = hit
    return answer


def _straddles(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(n,) bool: the corners of `one` lie on both sides of the plane of `two`."""
    normal = np.cross(two[:, 1] - two[:, 0], two[:, 2] - two[:, 0])
    side = np.einsum("nca,na->nc", one - two[:, :1], normal)
    return (side.max(axis=1) > 0) & (side.min(axis=1) < 0)


def _pierces(start: np.ndarray, end: np.ndarray, triangle: np.ndarray) -> np.ndarray:
    """(n,) bool: the segment from start to end (n, 3) runs through the inside of the triangle (n, 3 corners, 3)."""
    a, b, c = triangle[:, 0], triangle[:, 1], triangle[:, 2]
    before, after = _volume(a, b, c, start), _volume(a, b, c, end)
    turns = np.stack([_volume(start, end, a, b), _volume(start, end, b, c), _volume(start, end, c, a)])
    return (before * after < 0) & ((turns > 0).all(axis=0) | (turns < 0).all(axis=0))


def _volume(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Six times the signed volume of tetrahedra (n,)."""
    return np.einsum("na,na->n", np.cross(b - a, c - a), d - a)
