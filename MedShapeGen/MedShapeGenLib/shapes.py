"""Shapes: one closed surface in LPS millimetres, read from a file or refused, its normalised form, points on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from MedShapeCore.errors import RefusedInput
from MedShapeCore.segments import listed, named_segment, read_nrrd_header, segment_mask, segments_of, values_of
from scipy import sparse

from .intersections import crossing_triangles

MESHES = (".stl", ".ply", ".obj", ".vtp")
MASKS = (".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".mha")

SPECK_SHARE = 0.05  # bodies which together hold less than this share of the largest are specks and left out
CROSSING_SHARE = 0.002  # crossing pairs per triangle; of 300 shapes made from masks one has a pair, in 4,000 triangles
SMALLEST_MM, LARGEST_MM = 1.0, 3000.0  # longest side: less is metres taken for mm, more is micrometres


@dataclass(frozen=True)
class Shape:
    """One closed, outward oriented surface."""

    vertices_lps: np.ndarray  # (V, 3) float64, mm
    triangles: np.ndarray  # (F, 3) int32, corners counter-clockwise seen from outside
    name: str

    @property
    def longest_mm(self) -> float:
        """The longest side of the box around the shape."""
        return float(np.ptp(self.vertices_lps, axis=0).max())

    def __str__(self) -> str:
        size = " x ".join(f"{s:.1f}" for s in np.ptp(self.vertices_lps, axis=0))
        return f"{self.name}: {size} mm, {len(self.triangles)} triangles"


@dataclass(frozen=True)
class Normalised:
    """A shape in the networks' frame: u = (x - centre_lps) / scale_mm lies in [-1, 1]^3, the longest side is 2 u."""

    vertices_u: np.ndarray  # (V, 3) float64
    triangles: np.ndarray  # (F, 3) int32
    centre_lps: np.ndarray  # (3,) mm, the middle of the box
    scale_mm: float  # half of the box's longest side


# ---- reading


def read_shape(path: str | Path, segment: str | None = None) -> Shape:
    """The shape in a mesh file (.stl .ply .obj .vtp) or a mask (.nrrd .seg.nrrd .nii .nii.gz .mha), in LPS mm.

    segment : name or ID of a segment, or number of a label; None = the only one.
    A mesh is taken as LPS unless its header says SPACE=RAS. A mask's surface runs between its voxels. Specks and
    cavities are left out. Refusals: no-file, file-type, unreadable, not-3d, empty-mask, not-a-mask, several-organs,
    unknown-segment, not-finite, empty-mesh, open-mesh, self-intersecting, units.
    """
    return checked_shape(*_read_file(Path(path), segment))


def read_surface(path: str | Path, segment: str | None = None) -> Shape:
    """As `read_shape`, for a piece of a surface: it may be open, in several parts, and need not be clean.

    Refuses no file, what cannot be read, no triangles, vertices that are no numbers, and other units than millimetres.
    """
    vertices, triangles, name = _read_file(Path(path), segment)
    vertices, triangles = _in_millimetres(vertices, triangles, name)
    return Shape(vertices, triangles, name)


def checked_shape(vertices_lps: np.ndarray, triangles: np.ndarray, name: str) -> Shape:
    """One closed, outward oriented body from a surface (V, 3) in mm, (F, 3); refuses what has none, or several."""
    vertices, triangles = _in_millimetres(vertices_lps, triangles, name)
    _refuse_open(triangles, name)
    crossing = len(crossing_triangles(vertices, triangles))
    if crossing > CROSSING_SHARE * len(triangles):
        raise RefusedInput(
            "self-intersecting", f"The surface of {name} runs through itself: {crossing} pairs of triangles cross.",
            "Make it again from its segmentation, or repair it (union of its parts) in a mesh tool.",
        )  # fmt: skip
    vertices, triangles = largest_body(vertices, triangles, name)
    return Shape(vertices, triangles.astype(np.int32), name)


