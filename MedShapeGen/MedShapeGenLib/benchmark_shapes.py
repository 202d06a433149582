"""What a benchmark measures, and the pack's shapes as it needs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from MedShapeCore.errors import OptionError

from .options import TABLES
from .pca_baseline import distance_grid
from .training.shape_pack import PackedCategory

HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured, and on how much."""

    tables: tuple[str, ...] = TABLES
    categories: tuple[str, ...] | None = None  # None: all in the pack
    split: str = "val"  # of the reconstruction
    shapes: int | None = None  # of a category in the reconstruction; None: all
    resolution: int = 128  # of the reconstruction
    generated: int | None = 12  # real and generated shapes of a category; None: as many as there are real ones
    generated_resolution: int = 64  # 2,048 points are compared: 64 cells hold them
    guidance: float | None = None  # None: the default of `generate`
    steps: int | None = None
    draws: int = 50
    seed: int = 0
    device: str = "auto"
    baseline: bool = True

    def __post_init__(self) -> None:
        for name in self.tables:
            if name not in TABLES:
                raise OptionError("tables", name, "one of " + ", ".join(TABLES))
        if self.split not in ("train", *HELD_OUT):
            raise OptionError("split", self.split, "train, val or test")
        for name in ("shapes", "generated"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise OptionError(name, value, "a whole number from 2 on, or none")


@dataclass(frozen=True)
class PackedSurface:
    """A shape of the pack in mm, centred at the origin."""

    vertices_lps: np.ndarray  # (V, 3) float64
    triangles: np.ndarray  # (T, 3)
    name: str


def packed_grid(category: PackedCategory, index: int) -> np.ndarray:
    """The linear model's grid of one shape."""
    every = np.arange(category.points.shape[1])
    return distance_grid(*category.surface(index, every), *category.mesh(index))


def packed_surface(category: PackedCategory, index: int) -> PackedSurface:
    """One shape in mm."""
    vertices, triangles = category.mesh(index)
    return PackedSurface(vertices * float(category.scale_mm[index]), triangles, str(category.ids[index]))
