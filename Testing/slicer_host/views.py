"""slicer.app.layoutManager(): one 3-D view and three slice views, drawn by Slicer's own displayable managers."""

import ctypes.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .standin import getter

SLICES = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
MANAGERS_3D = ("CameraD", "ViewD", "ModelD", "SegmentationsD", "MarkupsD", "ColorLegendD")
MANAGERS_2D = ("ModelSliceD", "SegmentationsD", "MarkupsD", "ColorLegendD")


def missing() -> str:
    """Why views cannot be drawn here, as a sentence for a skipped test; "" when they can."""
    kind = type(slicer.app.layoutManager().threeDWidget(0).threeDView().renderWindow()).__name__
    if kind == "vtkOSOpenGLRenderWindow" and ctypes.util.find_library("OSMesa") is None:  # VTK's last resort, a crash without the library
        return "views need software rendering: Debian's libegl-mesa0 and libgl1-mesa-dri"
    return ""


class _View:
    """A window off screen with the displayable managers of a view node."""

    def __init__(self, dimension: str, node: Any) -> None:
        factory = getattr(slicer, f"vtkMRML{dimension}ViewDisplayableManagerFactory").GetInstance()
        self._window, self._renderer, self._node = vtk.vtkRenderWindow(), vtk.vtkRenderer(), node
        self._window.SetOffScreenRendering(1)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()  # displayable managers want one
        self._interactor.SetRenderWindow(self._window)
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for short in MANAGERS_3D if dimension == "ThreeD" else MANAGERS_2D:
            name = f"vtkMRML{short}isplayableManager"
            name += {"ThreeD": "3D", "Slice": "2D"}[dimension] if short == "SegmentationsD" else ""
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.Initialize(factory, self._renderer)
        self._group.SetMRMLDisplayableNode(node)

    renderWindow = getter("_window")

    def _pixels(self, size: tuple[int, int]) -> np.ndarray:
        """(height, width, 3) uint8."""
        self._window.SetSize(*size)
        self._renderer.ResetCameraClippingRange()
        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())
        return image.reshape(size[1], size[0], -1)[::-1, :, :3].copy()


class qMRMLThreeDView(_View):
    mrmlViewNode = getter("_node")

    def resetFocalPoint(self) -> None:
        """Looks at what the scene shows; the box and the axis labels around it do not count."""
        box, bounds = vtk.vtkBoundingBox(), [0.0] * 6
        for node in slicer.util.getNodesByClass("vtkMRMLDisplayableNode"):
            if node.GetDisplayVisibility() and not node.IsA("vtkMRMLVolumeNode"):
                node.GetRASBounds(bounds)
                if bounds[0] <= bounds[1]:
                    box.AddBounds(bounds)
        if box.IsValid():
            box.GetBounds(bounds)
            self._renderer.ResetCamera(bounds)

    resetCamera = resetFocalPoint


class qMRMLSliceView(_View):
    """The slice's image, which Slicer draws in Qt code, comes from the slice logic by an image mapper."""

    def __init__(self, node: Any, logic: Any) -> None:
        super().__init__("Slice", node)
        self._logic, self._mapper, self._image = logic, vtk.vtkImageMapper(), vtk.vtkActor2D()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._image)

    mrmlSliceNode = getter("_node")

    def _pixels(self, size: tuple[int, int]) -> np.ndarray:
        width, _, depth = self._node.GetFieldOfView()
        self._node.SetDimensions(*size, 1)
        self._node.SetFieldOfView(width, width * size[1] / size[0], depth)
        port = self._logic.GetImageDataConnection()
        self._image.SetVisibility(port is not None)
        self._mapper.SetInputConnection(port)
        return super()._pixels(size)


class qSlicerLayoutManager:
    """Made at start, before any node: a colour legend made before its view's managers never appears."""

    threeDViewCount, tableViewCount, plotViewCount = 1, 0, 0

    def __init__(self, scene: Any, application_logic: Any) -> None:
        self._scene, self._slice_logics, view_logics = scene, vtk.vtkCollection(), vtk.vtkCollection()
        application_logic.SetSliceLogics(self._slice_logics)
        application_logic.SetViewLogics(view_logics)

        def started(logic: Any, collection: Any) -> Any:
            logic.SetMRMLApplicationLogic(application_logic)
            logic.SetMRMLScene(scene)
            collection.AddItem(logic)
            return logic

        view = qMRMLThreeDView("ThreeD", started(slicer.vtkMRMLViewLogic(), view_logics).AddViewNode("1"))
        self._three_d = SimpleNamespace(threeDView=lambda: view, mrmlViewNode=view.mrmlViewNode)
        self._slices = {name: self._slice(started(slicer.vtkMRMLSliceLogic(), self._slice_logics), name) for name in SLICES}

    @staticmethod
    def _slice(logic: Any, name: str) -> SimpleNamespace:
        view = qMRMLSliceView(logic.AddSliceNode(name), logic)
        view.mrmlSliceNode().SetOrientation(SLICES[name])
        return SimpleNamespace(sliceView=lambda: view, sliceLogic=lambda: logic, mrmlSliceNode=view.mrmlSliceNode)

    def _layout_node(self) -> Any:
        # Without vtkMRMLLayoutLogic, which makes views of its own and forgets ours.
        node = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        return node or self._scene.AddNewNodeByClass("vtkMRMLLayoutNode")

    def setLayout(self, layout: int) -> None:
        self._layout_node().SetViewArrangement(layout)

    layout = property(lambda self: self._layout_node().GetViewArrangement(), setLayout)

    mrmlSliceLogics = getter("_slice_logics")

    def threeDWidget(self, index: int) -> SimpleNamespace:
        return [self._three_d][index]

    def sliceWidget(self, name: str) -> SimpleNamespace | None:
        return self._slices.get(name)

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._slices)

    def resetThreeDViews(self) -> None:
        self._three_d.threeDView().resetCamera()

    def resetSliceViews(self) -> None:
        for widget in self._slices.values():
            widget.sliceLogic().FitSliceToAll()
