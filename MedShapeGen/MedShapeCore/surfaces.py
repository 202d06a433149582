"""Surfaces of masks in LPS millimetres: closed triangle meshes, what is measured on them, STL and VTP files.

A surface is two arrays: `vertices_lps` (V, 3) float32 in LPS mm and `triangles` (T, 3) int32, whose corners run
counter-clockwise seen from outside. Needs vtk; nothing here opens a window or needs a display.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage, sparse
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints, vtkStringArray
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkImageData, vtkPolyData
from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkWindowedSincPolyDataFilter
from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

from .errors import RefusedInput
from .volumes import box_of, cropped_matrix

Surface = tuple[np.ndarray, np.ndarray]

STL_HEADER = "MedShapeGen; SPACE=LPS;UNIT=MM; research use only, not for clinical use"
STL_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])  # 50 bytes
# Largest width at which a single voxel still exceeds the level 0.5: exp(-1 / (2 * 0.45^2)) gives 0.855^3 = 0.62.
ANTIALIAS_SIGMA_VOXELS = 0.45
MAX_VOLUME_CHANGE = 0.005  # of the smoothing, relative


def mask_surface(mask: np.ndarray, ijk_to_lps: np.ndarray, smooth: bool = True) -> Surface:
    """Closed surface of a mask: lightly anti-aliased, outward oriented for left-handed matrices too.

    mask       : (K, J, I) bool; may touch the array's faces.
    ijk_to_lps : (4, 4), acts on (i, j, k, 1).
    smooth     : also takes the voxel steps off (windowed sinc, no shrinking): moves vertices by up to 0.3 voxels, and
                 never changes the volume by more than 0.5 %.
    Returns vertices_lps (V, 3) float32 in LPS mm, triangles (T, 3) int32; (0, 3) both for an empty mask. Every part of
    voxels that share faces gives one body (and one more for each closed cavity); parts that touch only along an edge
    or a corner may come out joined or apart.
    """
    box = box_of(mask)
    if box is None:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    pad = 3  # the Gaussian reaches two voxels; the third keeps the level set off the faces
    soft = np.pad(mask[box], pad).astype(np.float32)
    soft = ndimage.gaussian_filter(soft, ANTIALIAS_SIGMA_VOXELS, mode="constant", output=np.float32)
    vertices, triangles = _level_set(soft, 0.5, cropped_matrix(ijk_to_lps, box), pad)
    if smooth:
        vertices = _without_steps(vertices, triangles)
    return vertices.astype(np.float32), triangles


def field_surface(field: np.ndarray, level: float, ijk_to_lps: np.ndarray) -> Surface:
    """Closed surface around the values above `level` (> 0) of a field (K, J, I); beyond the array the field is 0.

    Returns vertices_lps (V, 3) float32 in LPS mm, triangles (T, 3) int32, outward; (0, 3) both when nothing exceeds it.
    """
    vertices, triangles = _level_set(np.pad(field, 1).astype(np.float32), level, ijk_to_lps, 1)
    return vertices.astype(np.float32), triangles


def _level_set(padded: np.ndarray, level: float, ijk_to_lps: np.ndarray, pad: int) -> Surface:
    """Vertices (V, 3) float64 in mm and outward triangles of a float32 field with `pad` voxels of zeros around it."""
    padded[padded == np.float32(level)] += np.float32(1e-4)  # a value on the level would give triangles without area
    image = vtkImageData()
    image.SetDimensions(*padded.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel()))
    contour = vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, level)
    contour.ComputeNormalsOff()
    contour.ComputeScalarsOff()
    contour.Update()
    mesh = contour.GetOutput()
    if mesh.GetNumberOfPolys() == 0:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int32)
    index_ijk = vtk_to_numpy(mesh.GetPoints().GetData()).astype(np.float64) - pad
    triangles = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int32)
    vertices = index_ijk @ ijk_to_lps[:3, :3].T + ijk_to_lps[:3, 3]  # (V, 3) mm
    if np.linalg.det(ijk_to_lps[:3, :3]) < 0:  # a left-handed matrix turns the mesh inside out
        triangles = triangles[:, ::-1].copy()
    return vertices, triangles


def _without_steps(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) after low-pass filtering; the enclosed volume stays within MAX_VOLUME_CHANGE."""
    centre = vertices.mean(axis=0)  # float32 inside vtk: stay near zero
    filtering = vtkWindowedSincPolyDataFilter()
    filtering.SetInputData(polydata(vertices - centre, triangles))
    filtering.SetNumberOfIterations(15)
    filtering.SetPassBand(0.1)
    filtering.BoundarySmoothingOff()
    filtering.FeatureEdgeSmoothingOff()
    filtering.NonManifoldSmoothingOn()
    filtering.NormalizeCoordinatesOn()
    filtering.Update()
    step = vtk_to_numpy(filtering.GetOutput().GetPoints().GetData()).astype(np.float64) + centre - vertices  # (V, 3)
    before = surface_volume_ml(vertices, triangles)
    for fraction in (1.0, 0.5, 0.25, 0.125):
        moved = vertices + fraction * step
        if abs(surface_volume_ml(moved, triangles) - before) <= MAX_VOLUME_CHANGE * before:
            return moved
    return vertices


