"""Pose and symmetry plane: known motions of known points are found again."""

import numpy as np
import pytest
from CranialImplantLib.models import WEIGHTS, atlas_of
from CranialImplantLib.pose import (
    ATLAS_GRID,
    MIRROR,
    Grid,
    bone_points,
    own_mirror,
    pose_from_similarity,
    procrustes,
    register,
)
from MedShapeCore.weights import open_weights
from scipy.spatial.transform import Rotation
from skimage.measure import marching_cubes
from synthetic import shell_field, turned


@pytest.fixture(scope="module")
def atlas():
    return atlas_of(open_weights(WEIGHTS))


def similarity(angle_deg, axis, shift_mm, scale=1.0):
    matrix = turned(angle_deg, axis, shift_mm)
    matrix[:3, :3] *= scale
    return matrix


def moved(points, matrix):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def angle_deg(rotation):
    return np.degrees(Rotation.from_matrix(rotation).magnitude())


def atlas_points(atlas, count, rng):
    """Points of the atlas's zero set, in its own frame."""
    inside = atlas[2:-2, 2:-2, 2:-2]
    vertices = marching_cubes(inside, 0.0)[0] + 2
    vertices = vertices[rng.choice(len(vertices), count, replace=False)]
    return np.asarray(ATLAS_GRID.low) + ATLAS_GRID.step * vertices[:, ::-1]


def test_procrustes_finds_a_similarity_exactly():
    rng = np.random.default_rng(1)
    truth = similarity(130, (1, -2, 0.5), (30, -20, 7), 0.8)
    source = rng.normal(size=(40, 3)) * 50
    target = moved(source, truth)
    target[:10] += 80.0  # but these do not count
    rotation, shift, scale = procrustes(source, target, np.r_[np.zeros(10), rng.uniform(0.1, 3, 30)])
    assert scale == pytest.approx(0.8, abs=1e-12)
    assert np.allclose(scale * rotation, truth[:3, :3], atol=1e-12) and np.allclose(shift, truth[:3, 3], atol=1e-9)


def test_procrustes_never_reflects():
    source = np.random.default_rng(2).normal(size=(30, 3))
    rotation, _, _ = procrustes(source, source * [-1, 1, 1], np.ones(30))
    assert np.linalg.det(rotation) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [0.92, 1.0, 1.07])
def test_registration_finds_a_moved_atlas_again_among_outliers(atlas, scale):
    rng = np.random.default_rng(3)
    head = atlas_points(atlas, 3000, rng)
    move = similarity(8, (1, 2, -1), (6, -7, 5), scale)  # the look network's own error is smaller
    points = np.concatenate([moved(head, move), rng.uniform(-90, 90, (300, 3))])
    found, residual = register(points, atlas, ATLAS_GRID, np.eye(4))
    rest = found @ move
    factor = np.cbrt(np.linalg.det(rest[:3, :3]))
    assert angle_deg(rest[:3, :3] / factor) < 0.5
    assert np.abs(rest[:3, 3]).max() < 0.5 and abs(factor - 1) < 0.005
    assert residual < 0.3
    assert np.median(np.linalg.norm(moved(head, rest) - head, axis=1)) < 0.5


def test_registration_without_scale_keeps_millimetres_and_without_points_near_says_so(atlas):
    head = atlas_points(atlas, 2000, np.random.default_rng(4))
    move = similarity(5, (0, 1, 1), (3, 4, -2), 1.0)
    found, _ = register(moved(head, move), atlas, ATLAS_GRID, np.eye(4), with_scale=False)
    assert np.linalg.det(found[:3, :3]) == pytest.approx(1.0, abs=1e-9)
    assert angle_deg((found @ move)[:3, :3]) < 0.5
    assert register(head + 1000.0, atlas, ATLAS_GRID, np.eye(4))[1] == np.inf


def test_a_head_lies_in_its_own_frame_in_millimetres():
    rng = np.random.default_rng(5)
    head_from_lps = similarity(40, (3, 1, 2), (12, -140, 900), 1.0)
    atlas_from_lps = np.diag([1.1, 1.1, 1.1, 1.0]) @ head_from_lps  # a head smaller than the atlas
    pose = pose_from_similarity(atlas_from_lps, 0.7)
    assert pose.scale == pytest.approx(1 / 1.1) and pose.residual_mm == 0.7
    assert np.allclose(pose.head_from_lps, head_from_lps)
    points = rng.uniform(-200, 200, (50, 3))
    assert np.allclose(pose.to_lps(pose.to_head(points)), points)
    assert np.allclose(pose.to_head(points), moved(points, head_from_lps))
    assert np.allclose(moved(points, pose.lps_from_head), pose.to_lps(points))


