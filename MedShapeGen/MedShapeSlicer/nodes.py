"""Builders of MRML nodes: a folder for each run, segments with their surfaces, volumes, models, tables, texts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import slicer
import vtk
from MedShapeCore.errors import FailedResult
from slicer.i18n import tr as _

from .geometry import LABELMAP, REFERENCE, SURFACE, orientedImage, readSurface


class RunFolder:
    """A new folder of the subject hierarchy beside the input, and all nodes of one run in it.

    Used as a context: when the block is left by an error or because its generator was closed, all of it goes again.
    """

    def __init__(self, name: str, beside: Any = None, attributes: Mapping[str, str] | None = None) -> None:
        self.hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        item = self.hierarchy.GetItemByDataNode(beside) if beside is not None else 0
        parent = self.hierarchy.GetItemParent(item) if item else 0
        self.name = uniqueFolderName(name)
        self.item = self.hierarchy.CreateFolderItem(parent or self.hierarchy.GetSceneItemID(), self.name)
        self.attributes = dict(attributes or {})
        self.nodes: list[Any] = []

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            for node in reversed(self.nodes):
                removeWhole(node)
            self.hierarchy.RemoveItem(self.item)

    def add(self, className: str, name: str) -> Any:
        """A new node with a unique name, in the folder; it has its attributes when the scene hears of it."""
        node = slicer.mrmlScene.CreateNodeByClass(className)
        node.UnRegister(None)  # the call above counts one reference too many
        node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
        for key, value in self.attributes.items():
            node.SetAttribute(key, value)
        return self.adopt(slicer.mrmlScene.AddNode(node))

    def adopt(self, node: Any) -> Any:
        self.nodes.append(node)
        for key, value in self.attributes.items():
            node.SetAttribute(key, value)
        item = self.hierarchy.GetItemByDataNode(node)
        if item:  # nodes without a place in the hierarchy (colours) have none
            self.hierarchy.SetItemParent(item, self.item)
        return node

    def segmentation(self, name: str, beside: Any) -> Any:
        """An empty segmentation with the geometry, the reference volume and the parent transform's absence of `beside`."""
        node = self.add("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        if beside is not None and beside.IsA("vtkMRMLSegmentationNode"):
            text = beside.GetSegmentation().GetConversionParameter(REFERENCE)
            if text and beside.GetParentTransformNode() is None:
                node.GetSegmentation().SetConversionParameter(REFERENCE, text)
            role = node.GetReferenceImageGeometryReferenceRole()
            node.SetNodeReferenceID(role, beside.GetNodeReferenceID(role))
        return node

    def volume(self, name: str, array: Any, ijkToRas: Any) -> Any:
        """A scalar volume from an array (k, j, i)."""
        node = slicer.util.addVolumeFromArray(array, ijkToRAS=ijkToRas, name=slicer.mrmlScene.GenerateUniqueName(name))
        node.CreateDefaultDisplayNodes()
        return self.adopt(node)

    def model(self, name: str, surface: Any, color: Sequence[float] | None = None) -> Any:
        """A model from vtkPolyData in RAS."""
        node = self.add("vtkMRMLModelNode", name)
        node.SetAndObservePolyData(surface)
        node.CreateDefaultDisplayNodes()
        if color is not None:
            node.GetDisplayNode().SetColor(*color)
        return node

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
        """A table node; every cell becomes text."""
        node = self.add("vtkMRMLTableNode", name)
        for number, title in enumerate(columns):
            values = vtk.vtkStringArray()
            values.SetName(title)
            for row in rows:
                values.InsertNextValue(str(row[number]))
            node.AddColumn(values)
        node.SetUseColumnTitleAsColumnHeader(True)
        return node

    def text(self, name: str, content: str) -> Any:
        node = self.add("vtkMRMLTextNode", name)
        node.SetText(content)
        return node


def removeWhole(node: Any) -> None:
    """Takes a node out of the scene with its display nodes, which Slicer would leave behind."""
    count = node.GetNumberOfDisplayNodes() if node.IsA("vtkMRMLDisplayableNode") else 0
    for part in [node.GetNthDisplayNode(number) for number in range(count)] + [node]:
        slicer.mrmlScene.RemoveNode(part)


def uniqueFolderName(name: str) -> str:
    """`name`, or `name (run 2)`, ... where such a folder is there already."""
    hierarchy, items = slicer.mrmlScene.GetSubjectHierarchyNode(), vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    taken = {hierarchy.GetItemName(items.GetId(n)) for n in range(items.GetNumberOfIds())}
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name} (run {number})"
    return found