def _read_file(path: Path, segment: str | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Vertices in LPS mm, triangles and name of what the file holds."""
    ending = next((e for e in (*MESHES, *MASKS) if path.name.lower().endswith(e)), None)
    if ending is None:
        known = " ".join((*MESHES, *MASKS))
        raise RefusedInput("file-type", f"{path.name} is neither a mesh nor a mask.", f"Known are {known}.")
    if not path.is_file():
        raise RefusedInput("no-file", f"There is no file {path.name}.", "Check the path.")
    if ending in MESHES and segment is not None:
        raise RefusedInput("segment", f"{path.name} is a mesh and has no segments.", "Leave the segment out.")
    name = path.name[: -len(ending)]
    return (*(_read_mesh(path, ending) if ending in MESHES else _read_mask(path, segment)), name)


def _in_millimetres(vertices_lps: np.ndarray, triangles: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The surface with equal vertices joined; refuses none, what is no number, and lengths that no organ has."""
    if len(triangles) == 0:
        raise RefusedInput("empty-mesh", f"{name} has no triangles.", "Export the surface again.")
    if not np.isfinite(vertices_lps).all():
        wrong = int((~np.isfinite(vertices_lps)).any(axis=1).sum())
        raise RefusedInput(
            "not-finite", f"{name} has {wrong} vertices which are not numbers (NaN or infinite).",
            "Export the surface again.",
        )  # fmt: skip
    vertices, triangles = _joined(np.asarray(vertices_lps, np.float64), np.asarray(triangles))
    longest = float(np.ptp(vertices, axis=0).max())
    if not SMALLEST_MM <= longest <= LARGEST_MM:
        meant, factor = ("metres", "1000") if longest < SMALLEST_MM else ("micrometres", "0.001")
        raise RefusedInput(
            "units", f"{name} is {longest:.4g} mm long: it seems to be in {meant}.",
            f"Coordinates must be millimetres: scale it by {factor}.",
        )  # fmt: skip
    return vertices, triangles


def _read_mesh(path: Path, ending: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 in LPS mm, triangles (F, 3) of a mesh file."""
    if ending == ".stl":
        from MedShapeCore.surfaces import read_stl

        try:  # VTK would give up at the first normal that is no number
            vertices, triangles = read_stl(path)
            turn = np.array([-1.0, -1.0, 1.0]) if _header(path, ending).upper() == "RAS" else np.ones(3)
            return vertices.astype(np.float64) * turn, triangles
        except RefusedInput:
            pass  # a text STL
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersCore import vtkTriangleFilter
    from vtkmodules.vtkIOGeometry import vtkOBJReader, vtkSTLReader
    from vtkmodules.vtkIOPLY import vtkPLYReader
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    reader: Any = {".stl": vtkSTLReader, ".ply": vtkPLYReader, ".obj": vtkOBJReader, ".vtp": vtkXMLPolyDataReader}[ending]()
    reader.AddObserver("ErrorEvent", lambda *_: None)  # told below, in a sentence; VTK would print
    reader.SetFileName(str(path))
    triangulation = vtkTriangleFilter()
    triangulation.PassLinesOff()
    triangulation.PassVertsOff()
    triangulation.SetInputConnection(reader.GetOutputPort())
    triangulation.Update()
    if reader.GetErrorCode() != 0:
        raise RefusedInput("unreadable", f"{path.name} cannot be read as a {ending} mesh.", "Export it again.")
    mesh = triangulation.GetOutput()
    if mesh.GetNumberOfPolys() == 0:
        raise RefusedInput("empty-mesh", f"{path.name} has no triangles.", "Export the surface again.")
    vertices = vtk_to_numpy(mesh.GetPoints().GetData()).astype(np.float64)
    triangles = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    space = mesh.GetFieldData().GetAbstractArray("SPACE")
    told = space.GetValue(0) if space is not None and space.GetNumberOfValues() else _header(path, ending)
    if told.upper() == "RAS":
        vertices = vertices * np.array([-1.0, -1.0, 1.0])  # a turn: corners keep their order
    return vertices, triangles


def _header(path: Path, ending: str) -> str:
    """LPS or RAS as the first lines of the file say (SPACE=RAS, as 3D Slicer writes), else an empty string."""
    if ending == ".vtp":
        return ""
    with open(path, "rb") as file:
        start = file.read(80 if ending == ".stl" else 1024)
    found = re.search(rb"SPACE\s*=\s*(LPS|RAS)", start, re.IGNORECASE)
    return found.group(1).decode() if found else ""


def _read_mask(path: Path, segment: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Surface in LPS mm of a segment, of a label, or of the only one of a mask."""
    from MedShapeCore.surfaces import mask_surface
    from MedShapeCore.volumes import read_layers

    volume = read_layers(path)
    if min(volume.array.shape[:3]) < 2:
        shown = " x ".join(str(n) for n in volume.array.shape[2::-1])
        raise RefusedInput("not-3d", f"{path.name} is a 2-D image ({shown} voxels).", "Export the whole volume.")
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        raise RefusedInput("not-finite", f"{path.name} has voxels which are not numbers.", "Export the mask again.")
    mask = _chosen_mask(path, volume.array, segment)
    if not mask.any():
        raise RefusedInput("empty-mask", f"The mask {path.name} is empty.", "Choose a segment with voxels.")
    return mask_surface(mask, volume.ijk_to_lps)


def _chosen_mask(path: Path, array: np.ndarray, wanted: str | None) -> np.ndarray:
    """(K, J, I) bool of the segment or label which is wanted, or of the only one in an array (K, J, I) or (K, J, I, C)."""
    segments = segments_of(read_nrrd_header(path)) if path.name.lower().endswith(".nrrd") else ()
    if segments:
        if wanted is None and len(segments) > 1:
            raise _several(path.name, f"{len(segments)} segments: {listed([s.name for s in segments])}")
        segment = segments[0] if wanted is None else named_segment(segments, wanted, path.name)
        return segment_mask(array, segment, path.name)
    values = values_of(array) if array.ndim == 3 else None
    if values is None:
        raise RefusedInput("not-a-mask", f"{path.name} holds grey values: it is a scan, not a mask.",
                           "Segment the organ first.")  # fmt: skip
    labels = [v for v in values.tolist() if v != 0]
    if wanted is not None:
        found = [v for v in labels if f"{v:g}" == wanted.strip()]
        if not found:
            known = listed([f"{v:g}" for v in labels])
            raise RefusedInput("unknown-segment", f'{path.name} has no label "{wanted}"; it has {known}.', "Choose one of these.")
        labels = found
    if len(labels) > 1:
        raise _several(path.name, f"{len(labels)} labels: {listed([f'{v:g}' for v in labels])}")
    return array == labels[0] if labels else np.zeros(array.shape, bool)


def _joined(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surface with equal vertices as one (an .stl repeats them) and without triangles that have lost a corner."""
    unique, index = np.unique(vertices + 0.0, axis=0, return_inverse=True)  # + 0.0: -0 equals 0
    joined = index.reshape(-1)[triangles]
    whole = (joined != np.roll(joined, 1, axis=1)).all(axis=1)
    return unique, joined[whole].astype(np.int32)


def _refuse_open(triangles: np.ndarray, name: str) -> None:
    """Refuses a surface with edges that have not two triangles, run through in opposite directions."""
    number = int(triangles.max(initial=0)) + 1
    wide = triangles.astype(np.int64)
    start, end = wide.ravel(), wide[:, [1, 2, 0]].ravel()
    edges, index = np.unique(np.minimum(start, end) * number + np.maximum(start, end), return_inverse=True)
    faces = np.bincount(index, minlength=len(edges))
    turns = np.bincount(index, np.where(start < end, 1, -1), minlength=len(edges))
    wrong = int(((faces != 2) | (turns != 0)).sum())
    if wrong or len(triangles) == 0:
        raise RefusedInput(
            "open-mesh", f"The surface of {name} is not closed: {wrong} of its {len(edges)} edges do not join two triangles.",
            "Fill its holes in a mesh tool, or give the segmentation instead.",
        )  # fmt: skip


def largest_body(vertices: np.ndarray, triangles: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The largest body of a closed surface, outward; cavities and specks are left out, a second organ is refused."""
    from MedShapeCore.surfaces import surface_volume_ml

    graph = sparse.coo_matrix(
        (np.ones(2 * len(triangles), np.uint8), (triangles[:, [0, 1]].ravel(), triangles[:, [1, 2]].ravel())),
        (len(vertices), len(vertices)),
    )
    body = sparse.csgraph.connected_components(graph, directed=False)[1][triangles[:, 0]]
    parts = [triangles[body == b] for b in np.unique(body)]
    volumes = np.array([surface_volume_ml(vertices, part) for part in parts])
    largest = int(np.argmax(np.abs(volumes)))
    if volumes[largest] < 0:  # all inside out
        parts, volumes = [part[:, ::-1] for part in parts], -volumes
    others = np.delete(volumes, largest)
    if others[others > 0].sum() > SPECK_SHARE * volumes[largest]:
        shown = ", ".join(f"{v:.1f}" for v in sorted(volumes[volumes > 0])[::-1][:3])
        raise _several(name, f"{int((volumes > 0).sum())} separate bodies ({shown} ml)")
    used, index = np.unique(parts[largest], return_inverse=True)
    return vertices[used], index.reshape(-1, 3)


def _several(name: str, what: str) -> RefusedInput:
    return RefusedInput("several-organs", f"{name} holds {what}, and a shape is one organ.",
                        "Choose one segment, or export each organ as a file of its own.")  # fmt: skip


# ---- normalised, and points


def normalise(shape: Shape) -> Normalised:
    """The shape in u, and what leads back to millimetres: x = u * scale_mm + centre_lps."""
    low, high = shape.vertices_lps.min(axis=0), shape.vertices_lps.max(axis=0)
    centre, scale = (low + high) / 2, float((high - low).max() / 2)
    return Normalised((shape.vertices_lps - centre) / scale, shape.triangles, centre, scale)


def surface_points(
    vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points on the surface, uniform by area, in random order, and the outward unit normals of their triangles.

    vertices (V, 3), triangles (F, 3) with some area. Returns points (count, 3) and normals (count, 3), float64, in the
    unit and frame of the vertices. One point is drawn from each of `count` equal shares of the area (stratified), so
    the points are more even than independent draws.
    """
    a, b, c = (np.asarray(vertices, np.float64)[triangles[:, corner]] for corner in range(3))
    cross = np.cross(b - a, c - a)  # (F, 3), twice the area long
    area = np.linalg.norm(cross, axis=1)
    total = np.cumsum(area)
    place = (np.arange(count) + rng.random(count)) / max(count, 1) * total[-1]
    triangle = np.searchsorted(total, rng.permutation(place), side="right").clip(max=len(area) - 1)
    # Osada et al., ACM Trans. Graph. 21:807 (2002), eq. (1): uniform in a triangle.
    root, other = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    points = (1 - root) * a[triangle] + root * (1 - other) * b[triangle] + root * other * c[triangle]
    return points, cross[triangle] / np.maximum(area[triangle], 1e-300)[:, None]


def fps_subset(points: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Farthest point sampling: indices (count,) int64 of points (n, 3), each the farthest from those before it.

    Begins with the point `start`; of equally far points the first counts. count <= n.
    """
    points = np.asarray(points, np.float64)
    if not 0 <= count <= len(points):
        raise ValueError(f"{count} of {len(points)} points cannot be chosen")
    chosen = np.zeros(count, np.int64)
    chosen[:1] = start
    away = np.full(len(points), np.inf)
    for n in range(1, count):
        away = np.minimum(away, ((points - points[chosen[n - 1]]) ** 2).sum(axis=1))
        chosen[n] = int(np.argmax(away))
    return chosen
