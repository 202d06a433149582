"""Rays through the vault against spheres whose radius along any direction is known."""

import numpy as np
import pytest
from CranialImplantLib.head import HEAD_GRID
from CranialImplantLib.pose import Grid
from CranialImplantLib.vault import DEPTH_MM, REACH_MM, VAULT_MAP, MapGrid, cast
from spherical_head import INNER_MM, OUTER_MM, angle_rad, shell_mm, shell_on_grid

SPHERE_GRID = Grid((-96.0, -96.0, -96.0), (129, 129, 129), 1.5)
EVERYWHERE = VAULT_MAP.directions()[::5, ::5]
DIRECTIONS = EVERYWHERE[EVERYWHERE[..., 2] > -0.5]  # HEAD_GRID does not reach the bottom of the sphere


def radius_along(directions, centre, radius_mm):
    """Where rays from the origin leave a sphere around `centre`."""
    along = directions @ centre
    return along + np.sqrt(radius_mm**2 - centre @ centre + along**2)


def test_radii_of_a_shell_off_the_middle_are_right_to_a_tenth_of_a_millimetre():
    centre = np.array([4.0, -6.0, 3.0])
    radius = np.linalg.norm(SPHERE_GRID.points() - centre, axis=-1)
    field = np.clip(np.maximum(radius - OUTER_MM, INNER_MM - radius), -6, 6).astype(np.float32)
    outer, inner = cast(field, SPHERE_GRID, EVERYWHERE)
    assert outer.dtype == inner.dtype == np.float32
    assert np.abs(outer - radius_along(EVERYWHERE, centre, OUTER_MM)).max() < 0.1
    assert np.abs(inner - radius_along(EVERYWHERE, centre, INNER_MM)).max() < 0.1


def test_a_mirror_image_has_the_radii_of_the_other_side():
    centre = np.array([6.0, -4.0, 3.0])
    radius = np.linalg.norm(SPHERE_GRID.points() - centre, axis=-1)
    field = np.clip(np.maximum(radius - OUTER_MM, INNER_MM - radius), -6, 6).astype(np.float32)
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 4.0  # the plane x = 2
    outer, inner = cast(field, SPHERE_GRID, EVERYWHERE, mirror_head=mirror)
    image = np.array([-2.0, -4.0, 3.0])
    assert np.abs(outer - radius_along(EVERYWHERE, image, OUTER_MM)).max() < 0.1
    assert np.abs(inner - radius_along(EVERYWHERE, image, INNER_MM)).max() < 0.1


def test_a_ray_through_a_hole_has_no_radius_and_the_others_keep_theirs():
    direction, hole_mm = (0.6, 0.3, 0.7), 20.0
    outer, inner = cast(shell_on_grid(((direction, hole_mm),)), HEAD_GRID, DIRECTIONS)
    angle = angle_rad(DIRECTIONS, direction)
    gone = ~np.isfinite(outer)
    assert np.array_equal(gone, ~np.isfinite(inner))
    clear = np.abs(angle * OUTER_MM - hole_mm) > 1.5  # one voxel
    assert np.array_equal(gone[clear], (angle * OUTER_MM < hole_mm)[clear])
    away = angle * OUTER_MM > hole_mm + 3
    assert np.abs(outer[away] - OUTER_MM).max() < 0.1 and np.abs(inner[away] - INNER_MM).max() < 0.1


def test_no_bone_and_solid_bone_give_no_radius():
    for value in (6.0, -6.0):
        outer, inner = cast(np.full(HEAD_GRID.shape, value, np.float32), HEAD_GRID, DIRECTIONS)
        assert np.isnan(outer).all() and np.isnan(inner).all()