def addSegment(
    segmentation: Any, segmentID: str, name: str, color: Sequence[float], array: Any, ijkToRas: Any,
    surface: Path | None = None, terminology: str = "", tags: Mapping[str, str] | None = None,
) -> Any:  # fmt: skip
    """A segment from an array (k, j, i) and, as its closed surface, a worker's .vtp file: Slicer converts nothing."""
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*color)
    segment.SetColorAutoGenerated(False)
    segment.AddRepresentation(LABELMAP, orientedImage(array, ijkToRas))
    if surface is not None:
        segment.AddRepresentation(SURFACE, readSurface(surface))
    if terminology:
        segment.SetTerminology(terminology)
    for key, value in (tags or {}).items():
        segment.SetTag(key, value)
    segmentation.GetSegmentation().AddSegment(segment, segmentID)
    return segment


def segmentTag(segment: Any, key: str) -> str:
    """A tag's text, empty where there is none."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(key, value) else ""


def boneSegmentID(segmentation: Any) -> str:
    """The one segment, or the one bone-like segment, of a segmentation; empty where nobody can know."""
    inside = segmentation.GetSegmentation()
    found = [inside.GetNthSegmentID(n) for n in range(inside.GetNumberOfSegments())]
    words = ("bone", "skull", "cranium", "calvaria", "knochen", "schädel", "crâne", "hueso", "cráneo")

    def isBone(segmentID: str) -> bool:
        segment = inside.GetSegment(segmentID)
        text = f"{segment.GetName()} {segmentTag(segment, segment.GetTerminologyEntryTagName())}".casefold()
        return any(word in text for word in words)

    bones = [segmentID for segmentID in found if isBone(segmentID)] if len(found) > 1 else found
    return bones[0] if len(bones) == 1 else ""


def outline(name: str, pointsRas: Any, color: Sequence[float]) -> Any:
    """A locked closed curve, not saved with the scene."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsClosedCurveNode", name)
    node.SetSaveWithScene(False)
    node.CreateDefaultDisplayNodes()
    slicer.util.updateMarkupsControlPointsFromArray(node, pointsRas)
    node.SetLocked(True)
    display = node.GetDisplayNode()
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(False)
    display.SetUseGlyphScale(False)
    display.SetGlyphSize(1.0)  # mm
    display.SetCurveLineSizeMode(display.UseLineDiameter)
    display.SetLineDiameter(2.0)
    display.SetSelectedColor(*color)
    display.SetColor(*color)
    return node


def freeName(folder: Path, name: str, endings: Sequence[str]) -> str:
    """`name`, or `name_2`, ... such that no file with one of the endings is there: nothing is overwritten."""
    number, found = 1, name
    while any((folder / f"{found}{ending}").exists() for ending in endings):
        number += 1
        found = f"{name}_{number}"
    return found


def deliver(files: Sequence[Path], folder: Path) -> list[Path]:
    """Copies files into the user's folder, which is made where it is not there: all of them, or FailedResult and none."""
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            written.append(folder / file.name)
            shutil.copyfile(file, written[-1])
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        words = _("Nothing was written to {folder}: {error}.").format(folder=folder, error=error.strerror or error)
        raise FailedResult("folder", words, _("Choose another folder, or free some space.")) from error
    return written
