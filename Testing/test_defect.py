"""Holes of a spherical shell: found where they are, as large as they are, and every refusal with its own sentence."""

import numpy as np
import pytest
from cmake_lists import ROOT
from CranialImplantLib.defect import (
    BOX_REACH_MM,
    FINE_MAP,
    MIN_AREA_CM2,
    POINT_REACH_MM,
    SURE_AREA_CM2,
    around_cut,
    choose_hole,
    find_gaps,
    find_holes,
    fine_outline,
    vault_bone,
    with_lower_part,
)
from CranialImplantLib.dome import posterior
from CranialImplantLib.head import HEAD_GRID
from CranialImplantLib.vault import VAULT_MAP
from scipy import ndimage
from skull_cases import refusal
from spherical_head import (
    BACK,
    INNER_MM,
    LEFT,
    OUTER_MM,
    RIGHT,
    TOP,
    angle_rad,
    cap_cm2,
    shell_bone,
    shell_dome,
    shell_model,
    shell_on_grid,
    unit,
)

MODEL = shell_model()
DIRECTIONS = VAULT_MAP.directions()
SURE = np.ones(VAULT_MAP.shape, np.float32)  # the look sees missing bone everywhere
UNSURE = np.zeros(VAULT_MAP.shape, np.float32)


def found(holes, opinion=SURE):
    return find_holes(shell_bone(holes), MODEL, opinion)


@pytest.fixture(scope="module")
def three():
    """Holes of 35, 25 and 15 mm radius at the top, right and back."""
    return found(((TOP, 35.0), (RIGHT, 25.0), (BACK, 15.0)))


@pytest.mark.parametrize("direction", [TOP, LEFT, BACK, RIGHT, (0.0, -1.0, 0.4)])
@pytest.mark.parametrize("radius_mm", [18.0, 40.0])
def test_a_hole_is_found_with_its_area_and_middle(direction, radius_mm):
    (hole,) = found(((direction, radius_mm),))
    assert hole.area_cm2 == pytest.approx(cap_cm2(radius_mm), rel=0.1)  # pixels of 3 mm
    assert np.linalg.norm(hole.centre_head - OUTER_MM * unit(direction)) < 1.5
    assert hole.support == pytest.approx(1.0)
    inside = angle_rad(DIRECTIONS, direction) * OUTER_MM
    assert hole.pixels[inside < radius_mm - 5].all() and not hole.pixels[inside > radius_mm + 3].any()


def test_holes_come_largest_first(three):
    assert [round(h.area_cm2 / cap_cm2(r), 1) for h, r in zip(three, (35, 25, 15), strict=True)] == [1.0, 1.0, 1.0]


def test_a_complete_shell_has_no_hole():
    assert found(()) == []


def test_a_small_gap_needs_the_looks_support_and_a_burr_hole_is_none():
    small_mm, burr_mm = 10.6, 8.0
    assert MIN_AREA_CM2 < cap_cm2(small_mm) < SURE_AREA_CM2 and cap_cm2(burr_mm) < MIN_AREA_CM2
    assert len(found(((LEFT, small_mm),), SURE)) == 1
    assert found(((LEFT, small_mm),), UNSURE) == []
    assert found(((LEFT, burr_mm),), SURE) == []
    assert len(found(((LEFT, 20.0),), UNSURE)) == 1  # no complete skull has such a gap


def test_what_was_not_scanned_is_no_hole():
    field = shell_on_grid(((TOP, 30.0), (RIGHT, 30.0)))
    inside = HEAD_GRID.points()[..., 2] < 60.0  # the field of view ends below the top of the head
    (hole,) = find_holes(vault_bone(field, inside, MODEL), MODEL, SURE)
    assert np.linalg.norm(hole.centre_head - OUTER_MM * unit(RIGHT)) < 2.0


def test_a_smaller_head_is_expected_smaller():
    bone = vault_bone(shell_on_grid(((TOP, 30.0),)), np.ones(HEAD_GRID.shape, bool), shell_model(radius_mm=90.0))
    assert np.abs(bone.expected - OUTER_MM).max() < 0.1
    nothing = vault_bone(np.full(HEAD_GRID.shape, 6.0, np.float32), np.ones(HEAD_GRID.shape, bool), MODEL)
    assert np.abs(nothing.expected - OUTER_MM).max() < 0.1 and np.isnan(nothing.outer).all()


def test_below_the_domain_a_hole_goes_on_where_only_the_other_side_has_bone():
    low = (1.0, 0.0, -0.1)
    bone = shell_bone(((low, 30.0),))
    inside = angle_rad(DIRECTIONS, low) * OUTER_MM
    upper = (inside < 27) & MODEL.domain
    whole = with_lower_part(upper, bone, MODEL.domain)
    assert whole[upper].all() and not whole[(inside > 33) & ~upper].any()
    assert whole[(inside < 25) & ~MODEL.domain].all()
    both = shell_bone(((low, 30.0), ((-1.0, 0.0, -0.1), 30.0)))  # the other side has none either: a natural opening
    assert np.array_equal(with_lower_part(upper, both, MODEL.domain), upper)


