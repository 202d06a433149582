"""Generated shapes as nodes: models in a folder, error map and skeleton with legends, one segmentation of them all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import slicer
import vtk
from MedShapeCore.errors import RefusedInput
from slicer.i18n import tr as _

from . import displays, nodes
from .geometry import SURFACE, matrixToWorld, readSurface, toNumpy, writeSegment
from .nodes import RunFolder
from .process import read_report

MODULE = "MedShapeGen"
RESULT = f"{MODULE}.Result"  # attribute of a result's report
SHAPE = f"{MODULE}.Shape"  # node references of a report: its models in their order
SKELETON = f"{MODULE}.Skeleton"
GAP_MM = 10.0  # between generated shapes, which have no place of their own
ERROR_MAX_MM = 2.0
PLAIN = (0.45, 0.62, 0.75)


def categories(folder: Path) -> list[dict]:
    """The kinds of shapes: name, label, colour, terminology, paired."""
    return json.loads((folder / "Resources" / "MedShapeGenCategories.json").read_text(encoding="utf-8"))


def writeInput(node: Any, segmentID: str, folder: Path, name: str) -> str:
    """A segment as a mask, a model or a segment that is a surface as an STL file in LPS mm; returns the file's name."""
    if node.IsA("vtkMRMLSegmentationNode"):
        if node.GetSegmentation().GetSourceRepresentationName() != SURFACE:
            writeSegment(node, segmentID, folder / f"{name}.nrrd")
            return f"{name}.nrrd"
        surface = vtk.vtkPolyData()
        node.GetClosedSurfaceRepresentation(segmentID, surface)
    else:
        surface = node.GetPolyData()
    if surface is None or surface.GetNumberOfPoints() == 0:
        words = _("The shape {name} is empty.").format(name=node.GetName())
        raise RefusedInput("empty", words, _("Choose another one."))
    writeStl(node, surface, folder / f"{name}.stl")
    return f"{name}.stl"


def writeStl(node: Any, surface: Any, path: Path) -> None:
    """A node's surface as a binary STL file in LPS mm, the node's transforms applied; the header says so."""
    import numpy as np

    toLps = vtk.vtkTransform()
    toLps.SetMatrix(slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrixToWorld(node)))
    turned, whole, writer = vtk.vtkTransformPolyDataFilter(), vtk.vtkTriangleFilter(), vtk.vtkSTLWriter()
    turned.SetTransform(toLps)
    turned.SetInputData(surface)
    whole.SetInputConnection(turned.GetOutputPort())
    writer.SetInputConnection(whole.GetOutputPort())
    writer.SetHeader("MedShapeGen; SPACE=LPS;UNIT=MM; research use only, not for clinical use")
    writer.SetFileTypeToBinary()
    writer.SetFileName(str(path))
    if not writer.Write():
        raise OSError(28, f"{path.name} could not be written.")


def receiveShapes(
    task: str, result: dict, folder: Path, name: str, beside: Any, kind: dict | None, attributes: dict[str, str]
) -> Generator[tuple[str, float], None, Any]:
    """Brings a result into the scene, a shape for each step of (text, fraction); returns the report's text node.

    name : of the folder and the report; kind : the row of `categories`, None where the shapes are of no known kind.
    """
    report = read_report(folder)
    color = kind["colour"] if kind else PLAIN
    words = {"reconstruct": _("reconstruction"), "interpolate": _("step"), "complete": _("completion")}
    label = words.get(task) or (kind["label"] if kind else _("shape"))
    with RunFolder(name, beside, {**attributes, f"{MODULE}.Weights": report["weights"]["digest"]}) as run:
        text = run.text(f"{name} report", json.dumps(report, indent=1))
        text.SetAttribute(RESULT, "1")
        text.SetAttribute(f"{MODULE}.Terminology", kind["terminology"] if kind else "")
        edge = 0.0
        for number, shape in enumerate(result["shapes"], 1):
            yield _("loading the shapes"), (number - 1) / len(result["shapes"])
            errors = task == "reconstruct"
            surface = readSurface(folder / ("error.vtp" if errors else shape["file"]))
            if task == "generate":  # side by side: they all lie at the origin
                edge = standBeside(surface, edge)
            model = run.model(f"{label} {number}" if len(result["shapes"]) > 1 else label, surface, color)
            model.SetAttribute(f"{MODULE}.Figures", json.dumps(shape))
            text.AddNodeReferenceID(SHAPE, model.GetID())
            if errors:
                colors = displays.signedColors("Error in mm", ERROR_MAX_MM)
                displays.dressModel(model, "error_mm", colors, -ERROR_MAX_MM, ERROR_MAX_MM, _("Error [mm]"))
                text.SetNodeReferenceID(SKELETON, addSkeleton(run, folder / "skeleton.vtp").GetID())
        columns = [_("Shape"), _("Volume [ml]"), _("Longest side [mm]"), _("Checks")]
        run.table(f"{name} table", columns, [listRow(model) for model in modelsOf(text)])
        yield _("done"), 1.0
    return text


