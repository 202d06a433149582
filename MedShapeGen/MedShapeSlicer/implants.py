"""A run's result as nodes: one segmentation with members and mean, variance, agreement, spread, table and report."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import slicer
from MedShapeCore.errors import RefusedInput
from slicer.i18n import tr as _

from . import displays
from .geometry import REFERENCE, flipped, orientedImage, readSurface, segmentGrid
from .nodes import RunFolder, addSegment, segmentTag
from .process import read_report

MODULE = "CranialImplant"
RESULT = f"{MODULE}.Result"  # attribute of a result's segmentation; selectors filter by it
ROLES = ("Variance", "Agreement", "Spread", "Table", "Report", "Input")  # node references of it
CHOSEN = f"{MODULE}.Chosen"
BONE_COLOR = (0.945, 0.839, 0.569)
BONE_TERM = (
    "Segmentation category and type - DICOM master list~SCT^85756007^Tissue~SCT^272673000^Bone~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)
SAME_ML = 1e-3  # between a volume that was measured and the same voxels today: less than a voxel
VARIANCE_MAX = 0.25  # of an occupancy between 0 and 1: half of the members fill the voxel


def receiveImplants(
    result: dict, folder: Path, name: str, source: Any, attributes: dict[str, str]
) -> Generator[tuple[str, float], None, Any]:
    """Brings one result into the scene, a piece for each step of (text, fraction); returns the segmentation.

    name : what the nodes' names begin with; source : the input's node, or None where it is gone.
    """
    import numpy as np

    scene, report = result["scene"], read_report(folder)
    matrix = flipped(scene["ijk_to_lps"])
    members = scene["members"]
    facts = {RESULT: "1", f"{MODULE}.Version": report["versions"]["medshapegen"], f"{MODULE}.Weights": report["weights"]}
    with RunFolder(f"{name} implant", source, {**attributes, **facts}) as run:
        segmentation = run.segmentation(f"{name} implant", source)
        segmentation.GetDisplayNode().SetVisibility(False)  # until all is there: each segment would be drawn on its own
        for number, member in enumerate(members):
            yield _("loading the implants"), number / (len(members) + 2)
            check = report["mean_implant"] if member["id"] == "MeanImplant" else report["implants"][int(member["id"][8:]) - 1]
            tags = {f"{MODULE}.Checks": json.dumps(check), f"{MODULE}.Member": str(check.get("implant", "mean"))}
            if not check["passed"]:
                tags["Segmentation.Status"] = "flagged"
            if member["empty"]:
                continue
            addSegment(
                segmentation, member["id"], member["name"], member["color"], np.load(folder / member["array"]), matrix,
                folder / member["surface"], scene["terminology"], tags,
            )  # fmt: skip
        yield _("loading the maps"), len(members) / (len(members) + 2)
        count = len(report["implants"])
        variance = run.volume(f"{name} implant variance", np.load(folder / "variance.npy"), matrix)
        colors = displays.heatColors("Implant variance", VARIANCE_MAX, visible=True)
        onLeft = source is not None and displays.centreOf(variance)[0] < displays.centreOf(source)[0]  # seen on the right of a slice
        displays.dressVolume(variance, colors, 0.005, 1.0, (0.0, VARIANCE_MAX), _("Variance\n(0 = all agree)"), leftOfView=onLeft)
        yield _("loading the maps"), (len(members) + 1) / (len(members) + 2)
        agreement = run.volume(f"{name} implant agreement", np.load(folder / "agreement.npy"), matrix)
        words, colors = _("Implants that\nfill the voxel"), displays.agreementColors(count)
        displays.dressVolume(agreement, colors, 1, count, (0, count), words, named=True, leftOfView=onLeft)
        mean = next(m for m in members if m["id"] == "MeanImplant")
        spread = run.model(f"{name} implant spread", readSurface(folder / mean["surface"]))
        limit = scene["spread_max_mm"]
        displays.dressModel(spread, "spread_mm", displays.heatColors("Implant spread in mm", limit), 0.0, limit, _("Spread [mm]"))
        spread.GetDisplayNode().SetVisibility(False)
        columns, rows = checkTable(report)
        table = run.table(f"{name} implant table", columns, rows)
        text = run.text(f"{name} implant report", json.dumps(report, indent=1))
        for role, node in zip(ROLES, (variance, agreement, spread, table, text, source), strict=True):
            segmentation.SetNodeReferenceID(f"{MODULE}.{role}", node.GetID() if node is not None else None)
        yield _("done"), 1.0
    return segmentation


def related(segmentation: Any, role: str) -> Any:
    """A node of the same result; None where the user removed it."""
    return segmentation.GetNodeReference(f"{MODULE}.{role}") if segmentation is not None else None


def checksOf(segmentation: Any, segmentID: str) -> dict:
    """What the run said of a member; empty for a segment that it did not make."""
    segment = segmentation.GetSegmentation().GetSegment(segmentID)
    text = segmentTag(segment, f"{MODULE}.Checks") if segment is not None else ""
    return json.loads(text) if text else {}


def rankedSegments(segmentation: Any) -> list[tuple[str, dict]]:
    """(segment ID, checks) of a result: members best first, then the mean, then what the user added."""
    inside = segmentation.GetSegmentation()
    found = [inside.GetNthSegmentID(n) for n in range(inside.GetNumberOfSegments())]
    rows = [(segmentID, checksOf(segmentation, segmentID)) for segmentID in found]
    return sorted(rows, key=lambda row: row[1].get("rank", 1000 if row[1] else 1001))


def checkWords(check: dict) -> str:
    """The checks in words a clinician knows."""
    words = {
        "empty": _("empty"), "bone": _("overlaps bone"), "pieces": _("several pieces"), "watertight": _("surface not closed"),
        "thickness": _("unusual thickness"), "volume": _("unusual volume"), "rim": _("does not meet the rim all round"),
        "outlier": _("differs from the others"),
    }  # fmt: skip
    return ", ".join(words.get(name, name) for name in check["failed"]) or _("passed")


def checkTable(report: dict) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table node: the members by rank, then the mean."""
    columns = ["Rank", "Implant", "Volume [ml]", "Area [cm2]", "Thickness [mm]", "Thin part [mm]", "Agreement", "Checks"]
    members = sorted(report["implants"], key=lambda member: member["rank"])
    rows = []
    for check, name in [*((m, f"Implant {m['implant']}") for m in members), (report["mean_implant"], "Mean implant")]:
        figures = [f"{check[key]:.1f}" for key in ("volume_ml", "area_cm2", "thickness_mm", "thickness_p05_mm")]
        rows.append([str(check.get("rank", "-")), name, *figures, f"{check['agreement']:.3f}", ", ".join(check["failed"]) or "passed"])
    return columns, rows


