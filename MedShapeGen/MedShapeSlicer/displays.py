"""How results look: colours with a fixed range, legends, overlays on the slices, what is shown of a segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import slicer
import vtk

# Dark violet over red to yellow, even in lightness and safe for colour-blind eyes; never the beige of bone.
HEAT = (
    (0.0, (0.05, 0.03, 0.25)), (0.25, (0.34, 0.06, 0.43)), (0.5, (0.73, 0.21, 0.33)), (0.75, (0.98, 0.55, 0.04)),
    (1.0, (0.99, 1.0, 0.64)),
)  # fmt: skip
HEAT_VISIBLE = HEAT[1:]  # for an overlay: the first colour would be the black of a slice


def heatColors(name: str, maximum: float, visible: bool = False) -> Any:
    """A procedural colour node from 0 to `maximum`, made once for each name; saved with the scene."""
    node = slicer.mrmlScene.GetFirstNode(name, "vtkMRMLProceduralColorNode")
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLProceduralColorNode", name)
        node.SetAttribute("Category", "MedShapeGen")
        node.SetHideFromEditors(False)  # hidden ones with a file of their own are not saved
        stops = HEAT_VISIBLE if visible else HEAT
        low = stops[0][0]
        transfer = vtk.vtkDiscretizableColorTransferFunction()
        for place, color in stops:
            transfer.AddRGBPoint((place - low) / (1.0 - low) * maximum, *color)
        node.SetAndObserveColorTransferFunction(transfer)
    return node


def signedColors(name: str, maximum: float) -> Any:
    """A procedural colour node from -maximum (blue) over 0 (grey) to maximum (orange)."""
    node = slicer.mrmlScene.GetFirstNode(name, "vtkMRMLProceduralColorNode")
    if node is None:
        node = heatColors(name, maximum)
        transfer = vtk.vtkDiscretizableColorTransferFunction()
        for place, color in ((-maximum, (0.1, 0.3, 0.7)), (0.0, (0.85, 0.85, 0.85)), (maximum, (0.85, 0.45, 0.0))):
            transfer.AddRGBPoint(place, *color)
        node.SetAndObserveColorTransferFunction(transfer)
    return node


def agreementColors(members: int) -> Any:
    """A colour table whose entry k is called "k of N"; entry 0 is transparent."""
    name = f"{members} implants agree"
    node = slicer.mrmlScene.GetFirstNode(name, "vtkMRMLColorTableNode")
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", name)
        node.SetTypeToUser()
        node.SetAttribute("Category", "MedShapeGen")
        node.SetHideFromEditors(False)
        node.SetNumberOfColors(members + 1)
        transfer = vtk.vtkColorTransferFunction()
        for place, color in ((0.0, (0.99, 0.9, 0.6)), (0.5, (0.3, 0.7, 0.65)), (1.0, (0.1, 0.25, 0.55))):
            transfer.AddRGBPoint(place, *color)
        for k in range(members + 1):
            color = transfer.GetColor((k - 1) / max(members - 1, 1)) if k else (0.3, 0.3, 0.3)
            node.SetColor(k, f"{k} of {members}", *color, 1.0 if k else 0.0)
    return node


def dressVolume(
    volume: Any, colors: Any, low: float, high: float, window: tuple[float, float], legend: str, named: bool = False,
    leftOfView: bool = False,
) -> None:  # fmt: skip
    """Colours, fixed window and transparency outside low..high of an overlay volume; `leftOfView` is for its legend."""
    display = volume.GetDisplayNode()
    display.SetAndObserveColorNodeID(colors.GetID())
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*window)
    display.SetAutoThreshold(False)
    display.SetThreshold(low, high)
    display.ApplyThresholdOn()
    display.SetInterpolate(not named)
    addLegend(volume, legend, named, leftOfView)


def dressModel(model: Any, scalar: str, colors: Any, low: float, high: float, legend: str) -> None:
    """Shows a point scalar of a model from `low` to `high`; its legend is hidden until somebody shows it."""
    display = model.GetDisplayNode()
    display.SetActiveScalar(scalar, vtk.vtkAssignAttribute.POINT_DATA)
    display.SetAndObserveColorNodeID(colors.GetID())
    display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
    display.SetScalarRange(low, high)
    display.SetScalarVisibility(True)
    addLegend(model, legend)


def addLegend(node: Any, title: str, named: bool = False, leftOfView: bool = False) -> Any:
    legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(title)
    legend.SetLabelFormat("%s" if named else "%.2f")
    legend.GetTitleTextProperty().SetFontSize(14)
    legend.GetLabelTextProperty().SetFontSize(12)
    legend.SetSize(0.12, 0.45)
    if leftOfView:
        legend.SetPosition(0.02, 0.5)
    if named:
        colors = node.GetDisplayNode().GetColorNode()
        legend.SetUseColorNamesForLabels(True)
        legend.SetMaxNumberOfColors(colors.GetNumberOfColors())
        legend.SetNumberOfLabels(colors.GetNumberOfColors())
    legend.SetVisibility(False)
    return legend


def legendOf(node: Any) -> Any:
    return slicer.modules.colors.logic().GetColorLegendDisplayNode(node)


class Overlay:
    """A volume in the foreground of the slice views, and the layers that were there before."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[Any, Any, float]] = {}
        self._shown: Any = None

    def show(self, volume: Any, opacity: float = 0.6, background: Any = None) -> None:
        """Shows one volume over `background`, where there is one; None brings the former layers back."""
        composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        if self._shown is not None and legendOf(self._shown) is not None:
            legendOf(self._shown).SetVisibility(False)
        for composite in composites:
            key = composite.GetID()
            if volume is None:
                if key in self._before and self._shown is not None:
                    back, front, old = self._before[key]
                    composite.SetForegroundVolumeID(front)
                    composite.SetForegroundOpacity(old)
                    composite.SetBackgroundVolumeID(background.GetID() if background is not None else back)
                continue
            if self._shown is None:
                self._before[key] = (
                    composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetForegroundOpacity(),
                )  # fmt: skip
            if background is not None:
                composite.SetBackgroundVolumeID(background.GetID())
            composite.SetForegroundVolumeID(volume.GetID())
            composite.SetForegroundOpacity(opacity)
        self._shown = volume
        if volume is not None and legendOf(volume) is not None:
            legendOf(volume).SetVisibility(True)


