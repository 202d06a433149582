"""How well the auto-encoder repeats shapes it has not seen: one row per shape, beside the linear model."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from MedShapeCore.errors import FailedResult

from .benchmark_shapes import BenchmarkOptions, packed_grid, packed_surface
from .categories import CATEGORIES
from .models import ShapeModels
from .pca_baseline import PcaModel, grid_surface
from .reconstruct import encoded_shape, solid_of
from .shape_metrics import CLOUD, Surface, branch_ends, even_points, reconstruction_figures, topology
from .shapes import Shape

if TYPE_CHECKING:
    from .training.shape_pack import PackedCategory

Row = dict[str, Any]
BRANCH = 0.15  # of half the longest side: shorter stumps are no branches


def reconstruction_rows(
    models: ShapeModels, category: PackedCategory, baseline: PcaModel | None, options: BenchmarkOptions
) -> list[Row]:
    """One row per shape of the split: figures of the model, `pca_` figures of the baseline, `true_` of the shape itself."""
    organs = [kind.name for kind in CATEGORIES if not kind.tubular]  # of the others the branches are counted
    rows = []
    for index in category.of(options.split)[: options.shapes]:
        truth = packed_surface(category, index)
        shape = Shape(truth.vertices_lps, truth.triangles, truth.name)
        started = time.perf_counter()
        encoded = encoded_shape(shape, models, options.seed)
        between = time.perf_counter()
        row: Row = {"category": category.name, "shape": truth.name, "longest_mm": shape.longest_mm, "failed": ""}
        rng = np.random.default_rng(options.seed)
        clouds = even_points(truth, CLOUD, rng), even_points(truth, CLOUD, rng)
        row |= {f"true_{name}": value for name, value in asdict(topology(truth.triangles)).items()}
        tubes = category.name not in organs
        if tubes:
            row["true_ends"] = ends_of(truth, shape.longest_mm)
        try:
            began = time.perf_counter()
            solid = solid_of(encoded, models, options.resolution)
            row |= {"encode_s": between - started, "decode_s": time.perf_counter() - began}
            row["asked"] = solid.figures.evaluated_fraction
            row |= reconstruction_figures(truth, solid, options.seed, clouds)
            if tubes:
                row["ends"] = ends_of(solid, shape.longest_mm)
        except FailedResult as failure:
            row["failed"] = failure.code
        if baseline is not None:
            row |= baseline_figures(baseline, packed_grid(category, index), truth, float(category.scale_mm[index]), clouds, options.seed)
        rows.append(row)
    return rows


def baseline_figures(
    baseline: PcaModel, grid: np.ndarray, truth: Surface, scale_mm: float, clouds: tuple[np.ndarray, np.ndarray], seed: int
) -> Row:
    """Figures `pca_NAME` of what the linear model can say about a shape; none where it says nothing."""
    try:
        vertices_u, triangles = grid_surface(baseline.projected(grid))
    except FailedResult:
        return {}
    made = Shape(vertices_u.astype(float) * scale_mm, triangles, "pca")
    return {f"pca_{name}": value for name, value in reconstruction_figures(truth, made, seed, clouds).items()}


def ends_of(surface: Surface, longest_mm: float) -> int:
    """Ends of a tree."""
    return branch_ends(np.asarray(surface.vertices_lps, float), surface.triangles, BRANCH * longest_mm / 2)
