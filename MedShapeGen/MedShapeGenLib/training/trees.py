"""Artery trees of our own making, NOT patients: a trunk, two branches, four twigs, drawn from rules of physiology.

Radii follow Murray's law (Murray, PNAS 12:207, 1926: the cubes of the daughters' radii add up to that of the parent),
angles the minimum work at a bifurcation (Murray, J Gen Physiol 9:835, 1926), with a spread around both; every segment
tapers and winds. The pattern of branching and its rough orientation are the same in all trees (trunk upwards, first
bifurcation to the sides, second to front and back), so that a category of them has a mean and modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from MedShapeCore.errors import FailedResult

from .anatomy import PreparedShape
from .decimation import decimated, sphere_like

CATEGORY, SOURCE, LICENCE = "artery_tree", "parametric-trees", "CC0-1.0"
TRAIN, VALIDATION, TEST = 110, 20, 20
COUNT = TRAIN + VALIDATION + TEST

TRUNK_RADIUS_MM = (2.3, 3.0)
LENGTHS_MM = ((18.0, 26.0), (16.0, 24.0), (14.0, 22.0))  # of trunk, branches, twigs
FLOW_SHARE = (0.40, 0.60)  # of the parent's cubed radius that the first daughter gets
TAPER = (0.02, 0.08)  # share of the radius lost along a segment
WINDING = 0.06  # deviation of the centre line's two waves, share of the segment's length
ANGLE_SPREAD_DEG, TURN_SPREAD_DEG = 6.0, 15.0
CLEARANCE_MM = 1.5  # between branches which do not meet; nearer ones would grow together on a coarse grid
STEPS = 25  # points of a centre line
GRID_MM = 0.35  # a seventh of the thinnest twig's diameter of 2 mm, before decimation
MOST_TRIANGLES = 6000
ATTEMPTS = 100


@dataclass(frozen=True)
class Segment:
    """A vessel between two bifurcations or ends."""

    points_lps: np.ndarray  # (STEPS, 3) mm, from the trunk's side on
    radius_mm: np.ndarray  # (STEPS,)
    parent: int  # index of its parent in the tree, -1 for the trunk


@dataclass(frozen=True)
class ArteryTree:
    """Seven segments (trunk, its two branches, their four twigs) and the closed surface around them."""

    segments: tuple[Segment, ...]
    vertices_lps: np.ndarray  # (V, 3) float64, mm
    triangles: np.ndarray  # (F, 3) int32


def parametric_tree(number: int, seed: int = 0) -> PreparedShape:
    """Tree `number` of the category (0 to COUNT - 1; the first are for training); depends on the seed and the number."""
    split = "train" if number < TRAIN else "val" if number < TRAIN + VALIDATION else "test"
    tree = artery_tree(np.random.default_rng([seed, number]))
    return PreparedShape(
        f"tree_{number:03d}", CATEGORY, split, SOURCE, LICENCE, tree.vertices_lps, tree.triangles, mirrored=False
    )


def artery_tree(rng: np.random.Generator) -> ArteryTree:
    """Draws one tree: one body without handles, at most MOST_TRIANGLES triangles, trunk's start near the origin."""
    for _ in range(ATTEMPTS):
        segments = draw_segments(rng)
        if clearance_mm(segments) < CLEARANCE_MM:
            continue
        vertices, triangles = decimated(*_surface(segments), MOST_TRIANGLES)
        if sphere_like(vertices, triangles):
            return ArteryTree(segments, vertices, triangles)
    raise FailedResult("tree", f"None of {ATTEMPTS} trees had branches that keep clear of each other.")


def draw_segments(rng: np.random.Generator) -> tuple[Segment, ...]:
    """Trunk, branches and twigs in the order 0; 1, 2; 3, 4 (of 1), 5, 6 (of 2). Branches may still meet."""
    up, side = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    segments = [_segment(rng, np.zeros(3), up, rng.uniform(*TRUNK_RADIUS_MM), LENGTHS_MM[0], -1)]
    opening = [side]  # the direction to which the children of each segment open
    for parent, lengths in ((0, LENGTHS_MM[1]), (1, LENGTHS_MM[2]), (2, LENGTHS_MM[2])):
        stem = segments[parent]
        axis = _unit(stem.points_lps[-1] - stem.points_lps[0])
        across = _turned(_unit(opening[parent] - axis * (opening[parent] @ axis)), axis, _degrees(rng, TURN_SPREAD_DEG))
        share = rng.uniform(*FLOW_SHARE)
        radii = stem.radius_mm[-1] * np.cbrt([share, 1.0 - share])  # Murray's law
        for child, sign in ((0, 1.0), (1, -1.0)):
            angle = branching_angle(stem.radius_mm[-1], radii[child], radii[1 - child]) + _degrees(rng, ANGLE_SPREAD_DEG)
            direction = np.cos(angle) * axis + sign * np.sin(angle) * across
            segments.append(_segment(rng, stem.points_lps[-1], direction, radii[child], lengths, parent))
            opening.append(np.cross(axis, across))
    return tuple(segments)


