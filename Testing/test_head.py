"""The skull in its head frame: millimetres survive any voxel grid."""

import numpy as np
import pytest
from CranialImplantLib.head import FIELD_LIMIT_MM, HEAD_GRID, averaged, filled_diploe, head_field, inside_scan
from CranialImplantLib.pose import HeadPose
from MedShapeCore.volumes import lps_from_ijk
from skull_cases import AXES
from synthetic import turned

OUTER_MM, INNER_MM = 44.0, 37.0
CENTRE = np.array([3.0, -5.0, 10.0])  # of the test shell, head frame


def shell_mm(points, gap=(0.0, 0.0)):
    """Signed mm to a shell that is open at the bottom (or it would be filled), with a gap between two radii."""
    radius = np.linalg.norm(points - CENTRE, axis=-1)
    shell = np.maximum(radius - OUTER_MM, INNER_MM - radius)
    if gap[1] > gap[0]:
        shell = np.maximum(shell, np.minimum(radius - gap[0], gap[1] - radius))
    return np.maximum(shell, CENTRE[2] - 30.0 - points[..., 2])


def scanned(axes, spacing_mm, head_from_lps, gap=(0.0, 0.0)):
    """The shell's mask in a grid around it: mask and ijk_to_lps."""
    step = axes * np.asarray(spacing_mm, float)
    size = np.ceil(2 * (OUTER_MM + 5) / np.asarray(spacing_mm)).astype(int)
    matrix = np.eye(4)
    matrix[:3, :3] = step
    middle = (CENTRE - head_from_lps[:3, 3]) @ head_from_lps[:3, :3]  # of the shell, LPS
    matrix[:3, 3] = middle - step @ (size / 2)
    points = lps_from_ijk(matrix, np.moveaxis(np.indices(size[::-1]), 0, -1))
    return shell_mm(points @ head_from_lps[:3, :3].T + head_from_lps[:3, 3], gap) <= 0, matrix


@pytest.mark.parametrize(
    ("axes", "spacing_mm"),
    [
        (np.eye(3), (1.0, 1.0, 1.0)),
        (AXES["sagittal"], (0.6, 0.6, 1.25)),
        (AXES["oblique"], (0.7, 0.9, 1.3)),
        (AXES["left-handed"] @ turned(20, (1, 0, 1))[:3, :3], (1.0, 0.5, 0.8)),
    ],
)
def test_the_field_is_right_to_a_fifth_of_a_millimetre_on_any_grid(axes, spacing_mm):
    head_from_lps = turned(25, (1, -1, 2), (12, 5, -30))
    mask, matrix = scanned(axes, spacing_mm, head_from_lps)
    field, inside = head_field(mask, matrix, HeadPose(head_from_lps, 1.0, 0.0))
    assert field.shape == inside.shape == HEAD_GRID.shape and field.dtype == np.float32
    points = HEAD_GRID.points()
    truth = shell_mm(points)
    smooth = (np.abs(truth) < 2.5) & (points[..., 2] > CENTRE[2] - 20)  # not at the open end's edges
    error = (field - truth)[smooth]
    # A voxel of 1 mm says where the surface is to +- 0.5 mm, that is 0.29 mm rms; its neighbours help to halve that.
    assert np.sqrt((error**2).mean()) < 0.2 and np.percentile(np.abs(error), 99) < 0.5
    assert abs(error.mean()) < 0.03  # no shift of the surface
    far = (np.abs(truth) > 8) & (points[..., 2] > CENTRE[2] - 20)
    assert np.allclose(np.abs(field[far]), FIELD_LIMIT_MM)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_averaging_keeps_places_and_volume_under_any_order_of_the_axes(order, flip):
    rng = np.random.default_rng(0)
    blocks = np.zeros((23, 15, 6), bool)
    blocks[4:15, 3:13, 1:5] = rng.random((11, 10, 4)) < 0.4
    mask = blocks.repeat(2, 1).repeat(3, 2)  # what averaging takes together here: then nothing is lost
    matrix = turned(33, (1, 2, 1), (4, -8, 15)) @ np.diag([0.4, 0.6, 1.1, 1.0])
    # The same voxels, stored along other axes.
    stored = mask.transpose([2 - order[2 - n] for n in range(3)])[tuple(slice(None, None, f) for f in flip[::-1])]
    stored_matrix = matrix.copy()
    stored_matrix[:3, :3] = matrix[:3, list(order)] * flip
    size = np.array(stored.shape[::-1])
    first = np.zeros(3)
    first[list(order)] = np.where(np.array(flip) < 0, size - 1, 0)
    stored_matrix[:3, 3] = matrix[:3, :3] @ first + matrix[:3, 3]
    places = lps_from_ijk(matrix, np.argwhere(mask))
    assert np.allclose(np.sort(places, 0), np.sort(lps_from_ijk(stored_matrix, np.argwhere(stored)), 0))

    occupancy, coarse = averaged(stored, stored_matrix, 1.2)
    assert np.allclose(np.linalg.norm(coarse[:3, :3], axis=0)[np.argsort(order)], [1.2, 1.2, 1.1])
    assert occupancy.dtype == np.float32 and occupancy.sum() == blocks.sum()
    centre = lps_from_ijk(coarse, np.argwhere(occupancy)).mean(0)
    assert np.allclose(centre, places.mean(0), atol=1e-9)  # mm


