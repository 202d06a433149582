"""From MRML nodes to files a worker reads and back: grids, frames, arrays. Slicer is RAS, the workers are LPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk
from MedShapeCore.errors import RefusedInput
from slicer.i18n import tr as _

MAX_VOXELS = 2**30
LABELMAP, SURFACE, REFERENCE = "Binary labelmap", "Closed surface", "Reference image geometry"  # Slicer's own names


def flipped(matrix: Any) -> Any:
    """(4, 4) IJK to RAS from IJK to LPS, and the other way round."""
    import numpy as np

    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(matrix, float)


def toNumpy(array: Any) -> Any:
    """A view of a VTK array; what is loaded for it is not wanted at the application's start."""
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(array)


def matrixToWorld(node: Any) -> Any:
    """(4, 4) of the node's parent transforms; refuses one that bends."""
    import numpy as np

    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        words = _("{name} lies under a transform that is not linear.").format(name=node.GetName())
        raise RefusedInput("transform", words, _("Harden the transform on it first (Transforms module)."))
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def segmentGrid(segmentation: Any, segmentID: str) -> tuple[Any, Any, Any]:
    """A segment as it is stored: mask (k, j, i) bool, extent (6,) of it, ijk_to_ras (4, 4) in world coordinates."""
    values, label, extent, ijkToRas = storedLabels(segmentation, segmentID)
    return values == label, extent, ijkToRas


def storedLabels(segmentation: Any, segmentID: str) -> tuple[Any, int, Any, Any]:
    """The array (k, j, i) that holds a segment, its value in it, extent (6,), ijk_to_ras (4, 4) in world coordinates.

    The array is cropped to where voxels are set, and may be shared with other segments.
    """
    import numpy as np

    if not segmentation.GetSegmentation().ContainsRepresentation(LABELMAP):
        segmentation.CreateBinaryLabelmapRepresentation()  # it was made of surfaces
    image = segmentation.GetBinaryLabelmapInternalRepresentation(segmentID)
    if image is None or image.GetPointData().GetScalars() is None:
        raise RefusedInput("empty", _("The segment is empty."), _("Choose another segment."))
    extent = image.GetExtent()
    shape = [extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0)]
    values = toNumpy(image.GetPointData().GetScalars()).reshape(shape)
    label = segmentation.GetSegmentation().GetSegment(segmentID).GetLabelValue()
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return values, label, np.array(extent), matrixToWorld(segmentation) @ slicer.util.arrayFromVTKMatrix(matrix)


def scanExtent(segmentation: Any, extent: Any, ijkToRas: Any) -> Any:
    """The extent (6,) in a segment's own voxels of the scan it was drawn on: an implant may need room beyond the bone."""
    import numpy as np

    text = segmentation.GetSegmentation().GetConversionParameter(REFERENCE)
    scan = slicer.vtkOrientedImageData()
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, scan, False):
        return extent
    matrix = vtk.vtkMatrix4x4()
    scan.GetImageToWorldMatrix(matrix)
    own = np.linalg.inv(ijkToRas) @ matrixToWorld(segmentation) @ slicer.util.arrayFromVTKMatrix(matrix)
    low, high = (np.round(end) for end in cornersThrough(own, scan.GetExtent()))
    wide = extent.copy()
    wide[0::2], wide[1::2] = np.minimum(extent[0::2], low), np.maximum(extent[1::2], high)
    if np.prod((wide[1::2] - wide[0::2] + 1).astype(float)) > MAX_VOXELS:
        return extent
    return wide.astype(int)


def cornersThrough(matrix: Any, extent: Any) -> tuple[Any, Any]:
    """Least and greatest coordinates (3,) of the corners of an extent (6,) after a (4, 4) matrix."""
    import numpy as np

    bounds = np.array(extent, float).reshape(3, 2)
    corners = np.array([[bounds[axis, (n >> axis) & 1] for axis in range(3)] for n in range(8)])
    moved = corners @ matrix[:3, :3].T + matrix[:3, 3]
    return moved.min(0), moved.max(0)


def writeSegment(segmentation: Any, segmentID: str, path: Path) -> None:
    """A segment as an NRRD file of 0 and 1 on the grid of its scan.

    A segmentation that does not know its scan takes the grid it has now for it: Slicer crops it when it is saved, and the
    same seed would give other implants on a smaller grid.
    """
    inside = segmentation.GetSegmentation()
    if inside.ContainsRepresentation(LABELMAP) and not inside.GetConversionParameter(REFERENCE):
        every = slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS
        inside.SetConversionParameter(REFERENCE, inside.DetermineCommonLabelmapGeometry(every, None))
    mask, extent, matrix = segmentGrid(segmentation, segmentID)
    if not mask.any():
        raise RefusedInput("empty", _("The segment is empty."), _("Choose another segment."))
    writeNrrd(path, mask, extent, scanExtent(segmentation, extent, matrix), matrix)


