"""The linear shape model that every network must beat: principal components of signed-distance grids.

Shapes of a category, aligned by the centre and the size of their boxes, become signed distances on a grid; new ones are
the mean plus normally distributed components. There is no correspondence to find, and no network. Size is a normal
distribution of its logarithm, as in the network's model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from MedShapeCore.errors import FailedResult, RefusedInput
from scipy import ndimage
from scipy.spatial import cKDTree

HALF_U = 1.15  # half side of the grid's cube
CELLS = 40  # along each side: 0.058 u, 5 mm for a brain; meshed again, the grid itself is off by 0.1 % of the longest side
BAND_U = 0.3  # distances are cut there: far ones would fill the first components
KEPT = 0.99  # share of the variance that the components must explain
REFINED = 2  # times finer is the grid that is meshed, by cubic splines


@dataclass(frozen=True)
class PcaModel:
    """Mean and components of one category's grids."""

    mean: np.ndarray  # (g,) float32 u, of the flattened grid [k, j, i]
    components: np.ndarray  # (m, g) float32, orthonormal
    deviations: np.ndarray  # (m,) of the components' scores over the training shapes
    log_scale: tuple[float, float]  # mean and standard deviation of ln(mm per u)

    def projected(self, grid: np.ndarray) -> np.ndarray:
        """The nearest shape of the model to a grid (g,): what the model can say about it."""
        return self.mean + ((grid - self.mean) @ self.components.T) @ self.components

    def sampled(self, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """A new grid (g,) and its size in mm per u."""
        scores = rng.normal(size=len(self.deviations)) * self.deviations
        return self.mean + scores.astype(np.float32) @ self.components, float(np.exp(rng.normal(*self.log_scale)))


def fitted(grids: Sequence[np.ndarray], scale_mm: np.ndarray) -> PcaModel:
    """The model of training grids, each (g,), and their sizes (n,) in mm per u; refuses fewer than two."""
    if len(grids) < 2:
        raise RefusedInput("too-few-shapes", f"{len(grids)} shape gives no linear model.", "Two are needed at least.")
    data = np.stack(grids).astype(np.float32)
    mean = data.mean(axis=0)
    data -= mean
    # Eigenvectors of the small matrix of inner products give those of the covariance.
    values, vectors = np.linalg.eigh((data @ data.T).astype(np.float64))
    order = np.argsort(-values)
    values, vectors = np.maximum(values[order], 0.0), vectors[:, order]
    count = int(np.searchsorted(np.cumsum(values) / max(values.sum(), 1e-30), KEPT)) + 1
    count = min(count, int((values > 1e-9 * values[0]).sum()))
    components = (vectors[:, :count] / np.sqrt(values[:count])).T.astype(np.float32) @ data
    logs = np.log(scale_mm)
    return PcaModel(mean, components, np.sqrt(values[:count] / (len(data) - 1)), (float(logs.mean()), float(logs.std(ddof=1))))


def distance_grid(points: np.ndarray, normals: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Signed distance (g,) float32 u, negative inside, cut at BAND_U.

    points, normals     : (n, 3) densely on the surface. Near one of them its tangent plane gives the distance: better
                          than the distance to the point itself.
    vertices, triangles : (V, 3) u, (T, 3) of the closed surface, for the sign.
    """
    places = _places()
    tree = cKDTree(points)
    away, nearest = tree.query(places, distance_upper_bound=BAND_U)
    near = np.flatnonzero(np.isfinite(away))
    offset = places[near] - points[nearest[near]]
    plane = np.abs(np.einsum("ij,ij->i", offset, normals[nearest[near]]))
    spacing = float(np.median(tree.query(points[:500], 2)[0][:, 1]))
    grid = np.full(len(places), BAND_U, np.float32)
    grid[near] = np.where(away[near] < 4 * spacing, plane, away[near])
    return np.where(_inside(vertices, triangles), -grid, grid)


def _places() -> np.ndarray:
    """(g, 3) x, y, z in u of the grid's points, [k, j, i] flattened."""
    axis = np.linspace(-HALF_U, HALF_U, CELLS + 1)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([x, y, z], axis=-1).reshape(-1, 3)


def _inside(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Which of the grid's points (g,) a closed surface encloses."""
    from MedShapeCore.surfaces import polydata
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkImagingStencil import vtkImageStencilToImage, vtkPolyDataToImageStencil

    step = 2 * HALF_U / CELLS
    stencil = vtkPolyDataToImageStencil()
    stencil.SetInputData(polydata(vertices, triangles))
    stencil.SetOutputOrigin(-HALF_U, -HALF_U, -HALF_U)
    stencil.SetOutputSpacing(step, step, step)
    stencil.SetOutputWholeExtent(0, CELLS, 0, CELLS, 0, CELLS)
    stencil.SetTolerance(0)
    image = vtkImageStencilToImage()
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.SetOutputScalarTypeToUnsignedChar()
    image.Update()
    return vtk_to_numpy(image.GetOutput().GetPointData().GetScalars()) > 0


def grid_surface(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest closed body of a grid (g,): vertices (V, 3) float32 u and triangles (T, 3), outward.

    FailedResult where nothing is inside.
    """
    from MedShapeCore.surfaces import field_surface

    from .decoding import keep_largest

    values = grid.reshape((CELLS + 1,) * 3)
    if REFINED > 1:
        values = ndimage.zoom(values, (REFINED * CELLS + 1) / (CELLS + 1), order=3, mode="nearest", grid_mode=False)
    if not (values < 0).any():
        raise FailedResult("no-surface", "The linear model's shape has no inside.")
    step = 2 * HALF_U / (len(values) - 1)
    ijk_to_u = np.diag([step, step, step, 1.0])
    ijk_to_u[:3, 3] = -HALF_U
    inside = np.clip(-values / step, -1.0, 1.0) + 1.0
    vertices, triangles, _ = keep_largest(*field_surface(inside, 1.0, ijk_to_u), 1)
    return vertices, triangles