def showResult(segmentation: Any, segmentID: str, showing: str, opacity: float, spread: bool, filled: bool = True) -> None:
    """Shows one implant, all, or the mean; the spread's surface takes the mean's place."""
    ids = [row[0] for row in rankedSegments(segmentation)]
    visible = {"one": [segmentID], "all": [i for i in ids if i != "MeanImplant"], "mean": ["MeanImplant"]}[showing]
    model = related(segmentation, "Spread")
    displays.showSegments(segmentation, [] if spread and model is not None else visible, opacity, filled)
    if model is not None:
        model.GetDisplayNode().SetVisibility(spread)
        legend = displays.legendOf(model)
        if legend is not None:
            legend.SetVisibility(spread)


def volumeMl(segmentation: Any, segmentID: str) -> float:
    """Of a segment's voxels as they are now."""
    import numpy as np

    try:
        mask, _extent, toRas = segmentGrid(segmentation, segmentID)
    except RefusedInput:  # no voxels at all
        return 0.0
    return float(np.count_nonzero(mask) * abs(np.linalg.det(toRas[:3, :3])) / 1000)


def listRow(segmentation: Any, segmentID: str, check: dict) -> list[str]:
    """A line of the list: name, volume, thickness, agreement, checks; of an edited implant only what was found since."""
    segment = segmentation.GetSegmentation().GetSegment(segmentID)
    name = segment.GetName() + (" \u2713" if segmentTag(segment, CHOSEN) else "")
    volume = volumeMl(segmentation, segmentID)
    again = segmentTag(segment, f"{MODULE}.CheckedAgain")
    known = [found for found in (check, json.loads(again) if again else {}) if found and abs(found["volume_ml"] - volume) < SAME_ML]
    if not known:
        return [name, f"{volume:.1f} ml", "", "", _("edited, not checked") if check else _("not checked")]
    agreement = known[0]["agreement"] if known[0] is check else None  # that of a run holds for what the run made
    figures = [f"{volume:.1f} ml", f"{known[0]['thickness_mm']:.1f} mm", "" if agreement is None else f"{agreement:.2f}"]
    return [name, *figures, checkWords(known[0])]


def choose(segmentation: Any, segmentID: str) -> str:
    """Marks one implant as the one to use and returns its name; the mark is saved with the segmentation."""
    inside = segmentation.GetSegmentation()
    for number in range(inside.GetNumberOfSegments()):
        segment = inside.GetNthSegment(number)
        segment.RemoveTag(CHOSEN)
        if inside.GetNthSegmentID(number) == segmentID:
            segment.SetTag(CHOSEN, "1")
    return inside.GetSegment(segmentID).GetName()