def test_averaging_keeps_volume_where_blocks_do_not_fit():
    mask = np.random.default_rng(2).random((10, 11, 13)) < 0.5
    occupancy, coarse = averaged(mask, np.diag([0.4, 0.5, 0.6, 1.0]), 1.2)
    assert occupancy.shape == (5, 6, 5) and occupancy.max() <= 1
    volume = occupancy.sum() * np.linalg.det(coarse[:3, :3])
    assert volume == pytest.approx(mask.sum() * 0.4 * 0.5 * 0.6, rel=1e-5)


def test_coarse_voxels_are_not_averaged():
    mask = np.random.default_rng(1).random((5, 6, 7)) < 0.5
    matrix = np.diag([1.5, 1.5, 3.0, 1.0])
    occupancy, same = averaged(mask, matrix, 1.2)
    assert np.array_equal(occupancy, mask) and np.array_equal(same, matrix)


def test_the_diploe_is_filled_and_a_wide_cavity_is_not():
    pose = HeadPose(np.eye(4), 1.0, 0.0)
    points = HEAD_GRID.points()
    radius = np.linalg.norm(points - CENTRE, axis=-1)
    upper = points[..., 2] > CENTRE[2]
    mask, matrix = scanned(np.eye(3), (0.7, 0.7, 0.7), np.eye(4), gap=(39.5, 42.0))
    field, _ = head_field(mask, matrix, pose)
    assert (field[upper & (radius > INNER_MM + 0.5) & (radius < OUTER_MM - 0.5)] < 0).all()
    # The gap is open at the bottom, so nothing is filled for being enclosed. A wide one stays.
    thin = radius - OUTER_MM
    occupancy = ((thin < 0) & (thin > -2.5) | (radius < 33)).astype(np.float32)
    occupancy[points[..., 2] < CENTRE[2] - 30] = 0
    kept = filled_diploe(occupancy, HEAD_GRID.step)
    assert (kept[upper & (radius > 34) & (radius < 41)] == 0).all()
    assert (kept >= occupancy).all()


def test_no_bone_gives_a_far_field_and_no_scan():
    field, inside = head_field(np.zeros((10, 10, 10), bool), np.eye(4), HeadPose(np.eye(4), 1.0, 0.0))
    assert (field == FIELD_LIMIT_MM).all() and not inside.any()


def test_the_scans_border_lies_at_the_outermost_voxels_faces():
    matrix = np.diag([2.0, 3.0, 1.0, 1.0])
    matrix[:3, 3] = [-20.0, -30.0, 0.0]
    inside = inside_scan((41, 21, 21), matrix, HeadPose(np.eye(4), 1.0, 0.0))
    x, y, z = np.moveaxis(HEAD_GRID.points(), -1, 0)
    expected = (abs(x) < 21) & (abs(y) < 31.5) & (z > -0.5) & (z < 40.5)
    on_face = np.isclose(abs(x), 21) | np.isclose(abs(y), 31.5)  # a grid plane lies on this face
    assert np.array_equal(inside[~on_face], expected[~on_face])
