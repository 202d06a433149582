"""How like real shapes the generated ones are: one row per category, with the distances that pooled figures need."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from MedShapeCore.errors import FailedResult
from scipy.spatial import cKDTree

from .benchmark_shapes import HELD_OUT, BenchmarkOptions, packed_surface
from .categories import CATEGORIES, Category
from .features import POINTS as FEATURE_POINTS
from .generate import sample_shapes
from .models import ShapeModels
from .options import GenerateOptions
from .pca_baseline import PcaModel, grid_surface
from .set_metrics import chamfer_distance, distance_matrix, memorisation
from .shape_metrics import Surface, even_points, topology
from .shapes import Shape, surface_points
from .solid import failed_checks, figures_of

if TYPE_CHECKING:
    from .training.shape_pack import PackedCategory

Row = dict[str, Any]
CLOUD = 2048  # points of a shape, as in the paper
COARSE = 1024  # against all training shapes


def generation_rows(
    models: ShapeModels, category: PackedCategory, baseline: PcaModel | None, options: BenchmarkOptions, weights: Path
) -> list[Row]:
    """The category's row, or none where the model does not know it or there are fewer than two real shapes."""
    kind = next((c for c in CATEGORIES if c.name == category.name), None)
    chosen = category.of(*HELD_OUT)
    if options.generated is not None and len(chosen) > options.generated:
        chosen = np.random.default_rng(options.seed).choice(chosen, options.generated, replace=False)
    if kind is None or len(chosen) < 2:
        return []
    rng = np.random.default_rng(options.seed)
    real = [packed_surface(category, index) for index in chosen]
    started = time.perf_counter()
    made = generated_shapes(models, kind, len(real), options)
    row: Row = {"category": kind.name, "real": len(real), "made": len(made), "seconds": time.perf_counter() - started}
    row |= made_figures(made, kind)
    row["real_volume_ml"] = [figures_of(s.vertices_lps, s.triangles).volume_ml for s in real]
    row["real_longest_mm"] = [figures_of(s.vertices_lps, s.triangles).longest_mm for s in real]
    real_clouds = [cloud(s, rng) for s in real]
    made_clouds = [cloud(s, rng) for s in made]
    row["distances"] = distance_matrix([cKDTree(c) for c in real_clouds + made_clouds])
    row |= memorised(category, real, real_clouds, made_clouds, rng)
    row |= named(kind, real, made, rng, weights)
    if baseline is not None:
        linear = linear_shapes(baseline, len(real), options.seed)
        clouds = [cloud(s, rng) for s in linear]
        row["pca_distances"] = distance_matrix([cKDTree(c) for c in real_clouds + clouds])
        row |= {f"pca_{key}": value for key, value in made_figures(linear, kind).items()}
    return [row]


def generated_shapes(models: ShapeModels, kind: Category, count: int, options: BenchmarkOptions) -> list[Surface]:
    """Shapes as `medshapegen generate` makes them; those without a surface are left out."""
    chosen: Row = {"guidance": options.guidance, "steps": options.steps}
    settings = GenerateOptions(
        category=kind.name, count=count, seed=options.seed, resolution=options.generated_resolution,
        **{name: value for name, value in chosen.items() if value is not None},
    )  # fmt: skip
    return [solid for solid in sample_shapes(models, settings).solids if len(solid.triangles)]


def linear_shapes(baseline: PcaModel, count: int, seed: int) -> list[Surface]:
    """Samples of the linear model; those without a surface are left out."""
    shapes: list[Surface] = []
    for number in range(count):
        grid, scale_mm = baseline.sampled(np.random.default_rng([seed, number]))
        try:
            vertices_u, triangles = grid_surface(grid)
        except FailedResult:
            continue
        shapes.append(Shape(vertices_u.astype(float) * scale_mm, triangles, f"pca {number}"))
    return shapes


def made_figures(made: Sequence[Surface], kind: Category) -> Row:
    """Shares of the shapes that pass the checks, and their sizes."""
    figures = [figures_of(s.vertices_lps, s.triangles, kind) for s in made]
    return {
        "watertight": float(np.mean([f.watertight for f in figures])) if made else np.nan,
        "one_body": float(np.mean(["components" not in f.failed for f in figures])) if made else np.nan,
        "size_in_range": float(np.mean(["size" not in failed_checks(f, kind) for f in figures])) if made else np.nan,
        "genus": [topology(s.triangles).genus for s in made],
        "volume_ml": [f.volume_ml for f in figures],
        "longest_mm": [f.longest_mm for f in figures],
    }


def cloud(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """(CLOUD, 3) points spread evenly, in the shape's own u: the paper scales both sides, so size does not count here."""
    low, high = surface.vertices_lps.min(axis=0), surface.vertices_lps.max(axis=0)
    return (even_points(surface, CLOUD, rng) - (low + high) / 2) / (float((high - low).max()) / 2)


def memorised(
    category: PackedCategory, real: Sequence[Surface], real_clouds: Sequence[np.ndarray],
    made_clouds: Sequence[np.ndarray], rng: np.random.Generator,
) -> Row:  # fmt: skip
    """Distances to the nearest training shapes; clouds of farthest points stay even when cut to their first part."""
    import torch

    from .skeleton import fps

    training = []
    for index in category.of("train"):
        picked = rng.choice(category.points.shape[1], 4 * COARSE, replace=False)
        points = category.surface(index, picked)[0]
        training.append(cKDTree(points[fps(torch.from_numpy(points)[None], COARSE)[0].numpy()]))
    if not training:
        return {}
    unseen, made = ([cKDTree(c[:COARSE]) for c in clouds] for clouds in (real_clouds, made_clouds))
    floor = float(np.median([chamfer_distance(tree, cKDTree(cloud(s, rng)[:COARSE])) for tree, s in zip(unseen, real, strict=True)]))
    figures = memorisation(distance_matrix(made, training), distance_matrix(unseen, training), floor)
    return {f"training_{name}": value for name, value in asdict(figures).items()}


def named(kind: Category, real: Sequence[Surface], made: Sequence[Surface], rng: np.random.Generator, weights: Path) -> Row:
    """Features of both sets and the shares which the feature network takes for the category; nothing without its weights."""
    from .features import described, load_features

    try:
        network = load_features(weights)
    except FailedResult:
        return {}
    number = [c.name for c in CATEGORIES].index(kind.name)
    row: Row = {}
    for name, shapes in (("real", real), ("made", made)):
        features, categories = described(network, [feature_points(s, rng) for s in shapes])
        row |= {f"{name}_features": features, f"{name}_named": float((categories == number).mean()) if len(shapes) else np.nan}
    return row


def feature_points(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """(n, 6): points drawn by area in the shape's own u, and normals."""
    low, high = surface.vertices_lps.min(axis=0), surface.vertices_lps.max(axis=0)
    points, normals = surface_points(surface.vertices_lps, surface.triangles, FEATURE_POINTS, rng)
    return np.concatenate([(points - (low + high) / 2) / (float((high - low).max()) / 2), normals], axis=1)
