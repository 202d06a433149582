"""Signed distances against analytic truths: spheres, planes, plates, in isotropic and anisotropic voxels."""

from __future__ import annotations

from time import process_time

import numpy as np
import pytest
from MedShapeCore.distance import signed_distance, zero_set_distance
from scipy.special import ndtr

SHAPE = (40, 48, 44)


def centres_mm(shape, spacing_mm):
    """Voxel centres, three arrays that broadcast to (K, J, I), mm from the first voxel."""
    return np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing_mm, strict=True)), indexing="ij", sparse=True)


def sphere_mm(shape, spacing_mm, radius_mm):
    k, j, i = centres_mm(shape, spacing_mm)
    middle = [0.5 * n * s + 0.3 for n, s in zip(shape, spacing_mm, strict=True)]
    return np.sqrt((k - middle[0]) ** 2 + (j - middle[1]) ** 2 + (i - middle[2]) ** 2) - radius_mm


def plane_mm(shape, spacing_mm, normal):
    """Distance to a plane through the middle, and where its foot point is well inside the array."""
    axes = centres_mm(shape, spacing_mm)
    normal = np.asarray(normal, float) / np.linalg.norm(normal)
    middle = [0.5 * n * s + 0.3 for n, s in zip(shape, spacing_mm, strict=True)]
    distance = sum(n * (x - m) for n, x, m in zip(normal, axes, middle, strict=True))
    covered = np.ones(shape, bool)
    for n, x, size, step in zip(normal, axes, shape, spacing_mm, strict=True):
        foot = x - n * distance
        covered &= (foot > 2 * step) & (foot < (size - 3) * step)
    return distance, covered


def occupancy_by_counting(distance_mm_at, shape, spacing_mm, parts=4):
    """Share of each voxel that is inside, counted on parts^3 points."""
    k, j, i = centres_mm(shape, spacing_mm)
    shifts = (np.arange(parts) + 0.5) / parts - 0.5
    inside = np.zeros(shape)
    for a in shifts * spacing_mm[0]:
        for b in shifts * spacing_mm[1]:
            for c in shifts * spacing_mm[2]:
                inside += distance_mm_at(k + a, j + b, i + c) < 0.0
    return inside / parts**3


@pytest.mark.parametrize("normal", [(1, 0, 0), (1, 0.1, 0.05), (1, 0.5, 0.2), (1, 1, 1), (0.1, 1, 0.03)])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.5, 0.8, 1.0)])
def test_a_tilted_plane_is_exact(normal, spacing_mm):
    truth, covered = plane_mm(SHAPE, spacing_mm, normal)
    occupancy = ndtr(-truth / max(spacing_mm))
    error = np.abs(signed_distance(occupancy, spacing_mm, 8.0) - truth)[covered & (np.abs(truth) < 7.5)]
    assert error.max() < 0.03  # measured 0.022, where the nearest boundary voxel is not a face neighbour


@pytest.mark.parametrize("radius_mm", [11.0, 17.0])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.5, 0.8, 1.0)])
def test_a_sphere_from_smooth_occupancy_is_exact_to_a_tenth_of_a_voxel(spacing_mm, radius_mm):
    shape = tuple(int((2 * radius_mm + 8) / s) + 1 for s in spacing_mm)
    truth = sphere_mm(shape, spacing_mm, radius_mm)
    distance = signed_distance(ndtr(-truth / max(spacing_mm)), spacing_mm, 4.0)
    error = (distance - truth)[np.abs(truth) < 3.5]
    # Two Gaussians of width 1 and 0.5 voxels shrink a ball of radius R by about 0.5^2 / R = 0.02 voxel.
    assert np.abs(error).max() < 0.1 * max(spacing_mm)
    assert np.sqrt(np.mean(error**2)) < 0.03 * max(spacing_mm)


def test_occupancy_by_averaging_is_exact_to_a_tenth_of_a_voxel():
    normal = np.array([0.3, 0.2, 1.0]) / np.linalg.norm([0.3, 0.2, 1.0])
    truth, covered = plane_mm(SHAPE, (1, 1, 1), normal)
    middle = [0.5 * n + 0.3 for n in SHAPE]

    def plane(k, j, i):
        return normal[0] * (k - middle[0]) + normal[1] * (j - middle[1]) + normal[2] * (i - middle[2])

    distance = signed_distance(occupancy_by_counting(plane, SHAPE, (1, 1, 1)), (1, 1, 1), 6.0)
    assert np.abs(distance - truth)[covered & (np.abs(truth) < 5.5)].max() < 0.1


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.5, 0.8, 1.0)])
@pytest.mark.parametrize("unit", [1.0, 1e-4, -1e3])
def test_any_level_set_becomes_a_distance(spacing_mm, unit):
    """Scale does not matter; a negative unit swaps inside and outside."""
    truth = sphere_mm(SHAPE, spacing_mm, 14.0)
    distance = zero_set_distance(unit * np.tanh(0.5 * truth), spacing_mm, 5.0) * np.sign(unit)
    error = np.abs(distance - truth)[np.abs(truth) < 4.5]
    assert error.max() < 0.12 * max(spacing_mm) and np.sqrt(np.mean(error**2)) < 0.03 * max(spacing_mm)


def test_a_mask_is_right_to_half_a_voxel_and_unbiased():
    truth = sphere_mm(SHAPE, (1, 1, 1), 15.0)
    distance = signed_distance(truth < 0.0, (1, 1, 1), 5.0)
    error = (distance - truth)[np.abs(truth) < 4.5]
    assert np.abs(error).max() < 0.5  # a voxel's centre says no more
    assert np.sqrt(np.mean(error**2)) < 0.15 and abs(error.mean()) < 0.04  # 0.57 / R voxels of shrinkage