def test_the_largest_hole_is_chosen_and_the_others_are_told(three):
    hole, (notice,) = choose_hole(three, None, None, None)
    assert hole is three[0]
    areas = ", ".join(f"{h.area_cm2:.0f}" for h in three)
    assert notice.code == "several-holes"
    assert notice.message == f"3 holes were found ({areas} cm2); the largest is closed."
    assert choose_hole(three[:1], None, None, None) == (three[0], [])


def test_a_hole_is_chosen_by_number_point_or_box(three):
    assert choose_hole(three, 3, None, None) == (three[2], [])
    beside = OUTER_MM * unit(RIGHT) + np.array([0.0, -30.0, 0.0])
    assert choose_hole(three, None, beside, None)[0] is three[1]
    box = OUTER_MM * unit(BACK) + np.random.default_rng(0).uniform(-20, 20, (200, 3))
    assert choose_hole(three, None, None, box)[0] is three[2]
    everything = np.random.default_rng(0).uniform(-100, 100, (3000, 3))
    assert choose_hole(three, None, None, everything)[0] is three[0]
    assert choose_hole(three, 1, beside, None)[0] is three[1]  # a point goes before a number


def test_a_skull_without_a_hole_is_refused():
    error = refusal(choose_hole, [], None, None, None)
    assert error.code == "no-hole" and error.message == "This skull has no hole in the vault larger than 3 cm2."


def test_a_small_hole_is_closed_only_where_a_person_points_at_it():
    gaps = find_gaps(shell_bone(((LEFT, 9.0),)), MODEL, SURE)
    assert [gap.faint for gap in gaps] == [True] and find_holes(shell_bone(((LEFT, 9.0),)), MODEL, SURE) == []
    assert refusal(choose_hole, gaps, None, None, None).code == "no-hole"
    assert refusal(choose_hole, gaps, 1, None, None).code == "no-hole"
    there = gaps[0].centre_head
    assert choose_hole(gaps, None, there, None)[0] is gaps[0]
    assert choose_hole(gaps, None, None, there + np.eye(3) * 5)[0] is gaps[0]
    assert refusal(choose_hole, gaps, None, -there, None).code == "no-hole-there"
    both = find_gaps(shell_bone(((LEFT, 9.0), (TOP, 20.0))), MODEL, SURE)
    assert choose_hole(both, None, None, None) == (both[0], []) and not both[0].faint
    assert choose_hole(both, None, there, None)[0] is both[1]
    wide = np.concatenate([both[0].centre_head[None], there[None]])
    assert choose_hole(both, None, None, wide)[0] is both[0]  # a box around both means the sure one


def test_a_point_or_box_without_a_hole_is_refused(three):
    far = OUTER_MM * unit(LEFT)
    error = refusal(choose_hole, three, None, far, None)
    away = min(np.linalg.norm(far - OUTER_MM * DIRECTIONS[h.pixels], axis=1).min() for h in three)
    assert error.code == "no-hole-there"
    assert error.message == f"There is no hole within 25 mm of the given point; the nearest is {away:.0f} mm away."
    error = refusal(choose_hole, three, None, None, far + np.eye(3) * 5)
    assert error.code == "no-hole-there" and error.message == "There is no hole in the given region."


def test_a_number_without_a_hole_is_refused(three):
    error = refusal(choose_hole, three, 4, None, None)
    assert error.code == "hole-number" and error.message == "Hole 4 was asked for, but only 3 holes were found."
    assert refusal(choose_hole, three[:1], 2, None, None).message.endswith("but only 1 hole was found.")


def outline_of(direction, radius_mm, field=None):
    field = shell_on_grid(((direction, radius_mm),)) if field is None else field
    bone = vault_bone(field, np.ones(HEAD_GRID.shape, bool), MODEL)
    hole = find_holes(bone, MODEL, SURE)[0]
    gone = ndimage.binary_dilation(hole.pixels, iterations=2)
    dome = posterior(MODEL, np.where(gone, np.nan, bone.outer), np.where(gone, np.nan, bone.inner), gone)
    return fine_outline(field, dome, hole)


def straight_cut(radius_mm):
    """The shell with a hole of parallel walls: on rays they run slanted, outside the hole on the inner table."""
    points = HEAD_GRID.points()
    wall = np.where(points[..., 2] > 0, radius_mm - np.hypot(points[..., 0], points[..., 1]), -6.0)
    return np.maximum(shell_on_grid(), np.clip(wall, -6, 6)).astype(np.float32)


def test_bone_faces_as_expected_on_the_tables_and_across_on_the_wall_of_a_cut():
    bone = vault_bone(straight_cut(55.0), np.ones(HEAD_GRID.shape, bool), MODEL)
    polar = VAULT_MAP.polar_deg()
    table = (polar > 55) & MODEL.domain
    assert bone.facing.shape == (2, *polar.shape) and bone.facing[:, table].min() > 0.98
    wall = (polar > 44.5) & (polar < 46.5)  # outer table to 43.4 degrees, inner table to 48.0
    assert bone.facing[1][wall].max() < 0.85
    assert (bone.facing[:, polar < 42] == 0).all() and (bone.facing[:, ~MODEL.domain] == 1).all()


