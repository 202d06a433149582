"""Fewer triangles for a closed surface, and the check that it is still one body without handles."""

from __future__ import annotations

import numpy as np


def decimated(vertices: np.ndarray, triangles: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The surface with at most about `most` triangles (quadric error, volume kept): vertices (V, 3) float64, triangles.

    A surface which has no more comes back as it is. The result is not checked: see `sphere_like`.
    """
    if len(triangles) <= most:
        return np.asarray(vertices, np.float64), np.asarray(triangles, np.int32)
    from MedShapeCore.surfaces import polydata  # vtk: not on a bare training machine
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersCore import vtkQuadricDecimation

    centre = np.mean(vertices, axis=0)  # float32 inside vtk: stay near zero
    decimation = vtkQuadricDecimation()
    decimation.SetInputData(polydata(vertices - centre, triangles))
    decimation.SetTargetReduction(1.0 - most / len(triangles))
    decimation.VolumePreservationOn()
    decimation.Update()
    mesh = decimation.GetOutput()
    corners = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    used, index = np.unique(corners, return_inverse=True)
    points = vtk_to_numpy(mesh.GetPoints().GetData())[used].astype(np.float64) + centre
    return points, index.reshape(-1, 3).astype(np.int32)


def sphere_like(vertices: np.ndarray, triangles: np.ndarray) -> bool:
    """True for one closed body without cavities and handles (Euler characteristic 2), every vertex in use."""
    from MedShapeCore.surfaces import components, is_watertight

    if not is_watertight(triangles) or components(triangles) != 1:
        return False
    return len(vertices) - len(triangles) // 2 == 2  # V - E + F with E = 3 F / 2
