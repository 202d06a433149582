"""The linear shape model on shapes with known modes."""

import numpy as np
import pytest
import torch
from MedShapeCore.errors import FailedResult, RefusedInput
from MedShapeCore.surfaces import is_watertight
from MedShapeGenLib.decoding import DecodeOptions, decode_surface
from MedShapeGenLib.pca_baseline import BAND_U, CELLS, HALF_U, distance_grid, fitted, grid_surface
from MedShapeGenLib.shapes import surface_points


def spheroid(height):
    """Mesh of an ellipsoid with half axes 0.8, 0.8 and `height`, with dense points and normals on it."""
    made = decode_surface(
        lambda q: (q * torch.tensor([1.0, 1.0, 0.8 / height])).norm(dim=1) - 0.8, DecodeOptions(resolution=64, safety=3.0)
    )
    points, normals = surface_points(made.vertices_u, made.triangles, 4096, np.random.default_rng(0))
    return points, normals, made.vertices_u, made.triangles


@pytest.fixture(scope="module")
def grids():
    return {height: distance_grid(*spheroid(height)) for height in (0.4, 0.5, 0.55, 0.6, 0.7)}


@pytest.fixture(scope="module")
def model(grids):
    return fitted([grids[h] for h in (0.4, 0.5, 0.6, 0.7)], np.array([40.0, 50.0, 60.0, 70.0]))


def test_the_grid_holds_the_distance():
    grid = distance_grid(*spheroid(0.8)).reshape((CELLS + 1,) * 3)
    axis = np.linspace(-HALF_U, HALF_U, CELLS + 1)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    true = np.clip(np.sqrt(x**2 + y**2 + z**2) - 0.8, -BAND_U, BAND_U)
    assert np.abs(grid - true).max() < 0.025 and np.abs(grid - true).mean() < 0.001


def test_the_surface_of_a_grid_is_closed_and_in_its_place(grids):
    vertices, triangles = grid_surface(grids[0.5])
    assert is_watertight(triangles)
    assert np.ptp(vertices, axis=0) == pytest.approx([1.6, 1.6, 1.0], abs=0.01)
    assert vertices.mean(axis=0) == pytest.approx([0, 0, 0], abs=0.01)


def test_a_shape_between_the_training_shapes_is_repeated(model, grids):
    vertices, _ = grid_surface(model.projected(grids[0.55]))
    assert np.ptp(vertices, axis=0) == pytest.approx([1.6, 1.6, 1.1], abs=0.02)


def test_components_are_orthonormal_and_explain_the_training_shapes(model, grids):
    assert model.components @ model.components.T == pytest.approx(np.eye(len(model.components)), abs=1e-4)
    error = np.abs(model.projected(grids[0.4]) - grids[0.4]).mean()
    assert error < 0.1 * np.abs(grids[0.7] - grids[0.4]).mean()


def test_samples_spread_like_the_training_shapes(model):
    heights, sizes = [], []
    for seed in range(20):
        grid, scale_mm = model.sampled(np.random.default_rng(seed))
        heights.append(np.ptp(grid_surface(grid)[0][:, 2]) / 2)
        sizes.append(np.log(scale_mm))
    assert np.mean(heights) == pytest.approx(0.55, abs=0.1)
    assert 0.05 < np.std(heights) < 0.25  # of the training shapes: 0.13
    logs = np.log([40.0, 50.0, 60.0, 70.0])
    assert np.mean(sizes) == pytest.approx(logs.mean(), abs=0.2) and 0.5 < np.std(sizes) / logs.std(ddof=1) < 1.6


def test_the_same_generator_gives_the_same_sample(model):
    a, b = (model.sampled(np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(a[0], b[0]) and a[1] == b[1]


def test_too_few_shapes_and_no_inside_are_said(grids):
    with pytest.raises(RefusedInput):
        fitted([grids[0.5]], np.array([50.0]))
    with pytest.raises(FailedResult):
        grid_surface(np.full((CELLS + 1) ** 3, 0.1, np.float32))
