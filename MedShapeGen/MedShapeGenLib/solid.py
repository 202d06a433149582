"""A shape that was made: from a latent to a closed surface in mm, with what is measured on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from MedShapeCore.jobs import Progress, no_progress
from MedShapeCore.surfaces import components, is_watertight, surface_area_cm2, surface_volume_ml
from torch import Tensor

from .categories import Category
from .decoding import DecodeOptions, decode_surface
from .models import ShapeModels, field

SIZE_SLACK = 0.15  # a size this far outside the training data's range, relative, is still plausible


@dataclass(frozen=True)
class SolidFigures:
    """What is measured on a shape; `failed` names the checks that it does not pass."""

    longest_mm: float  # longest side of the bounding box
    box_mm: tuple[float, float, float]  # right to left, front to back, up
    volume_ml: float
    area_cm2: float
    watertight: bool
    components: int
    triangles: int
    bodies_found: int  # before the largest were kept
    evaluated_fraction: float  # of the grid's points, by the decoder
    seconds: float  # decoding
    failed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failed


@dataclass(frozen=True)
class Solid:
    """A closed surface in its place."""

    vertices_lps: np.ndarray  # (V, 3) float32 mm
    triangles: np.ndarray  # (T, 3) int32, outward
    figures: SolidFigures

    @property
    def surface(self) -> tuple[np.ndarray, np.ndarray]:
        return self.vertices_lps, self.triangles

    def mirrored(self) -> Solid:
        """The same on the other side of the plane x = 0, still outward."""
        return replace(self, vertices_lps=mirrored(self.vertices_lps), triangles=self.triangles[:, ::-1].copy())


def solid_from_latent(
    models: ShapeModels,
    latent: Tensor,
    centre_lps: np.ndarray,
    scale_mm: float,
    resolution: int,
    bodies: int = 1,
    category: Category | None = None,
    progress: Progress = no_progress,
) -> Solid:
    """Decodes a latent (n_s, 16) into its surface, placed by centre (3,) LPS mm and scale (mm per u).

    bodies   : how many of the largest bodies to keep.
    category : what the shape should be, for the checks of size and components; None checks only that it is closed.
    FailedResult where the field has no inside.
    """
    started = time.perf_counter()
    options = DecodeOptions(resolution=resolution, components=bodies)
    surface = decode_surface(field(models, latent), options, progress=progress, device=str(models.device))
    vertices_lps = (np.asarray(surface.vertices_u, float) * scale_mm + centre_lps).astype(np.float32)
    triangles = np.asarray(surface.triangles, np.int32)
    figures = replace(
        figures_of(vertices_lps, triangles, category), bodies_found=surface.bodies_found,
        evaluated_fraction=surface.evaluated_fraction, seconds=round(time.perf_counter() - started, 3),
    )  # fmt: skip
    return Solid(vertices_lps, triangles, figures)


def figures_of(vertices_lps: np.ndarray, triangles: np.ndarray, category: Category | None = None) -> SolidFigures:
    """Measures a surface (V, 3) mm, (T, 3); all zero and not watertight for none."""
    box_mm = np.ptp(vertices_lps, axis=0) if len(vertices_lps) else np.zeros(3)
    figures = SolidFigures(
        longest_mm=float(box_mm.max()),
        box_mm=(float(box_mm[0]), float(box_mm[1]), float(box_mm[2])),
        volume_ml=surface_volume_ml(vertices_lps, triangles),
        area_cm2=surface_area_cm2(vertices_lps, triangles),
        watertight=is_watertight(triangles),
        components=components(triangles),
        triangles=len(triangles),
        bodies_found=0,
        evaluated_fraction=0.0,
        seconds=0.0,
    )
    return replace(figures, failed=failed_checks(figures, category))


def failed_checks(figures: SolidFigures, category: Category | None) -> tuple[str, ...]:
    """Names of the checks which a shape fails: watertight, and with a category components and size."""
    failed = [] if figures.watertight else ["watertight"]
    if category is not None:
        if figures.components != category.components:
            failed.append("components")
        low, high = category.longest_mm
        if not low * (1 - SIZE_SLACK) <= figures.longest_mm <= high * (1 + SIZE_SLACK):
            failed.append("size")
    return tuple(failed)


def mirrored(vectors_lps: np.ndarray) -> np.ndarray:
    """Points or directions (..., 3) on the other side of the plane x = 0."""
    return vectors_lps * np.array([-1, 1, 1], vectors_lps.dtype)
