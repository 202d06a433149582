"""Judges the models on shapes they were not trained on: how well they repeat them, and how like them new ones are.

`run` writes tables per category beside a linear model (PCA) on the same shapes. Reconstruction takes the validation
split; generation the validation and test shapes together, because most categories have few.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from MedShapeCore import __version__
from MedShapeCore.errors import RefusedInput

from .benchmark_generation import generation_rows
from .benchmark_reconstruction import reconstruction_rows
from .benchmark_shapes import BenchmarkOptions, packed_grid
from .benchmark_table import tables_text
from .models import WEIGHTS, load_models
from .pca_baseline import PcaModel, fitted
from .training.shape_pack import PackedCategory, category_path, read_category

Progress = Callable[..., None]  # (stage, fraction); may raise Cancelled
Row = dict[str, Any]

PCA_TRAINING = 80  # training shapes of a category for the linear model: more than it has components to choose from


def silent(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""


def run(
    pack: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
    options: BenchmarkOptions | None = None,
    weights: Path = WEIGHTS,
) -> str:
    """Measures the weights of a folder on a pack; returns the tables as text.

    Writes benchmark.json (settings, rows, summaries) and table.md into `out`, after each category anew. `options`, where
    given, replace seed and device. Refuses a pack without the categories, and wrong options.
    """
    import torch
    from MedShapeCore.training import chosen_device

    options = options or BenchmarkOptions(seed=seed, device=device)
    paths = category_paths(Path(pack), options.categories)
    models = load_models(chosen_device(options.device), weights)
    settings = {
        "version": __version__, "weights": models.digest, "machine": platform.machine(), "threads": torch.get_num_threads(),
        "device": str(models.device), **asdict(options),
    }  # fmt: skip
    rows: dict[str, list[Row]] = {name: [] for name in options.tables}
    started = time.monotonic()
    text = ""
    for number, path in enumerate(paths):
        category = read_category(path)
        progress(category.name, number / len(paths))
        baseline = linear_model(category) if options.baseline else None
        if "reconstruction" in options.tables:
            rows["reconstruction"] += reconstruction_rows(models, category, baseline, options)
        if "generation" in options.tables:
            rows["generation"] += generation_rows(models, category, baseline, options, weights)
        text = tables_text(rows, settings)
        write(Path(out), settings | {"seconds": round(time.monotonic() - started, 1)}, rows, text)
    progress("written", 1.0)
    return text


def category_paths(pack: Path, names: tuple[str, ...] | None) -> list[Path]:
    """Files of the categories: those that enter the bundled model, and by name also those that serve measurement alone."""
    if names is None:
        found = sorted((pack / "shapes").glob("*.npz"))
    else:
        found = [category_path(pack, name) for name in names]
    missing = [p.stem for p in found if not p.is_file()]
    if missing or not found:
        what = f"{missing[0]}" if missing else "any category"
        raise RefusedInput("no-shapes", f"{pack.name} does not have {what}.", "Make the pack with `medshapegen prepare`.")
    return found


def linear_model(category: PackedCategory) -> PcaModel | None:
    """The baseline of a category; None with fewer than two training shapes."""
    chosen = category.of("train")[:PCA_TRAINING]
    if len(chosen) < 2:
        return None
    return fitted([packed_grid(category, index) for index in chosen], category.scale_mm[chosen])


def write(out: Path, settings: Row, rows: dict[str, list[Row]], text: str) -> None:
    """benchmark.json and table.md in the folder `out`, made if needed; NaN becomes null."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"settings": settings, "rows": {name: [without_nan(row) for row in some] for name, some in rows.items()}}
    (out / "benchmark.json").write_text(json.dumps(content, indent=1, allow_nan=False, default=plain) + "\n", encoding="utf-8")
    (out / "table.md").write_text(text + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """Nested dicts and lists with None for NaN, so that the file is JSON."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def plain(value: Any) -> Any:
    """Numbers and arrays of NumPy for JSON."""
    return value.tolist()