def branching_angle(parent_mm: float, child_mm: float, other_mm: float) -> float:
    """Angle in radians between the parent's axis and a child that costs the least work, from the three radii."""
    cosine = (parent_mm**4 + child_mm**4 - other_mm**4) / (2.0 * parent_mm**2 * child_mm**2)
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)))


def clearance_mm(segments: tuple[Segment, ...]) -> float:
    """Smallest gap between the walls of segments where they do not meet: beyond three radii from a shared bifurcation."""
    least = np.inf
    for i, a in enumerate(segments):
        for j, b in enumerate(segments[:i]):
            points_a, radius_a, points_b, radius_b = a.points_lps, a.radius_mm, b.points_lps, b.radius_mm
            if a.parent in (j, b.parent):
                meeting = a.points_lps[0]
                far_a = np.linalg.norm(points_a - meeting, axis=1) > 3.0 * radius_a[0]
                far_b = np.linalg.norm(points_b - meeting, axis=1) > 3.0 * radius_a[0]
                points_a, radius_a, points_b, radius_b = points_a[far_a], radius_a[far_a], points_b[far_b], radius_b[far_b]
            gap = np.linalg.norm(points_a[:, None] - points_b, axis=2) - radius_a[:, None] - radius_b
            least = min(least, float(gap.min(initial=np.inf)))
    return least


def _segment(
    rng: np.random.Generator, start: np.ndarray, direction: np.ndarray, radius: float, lengths: tuple[float, float],
    parent: int,
) -> Segment:
    """A winding, tapering vessel whose ends lie `direction` apart; two waves across it vanish at both."""
    length = rng.uniform(*lengths)
    along = np.linspace(0.0, 1.0, STEPS)[:, None]
    first = _unit(np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))]))
    second = np.cross(direction, first)
    wave = np.zeros((STEPS, 3))
    for number in (1, 2):
        size = rng.normal(0.0, WINDING / number, 2) * length
        wave = wave + np.sin(np.pi * number * along) * (size[0] * first + size[1] * second)
    radii = radius * (1.0 - rng.uniform(*TAPER) * along[:, 0])
    return Segment(start + length * along * direction + wave, radii, parent)


def _surface(segments: tuple[Segment, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Surface of the union of all capsules between neighbouring points of the centre lines."""
    from MedShapeCore.surfaces import field_surface  # vtk: not on a bare training machine

    margin = 3.0 * GRID_MM
    ends = np.concatenate([s.points_lps for s in segments])
    radius = np.concatenate([s.radius_mm for s in segments])[:, None]
    low = (ends - radius).min(axis=0) - 2 * margin
    size = np.ceil(((ends + radius).max(axis=0) + 2 * margin - low) / GRID_MM).astype(int)  # (i, j, k)
    depth = np.zeros(size[::-1], np.float32)  # margin minus distance to the wall; 0 far outside
    for segment in segments:
        points, radii = (segment.points_lps - low) / GRID_MM, segment.radius_mm / GRID_MM  # voxels
        for a, b, r, s in zip(points, points[1:], radii, radii[1:], strict=False):
            reach = max(r, s) + margin / GRID_MM + 1.0
            first = np.maximum(np.floor(np.minimum(a, b) - reach), 0).astype(int)
            last = np.minimum(np.ceil(np.maximum(a, b) + reach) + 1, size).astype(int)
            box = tuple(slice(first[axis], last[axis]) for axis in (2, 1, 0))
            k, j, i = np.meshgrid(*(np.arange(first[axis], last[axis]) for axis in (2, 1, 0)), indexing="ij", sparse=True)
            axis_length = float((b - a) @ (b - a))
            along = ((i - a[0]) * (b - a)[0] + (j - a[1]) * (b - a)[1] + (k - a[2]) * (b - a)[2]) / axis_length
            along = np.clip(along, 0.0, 1.0)
            foot = [a[axis] + along * (b - a)[axis] for axis in range(3)]
            away = np.sqrt((i - foot[0]) ** 2 + (j - foot[1]) ** 2 + (k - foot[2]) ** 2)
            wall = (away - (r + along * (s - r))) * GRID_MM
            depth[box] = np.maximum(depth[box], margin - wall)
    matrix = np.diag([GRID_MM] * 3 + [1.0])
    matrix[:3, 3] = low
    vertices, triangles = field_surface(depth, margin, matrix)
    return vertices.astype(np.float64), triangles


def _degrees(rng: np.random.Generator, spread_deg: float) -> float:
    return float(np.radians(np.clip(rng.normal(0.0, spread_deg), -2.5 * spread_deg, 2.5 * spread_deg)))


def _turned(vector: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """`vector`, at right angles to the unit vector `axis`, turned around it."""
    return np.cos(angle) * vector + np.sin(angle) * np.cross(axis, vector)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
