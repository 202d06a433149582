"""Reading and writing of nodes as the application's IO manager does it, over MRML's own storage nodes."""

import os
from typing import Any

import slicer

# (file type, class of nodes written, class of nodes made by reading, extensions); the first entry that fits decides.
FILE_TYPES = (
    ("SegmentationFile", "vtkMRMLSegmentationNode", "vtkMRMLSegmentationNode", (".seg.nrrd", ".seg.nhdr")),
    ("VolumeFile", "vtkMRMLVolumeNode", "vtkMRMLScalarVolumeNode", (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")),
    ("ModelFile", "vtkMRMLModelNode", "vtkMRMLModelNode", (".stl", ".ply", ".obj", ".vtp", ".vtk")),
    ("SceneFile", "vtkMRMLScene", "", (".mrb",)),
)


class qSlicerCoreIOManager:
    def fileType(self, path: str) -> str:
        return next((kind for kind, _, _, ends in FILE_TYPES if str(path).lower().endswith(ends)), "NoFile")

    def fileWriterFileType(self, node: Any) -> str:
        return next((kind for kind, cls, _, _ in FILE_TYPES if node.IsA(cls)), "NoFile")

    @staticmethod
    def _storage(node: Any, path: str) -> Any:
        if node.GetStorageNode() is None or not node.GetStorageNode().SupportedFileType(path):
            node.AddDefaultStorageNode(path)
        node.GetStorageNode().SetFileName(path)
        return node.GetStorageNode()

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, messages: Any = None) -> bool:
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return bool(slicer.mrmlScene.ReadFromMRB(path, False))
        if not os.path.isfile(path):
            return False
        cls, ends = next((cls, ends) for name, _, cls, ends in FILE_TYPES if name == kind)
        stem = next((os.path.basename(path)[: -len(end)] for end in ends if path.endswith(end)), os.path.basename(path))
        node = slicer.mrmlScene.AddNewNodeByClass(cls, properties.get("name") or stem)
        if not self._storage(node, path).ReadData(node):
            slicer.mrmlScene.RemoveNode(node)
            return False
        node.CreateDefaultDisplayNodes()
        loaded.AddItem(node)
        return True

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return bool(slicer.mrmlScene.WriteToMRB(path, None))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        return bool(self._storage(node, path).WriteData(node))
