"""Stand-ins for Slicer's own widgets (slicer.qMRML...): they show nodes of the scene and follow it."""

from operator import attrgetter
from typing import Any

import qt
import slicer
from PySide6.QtCore import Signal
from shiboken6 import Shiboken

from .ctk_widgets import arrange
from .pythonqt import native
from .standin import Stored, getter

NODE_SIGNALS = {"currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged"}


class Observed:
    """A widget's observers of a VTK object: removed together, and silent once the widget is gone."""

    def __init__(self, owner: Any) -> None:
        self._owner, self._tags = owner, []

    def replace(self, caller: Any, events: str, function: Any) -> None:
        for watched, tag in self._tags:
            watched.RemoveObserver(tag)
        quiet = lambda *_: function() if Shiboken.isValid(self._owner) else None  # noqa: E731
        self._tags = [(caller, caller.AddObserver(getattr(caller, event), quiet)) for event in events.split() if caller is not None]


@native
class qMRMLWidget(qt.QWidget):
    mrmlSceneChanged = Signal(object)
    SIGNALS = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}
    _scene: Any = None
    mrmlScene = getter("_scene")

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


@native
class qMRMLNodeComboBox(qt.QWidget):
    """Nodes of some classes to choose from; the first one is chosen where none is not allowed."""

    currentNodeChanged, SIGNALS = Signal(object), NODE_SIGNALS
    nodeTypes, showChildNodeTypes = Stored([], "_refresh"), Stored(True, "_refresh")
    noneEnabled, noneDisplay = Stored(False, "_refresh"), Stored("None", "_refresh")
    addEnabled, removeEnabled, editEnabled, renameEnabled = Stored(True), Stored(True), Stored(False), Stored(False)
    baseName, selectNodeUponCreation = Stored(""), Stored(True)
    _scene: Any = None
    _current: Any = None
    mrmlScene, currentNode, nodeCount = getter("_scene"), getter("_current"), lambda self: sum(n is not None for n in self._nodes)

    def __init__(self, *parent: Any) -> None:
        super().__init__(*parent)
        self._nodes: list[Any] = []  # in the order of the box, which begins with None where that is allowed
        self._attributes: list[tuple[str, str, Any]] = []
        self._observed, self._combo = Observed(self), qt.QComboBox(self)
        arrange(qt.QHBoxLayout(self), self._combo)
        self._combo.currentIndexChanged.connect(lambda index: self._select(self._nodes[index] if index >= 0 else None))

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self._observed.replace(scene, "NodeAddedEvent NodeRemovedEvent EndImportEvent EndCloseEvent", self._refresh)
        self._refresh()

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes.append((node_type, name, value))
        self._refresh()

    def _shown(self, node: Any) -> bool:
        if not any(node.IsA(kind) if self.showChildNodeTypes else node.GetClassName() == kind for kind in self.nodeTypes):
            return False
        wanted = ((node.GetAttribute(name), value) for kind, name, value in self._attributes if node.IsA(kind))
        return not node.GetHideFromEditors() and all(has is not None and value in (None, has) for has, value in wanted)

    def _refresh(self) -> None:
        scene = self._scene
        if scene is None or scene.IsBatchProcessing():
            return
        every = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
        self._nodes = [None] * self.noneEnabled + [node for node in every if self._shown(node)]
        with qt.QSignalBlocker(self._combo):
            self._combo.clear()
            self._combo.addItems([self.noneDisplay if node is None else node.GetName() or node.GetID() for node in self._nodes])
        self._select(self._current if self._current in self._nodes else next(iter(self._nodes), None))

    def _select(self, node: Any) -> None:
        with qt.QSignalBlocker(self._combo):
            self._combo.currentIndex = self._nodes.index(node) if node in self._nodes else -1
        if node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)

    def setCurrentNode(self, node: Any) -> None:
        if node is not None and not isinstance(node, slicer.vtkMRMLNode):
            raise TypeError(f"setCurrentNode takes a node, not {type(node).__name__}")
        if node in self._nodes:
            self._select(node)
        elif self.noneEnabled or not self._nodes:  # a node that is not listed is none; without "none" the present one stays
            self._select(None)


@native
class qMRMLSegmentSelectorWidget(qt.QWidget):
    """A segmentation node and one of its segments."""

    currentNodeChanged, currentSegmentChanged, SIGNALS = Signal(object), Signal(str), NODE_SIGNALS
    noneEnabled, segmentationNodeSelectorVisible = Stored(False, "_apply"), Stored(True, "_apply")
    editEnabled, horizontalLayout, selectNodeUponCreation = Stored(False), Stored(False), Stored(True)
    _segment = ""
    currentSegmentID = getter("_segment")
    mrmlScene, setMRMLScene = property(attrgetter("_nodes.mrmlScene")), property(attrgetter("_nodes.setMRMLScene"))
    currentNode, setCurrentNode = property(attrgetter("_nodes.currentNode")), property(attrgetter("_nodes.setCurrentNode"))

    def __init__(self, *parent: Any) -> None:
        super().__init__(*parent)
        self._nodes, self._segments, self._observed = qMRMLNodeComboBox(self), qt.QComboBox(self), Observed(self)
        arrange(qt.QVBoxLayout(self), self._nodes, self._segments)
        self._nodes.setNodeTypes(["vtkMRMLSegmentationNode"])
        self._nodes.currentNodeChanged.connect(self._node_changed)
        self._segments.currentIndexChanged.connect(lambda _: self._picked())

    def _apply(self) -> None:
        self._nodes.noneEnabled = self.noneEnabled
        self._nodes.visible = self.segmentationNodeSelectorVisible
        self._fill()

    def _node_changed(self, node: Any) -> None:
        segmentation = node.GetSegmentation() if node is not None else None
        self._observed.replace(segmentation, "SegmentAdded SegmentRemoved SegmentModified SegmentsOrderModified", self._fill)
        self.currentNodeChanged.emit(node)
        self._fill()

    def _fill(self) -> None:
        inside = self._nodes.currentNode().GetSegmentation() if self._nodes.currentNode() is not None else None
        ids = list(inside.GetSegmentIDs()) if inside is not None else []
        with qt.QSignalBlocker(self._segments):
            self._segments.clear()
            if self.noneEnabled:
                self._segments.addItem("Select a segment...", "")
            for segment_id in ids:
                self._segments.addItem(inside.GetSegment(segment_id).GetName(), segment_id)
            self._segments.currentIndex = max(self._segments.findData(self._segment), 0 if ids or self.noneEnabled else -1)
        self._picked()

    def _picked(self) -> None:
        chosen = self._segments.itemData(self._segments.currentIndex) or ""
        if chosen != self._segment:
            self._segment = chosen
            self.currentSegmentChanged.emit(chosen)

    def setCurrentSegmentID(self, segment_id: str) -> None:
        index = self._segments.findData(segment_id)
        if index >= 0 or self.noneEnabled:
            self._segments.currentIndex = max(index, 0)