def writeTogether(implant: Any, implantID: str, bone: Any, boneID: str, folder: Path, marginMm: float = 25.0) -> None:
    """implant.nrrd and bone.nrrd on one grid, the implant's own, as far as `marginMm` around it."""
    import numpy as np

    mask, extent, matrix = segmentGrid(implant, implantID)
    if not mask.any():
        raise RefusedInput("empty", _("This implant is empty."), _("Choose another one, or undo the edit."))
    wide = extent.copy()
    reach = np.ceil(marginMm / np.linalg.norm(matrix[:3, :3], axis=0)).astype(int)
    wide[0::2] -= reach
    wide[1::2] += reach
    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(*(int(v) for v in wide))
    grid.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    grid.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    boneMask = np.zeros([int(v) for v in (wide[1::2] - wide[0::2] + 1)[::-1]], bool)
    values, label, whole, toRas = storedLabels(bone, boneID)
    low, high = cornersThrough(np.linalg.inv(toRas) @ matrix, wide)
    low, high = np.maximum(np.floor(low).astype(int) - 1, whole[0::2]), np.minimum(np.ceil(high).astype(int) + 1, whole[1::2])
    if (low <= high).all():  # only this part of the bone is resampled
        first, last = low - whole[0::2], high - whole[0::2] + 1
        toRas[:3, 3] += toRas[:3, :3] @ low
        found = values[first[2] : last[2], first[1] : last[1], first[0] : last[0]] == label
        part, there = orientedImage(found.view(np.uint8), toRas), slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(part, grid, there, False, False)
        boneMask = toNumpy(there.GetPointData().GetScalars()).reshape(boneMask.shape) > 0
    writeNrrd(folder / "implant.nrrd", mask, extent, wide, matrix)
    writeNrrd(folder / "bone.nrrd", boneMask, wide, wide, matrix)


def writeNrrd(path: Path, array: Any, extent: Any, wide: Any, ijkToRas: Any) -> None:
    """An uncompressed NRRD file (seconds faster) of `array` (k, j, i) at `extent`, zeros around it up to `wide`."""
    import numpy as np

    array = array.view(np.uint8) if array.dtype == bool else array
    names = {"u1": "uint8", "i1": "int8", "i2": "int16", "u2": "uint16", "i4": "int32", "f4": "float", "f8": "double"}
    start = np.asarray(wide)[0::2]
    sizes = np.asarray(wide)[1::2] - start + 1
    around = [(int(extent[2 * a] - wide[2 * a]), int(wide[2 * a + 1] - extent[2 * a + 1])) for a in (2, 1, 0)]
    matrix = flipped(ijkToRas)
    origin = matrix[:3, :3] @ start + matrix[:3, 3]
    axes = " ".join("(" + ",".join(repr(float(v)) for v in matrix[:3, axis]) + ")" for axis in range(3))
    header = (
        f"NRRD0004\ntype: {names[array.dtype.str[1:]]}\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(str(int(v)) for v in sizes)}\nspace directions: {axes}\nkinds: domain domain domain\n"
        f"endian: little\nencoding: raw\nspace origin: ({','.join(repr(float(v)) for v in origin)})\n\n"
    )
    empty = bytes(int(sizes[0] * sizes[1]) * array.itemsize)
    with open(path, "wb") as file:
        file.write(header.encode("ascii"))
        for _ in range(around[0][0]):
            file.write(empty)
        for layer in array:
            file.write(np.pad(layer, around[1:]).tobytes())
        for _ in range(around[0][1]):
            file.write(empty)


def writeVolume(volume: Any, path: Path) -> None:
    """A scalar volume as an NRRD file in world coordinates."""
    import numpy as np

    array = slicer.util.arrayFromVolume(volume)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    extent = np.array([0, array.shape[2] - 1, 0, array.shape[1] - 1, 0, array.shape[0] - 1])
    writeNrrd(path, array, extent, extent, matrixToWorld(volume) @ slicer.util.arrayFromVTKMatrix(matrix))


def orientedImage(array: Any, ijkToRas: Any) -> Any:
    """vtkOrientedImageData of its own from an array (k, j, i)."""
    import numpy as np
    from vtk.util.numpy_support import numpy_to_vtk

    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(np.asarray(ijkToRas, float)))
    return image


def readSurface(path: Path) -> Any:
    """A .vtp or .stl file in LPS mm as vtkPolyData in RAS; turning about the long axis keeps the triangles' sides.

    A point array called Normals becomes the normals.
    """
    reader = vtk.vtkSTLReader() if path.suffix == ".stl" else vtk.vtkXMLPolyDataReader()
    reader.SetFileName(str(path))
    smooth = vtk.vtkPolyDataNormals()  # an STL file says nothing about its neighbours' normals
    smooth.SplittingOff()
    smooth.SetInputConnection(reader.GetOutputPort())
    last = smooth if path.suffix == ".stl" else reader
    last.Update()
    surface = last.GetOutput()
    if surface.GetNumberOfPoints():
        data, normals = surface.GetPointData(), surface.GetPointData().GetArray("Normals")
        for array in filter(None, (surface.GetPoints().GetData(), normals)):
            toNumpy(array)[:, :2] *= -1
        if normals is not None:
            data.SetNormals(normals)
            if data.GetScalars() is normals:
                data.SetActiveScalars(None)
    surface.SetFieldData(vtk.vtkFieldData())  # it says LPS
    return surface