def surface_volume_ml(vertices_lps: np.ndarray, triangles: np.ndarray) -> float:
    """Enclosed volume in ml, negative when the surface is inside out, 0 when empty (divergence theorem)."""
    if len(triangles) == 0:
        return 0.0
    vertices = np.asarray(vertices_lps, np.float64)
    a, b, c = _corners(vertices - vertices.mean(axis=0), triangles)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0 / 1000.0)


def surface_centroid_lps(vertices_lps: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Centre of the enclosed body, (3,) in LPS mm; NaN when nothing is enclosed."""
    if len(triangles) == 0:
        return np.full(3, np.nan)
    vertices = np.asarray(vertices_lps, np.float64)
    middle = vertices.mean(axis=0)
    a, b, c = _corners(vertices - middle, triangles)
    volumes = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0  # (T,) signed, of the tetrahedra to the origin
    if volumes.sum() == 0:
        return np.full(3, np.nan)
    return middle + (volumes[:, None] * (a + b + c) / 4.0).sum(axis=0) / volumes.sum()


def surface_area_cm2(vertices_lps: np.ndarray, triangles: np.ndarray) -> float:
    """Area in cm2, 0 when empty."""
    a, b, c = _corners(np.asarray(vertices_lps, np.float64), triangles)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2.0 / 100.0)


def vertex_normals(vertices_lps: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Outward unit normals (V, 3) float32, weighted by area; zero where no triangle meets."""
    vertices = np.asarray(vertices_lps, np.float64)
    a, b, c = _corners(vertices, triangles)
    face = np.cross(b - a, c - a)
    normals = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(face[:, axis], 3), minlength=len(vertices)) for axis in range(3)],
        axis=1,
    )
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def is_watertight(triangles: np.ndarray) -> bool:
    """True when every edge is run through exactly once in each direction; False for no triangles."""
    if len(triangles) == 0:
        return False
    wide = np.asarray(triangles, np.int64)
    start, end = wide.ravel(), wide[:, [1, 2, 0]].ravel()
    number = int(wide.max()) + 1
    forward, backward = np.sort(start * number + end), np.sort(end * number + start)
    return bool(np.array_equal(forward, backward) and np.all(forward[1:] != forward[:-1]) and np.all(start != end))


def components(triangles: np.ndarray) -> int:
    """Number of bodies that hang together by shared vertices; a cavity's wall counts as one. 0 for no triangles."""
    if len(triangles) == 0:
        return 0
    used, index = np.unique(triangles, return_inverse=True)
    corner = index.reshape(-1, 3)
    rows, columns = corner[:, [0, 1]].ravel(), corner[:, [1, 2]].ravel()
    graph = sparse.coo_matrix((np.ones(len(rows), np.uint8), (rows, columns)), (len(used), len(used)))
    return int(sparse.csgraph.connected_components(graph, directed=False, return_labels=False))


