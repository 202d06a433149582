"""The holes of a skull before a run: their words and outlines, and the user's own point or ROI for one."""

from __future__ import annotations

from typing import Any

from MedShapeCore.errors import RefusedInput
from slicer.i18n import tr as _

from . import nodes
from .panel import FAILED, enable

POINT_REACH_MM, BOX_REACH_MM = 25.0, 10.0  # how far from a hole the engine lets a user's point and box lie
CURVE_MM = 15.0  # how far a hole's surface may lie above the flat fan between its outline and its centre
FAN = (0.0, 0.25, 0.5, 0.75, 1.0)


def holeWords(hole: dict) -> str:
    side = {"left": _("left"), "right": _("right"), "middle": _("in the middle")}[hole["side"]]
    return _("Hole {number}: {side}, {area:.0f} cm\u00b2, {length:.0f} x {width:.0f} mm").format(
        number=hole["number"], side=side, area=hole["area_cm2"], length=hole["length_mm"], width=hole["width_mm"])  # fmt: skip


def holesFound(holes: list[dict]) -> str:
    if not holes:
        return _("No hole was found. Check that the segment is the bone of this skull, before its hole was closed.")
    if len(holes) == 1:
        return holeWords(holes[0])
    return _("{count} holes were found; choose one.").format(count=len(holes))


def outline(hole: dict) -> Any:
    """The hole's outline as a locked curve in the views, not saved."""
    import numpy as np

    return nodes.outline(f"Hole {hole['number']}", np.array(hole["outline_lps"]) * [-1.0, -1.0, 1.0], (0.9, 0.1, 0.5))


def pointsOf(place: Any) -> dict[str, list[float]]:
    """ImplantOptions' point_lps or roi_lps of a point list or an ROI in world coordinates; empty without a point."""
    if place is None:
        return {}
    if place.IsA("vtkMRMLMarkupsROINode"):
        bounds = [0.0] * 6
        place.GetRASBounds(bounds)
        return {"roi_lps": [-bounds[1], -bounds[3], bounds[4], -bounds[0], -bounds[2], bounds[5]]}
    if place.GetNumberOfDefinedControlPoints() == 0:
        return {}
    point = [0.0] * 3
    place.GetNthControlPointPositionWorld(0, point)
    return {"point_lps": [-point[0], -point[1], point[2]]}


def placeOptions(place: Any, skull: Any, holes: list[dict]) -> dict[str, list[float]]:
    """`pointsOf` for a run; RefusedInput where `placeProblem` finds one."""
    problem = placeProblem(place, skull, holes)
    if problem:
        raise RefusedInput("place", problem)
    return pointsOf(place)


def placeProblem(place: Any, skull: Any, holes: list[dict]) -> str:
    """Why a point or an ROI cannot mean a hole of this skull, and what to do; empty where it can, as far as is known yet.

    skull : its segmentation; holes : those that were found, or none. What this lets through the run itself may still refuse:
    it knows the hole's curved surface, of which the fan between outline and centre here falls short.
    """
    import numpy as np

    if place is None:
        return ""
    name, where = place.GetName(), pointsOf(place)
    if not where:
        return _("{name} has no point yet. Place it in the middle of the hole, or choose None.").format(name=name)
    box = np.array(where.get("roi_lps") or where["point_lps"] * 2).reshape(2, 3)
    if "roi_lps" in where and (box[1] - box[0]).min() <= 0:
        return _("The box {name} is empty. Draw it around the hole, or choose None.").format(name=name)
    reach = BOX_REACH_MM if "roi_lps" in where else POINT_REACH_MM
    bounds = [0.0] * 6
    skull.GetRASBounds(bounds)
    low, high = np.array([[-bounds[1], -bounds[3], bounds[4]], [-bounds[0], -bounds[2], bounds[5]]])
    if np.linalg.norm(np.maximum(0, np.maximum(box[0] - high, low - box[1]))) > reach:
        return _("{name} lies outside of the skull. Move it to the hole, or choose None.").format(name=name)
    if not holes or not all(len(hole["outline_lps"]) for hole in holes):
        return ""
    fans = [np.array(hole["outline_lps"])[None] * t + np.array(hole["centre_lps"]) * (1 - t) for hole in holes for t in FAN]
    points = np.concatenate([fan.reshape(-1, 3) for fan in fans])
    away = float(np.linalg.norm(np.clip(points, *box) - points, axis=1).min())
    if away <= reach + CURVE_MM:
        return ""
    return _("{name} is {distance:.0f} mm away from the nearest hole. Move it into a hole, or choose None.").format(
        name=name, distance=away
    )


def centreOfHole(hole: dict) -> list[float]:
    """In RAS."""
    left, posterior, superior = hole["centre_lps"]
    return [-left, -posterior, superior]


def showHoles(ui: Any, p: Any, found: list[dict], before: str) -> tuple[str, str]:
    """Fills the panel's list of holes and the line below it.

    before : the second string that the last call returned. Returns why the user's point or ROI can mean no hole, and what
    the line says of that point or ROI, both perhaps empty.
    """
    words = [_("The largest hole")] + [holeWords(hole) for hole in found]
    words += [_("Hole {number}").format(number=number) for number in range(len(words), p.hole + 1)]  # of a scene that was saved
    if [ui.holeBox.itemText(n) for n in range(ui.holeBox.count)] != words:
        ui.holeBox.clear()
        ui.holeBox.addItems(words)
    ui.holeBox.currentIndex = p.hole
    why = _("The point or box below goes before this choice.") if p.place else ""
    enable(ui.holeBox, why, _("The holes that were found, largest first."))
    problem = placeProblem(p.place, p.inputSegmentation, found) if p.inputSegmentation else ""
    near = _("The hole nearest to {name} is closed.").format(name=p.place.GetName()) if p.place else ""
    said = problem or near
    if said or before:
        ui.holeLabel.text = said or (holesFound(found) if found else "")
        ui.holeLabel.visible = bool(ui.holeLabel.text)
        ui.holeLabel.setStyleSheet(FAILED if problem else "")
    return problem, said