def standBeside(surface: Any, edge: float) -> float:
    """Moves a surface along R, in place, so that it begins at `edge`; returns where the next one begins."""
    points = toNumpy(surface.GetPoints().GetData())
    points[:, 0] += edge - points[:, 0].min()
    return float(points[:, 0].max()) + GAP_MM


def addSkeleton(run: RunFolder, path: Path) -> Any:
    """A model of the skeleton's points as balls of their radius, with a legend; hidden until the user wants to see inside."""
    points = readSurface(path)
    points.GetPointData().SetActiveScalars("radius_mm")
    ball, glyph = vtk.vtkSphereSource(), vtk.vtkGlyph3D()
    ball.SetRadius(1.0)
    glyph.SetInputData(points)
    glyph.SetSourceConnection(ball.GetOutputPort())
    glyph.SetScaleModeToScaleByScalar()
    glyph.Update()
    model = run.model(_("skeleton"), glyph.GetOutput())
    high = max(points.GetPointData().GetArray("radius_mm").GetRange()[1], 0.1)
    displays.dressModel(model, "radius_mm", displays.heatColors(f"Radius to {high:.1f} mm", high), 0.0, high, _("Radius [mm]"))
    model.GetDisplayNode().SetVisibility(False)
    return model


def modelsOf(report: Any) -> list[Any]:
    """The models of a result that are still there."""
    count = report.GetNumberOfNodeReferences(SHAPE) if report is not None else 0
    found = [report.GetNthNodeReference(SHAPE, number) for number in range(count)]
    return [model for model in found if model is not None]


def listRow(model: Any) -> list[str]:
    """A line of the list: name, volume, longest side, checks."""
    figures = json.loads(model.GetAttribute(f"{MODULE}.Figures") or "{}")
    volume, side = figures.get("volume_ml"), figures.get("longest_mm")
    texts = [f"{value:.{places}f} {unit}" if value is not None else "" for value, places, unit in ((volume, 1, "ml"), (side, 0, "mm"))]
    return [model.GetName(), *texts, ", ".join(figures.get("failed", [])) or _("passed")]


def showOne(report: Any, row: int, skeleton: bool = False) -> None:
    """Shows one shape of a result, or all of them for row -1, and on wish the skeleton inside; legends go with them.

    What other results show is hidden: many lie in the same place.
    """
    for other in slicer.util.getNodesByClass("vtkMRMLTextNode"):
        if other.GetAttribute(RESULT) and other is not report:
            for model in filter(None, [*modelsOf(other), other.GetNodeReference(SKELETON)]):
                showModel(model, False, False)
    inside = report.GetNodeReference(SKELETON)
    skeleton = skeleton and inside is not None
    for number, model in enumerate(modelsOf(report)):
        model.GetDisplayNode().SetOpacity(0.25 if skeleton else 1.0)
        showModel(model, row in (-1, number), not skeleton)
    if inside is not None:
        showModel(inside, skeleton, skeleton)


def showModel(model: Any, visible: bool, legend: bool) -> None:
    model.GetDisplayNode().SetVisibility(visible)
    if displays.legendOf(model) is not None:
        displays.legendOf(model).SetVisibility(visible and legend)


def hideGiven(node: Any, segmentID: str) -> None:
    """Hides a given shape in whose place a result lies."""
    if slicer.mrmlScene.IsNodePresent(node) and node.GetDisplayNode() is not None:
        if node.IsA("vtkMRMLSegmentationNode"):
            node.GetDisplayNode().SetSegmentVisibility(segmentID, False)
        else:
            node.GetDisplayNode().SetVisibility(False)


def asSegmentation(report: Any) -> Any:
    """All shapes of a result as segments of one new segmentation, with names, colours and terminology; surfaces stay exact.

    The models, which lie in the same place, are hidden.
    """
    models, name = modelsOf(report), report.GetName().replace(" report", "") + " segmentation"
    with RunFolder(name, models[0]) as run:
        node = run.add("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetSourceRepresentationToClosedSurface()
        for model in models:
            segment = slicer.vtkSegment()
            segment.SetName(model.GetName())
            segment.SetColor(*model.GetDisplayNode().GetColor())
            surface = vtk.vtkPolyData()
            surface.DeepCopy(model.GetPolyData())
            segment.AddRepresentation(SURFACE, surface)
            if report.GetAttribute(f"{MODULE}.Terminology"):
                segment.SetTerminology(report.GetAttribute(f"{MODULE}.Terminology"))
            node.GetSegmentation().AddSegment(segment)
            showModel(model, False, False)
    return node


def exportStl(report: Any, folder: Path) -> list[Path]:
    """All shapes as STL files in LPS mm; no file is overwritten. FailedResult where nothing can be written."""
    with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as made:
        files = []
        for model in modelsOf(report):
            name = nodes.freeName(folder, "".join(c if c.isalnum() else "_" for c in model.GetName()), (".stl",))
            files.append(Path(made) / f"{name}.stl")
            writeStl(model, model.GetPolyData(), files[-1])
        return nodes.deliver(files, folder)
