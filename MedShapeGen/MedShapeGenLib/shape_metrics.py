"""How well one surface agrees with another, in mm and in the scaling of Zhang et al. 2026, and what a surface is by itself.

Distances in mm go from points on one surface, uniform by area, to the triangles of the other one, both ways. The paper's
figures compare two point sets instead, spread evenly (farthest points) and scaled by half of the truth's longest side
(u); two such sets of one and the same surface already differ, and that floor stands beside each figure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from MedShapeCore.errors import RefusedInput
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from .shapes import surface_points
from .training.queries import distance, signed_distance

SAMPLES = 4096  # per surface, for distances in mm: their mean is then known within 1 %
CLOUD = 2560  # the paper's number of points
CANDIDATES = 4  # area-uniform points per chosen farthest point; 8 take twice the time for 2 % smaller gaps
EMD_POINTS = 1024  # exact matching of 2,560 takes 1 s a pair; with fewer points figure and floor both rise
F1_U = 0.06  # the paper's limit; for a liver of 250 mm it is 7.5 mm
DICE_SHARE = 0.01  # limit of the surface Dice as a part of the longest side


class Surface(Protocol):
    """Anything with a closed surface in LPS mm: a Shape, a Solid."""

    @property
    def vertices_lps(self) -> np.ndarray: ...  # (V, 3) mm

    @property
    def triangles(self) -> np.ndarray: ...  # (T, 3), outward


@dataclass(frozen=True)
class PointFigures:
    """The paper's figures of two point sets; u is half of the longest side of the true shape."""

    cd_x100: float  # mean of both mean nearest distances, not squared
    emd_x10: float  # mean distance of the best one-to-one matching of EMD_POINTS points each
    hd_x10: float  # the largest nearest distance of either set
    f1_percent: float  # harmonic mean of the shares within F1_U


@dataclass(frozen=True)
class Topology:
    """What a surface is, whatever its form."""

    watertight: bool
    components: int
    genus: int  # handles of all bodies together; of a surface that is not closed, as if its holes were filled


def reconstruction_figures(
    truth: Surface, made: Surface, seed: int = 0, clouds: tuple[np.ndarray, np.ndarray] | None = None
) -> dict[str, float]:
    """All figures of `made` against `truth`, in the truth's place; the seed draws the points.

    clouds : two of `even_points` of the truth (CLOUD, 3) mm, where it is compared more than once; else they are drawn.

    mean_mm, p95_mm, hausdorff_mm   distances from either surface to the other, both ways pooled with equal weight
    mean_percent                    mean_mm as percent of the truth's longest side
    surface_dice_1pct               share of both areas within 1 % of the longest side of the other surface
    normal_consistency              mean cosine between the normals of the nearest points of both surfaces
    volume_ml, volume_error_percent of `made`, against the truth
    cd_x100 .. f1_percent           see PointFigures; *_floor: of two point sets of the truth
    watertight, components, genus   of `made`
    RefusedInput where one of them has no triangle.
    """
    from MedShapeCore.surfaces import surface_volume_ml

    for name, surface in (("true", truth), ("compared", made)):
        if len(surface.triangles) == 0:
            raise RefusedInput("empty-surface", f"The {name} surface has no triangle.", "Choose another file.")
    rng = np.random.default_rng(seed)
    volume, true_volume = (surface_volume_ml(s.vertices_lps, s.triangles) for s in (made, truth))
    scale_mm = float(np.ptp(truth.vertices_lps, axis=0).max() / 2)
    figures = surface_figures(truth, made, rng)
    first, second = clouds or (even_points(truth, CLOUD, rng), even_points(truth, CLOUD, rng))
    floor = point_figures(first / scale_mm, second / scale_mm)
    return {
        **figures,
        "volume_ml": volume,
        "volume_error_percent": 100 * (volume / true_volume - 1) if true_volume else np.nan,
        **asdict(point_figures(first / scale_mm, even_points(made, CLOUD, rng) / scale_mm)),
        **{f"{name}_floor": value for name, value in asdict(floor).items()},
        **asdict(topology(made.triangles)),
    }


def surface_figures(truth: Surface, made: Surface, rng: np.random.Generator) -> dict[str, float]:
    """The figures in mm of `reconstruction_figures`; SAMPLES points on each surface."""
    longest_mm = float(np.ptp(truth.vertices_lps, axis=0).max())
    true_points, true_normals = surface_points(truth.vertices_lps, truth.triangles, SAMPLES, rng)
    points, normals = surface_points(made.vertices_lps, made.triangles, SAMPLES, rng)
    to_truth = distance_mm(points, truth.vertices_lps, truth.triangles)
    to_made = distance_mm(true_points, made.vertices_lps, made.triangles)
    both = np.concatenate([to_truth, to_made])
    areas = np.array([_area(made), _area(truth)])
    limit = DICE_SHARE * longest_mm
    within = np.array([(to_truth <= limit).mean(), (to_made <= limit).mean()])
    agree = [
        np.einsum("ij,ij->i", normals, true_normals[cKDTree(true_points).query(points)[1]]).mean(),
        np.einsum("ij,ij->i", true_normals, normals[cKDTree(points).query(true_points)[1]]).mean(),
    ]
    return {
        "mean_mm": float(both.mean()),
        "p95_mm": float(np.percentile(both, 95)),
        "hausdorff_mm": float(both.max()),
        "mean_percent": float(100 * both.mean() / longest_mm),
        "surface_dice_1pct": float((areas * within).sum() / areas.sum()),
        "normal_consistency": float(np.mean(agree)),
    }


