"""The files of a result: surfaces in LPS mm, report and picture. Names are a contract.

generate     CATEGORY_1.stl .. CATEGORY_N.stl, the same as .vtp with the category's colour
reconstruct  reconstruction.stl, skeleton.vtp (points with radius_mm), error.vtp (error_mm on the reconstruction)
interpolate  step_1.stl .. step_N.stl
complete     completion_1.stl .. completion_N.stl, the same as .vtp
each also    report.json, overview.png
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from MedShapeCore.jobs import plain
from MedShapeCore.notices import Notice
from MedShapeCore.surfaces import STL_HEADER, Surface, write_stl, write_vtp

from .categories import Category
from .complete import Completions
from .generate import GeneratedShapes
from .interpolate import Interpolation
from .options import RunOptions
from .overview import (
    RESEARCH_NOTICE,
    completion_overview,
    generated_overview,
    interpolation_overview,
    reconstruction_overview,
)
from .reconstruct import Reconstruction
from .shapes import Shape
from .solid import Solid

SYNTHETIC_HEADER = "MedShapeGen synthetic; SPACE=LPS;UNIT=MM; for research, not for clinical use"
WEIGHTS_LICENCE = "The weights, and shapes made with them: CC BY-NC-SA 4.0; sources in the weights' MODEL_CARD.md."
AXES = "LPS, millimetres (STL and VTP files too)"


@dataclass(frozen=True)
class RunFacts:
    """What a report says of the machine and the model."""

    device: str  # and why
    weights: dict[str, str]  # file name -> SHA-256
    digest: str
    versions: dict[str, str]


def write_generated(result: GeneratedShapes, folder: Path, facts: RunFacts) -> None:
    """Writes all files of `generate` into an existing folder."""
    kind = result.category
    for number, solid in enumerate(result.solids, 1):
        write_pair(folder / f"{kind.name}_{number}", solid.surface, kind)
    generated_overview(result, folder / "overview.png")
    report = {
        "category": category_report(kind),
        "side": result.options.side if kind.paired else None,
        "place": "Each shape's bounding box is centred at the origin; the model knows no place in a patient.",
        "shapes": [shape_report(f"{kind.name}_{n}.stl", solid) for n, solid in enumerate(result.solids, 1)],
    }
    write_report(folder, "generate", result.options, facts, result.seconds, report, result.notices)


def write_reconstruction(result: Reconstruction, folder: Path, facts: RunFacts) -> None:
    """Writes all files of `reconstruct` into an existing folder."""
    write_stl(folder / "reconstruction.stl", *result.solid.surface)
    empty = np.zeros((0, 3), np.int32)
    write_vtp(folder / "skeleton.vtp", result.skeleton_lps, empty, {"radius_mm": result.radii_mm.astype(np.float32)})
    write_vtp(folder / "error.vtp", *result.solid.surface, {"error_mm": result.error_mm.astype(np.float32)})
    reconstruction_overview(result, folder / "overview.png")
    report = {
        "input": input_report(result.shape),
        "shapes": [shape_report("reconstruction.stl", result.solid)],
        "figures": result.figures,
        "error": "error_mm is the signed distance of the reconstruction's vertices to the input, negative inside of it.",
        "skeleton": {
            "points": len(result.radii_mm),
            "radius_mm": {"median": np.median(result.radii_mm), "max": result.radii_mm.max()},
        },
    }
    write_report(folder, "reconstruct", result.options, facts, result.seconds, report)


def write_interpolation(result: Interpolation, folder: Path, facts: RunFacts) -> None:
    """Writes all files of `interpolate` into an existing folder."""
    for number, solid in enumerate(result.solids, 1):
        write_stl(folder / f"step_{number}.stl", *solid.surface)
    interpolation_overview(result, folder / "overview.png")
    report = {
        "first": input_report(result.first),
        "second": input_report(result.second),
        "place": "Matched with the centres of the bounding boxes on each other; the centre moves from the first to the second.",
        "moved_u": result.moved_u,
        "shapes": [
            {"share": share, **shape_report(f"step_{n}.stl", solid)}
            for n, (share, solid) in enumerate(zip(result.shares, result.solids, strict=True), 1)
        ],
    }
    write_report(folder, "interpolate", result.options, facts, result.seconds, report)


def write_completions(result: Completions, folder: Path, facts: RunFacts) -> None:
    """Writes all files of `complete` into an existing folder."""
    for number, member in enumerate(result.members, 1):
        write_pair(folder / f"completion_{number}", member.solid.surface, result.category)
    completion_overview(result, folder / "overview.png")
    report = {
        "category": category_report(result.category),
        "side": result.options.side if result.category.paired else None,
        "given": input_report(result.given),
        "place": "In the place of the given surface; its axes are taken to be a scanner's.",
        "shapes": [
            {
                **shape_report(f"completion_{n}.stl", member.solid, member.failed),
                "given_median_mm": member.given_median_mm,
                "given_p95_mm": member.given_p95_mm,
                "differs_mm": member.differs_mm,
            }
            for n, member in enumerate(result.members, 1)
        ],
    }
    write_report(folder, "complete", result.options, facts, result.seconds, report, result.notices)


def write_pair(stem: Path, surface: Surface, kind: Category) -> None:
    """stem.stl, and stem.vtp in the category's colour."""
    write_stl(stem.with_suffix(".stl"), *surface, SYNTHETIC_HEADER if kind.synthetic else STL_HEADER)
    color = np.round(np.array(kind.colour) * 255).astype(np.uint8)
    write_vtp(stem.with_suffix(".vtp"), *surface, {"color": np.tile(color, (len(surface[0]), 1))})


def shape_report(file: str, solid: Solid, failed: tuple[str, ...] | None = None) -> dict:
    """What report and worker say of one shape."""
    failed = solid.figures.failed if failed is None else failed
    return {"file": file, **dataclasses.asdict(solid.figures), "failed": failed, "passed": not failed}


def input_report(shape: Shape) -> dict:
    """What a report says of an input; the name is the file's, without its folder."""
    box_mm = np.ptp(shape.vertices_lps, axis=0)
    centre = (shape.vertices_lps.min(axis=0) + shape.vertices_lps.max(axis=0)) / 2
    return {"name": shape.name, "box_mm": box_mm, "centre_lps": centre, "triangles": len(shape.triangles)}


def category_report(kind: Category) -> dict:
    """What a report says of a category."""
    return {
        "name": kind.name, "label": kind.label, "training_shapes": kind.training_shapes, "few": kind.few,
        "synthetic": kind.synthetic, "longest_mm": kind.longest_mm, "licence": kind.licence, "sources": kind.sources,
    }  # fmt: skip


def write_report(
    folder: Path, task: str, options: RunOptions, facts: RunFacts, seconds: dict[str, float], about: dict,
    notices: tuple[Notice, ...] = (),
) -> None:  # fmt: skip
    """report.json, the last file of a result: it lists the others."""
    files = [*sorted(path.name for path in folder.iterdir()), "report.json"]
    report = {
        "notice": f"{RESEARCH_NOTICE}.",
        "task": task,
        "coordinates": AXES,
        "seed": options.seed,
        "options": dataclasses.asdict(options),
        **about,
        "warnings": [dataclasses.asdict(notice) for notice in notices],
        "seconds": seconds,
        "device": facts.device,
        "weights": {"digest": facts.digest, "files": facts.weights, "licence": WEIGHTS_LICENCE},
        "versions": facts.versions,
        "files": files,
    }
    text = json.dumps(plain(report), indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