def summary(result: dict) -> str:
    """One sentence about a run, and what it warned of."""
    good = sum(member["passed"] for member in result["members"])
    text = _("Done: {good} of {count} implants pass all checks.").format(count=len(result["members"]), good=good)
    if not result["passed"]:
        text += " " + _("The mean implant fails a check: {checks}.").format(checks=checkWords(result["mean"]))
    return " ".join([text, *(f"{notice['message']} {notice['hint']}" for notice in result["notices"])])


def preview(surface: Any, source: Any) -> Any:
    """The first member's surface while the others are made, seen from outside of the skull `source`; not saved."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Implant 1 (preview)")
    node.SetSaveWithScene(False)
    node.SetAndObservePolyData(surface)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetColor(0.10, 0.55, 0.75)
    if source is not None:
        displays.lookAt(displays.centreOf(node), displays.centreOf(source))
    return node


# ---- bone from a CT


def boneSegmentation(result: dict, folder: Path, volume: Any) -> Any:
    """A segmentation with the segment "bone", on the volume's grid."""
    import numpy as np

    with RunFolder(f"{volume.GetName()} bone", volume) as run:
        node = run.add("vtkMRMLSegmentationNode", f"{volume.GetName()} bone")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        mask, toRas = np.load(folder / result["array"]), flipped(result["ijk_to_lps"])
        addSegment(node, "bone", _("Bone"), BONE_COLOR, mask, toRas, terminology=BONE_TERM)
    return node


# ---- export


def fileName(segmentation: Any, segmentID: str) -> str:
    """implant_3, mean_implant or edited_implant: never a node's name, which may hold a person's."""
    member = segmentTag(segmentation.GetSegmentation().GetSegment(segmentID), f"{MODULE}.Member")
    return {"": "edited_implant", "mean": "mean_implant"}.get(member, f"implant_{member}")


def provenance(segmentation: Any, segmentID: str, generated: dict) -> dict:
    """Where an implant comes from: the run's settings and weights, and what was measured when it was generated."""
    keys = ("Version", "Weights", "seed", "members", "quality")
    return {
        "segment": segmentID, "generated": generated, "slicer": slicer.app.applicationVersion,
        **{key.lower(): segmentation.GetAttribute(f"{MODULE}.{key}") for key in keys},
    }  # fmt: skip


def recordExport(segmentation: Any, segmentID: str, result: dict, reason: str | None) -> None:
    """Keeps with the segment what was found, and the override if there was one."""
    segment = segmentation.GetSegmentation().GetSegment(segmentID)
    segment.SetTag(f"{MODULE}.CheckedAgain", json.dumps(result["checks"]))
    if result["written"]:
        segment.SetTag(f"{MODULE}.Exported", ", ".join(result["written"]))
        if not result["passed"]:
            text = f"{', '.join(result['failed'])}: {reason}"
            segment.SetTag(f"{MODULE}.Override", text.replace("|", "/"))


def exportWords(result: dict, folder: Path, generated: dict) -> str:
    """What was written, or why nothing was."""
    volume = result["checks"]["volume_ml"]
    edited = _("It was edited since it was generated.") if not generated or abs(volume - generated["volume_ml"]) > SAME_ML else ""
    failed = checkWords(result["checks"])
    if not result["written"]:
        return " ".join((_("Not exported. Failed checks: {checks}.").format(checks=failed), edited,
                         _("Edit the implant, or give the reason for an override and export again.")))  # fmt: skip
    text = _("{file} was written, {volume:.1f} ml.").format(file=folder / result["written"][0], volume=volume)
    passed = _("All checks passed.") if result["passed"] else _("Exported against failed checks: {checks}.").format(checks=failed)
    return " ".join(part for part in (text, passed, edited, _("Clearance to bone: 0 mm.")) if part)


# ---- for the self test


def sphereWithHole() -> Any:
    """A segmentation with a bone segment: a shell of 100 mm with a round hole on the left side."""
    import numpy as np

    k, j, i = (np.mgrid[:60, :60, :60] - 29.5) * 2.0
    radius = np.sqrt(i**2 + j**2 + k**2)
    shell = (radius < 50) & (radius > 44) & ~((i < 0) & (np.hypot(j, k) < 20))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Sphere with hole")
    node.CreateDefaultDisplayNodes()
    toRas = np.diag([2.0, 2.0, 2.0, 1.0])
    toRas[:3, 3] = -59.0
    image = orientedImage(shell.astype(np.uint8), toRas)
    geometry = slicer.vtkSegmentationConverter.SerializeImageGeometry(image)
    node.GetSegmentation().SetConversionParameter(REFERENCE, geometry)
    addSegment(node, "bone", "Bone", BONE_COLOR, shell.astype(np.uint8), toRas, terminology=BONE_TERM)
    return node
