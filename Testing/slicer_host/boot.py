"""Starting the host: the order in which the application makes scene, logics, views and modules matters (`start`)."""

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

PYTHON = Path(__file__).parent / "python"
ENVIRONMENT = {"VTK_DEFAULT_OPENGL_WINDOW": "vtkEGLRenderWindow", "QT_QPA_PLATFORM": "offscreen"}  # for want of a display
LOGICS = (
    *("ColorLogic", "VolumesLogic", "ModelsLogic", "SubjectHierarchyModuleLogic", "TerminologiesModuleLogic", "MarkupsLogic"),
    *("SegmentationsModuleLogic", "TablesLogic", "TextsLogic", "TransformLogic", "CropVolumeLogic"),
)
# Which module owns a node's item in the subject hierarchy; Slicer's Qt plugins decide that.
OWNERS = ("Segmentation", "Volume", "Model", "Markups", "Transform", "Table", "Text")
SCHEMA = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/{}-context-schema.json#"


def _terminologies() -> dict[str, dict[str, Any]]:
    """The default terminology files, which no package carries: empty ones, so that the logic starts without errors."""
    regions = {"AnatomicContextName": "DICOM-Master", "AnatomicCodes": {"AnatomicRegion": []}, "@schema": SCHEMA.format("anatomic")}
    codes = {"SegmentationCodes": {"Category": []}, "@schema": SCHEMA.format("segment")}
    named = {name: codes | {"SegmentationCategoryTypeContextName": name} for name in ("SlicerGeneralAnatomy", "DICOM-Master")}
    files = {f"SegmentationCategoryTypeModifier-{name}": content for name, content in named.items()}
    return {"AnatomicRegionAndModifier-DICOM-Master": regions, **files}


def _import_slicer() -> types.ModuleType:
    """The package `slicer` as the application shows it: without the names that the wheel spills, with ours."""
    os.environ.update({**ENVIRONMENT, **os.environ})
    # The project itself is found in the module folders or not at all.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
    import slicer

    for name, value in list(vars(slicer.util).items()):
        if not name.startswith("__") and vars(slicer).get(name) is value:
            delattr(slicer, name)
    slicer.__path__.append(str(PYTHON / "slicer_parts"))
    sys.path.append(str(PYTHON / "modules"))
    sys.modules["slicer.modules"] = slicer.modules = types.ModuleType("slicer.modules")
    return slicer


def _import_qt(slicer: types.ModuleType) -> None:
    """The modules qt and ctk, and the classes that Slicer adds to its own package."""
    from . import pythonqt

    sys.modules["qt"] = qt = pythonqt.build()
    from . import application, ctk_widgets, modules, mrml_widgets, uiloader

    sys.modules["ctk"] = ctk = types.ModuleType("ctk", "Stand-ins for CTK's widgets")
    for source, target in ((ctk_widgets, ctk), (application, slicer), (modules, slicer), (mrml_widgets, slicer)):
        found = {n: v for n, v in vars(source).items() if n.startswith(("ctk", "qMRML", "qSlicer")) and isinstance(v, type)}
        vars(target).update(found)
        uiloader.QUiLoader.classes.update(found)
    qt.QUiLoader = uiloader.QUiLoader


def _start_logics(slicer: types.ModuleType, folder: Path) -> Any:
    """Application logic, then each module's; gives them the folders that they look into."""
    scene, logic, share = slicer.mrmlScene, slicer.app.applicationLogic(), folder / "home" / "share"
    for path in (share / "ColorFiles", folder / "cache", folder / "temporary"):
        path.mkdir(parents=True)
    for name, content in _terminologies().items():
        (share / f"{name}.term.json").write_text(json.dumps(content), encoding="utf-8")
    logic.SetHomeDirectory(str(folder / "home"))
    logic.SetShareDirectory("share")  # joined to the home directory
    logic.SetTemporaryPath(str(folder / "temporary"))
    logic.SetMRMLScene(scene)
    # A scene bundle can only be read with a cache.
    remote, data_io = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    remote.GetCacheManager().SetRemoteCacheDirectory(str(folder / "cache"))
    remote.SetMRMLScene(scene)
    remote.AddDataIOToScene()
    logic.SetMRMLSceneDataIO(scene, remote, data_io)
    for cls in LOGICS:
        module_logic, name = getattr(slicer, "vtkSlicer" + cls)(), cls.removesuffix("Logic").removesuffix("Module")
        name = {"Color": "Colors", "Transform": "Transforms"}.get(name, name)
        if hasattr(module_logic, "SetModuleShareDirectory"):
            module_logic.SetModuleShareDirectory(str(share))
        module_logic.SetMRMLApplicationLogic(logic)
        module_logic.SetMRMLScene(scene)
        logic.SetModuleLogic(name, module_logic)
        slicer.app.moduleManager()._add(types.SimpleNamespace(name=name, logic=lambda found=module_logic: found))
    logic.SetColorLogic(slicer.modules.colors.logic())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    return remote, data_io


def _keep_subject_hierarchy(slicer: types.ModuleType) -> None:
    """Gives nodes their items in the subject hierarchy, which Slicer's Qt plugins do."""
    import vtk

    scene, hierarchy = slicer.mrmlScene, slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode

    def add(node: Any) -> None:
        owner = next((owner for owner in OWNERS if node.IsA(f"vtkMRML{owner}Node")), None)
        if owner and not node.GetHideFromEditors() and not hierarchy(scene).GetItemByDataNode(node):
            hierarchy(scene).CreateItem(hierarchy(scene).GetSceneItemID(), node, owner.removesuffix("s") + "s")

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(caller: Any, event: str, node: Any) -> None:
        if node and not scene.IsImporting():
            add(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def leaving(caller: Any, event: str, node: Any) -> None:
        item = hierarchy(scene).GetItemByDataNode(node) if node and not scene.IsClosing() else 0
        if item:
            hierarchy(scene).RemoveItem(item, False, False)

    scene.AddObserver(scene.NodeAddedEvent, added)
    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, leaving)
    scene.AddObserver(scene.EndImportEvent, lambda *_: [add(scene.GetNthNode(n)) for n in range(scene.GetNumberOfNodes())])


def start(folder: Path) -> Any:
    """Makes slicer.app and slicer.mrmlScene with all logics and views; returns what has to be kept alive."""
    slicer = _import_slicer()
    _import_qt(slicer)
    from .views import qSlicerLayoutManager

    slicer.app, slicer.mrmlScene = slicer.qSlicerApplication(str(folder)), slicer.vtkMRMLScene()
    slicer.app._logic = slicer.vtkSlicerApplicationLogic()
    kept = _start_logics(slicer, folder)
    _keep_subject_hierarchy(slicer)
    slicer.app._layouts = qSlicerLayoutManager(slicer.mrmlScene, slicer.app.applicationLogic())
    return kept