def test_beside_a_slanted_cut_the_tables_count_and_the_wall_does_not():
    bone = vault_bone(straight_cut(55.0), np.ones(HEAD_GRID.shape, bool), MODEL)
    (hole,) = find_holes(bone, MODEL, SURE)
    gone, (outer, inner), doubt = around_cut(hole.pixels, np.stack([bone.outer, bone.inner]), bone.facing)
    polar = VAULT_MAP.polar_deg()
    wall = (polar > 44.5) & (polar < 46.5)
    assert np.isinf(doubt[:, hole.pixels]).all() and np.isinf(doubt[1][wall]).all() and gone[wall].all()
    assert doubt[0][(polar > 46) & (polar < 49)].max() < 0.5  # the outer table goes on to the very edge
    assert not gone[polar > 58].any()
    model = shell_model(residual_mm=1.5, lengths_mm=(25.0, 10.0))
    dome = posterior(model, outer, inner, gone, doubt_mm=doubt)
    assert np.abs(dome.outer - OUTER_MM)[gone].max() < 0.25 and np.abs(dome.inner - INNER_MM)[gone].max() < 0.15
    assert np.abs(posterior(model, bone.outer, bone.inner, gone).inner - INNER_MM)[gone].max() > 0.3


def fine_cm2(missing):
    polar = np.radians(FINE_MAP.polar_deg())
    return ((OUTER_MM * np.radians(FINE_MAP.step_deg)) ** 2 * np.sinc(polar / np.pi))[missing].sum() / 100


@pytest.mark.parametrize(("direction", "radius_mm"), [(TOP, 20.0), (LEFT, 30.0), (BACK, 40.0)])
def test_the_outlines_area_is_right_to_a_twentieth(direction, radius_mm):
    outline = outline_of(direction, radius_mm)
    assert fine_cm2(outline.missing) == pytest.approx(cap_cm2(radius_mm), rel=0.05)
    inside = angle_rad(FINE_MAP.directions(), direction) * OUTER_MM
    assert not (outline.missing & (inside > radius_mm + 1.5)).any()
    assert outline.missing[inside < radius_mm - 1.5].all()
    assert np.array_equal(outline.distance_mm < 0, outline.missing)


@pytest.mark.parametrize("direction", [TOP, LEFT, BACK])
def test_the_distance_to_the_outline_is_in_millimetres(direction):
    outline = outline_of(direction, 30.0)
    inside = angle_rad(FINE_MAP.directions(), direction) * OUTER_MM - 30.0
    near = (np.abs(inside) < 20) & (FINE_MAP.polar_deg() < 110)
    assert near.sum() > 5000
    assert np.abs(outline.distance_mm - inside)[near].max() < 1.2  # a pixel of 0.93 mm


@pytest.mark.parametrize(("left", "radius_mm"), [(0.4, 26.0), (0.8, 20.0)])
def test_a_thinned_rim_belongs_to_the_hole_where_less_than_half_is_left(left, radius_mm):
    radius = np.linalg.norm(HEAD_GRID.points(), axis=-1)
    ring = angle_rad(HEAD_GRID.points(), TOP) * OUTER_MM < 26.0
    gone = np.where(ring, radius - (INNER_MM + left * (OUTER_MM - INNER_MM)), -6.0)
    field = np.maximum(shell_on_grid(((TOP, 20.0),)), gone).astype(np.float32)
    hole = find_holes(shell_bone(((TOP, 20.0),)), MODEL, SURE)[0]
    assert fine_cm2(fine_outline(field, shell_dome(), hole).missing) == pytest.approx(cap_cm2(radius_mm), rel=0.05)


def test_an_island_belongs_to_the_hole_and_another_hole_does_not():
    radius = np.linalg.norm(HEAD_GRID.points(), axis=-1)
    island = np.maximum(np.abs(radius - 77.0) - 3.0, angle_rad(HEAD_GRID.points(), TOP) * OUTER_MM - 6.0)
    beside = 52.0 / OUTER_MM  # 8 mm of bone between the two
    holes = ((TOP, 30.0), ((0.0, np.sin(beside), np.cos(beside)), 14.0))
    field = np.minimum(shell_on_grid(holes), island).astype(np.float32)
    outline = outline_of(TOP, 30.0, field)
    assert outline.missing[FINE_MAP.half, FINE_MAP.half]
    assert not outline.missing[angle_rad(FINE_MAP.directions(), TOP) * OUTER_MM > 34.0].any()
    assert fine_cm2(outline.missing) == pytest.approx(cap_cm2(30.0), rel=0.05)


def test_the_panel_lets_a_point_lie_as_far_from_a_hole_as_the_engine():
    """The panel cannot import the engine, so it has the two numbers of its own."""
    panel = (ROOT / "MedShapeGen" / "MedShapeSlicer" / "holes.py").read_text(encoding="utf-8")
    assert f"POINT_REACH_MM, BOX_REACH_MM = {POINT_REACH_MM}, {BOX_REACH_MM} " in panel