def showSegments(segmentation: Any, visible: Iterable[str], opacity: float, filled: bool = True) -> None:
    """Shows some segments of a segmentation and hides its others; on the slices filled, or as outlines over a map."""
    display = segmentation.GetDisplayNode()
    inside = segmentation.GetSegmentation()
    wanted = set(visible)
    with slicer.util.NodeModify(display):
        for number in range(inside.GetNumberOfSegments()):
            segmentID = inside.GetNthSegmentID(number)
            display.SetSegmentVisibility(segmentID, segmentID in wanted)
            display.SetSegmentOpacity3D(segmentID, opacity)
        display.SetVisibility2DFill(filled)
        display.SetVisibility(True)


def sliceTo(pointRas: Sequence[float]) -> None:
    """Moves the slice views through a point, without moving what they show sideways."""
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        node.JumpSliceByOffsetting(*pointRas)


def lookAt(pointRas: Sequence[float], insideRas: Sequence[float]) -> None:
    """Shows a point in the 3-D views as it looks from outside, straight over it."""
    import numpy as np

    outward = np.subtract(pointRas, insideRas)
    length = float(np.linalg.norm(outward))
    if length < 1.0:
        return
    position = np.add(insideRas, outward / length * 550.0)
    for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        camera.SetFocalPoint(*insideRas)
        camera.SetPosition(*position)
        camera.SetViewUp(*((0.0, 0.0, 1.0) if abs(outward[2]) < 0.9 * length else (0.0, 1.0, 0.0)))
        camera.ResetClippingRange()


def centreOf(node: Any) -> list[float]:
    """Middle of a node's bounds in world coordinates."""
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)]


def showTable(table: Any) -> None:
    """Opens a layout with a table and shows one in it; only on the user's wish."""
    slicer.app.applicationLogic().GetSelectionNode().SetActiveTableID(table.GetID())
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView)
    slicer.app.applicationLogic().PropagateTableSelection()


def openEditor(segmentation: Any, segmentID: str) -> None:
    """Opens a segment in the Segment Editor."""
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(segmentation)
    editor.setCurrentSegmentID(segmentID)
