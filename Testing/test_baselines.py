"""The simple fillings of a hole: exact where geometry says so, empty where there is nothing to go by, never on bone."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from CranialImplantLib.baselines import (
    BASELINES,
    HoleCase,
    _lps_from_uvw,
    _uvw_from_lps,
    hole_case,
    largest_part,
    mirror_implant,
    opened,
    thin_plate_implant,
)
from CranialImplantLib.skull import Skull
from MedShapeCore.metrics import dice, implant_metrics
from MedShapeCore.volumes import box_of, lps_from_ijk, spacing_of
from scipy import ndimage

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def described(case, direction, lps_from_head=None, reach_mm=8.0) -> HoleCase:
    """What a locator would say about a synthetic case, with the hole's neighbourhood as region."""
    lps_from_head = np.eye(4) if lps_from_head is None else lps_from_head
    matrix = case.skull.ijk_to_lps
    spacing_kji = spacing_of(matrix)[::-1]
    box = box_of(case.implant, np.ceil(30.0 / spacing_kji).astype(int))
    assert box is not None
    region = ndimage.distance_transform_edt(~case.implant[box], sampling=spacing_kji) <= reach_mm
    outward = lps_from_head[:3, :3] @ np.array(direction, float)
    index = np.argwhere(case.implant)
    mirror = lps_from_head @ MIRROR @ np.linalg.inv(lps_from_head)
    centre = lps_from_ijk(matrix, index).mean(0)
    return HoleCase(case.skull, box, region, outward / np.linalg.norm(outward), centre, mirror)


def score(case, hole, implant) -> dict:
    prediction = np.zeros(case.implant.shape, bool)
    prediction[hole.box] = implant
    spacing_kji = spacing_of(case.skull.ijk_to_lps)[::-1]
    return implant_metrics(prediction, case.implant, case.skull.mask, spacing_kji)


SIDE = (1.0, 0.2, 0.6)
OBLIQUE = synthetic.turned(30.0, (1, 2, 0.5), (8, -5, 20))


@pytest.mark.parametrize("lps_from_head", [np.eye(4), OBLIQUE], ids=["straight", "turned"])
def test_a_hole_at_the_side_of_a_symmetric_skull_is_filled_by_its_mirror_image(lps_from_head):
    case = synthetic.shell_case((2.0, 2.0, 2.4), (synthetic.Hole(SIDE, 24),), lps_from_head=lps_from_head)
    hole = described(case, SIDE, lps_from_head)
    figures = score(case, hole, BASELINES["mirror"](hole))
    assert figures["dsc"] > 0.93 and figures["hd95_mm"] < 2.5  # the opening rounds the edge by 1 mm; voxels are 2.4 mm
    assert figures["bone_overlap_ml"] == 0.0


def test_the_mirror_is_empty_where_the_other_side_has_no_bone_either():
    case = synthetic.shell_case(2.5, (synthetic.Hole((0, 0, 1), 30),))
    hole = described(case, (0, 0, 1))
    # A sliver may stay: the grid is not symmetric about the midline.
    assert score(case, hole, BASELINES["mirror"](hole))["dsc"] < 0.1


@pytest.mark.parametrize("direction, radius_mm", [((0, 0.3, 1), 35), (SIDE, 25)], ids=["vertex", "side"])
def test_the_thin_plate_closes_a_hole_in_the_vault(direction, radius_mm):
    case = synthetic.shell_case((2.0, 2.0, 2.4), (synthetic.Hole(direction, radius_mm),))
    hole = described(case, direction)
    figures = score(case, hole, BASELINES["thin plate"](hole))
    # C3: a mask of 2 mm voxels tops out near 0.9 at 6 mm, and the heights of the rim are known to half a voxel.
    assert figures["dsc"] > 0.88 and figures["hd95_mm"] < 3.2
    assert figures["bone_overlap_ml"] == 0.0


def spherical_hole(radius_mm=82.0, thickness_mm=6.0, spacing=(1.0, 0.8, 0.8)):
    """A spherical vault with a hole of 50 mm at the top on an anisotropic grid: bone, truth, ijk_to_lps."""
    k, j, i = np.ogrid[0:60, 0:140, 0:140]
    x, y, z = (i - 69.5) * spacing[2], (j - 69.5) * spacing[1], 40.0 + k * spacing[0]
    radius = np.sqrt(x * x + y * y + z * z)
    shell = (radius <= radius_mm) & (radius >= radius_mm - thickness_mm)
    wide = np.hypot(x, y) < 25.0
    matrix = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    matrix[:3, 3] = [-69.5 * spacing[2], -69.5 * spacing[1], 40.0]
    return shell & ~wide, shell & wide, matrix