def test_a_heads_own_mirror_plane_is_found_in_spite_of_a_hole():
    grid = Grid((-90.0, -110.0, -60.0), (54, 73, 60), 3.0)
    truth = similarity(2.0, (0, 1, 0.5), (1.5, 0, 0))  # the head is turned and shifted in its frame
    inverse = np.linalg.inv(truth)
    field = np.clip(shell_field(moved(grid.points().astype(float), inverse), face=False), -6, 6)
    rng = np.random.default_rng(6)
    directions = rng.normal(size=(6000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = np.arange(60.0, 100.0, 0.25)
    profile = shell_field(directions[:, None] * radii[:, None], face=False) < 0
    outermost = radii[profile.shape[1] - 1 - np.argmax(profile[:, ::-1], 1)]
    points = directions * outermost[:, None]
    hole = np.linalg.norm(points - [60.0, 10.0, 40.0], axis=1) < 35
    points = moved(points[profile.any(1) & ~hole & (points[:, 2] > -40)], truth)
    found = own_mirror(points, field, grid)
    expected = truth @ MIRROR @ inverse
    assert np.linalg.det(found[:3, :3]) == pytest.approx(-1.0)
    assert np.median(np.linalg.norm(moved(points, found) - moved(points, expected), axis=1)) < 0.5
    assert np.median(np.linalg.norm(moved(points, MIRROR) - moved(points, expected), axis=1)) > 2.0


def test_a_mirror_plane_far_from_the_middle_is_not_believed():
    grid = Grid((-90.0, -90.0, -90.0), (61, 61, 61), 3.0)
    field = np.clip(np.linalg.norm(grid.points() - [8.0, 0, 0], axis=-1) - 60.0, -6, 6)
    unit = np.random.default_rng(7).normal(size=(3000, 3))
    sphere = 60.0 * unit / np.linalg.norm(unit, axis=1, keepdims=True) + [8.0, 0, 0]
    assert np.array_equal(own_mirror(sphere, field, grid), MIRROR)  # its plane lies at x = 8: a shift by 16 mm


def test_surface_points_are_voxels_of_the_surface():
    mask = np.zeros((30, 40, 50), bool)
    mask[5:25, 5:35, 5:45] = True
    matrix = similarity(30, (1, 1, 0), (5, 6, 7)) @ np.diag([0.5, 0.8, 1.5, 1.0])
    points = bone_points(mask, matrix, 400, np.random.default_rng(8))
    assert points.shape == (400, 3)
    index = moved(points, np.linalg.inv(matrix))[:, ::-1]
    assert np.allclose(index, np.round(index), atol=1e-9)
    low, high = np.array([5, 5, 5]), np.array([24, 34, 44])
    assert ((index > low - 0.1) & (index < high + 0.1)).all()
    assert (np.isclose(index, low) | np.isclose(index, high)).any(1).all()
    few = bone_points(mask[:7, :7, :7], np.eye(4), 400, np.random.default_rng(8))
    assert len(few) == 8  # a cube of 2 voxels' edge has no other
    assert len(bone_points(np.zeros((4, 4, 4), bool), np.eye(4), 10, np.random.default_rng(8))) == 0


def test_a_grid_gives_its_points_and_reads_between_them():
    grid = Grid((-3.0, 10.0, 20.0), (4, 5, 6), 0.5)
    points = grid.points()
    assert points.shape == (4, 5, 6, 3) and points.dtype == np.float32
    assert points[1, 2, 3].tolist() == [-1.5, 11.0, 20.5]  # (k, j, i) -> low + step * (i, j, k)
    assert np.allclose(grid.kji(points[1, 2, 3]), [1, 2, 3])
    ramp = points @ np.array([1.0, 2.0, -3.0], np.float32)
    place = np.array([[-1.37, 10.9, 21.1]])
    assert grid.sample(ramp, place, 99.0) == pytest.approx(-1.37 + 21.8 - 63.3, abs=1e-4)
    assert grid.sample(ramp, np.array([[-9.0, 10.9, 21.1]]), 99.0) == 99.0