def distance_mm(points_lps: np.ndarray, vertices_lps: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Exact distance (n,) float64 from points (n, 3) to the nearest place of a mesh's triangles, in the unit given."""
    middle = np.asarray(vertices_lps, np.float64).mean(axis=0)  # the search keeps vertices as float32: stay near zero
    return distance(vertices_lps - middle, triangles, np.asarray(points_lps, np.float64) - middle)


def signed_distance_mm(points_lps: np.ndarray, vertices_lps: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The same, negative for points inside the closed mesh; (n,) float64."""
    middle = np.asarray(vertices_lps, np.float64).mean(axis=0)
    return signed_distance(vertices_lps - middle, triangles, np.asarray(points_lps, np.float64) - middle)


def even_points(surface: Surface, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points (count, 3) spread evenly over a surface: farthest points among many more drawn by area."""
    import torch

    from .skeleton import fps

    points, _ = surface_points(surface.vertices_lps, surface.triangles, CANDIDATES * count, rng)
    centred = torch.from_numpy((points - points.mean(axis=0)).astype(np.float32))
    return points[fps(centred[None], count)[0].numpy()]


def point_figures(truth: np.ndarray, made: np.ndarray) -> PointFigures:
    """The paper's figures of two point sets (n, 3), (m, 3) in u; n, m >= 1. The matching takes the first points of each."""
    to_made, to_truth = cKDTree(made).query(truth)[0], cKDTree(truth).query(made)[0]
    recall, precision = float((to_made < F1_U).mean()), float((to_truth < F1_U).mean())
    both = recall + precision
    count = min(EMD_POINTS, len(truth), len(made))
    return PointFigures(
        cd_x100=100 * float(to_made.mean() + to_truth.mean()) / 2,
        emd_x10=10 * earth_movers_distance(truth[:count], made[:count]),
        hd_x10=10 * float(max(to_made.max(), to_truth.max())),
        f1_percent=100 * 2 * recall * precision / both if both else 0.0,
    )


def earth_movers_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance in the best one-to-one matching of two sets (n, 3), exact; the time grows faster than n squared."""
    cost = cdist(a, b)
    return float(cost[linear_sum_assignment(cost)].mean())


def topology(triangles: np.ndarray) -> Topology:
    """Closedness, bodies and handles of a mesh's triangles (T, 3). No triangles: open, 0 bodies, genus 0.

    Euler: V - E + F = 2 C - 2 g, summed over the C closed bodies.
    """
    from MedShapeCore.surfaces import components, is_watertight

    if len(triangles) == 0:
        return Topology(False, 0, 0)
    ends = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1).astype(np.int64)
    edges = len(np.unique(ends[:, 0] * (int(triangles.max()) + 1) + ends[:, 1]))
    bodies = components(triangles)
    return Topology(is_watertight(triangles), bodies, bodies - (len(np.unique(triangles)) - edges + len(triangles)) // 2)


def branch_ends(vertices: np.ndarray, triangles: np.ndarray, shortest: float) -> int:
    """How many ends a tree of tubes has: tips whose branch is at least `shortest` long, the unit being the mesh's.

    Counted on the way along the surface from one tip: every other tip is a maximum of that way, and its branch reaches
    back to where the way's level sets join (persistence). A ball has two ends, a mesh without triangles none.
    """
    if len(triangles) == 0:
        return 0
    ends = np.unique(np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1), axis=0)
    length = np.linalg.norm(vertices[ends[:, 0]] - vertices[ends[:, 1]], axis=1)
    graph = sparse.csr_matrix((np.maximum(length, 1e-12), tuple(ends.T)), (len(vertices),) * 2)
    start = int(triangles[0, 0])
    for _ in range(2):  # the vertex farthest from anywhere is a tip
        way = sparse.csgraph.dijkstra(graph, directed=False, indices=start)
        way[~np.isfinite(way)] = -1.0
        start = int(way.argmax())
    way = sparse.csgraph.dijkstra(graph, directed=False, indices=start)
    return 1 + _lasting_maxima(np.where(np.isfinite(way), way, -1.0), ends, shortest)


def _lasting_maxima(height: np.ndarray, edges: np.ndarray, least: float) -> int:
    """Maxima of a function (V,) on a graph's vertices that stand at least `least` above where they meet a higher one.

    Vertices with a negative height are left out. Edges (E, 2) join in the order of their lower end; the younger body of
    each union ends there (elder rule).
    """
    lower = np.minimum(height[edges[:, 0]], height[edges[:, 1]])
    parent = np.arange(len(height))
    top = height.copy()

    def root(vertex: int) -> int:
        while parent[vertex] != vertex:
            parent[vertex] = parent[parent[vertex]]
            vertex = int(parent[vertex])
        return vertex

    lasting = 1  # the highest one never ends
    for edge in np.argsort(-lower, kind="stable"):
        if lower[edge] < 0:
            break
        a, b = root(int(edges[edge, 0])), root(int(edges[edge, 1]))
        if a == b:
            continue
        if top[a] < top[b]:
            a, b = b, a
        lasting += bool(top[b] - lower[edge] >= least)
        parent[b] = a
    return lasting


def _area(surface: Surface) -> float:
    a, b, c = (np.asarray(surface.vertices_lps, np.float64)[surface.triangles[:, n]] for n in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
