"""The implant is completed and not bone: it keeps the rim's contact and loses layers on bone, and takes none of it."""

import time

import numpy as np
import pytest
from CranialImplantLib.subtraction import dilated, implant_from_field, largest_piece, solid_part, without_cavities
from scipy import ndimage
from synthetic import Hole, case_around, head_points

HOLE = Hole((0.3, 0.2, 1.0), 25.0)


def case_of(spacing_mm, axes=None):
    case = case_around(HOLE, spacing_mm, 48.0, axes=axes)
    points = head_points(case.complete.shape, case.skull.ijk_to_lps)
    return case, HOLE.signed_mm(points)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 0.8, 3.0), (2.0, 2.5, 3.0)])
def test_the_exact_field_gives_the_cut_piece(spacing_mm):
    case, wall = case_of(spacing_mm)
    implant = implant_from_field(case.field_mm, case.skull.mask, wall < 6, spacing_mm)
    assert dice(implant, case.implant) > 0.99  # all but voxels at the rim's edges that hang by an edge or a corner
    assert not (implant & ~case.implant).any()


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 0.8, 3.0), (2.5, 2.5, 2.5)])
def test_layers_on_bone_are_removed_and_the_contact_with_the_rim_stays(spacing_mm):
    case, wall = case_of(spacing_mm)
    region = wall < 15
    swollen = (case.field_mm - 0.6).astype(np.float32)  # completed bone 0.6 mm too thick on both sides
    candidate = (swollen <= 0) & ~case.skull.mask & region
    implant = implant_from_field(swollen, case.skull.mask, region, spacing_mm)
    inside, reach = wall <= 0, 1.2 + 2 * max(spacing_mm)
    assert (implant & inside).sum() > 0.99 * (candidate & inside).sum()
    assert not (implant & (wall > reach)).any()
    assert max(spacing_mm) > 1 or (candidate & (wall > reach)).sum() > 1000  # there was something to remove
    touching = ndimage.binary_dilation(implant) & case.skull.mask & (np.abs(wall) < 3)
    first_bone = case.skull.mask & ndimage.binary_dilation(case.implant)
    assert (touching & first_bone).sum() > 0.94 * first_bone.sum()  # no gap but at edges of coarse voxels


def test_never_a_voxel_of_bone_nor_outside_the_region():
    rng = np.random.default_rng(0)
    for _ in range(20):
        field = ndimage.gaussian_filter(rng.normal(size=(20, 24, 28)), 2).astype(np.float32)
        bone, region = rng.random(field.shape) < 0.1, rng.random(field.shape) < 0.9
        implant = implant_from_field(field, bone, region, (0.5, 0.5, 1.0))
        assert implant.dtype == bool and not (implant & (bone | ~region)).any()


def test_the_result_is_one_piece_without_cavities():
    grid = np.moveaxis(np.indices((40, 40, 40)), 0, -1).astype(float)
    ball = np.linalg.norm(grid - 15, axis=-1)
    field = np.maximum(ball - 11, 4 - ball)  # a ball with a cavity ...
    field = np.minimum(field, np.linalg.norm(grid - 34, axis=-1) - 4)  # ... and another ball
    nothing = np.zeros(ball.shape, bool)
    implant = implant_from_field(field.astype(np.float32), nothing, ~nothing, (1, 1, 1))
    assert np.array_equal(implant, ball <= 11)


def test_an_island_of_bone_inside_stays_bone():
    grid = np.moveaxis(np.indices((30, 30, 30)), 0, -1) - 15.0
    radius = np.linalg.norm(grid, axis=-1)
    island = radius < 3
    implant = implant_from_field((radius - 10).astype(np.float32), island, np.ones(island.shape, bool), (1, 1, 1))
    assert np.array_equal(implant, (radius <= 10) & ~island)


def test_thin_bone_across_a_hole_is_no_layer():
    """A plate 1.5 mm thin, as in the temporal squama: thinner than the opening's ball, but without bone under it."""
    k = np.indices((20, 60, 60))[0]
    plate = np.abs(k - 10) <= 1
    bone = plate & ~((np.indices(k.shape)[1:] - 30) ** 2 < 400).all(0)
    field = np.where(plate, -0.5, 0.5).astype(np.float32)
    implant = implant_from_field(field, bone, np.ones(bone.shape, bool), (0.5, 0.5, 0.5))
    assert (plate & ~bone).sum() - implant.sum() < 0.01 * implant.sum() and not (implant & ~plate).any()


def test_nothing_in_nothing_out():
    shape = (8, 9, 10)
    nothing, everything = np.zeros(shape, bool), np.ones(shape, bool)
    for field, bone, region in (
        (np.ones(shape), nothing, everything), (-np.ones(shape), everything, everything),
        (-np.ones(shape), nothing, nothing), (np.full(shape, np.nan), nothing, everything),
    ):
        implant = implant_from_field(field.astype(np.float32), bone, region, (1, 1, 1))
        assert implant.shape == shape and implant.dtype == bool and not implant.any()
    assert not largest_piece(nothing).any() and not without_cavities(nothing).any()


def test_inputs_are_not_changed():
    case, wall = case_of((2.5, 2.5, 2.5))
    field, bone, region = case.field_mm.copy(), case.skull.mask.copy(), wall < 6
    kept = region.copy()
    implant_from_field(field, bone, region, (2.5, 2.5, 2.5))
    assert np.array_equal(field, case.field_mm) and np.array_equal(bone, case.skull.mask)
    assert np.array_equal(region, kept)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.45, 0.6, 1.3), (3.0, 0.4, 1.0)])
@pytest.mark.parametrize("radius", [0.9, 1.7, 3.1])
def test_dilation_equals_the_distance_transform(spacing, radius):
    mask = np.random.default_rng(1).random((14, 15, 16)) < 0.01
    oracle = ndimage.distance_transform_edt(~mask, spacing) <= radius
    assert np.array_equal(dilated(mask, np.full(3, radius), np.array(spacing)), oracle)
    assert not dilated(np.zeros((3, 4, 5), bool), np.full(3, radius), np.array(spacing)).any()


def test_a_layer_of_one_coarse_voxel_is_removed():
    bone = np.zeros((12, 30, 30), bool)
    bone[:6] = True
    candidate = np.zeros_like(bone)
    candidate[6] = True
    assert not solid_part(candidate, bone, np.array([2.0, 2.0, 2.0])).any()
    candidate[6:9] = True
    assert np.array_equal(solid_part(candidate, bone, np.array([2.0, 2.0, 2.0])), candidate)


def test_a_full_size_crop_takes_about_a_second():
    shape = (130, 300, 300)
    k, j, i = np.ogrid[:130, :300, :300]
    radius = np.sqrt(((k + 60) * 0.63) ** 2 + ((j - 150) * 0.45) ** 2 + ((i - 150) * 0.45) ** 2).astype(np.float32)
    field = np.abs(radius - 80) - np.float32(3)
    hole = np.broadcast_to(np.hypot((j - 150) * 0.45, (i - 150) * 0.45) < 50, shape)
    bone = (field <= 0) & ~hole
    start = time.process_time()
    implant = implant_from_field(field, bone, np.ones(shape, bool), (0.45, 0.45, 0.63))
    assert time.process_time() - start < 5.0  # 0.5 to 1 s; the limit leaves room for a busy machine
    assert dice(implant, (field <= 0) & hole) > 0.999
