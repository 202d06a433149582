"""The one entry: a skull with a hole becomes an ensemble of implants.

Chapters, in the order of the data: pose, hole, first guess, missing points, solid, refined field, implant, ensemble.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import torch
from MedShapeCore import __version__
from MedShapeCore.devices import choose_device
from MedShapeCore.errors import FailedResult
from MedShapeCore.volumes import spacing_of

from .baselines import HoleCase, hole_case
from .ensemble import ImplantEnsemble, SpreadSurface, build_ensemble_parts
from .members import (
    QUALITIES,
    member_draws,
    member_solid,
    missing_points,
    native_field,
    refined_field,
    shared_correction,
)
from .models import Models, load_models
from .options import ImplantOptions
from .preparation import Clock, Prepared, Progress, prepare, side_of, silent
from .roi import NativeRegion, native_region
from .skull import Skull
from .subtraction import implant_from_field
from .vault import VAULT_MAP


def generate_implants(
    skull: Skull, options: ImplantOptions, progress: Progress = silent, models: Models | None = None
) -> ImplantEnsemble:
    """Several implants for one hole of a skull, their mean, variance and agreement.

    progress(stage, fraction, event) is told the share of the work that is done, and the surface of the first member
    when it is there; what it raises (Cancelled) ends the run. Raises RefusedInput where there is no hole to close and
    FailedResult where no implant could be made.
    """
    clock = Clock()
    progress("loading the networks", 0.0)
    device, device_note = choose_device(options.device)
    models = models or load_models(device)
    clock.lap("networks")
    try:
        return _generate(skull, options, progress, models, clock, device_note)
    except torch.OutOfMemoryError:
        cpu = torch.device("cpu")
        note = "The graphics card ran out of memory; the run went on on the processor."
        return _generate(skull, options, progress, load_models(cpu), clock, note)


def _generate(
    skull: Skull, options: ImplantOptions, progress: Progress, models: Models, clock: Clock, device_note: str
) -> ImplantEnsemble:
    quality = QUALITIES[options.quality]
    steps = options.steps or quality.steps
    draws = member_draws(models, options.seed, options.members)
    prepared = prepare(skull, options, models, draws, progress, clock)
    region = implant_region(skull, prepared)
    if not region.region.any():
        message = "The hole lies at the border of the scan; there is no room for an implant."
        raise FailedResult("no-room", message, "Pad or rescan.")
    clock.lap("region")
    fields: list[np.ndarray] = []
    implants: list[np.ndarray] = []
    points = missing_points(prepared, options, models, steps, quality, progress)
    clock.lap("points")
    shared = shared_correction(prepared, models)
    clock.lap("refinement")
    spacing = spacing_of(region.ijk_to_lps)
    for n in range(options.members):
        solid = member_solid(points, n, prepared, models, quality)
        clock.lap("solids")
        refined = refined_field(solid, prepared, models, member=True, shared=shared)
        clock.lap("refinement")
        fields.append(native_field(refined, prepared.patch, region, prepared.located.pose))
        implants.append(implant_from_field(fields[-1], region.bone, region.region, spacing))
        clock.lap("native grid")
        progress("making members", 0.5 + 0.35 * (n + 1) / options.members, member_event(n, implants[-1], region))
    progress("comparing members", 0.86)
    centre_lps = prepared.located.pose.to_lps(np.zeros((1, 3)))[0]
    parts = build_ensemble_parts(
        np.stack(fields), np.stack(implants), region.bone, region.region, region.ijk_to_lps, centre_lps,
        lambda share: progress("comparing members", 0.86 + 0.13 * share),
    )
    clock.lap("ensemble")
    progress("comparing members", 1.0)
    report = run_report(skull, options, models, prepared, steps, clock, device_note)
    report["pairwise_dsc"] = np.round(parts.pairwise_dsc, 4).tolist()
    return ImplantEnsemble(
        skull=skull, box=region.box, implants=np.stack(implants), mean=parts.mean, variance=parts.variance,
        agreement=parts.agreement, ranking=parts.ranking, checks=parts.checks, mean_report=parts.mean_report,
        spread=expected_spread(parts.spread, prepared) if options.members > 1 else parts.spread,
        notices=(*skull.warnings, *prepared.notices, *parts.notices), report=report,
    )


def member_event(number: int, implant: np.ndarray, region: NativeRegion) -> dict | None:
    """The first member's surface, so that there is something to look at while the others are made."""
    if number or not implant.any():
        return None
    from MedShapeCore.surfaces import mask_surface

    vertices, triangles = mask_surface(implant, region.ijk_to_lps)
    return {"member": 1, "surface": (vertices, triangles)}


def expected_spread(spread: SpreadSurface, prepared: Prepared) -> SpreadSurface:
    """The spread with the deviation from which the members are drawn, on the vault's tables.

    Five members are a noisy estimate of it: on unseen skulls it tells more than twice as well where the mean implant errs.
    The members' own spread stays at the rim and on bone that is no vault.
    """
    pose, dome = prepared.located.pose, prepared.dome
    index, _ = VAULT_MAP.pixels(pose.to_head(spread.vertices_lps.astype(float)))
    expected = spread.spread_mm.copy()
    for side, deviation in zip((1, 2), dome.deviation, strict=True):
        value = VAULT_MAP.sample(deviation, index)
        table = (spread.side == side) & (value > 0)
        expected[table] = value[table]
    return replace(spread, spread_mm=expected)


def implant_region(skull: Skull, prepared: Prepared) -> NativeRegion:
    """The part of the skull's grid around the hole, and where in it an implant may be."""
    structures = (prepared.patch, prepared.other_side)
    pose = prepared.located.pose
    return native_region(skull.mask, skull.ijk_to_lps, pose, prepared.outline, prepared.dome, structures)


def describe_hole(skull: Skull, options: ImplantOptions, models: Models | None = None) -> HoleCase:
    """The hole that `generate_implants` would close, with all that the simple baselines need.

    Its context is (Prepared, Models). Raises what `prepare` raises.
    """
    models = models or load_models(torch.device("cpu"))
    prepared = prepare(skull, options, models, None)
    pose = prepared.located.pose
    region = implant_region(skull, prepared)
    centre = prepared.hole.centre_head
    outward = pose.lps_from_head[:3, :3] @ (centre / np.linalg.norm(centre))
    mirror = pose.lps_from_head @ prepared.located.mirror_head @ pose.head_from_lps
    centre_lps = pose.to_lps(centre[None])[0]
    return hole_case(skull, region.box, region.region, outward, centre_lps, mirror, (prepared, models))


def run_report(
    skull: Skull, options: ImplantOptions, models: Models, prepared: Prepared, steps: int, clock: Clock,
    device_note: str,
) -> dict:
    """What a report needs besides the ensemble's own figures."""
    pose, hole = prepared.located.pose, prepared.hole
    return {
        "options": asdict(options) | {"steps": steps},
        "device": {"used": str(models.device), "why": device_note},
        "versions": {"medshapegen": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "weights": models.digest,
        "seconds": dict(clock.seconds),
        "pose": {
            "head_from_lps": pose.head_from_lps.round(5).tolist(), "scale": round(pose.scale, 4),
            "misfit_mm": round(pose.residual_mm, 3),
        },
        "hole": {
            "area_cm2": round(hole.area_cm2, 1), "centre_lps": pose.to_lps(hole.centre_head[None])[0].round(1).tolist(),
            "side": side_of(hole.centre_head), "support": round(hole.support, 3),
            "found": [round(h.area_cm2, 1) for h in prepared.located.holes],
        },
    }