@pytest.mark.parametrize(("gap_mm", "inner_mm"), [(2.0, 70.0), (6.0, 78.0)])
def test_a_narrow_gap_is_inside_the_bone_and_a_wide_one_ends_it(gap_mm, inner_mm):
    radius = np.linalg.norm(HEAD_GRID.points(), axis=-1)
    tables = np.minimum(np.abs(radius - 79.0) - 1.0, np.maximum(70.0 - radius, radius - (78.0 - gap_mm)))
    outer, inner = cast(np.clip(tables, -6, 6).astype(np.float32), HEAD_GRID, DIRECTIONS)
    assert np.abs(outer - OUTER_MM).max() < 0.2  # a table of 2 mm on a grid of 1.5 mm: the field's ridge is cut off
    assert np.abs(inner - inner_mm).max() < 0.2


def test_bone_far_from_where_the_vault_should_be_is_passed_over():
    radius = np.linalg.norm(HEAD_GRID.points(), axis=-1)
    shell = shell_mm(HEAD_GRID.points())
    for other_mm in (OUTER_MM + REACH_MM + 6.0, OUTER_MM - DEPTH_MM - 6.0):
        field = np.clip(np.minimum(shell, np.abs(radius - other_mm) - 1.5), -6, 6).astype(np.float32)
        top = DIRECTIONS[DIRECTIONS[..., 2] > 0.5]  # there the grid reaches far enough out
        outer, inner = cast(field, HEAD_GRID, top, OUTER_MM)
        assert np.abs(outer - OUTER_MM).max() < 0.1 and np.abs(inner - INNER_MM).max() < 0.1
    field = np.clip(np.abs(radius - OUTER_MM + DEPTH_MM + 6.0) - 1.5, -6, 6).astype(np.float32)
    assert np.isfinite(cast(field, HEAD_GRID, DIRECTIONS)[0]).all()
    assert np.isnan(cast(field, HEAD_GRID, DIRECTIONS, OUTER_MM)[0]).all()


def test_map_and_directions_undo_each_other():
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 2 * VAULT_MAP.half, (500, 2))
    index, radius = VAULT_MAP.pixels(63.0 * VAULT_MAP.directions(place[:, 0], place[:, 1]))
    polar = np.hypot(*(place - VAULT_MAP.half).T) * VAULT_MAP.step_deg
    below = polar < 179  # farther than straight down there is no direction
    assert np.abs(index - place)[below].max() < 1e-6 and np.allclose(radius, 63.0)
    whole = VAULT_MAP.directions()
    assert whole.shape == (*VAULT_MAP.shape, 3) and np.allclose(np.linalg.norm(whole, axis=-1), 1)
    assert np.degrees(np.arccos(whole[..., 2]))[64, 10] == pytest.approx(VAULT_MAP.polar_deg()[64, 10]) == 108.0


def test_columns_run_to_the_left_and_rows_to_the_back():
    up, left, back = (VAULT_MAP.directions(np.array(r), np.array(c)) for r, c in ((64, 64), (64, 109), (109, 64)))
    assert np.allclose([up, left, back], [[0, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_a_map_is_read_between_its_pixels_and_beyond_its_border():
    small = MapGrid(1, 10.0)
    image = np.arange(9, dtype=np.float32).reshape(3, 3)
    inside, beyond = np.array([[0.5, 1.0]]), np.array([[5.0, 1.0]])
    assert small.sample(image, inside)[0] == 2.5
    assert small.sample(image, beyond)[0] == 7.0 and small.sample(image, beyond, 99.0)[0] == 99.0


def test_the_normals_of_a_sphere_off_the_middle_point_away_from_its_centre():
    centre = np.array([8.0, -12.0, 5.0])
    directions = VAULT_MAP.directions()
    surface = directions * radius_along(directions, centre, OUTER_MM)[..., None]
    expected = (surface - centre) / OUTER_MM
    normals = VAULT_MAP.normals(np.linalg.norm(surface, axis=-1))
    near = VAULT_MAP.polar_deg() < 110
    assert np.arccos(np.clip((normals * expected).sum(-1)[near], -1, 1)).max() < np.radians(1.0)