def test_the_thin_plate_over_a_spherical_vault_is_the_sphere():
    bone, truth, matrix = spherical_hole()
    region = ndimage.binary_dilation(truth, iterations=8)
    implant = thin_plate_implant(bone, matrix, region, np.array([0, 0, 1.0]), np.array([0, 0, 79.0]))
    # The stairs of a 1 mm grid move the rim's heights by 0.25 mm; carried into the middle that is 0.4 mm of 6 mm (C3).
    assert dice(implant, truth) > 1 - 0.4 / 6
    outer = np.linalg.norm(lps_from_ijk(matrix, np.argwhere(implant)), axis=1)
    assert np.percentile(outer, 99.5) < 82.5 and np.percentile(outer, 0.5) > 75.5


def test_flipped_axes_give_the_same_thin_plate():
    bone, truth, matrix = spherical_hole()
    region = ndimage.binary_dilation(truth, iterations=8)
    where = np.array([0, 0.1, 1.0]), np.array([0, 2.0, 79.0])
    expected = thin_plate_implant(bone, matrix, region, *where)
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    flip[1:3, 3] = np.array(bone.shape)[[1, 0]] - 1
    flipped = thin_plate_implant(bone[::-1, ::-1], matrix @ flip, region[::-1, ::-1], *where)
    assert dice(flipped[::-1, ::-1], expected) > 0.999


def test_without_a_region_or_bone_around_it_there_is_no_implant():
    bone, truth, matrix = spherical_hole()
    where = np.array([0, 0, 1.0]), np.array([0, 0, 79.0])
    assert not thin_plate_implant(bone, matrix, truth & False, *where).any()
    assert not thin_plate_implant(bone & False, matrix, truth, *where).any()
    assert not mirror_implant(bone, matrix, MIRROR, truth & False, bone, matrix).any()


def test_places_on_the_ball_and_points_in_space_are_inverse():
    frame = synthetic.turned(50, (1, 1, 0), (3, 4, -60))
    uvw = np.random.default_rng(0).uniform([-90, -90, -20], [90, 90, 20], (500, 3))
    uvw[0] = [0, 0, 5]  # the pole
    assert np.allclose(_uvw_from_lps(_lps_from_uvw(uvw, frame), frame), uvw, atol=1e-6)


def test_opening_works_in_mm_and_removes_what_is_thinner_than_twice_its_radius():
    mask = np.zeros((30, 30, 60), bool)
    mask[10:20, 5:25, 5:30] = True  # 5 mm thick
    mask[10:13, 5:25, 30:55] = True  # a flange of 3 voxels = 1.5 mm
    result = opened(mask, np.array([0.5, 1.0, 1.0]), 1.0)
    assert not result[:, :, 31:].any() and result[12:18, 7:23, 7:28].all()
    assert not (result & ~mask).any()
    assert not opened(mask & False, np.ones(3), 1.0).any()


def test_the_largest_part_is_kept():
    mask = np.zeros((5, 5, 9), bool)
    mask[1:4, 1:4, 0:3] = mask[2, 2, 5:8] = True
    assert (largest_part(mask) == (mask & (np.arange(9) < 4))).all()
    assert not largest_part(mask & False).any()


def test_a_tight_box_is_widened_to_show_the_bone_around_it():
    case = synthetic.shell_case(4.0, (synthetic.Hole((0, 0, 1), 24),))
    box = box_of(case.implant)
    assert box is not None
    hole = hole_case(case.skull, box, case.implant[box], np.array([0, 0, 1.0]), np.array([0, 0, 76.0]), MIRROR)
    assert (hole.region == case.implant[hole.box]).all() and hole.region.sum() == case.implant.sum()
    assert [b.start - a.start for a, b in zip(hole.box, box, strict=True)] == [8, 8, 8]  # 30 mm
    assert hole.box[0].stop == case.skull.mask.shape[0]  # above, the scan ends sooner


def test_a_hole_knows_its_crop():
    case = synthetic.shell_case(4.0, (synthetic.Hole(SIDE, 24),))
    hole = described(case, SIDE)
    index = np.array([[3, 4, 5]])
    whole = index + [s.start for s in hole.box]
    assert np.allclose(lps_from_ijk(hole.ijk_to_lps, index), lps_from_ijk(case.skull.ijk_to_lps, whole))
    assert hole.bone.shape == hole.region.shape and isinstance(hole.skull, Skull)