def test_a_mask_keeps_every_voxel_on_its_side():
    rng = np.random.default_rng(0)
    mask = rng.random((20, 21, 22)) < 0.3
    distance = signed_distance(mask, (1, 1, 1), 5.0)
    assert ((distance < 0.0) == mask).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plate_and_a_gap_of_one_voxel_keep_their_thickness(axis):
    mask = np.zeros((16, 16, 16), bool)
    np.moveaxis(mask, axis, 0)[8] = True
    line = np.moveaxis(signed_distance(mask, (1, 1, 1), 5.0), axis, 0)[:, 8, 8]
    np.testing.assert_allclose(line, np.clip(np.abs(np.arange(16) - 8) - 0.5, None, 5.0), atol=1e-5)
    np.testing.assert_array_equal(signed_distance(~mask, (1, 1, 1), 5.0), -signed_distance(mask, (1, 1, 1), 5.0))


def test_the_middle_of_a_plate_knows_both_faces():
    """Faces 1.5 voxels away, at different heights between the voxel centres: the nearer one counts."""
    k = np.arange(24)[:, None, None] * np.ones((1, 24, 24))
    truth = np.abs(k - 12.4) - 1.5
    for way in (1, -1):  # of two boundary voxels equally near, the transform takes the lower one
        occupancy = np.clip(0.5 - truth[::way], 0.0, 1.0)
        error = np.abs(signed_distance(occupancy, (1, 1, 1), 6.0) - truth[::way].clip(-6.0, 6.0))
        assert error.max() < 0.1


def test_zero_one_floats_are_a_mask():
    mask = sphere_mm((24, 24, 24), (1, 1, 1), 8.0) < 0.0
    expected = signed_distance(mask, (1, 1, 1), 4.0)
    for dtype in (np.uint8, np.float32, np.float64):
        np.testing.assert_array_equal(signed_distance(mask.astype(dtype), (1, 1, 1), 4.0), expected)


def test_empty_and_full():
    empty = np.zeros((4, 5, 6), bool)
    for values, expected in (
        (empty, 7.0),
        (~empty, -7.0),
        (np.full((4, 5, 6), 0.2), 7.0),
        (np.full((4, 5, 6), 0.9), -7.0),
    ):
        distance = signed_distance(values, (1, 1, 1), 7.0)
        assert distance.dtype == np.float32 and distance.shape == (4, 5, 6) and (distance == expected).all()
    assert (zero_set_distance(np.ones((4, 5, 6)), (1, 1, 1), 7.0) == 7.0).all()


def test_one_voxel_and_flat_arrays():
    mask = np.zeros((1, 5, 5), bool)
    mask[0, 2, 2] = True
    distance = signed_distance(mask, (1, 1, 1), 3.0)
    assert distance[0, 2, 2] < 0.0 < distance[0, 2, 3] < distance[0, 2, 4]


def test_order_of_axes_and_crop_do_not_matter():
    truth = sphere_mm(SHAPE, (1.5, 0.8, 1.0), 12.0)
    occupancy = ndtr(-truth)
    distance = signed_distance(occupancy, (1.5, 0.8, 1.0), 4.0)
    turned = signed_distance(occupancy.transpose(2, 0, 1), (1.0, 1.5, 0.8), 4.0).transpose(1, 2, 0)
    # Ties between equally near boundary voxels fall differently: a rare, small difference.
    assert np.abs(turned - distance).max() < 0.1 and np.abs(turned - distance).mean() < 1e-3
    mirrored = signed_distance(occupancy[::-1], (1.5, 0.8, 1.0), 4.0)[::-1]
    assert np.abs(mirrored - distance).mean() < 1e-3
    padded = signed_distance(np.pad(occupancy, 9), (1.5, 0.8, 1.0), 4.0)[9:-9, 9:-9, 9:-9]
    np.testing.assert_allclose(padded, distance, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "spacing_mm", "limit_mm", "said"),
    [
        (np.zeros((3, 3), bool), (1, 1, 1), 5.0, "three axes"),
        (np.zeros((3, 3, 3), bool), (1, 0, 1), 5.0, "spacing"),
        (np.zeros((3, 3, 3), bool), (1, 1), 5.0, "spacing"),
        (np.zeros((3, 3, 3), bool), (1, 1, 1), 0.0, "limit"),
        (np.full((3, 3, 3), np.nan), (1, 1, 1), 5.0, "not finite"),
    ],
)
def test_wrong_input_is_refused(values, spacing_mm, limit_mm, said):
    with pytest.raises(ValueError, match=said):
        signed_distance(values, spacing_mm, limit_mm)
    with pytest.raises(ValueError, match=said):
        zero_set_distance(values, spacing_mm, limit_mm)


def test_a_label_map_is_no_occupancy():
    with pytest.raises(ValueError, match="between 0 and 1, not from 0 to 255"):
        signed_distance(np.array([[[0, 255]]], np.uint8), (1, 1, 1), 5.0)


def test_a_million_voxels_are_quick():
    truth = np.abs(sphere_mm((128, 128, 64), (1, 1, 1), 50.0)) - 3.0
    occupancy = np.clip(0.5 - truth, 0.0, 1.0)
    start = process_time()
    signed_distance(occupancy, (1, 1, 1), 10.0)
    assert process_time() - start < 2.0  # 0.3 s measured; room for slow machines
