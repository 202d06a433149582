"""New shapes of one category."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from MedShapeCore.jobs import Progress, no_progress
from MedShapeCore.notices import Notice

from .categories import Category, category
from .models import ShapeModels, sample_latents
from .options import GenerateOptions, SampleOptions
from .solid import Solid, solid_from_latent


@dataclass(frozen=True)
class GeneratedShapes:
    """Shapes centred at the origin: a model knows no place in a patient."""

    category: Category
    options: GenerateOptions
    solids: tuple[Solid, ...]
    notices: tuple[Notice, ...]
    seconds: dict[str, float]

    @property
    def passed(self) -> bool:
        return all(solid.figures.passed for solid in self.solids)


def sample_shapes(models: ShapeModels, options: GenerateOptions, progress: Progress = no_progress) -> GeneratedShapes:
    """Draws `options.count` shapes in mm; shape k depends on the seed and on k alone, not on how many are asked for.

    Their bounding boxes are centred at the origin. Axes as in a scanner: x to the left, y to the back, z up.
    progress gets an event {"shape": k, "surface": (vertices_lps, triangles)} for each as soon as it is there.
    RefusedInput for an unknown category.
    """
    kind = category(options.category)
    started = time.perf_counter()
    latents, scale_mm = sample_latents(
        models, kind.name, options.count, options.seed, options.guidance, options.steps,
        progress=lambda fraction: progress("sampling", 0.4 * fraction),
    )  # fmt: skip
    sampled = time.perf_counter()
    solids = []
    for number in range(options.count):
        at = 0.4 + 0.6 * number / options.count
        stage = f"shape {number + 1} of {options.count}"
        progress(stage, at)
        solid = solid_from_latent(
            models, latents[number], np.zeros(3), float(scale_mm[number]), options.resolution, kind.components, kind
        )
        solid = centred(solid if options.side == "left" or not kind.paired else solid.mirrored())
        solids.append(solid)
        event = {"shape": number + 1, "surface": solid.surface}
        progress(stage, at + 0.6 / options.count, event)
    seconds = {"sampling": round(sampled - started, 2), "decoding": round(time.perf_counter() - sampled, 2)}
    return GeneratedShapes(kind, options, tuple(solids), category_notices(kind, options), seconds)


def centred(solid: Solid) -> Solid:
    """The same with the centre of its bounding box at the origin."""
    if len(solid.vertices_lps) == 0:
        return solid
    centre = (solid.vertices_lps.min(axis=0) + solid.vertices_lps.max(axis=0)) / 2
    return Solid(solid.vertices_lps - centre, solid.triangles, solid.figures)


def category_notices(kind: Category, options: SampleOptions) -> tuple[Notice, ...]:
    """What a person should know about shapes of this category."""
    notices = []
    if kind.few:
        notices.append(Notice(
            "few-training-shapes", f"The model has seen only {kind.training_shapes} shapes of {kind.label}.",
            "Expect little variety and look at every shape.",
        ))  # fmt: skip
    if kind.synthetic:
        notices.append(Notice("synthetic", f"Shapes of {kind.label} were learned from synthetic shapes, not from patients."))
    if options.side == "right" and not kind.paired:
        notices.append(Notice("no-side", f"{kind.label.capitalize()} has no sides; the option side was not used."))
    return tuple(notices)