def write_stl(path: str | Path, vertices_lps: np.ndarray, triangles: np.ndarray, header: str = STL_HEADER) -> None:
    """Binary STL in LPS mm. The 80-byte header says so: 3D Slicer looks for `SPACE=LPS`, people for the unit."""
    text = header.encode("ascii")
    if len(text) > 80 or text[:5].lower() == b"solid":  # 'solid' is how a text STL begins
        raise RefusedInput("stl-header", f"{header!r} cannot be an STL header.", "80 ASCII letters, not 'solid' first.")
    a, b, c = _corners(np.asarray(vertices_lps, np.float32), triangles)
    normal = np.cross(b - a, c - a)
    records = np.zeros(len(triangles), STL_RECORD)
    records["normal"] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    records["corners"] = np.stack([a, b, c], axis=1)
    with open(path, "wb") as file:
        file.write(text.ljust(80))
        file.write(np.uint32(len(triangles)).astype("<u4").tobytes())
        file.write(records.tobytes())


def read_stl(path: str | Path) -> Surface:
    """Reads a binary STL and joins equal corners; refuses a text STL and a file whose length contradicts its count."""
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(84)
        count = int(np.frombuffer(start[80:84], "<u4")[0]) if len(start) == 84 else -1
        if count < 0 or size != 84 + STL_RECORD.itemsize * count:
            raise RefusedInput("not-stl", f"{path.name} is not a binary STL file.", "Export it again as binary STL.")
        records = np.frombuffer(file.read(), STL_RECORD)
    corners = records["corners"].reshape(-1, 3)
    if count == 0:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    # Adding zero makes -0.0 equal to 0.0 bit by bit; comparing 12 bytes at once is four times as fast as by rows.
    keys = np.ascontiguousarray(corners + np.float32(0)).view(np.dtype((np.void, 12))).ravel()
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    return corners[first].astype(np.float32), index.reshape(-1, 3).astype(np.int32)


def write_vtp(
    path: str | Path, vertices_lps: np.ndarray, triangles: np.ndarray, point_scalars: dict[str, np.ndarray]
) -> None:
    """VTK PolyData (.vtp) in LPS mm with one value per vertex for each name; the first name is the active scalar."""
    mesh = polydata(vertices_lps, triangles)
    for name, values in point_scalars.items():
        if len(values) != len(vertices_lps):
            raise RefusedInput("vtp-scalar", f"{name} has {len(values)} values for {len(vertices_lps)} vertices.")
        array = numpy_to_vtk(np.ascontiguousarray(values), deep=True)
        array.SetName(name)
        mesh.GetPointData().AddArray(array)
    if point_scalars:
        mesh.GetPointData().SetActiveScalars(next(iter(point_scalars)))
    for key, value in (("SPACE", "LPS"), ("UNIT", "MM"), ("NOTICE", "research use only, not for clinical use")):
        field = vtkStringArray()  # 3D Slicer reads the field SPACE of a .vtp
        field.SetName(key)
        field.InsertNextValue(value)
        mesh.GetFieldData().AddArray(field)
    writer = vtkXMLPolyDataWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(mesh)
    writer.SetDataModeToAppended()
    writer.EncodeAppendedDataOff()
    writer.SetCompressionLevel(1)  # level 5 takes three times as long for 5 % less
    if not writer.Write():
        raise OSError(f"{Path(path).name} could not be written.")


def polydata(vertices: np.ndarray, triangles: np.ndarray) -> vtkPolyData:
    """A vtkPolyData that owns copies of both arrays; points without triangles become vertices, which are drawn."""
    points = vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(vertices, np.float32), deep=True))
    cells = vtkCellArray()
    offsets = numpy_to_vtkIdTypeArray(np.arange(0, 3 * len(triangles) + 1, 3, dtype=np.int64), deep=True)
    cells.SetData(offsets, numpy_to_vtkIdTypeArray(np.ascontiguousarray(triangles, np.int64).ravel(), deep=True))
    mesh = vtkPolyData()
    mesh.SetPoints(points)
    mesh.SetPolys(cells)
    if len(triangles) == 0:
        single = vtkCellArray()
        every = np.arange(len(vertices) + 1, dtype=np.int64)
        single.SetData(numpy_to_vtkIdTypeArray(every, deep=True), numpy_to_vtkIdTypeArray(every[:-1].copy(), deep=True))
        mesh.SetVerts(single)
    return mesh


def _corners(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return vertices[triangles[:, 0]], vertices[triangles[:, 1]], vertices[triangles[:, 2]]
