"""Completion: a piece of an ellipsoid back to the whole, in its place; what is refused, and what differs."""

import numpy as np
import pytest
import torch
from ellipsoid_models import ellipsoid_models, ellipsoid_shape, piece_of
from MedShapeCore.errors import Cancelled, RefusedInput
from MedShapeGenLib.categories import category
from MedShapeGenLib.complete import (
    Given,
    Guidance,
    complete,
    difference_mm,
    measured,
    nearest_to,
    network_values,
    placed,
    sizes_of,
)
from MedShapeGenLib.models import sample_latents
from MedShapeGenLib.options import CompleteOptions
from MedShapeGenLib.placement import CUBE_U, Placement, Sizes, first_placement, grid_places_u, grid_values, improved
from MedShapeGenLib.shapes import Shape, surface_points
from MedShapeGenLib.solid import Solid, figures_of

MODELS = ellipsoid_models()
CENTRE = np.array([10.0, -20.0, 30.0])
AXES = (52.0, 38.0, 24.0)  # mm; of the second and third the model's own spread is 4 and 3 mm
TRUTH = ellipsoid_shape(AXES, CENTRE)
LOWER_HALF = piece_of(TRUTH, lambda v: v[:, 2] < 30)


def options(**fields):
    return CompleteOptions(**{"category": "kidney", "count": 2, "resolution": 48, **fields})


@pytest.fixture(scope="module")
def result():
    return complete(LOWER_HALF, MODELS, options(count=3))


def test_half_an_ellipsoid_becomes_the_whole_one_in_its_place(result):
    """Half of it says everything about the model's two shape numbers, the place and the size."""
    assert len(result.members) == 3 and result.passed
    for member in result.members:
        assert np.allclose(member.centre_lps, CENTRE, atol=0.3) and member.scale_mm == pytest.approx(52, abs=0.5)
        assert np.allclose(member.solid.figures.box_mm, 2 * np.array(AXES), atol=1.0)
        assert member.given_median_mm < 0.3 and member.given_p95_mm < 0.6


def test_a_right_one_is_completed_on_its_own_side(result):
    lps = LOWER_HALF.vertices_lps * [-1, 1, 1]
    right = Shape(lps, LOWER_HALF.triangles[:, ::-1], "right")
    member = complete(right, MODELS, options(count=1, side="right")).members[0]
    left = result.members[0]
    assert np.allclose(member.centre_lps, left.centre_lps * [-1, 1, 1], atol=0.05)
    assert member.given_median_mm < 0.3


def test_where_the_piece_says_nothing_completions_differ_and_seeds_too():
    """One end of the ellipsoid: the size is open, but for what the category says."""
    end = piece_of(TRUTH, lambda v: v[:, 2] < 10)
    one, other = complete(end, MODELS, options(count=3, seed=1)), complete(end, MODELS, options(count=1, seed=2))
    assert all(member.given_median_mm < 1.0 for member in (*one.members, *other.members))
    assert all(member.differs_mm > 0.2 for member in one.members) and other.members[0].differs_mm is None
    boxes = [member.solid.figures.box_mm for member in (*one.members, *other.members)]
    assert np.ptp(boxes, axis=0).max() > 1.0


def test_a_piece_of_the_wrong_size_is_refused_with_both_sizes():
    large = ellipsoid_shape((150, 100, 80))
    with pytest.raises(RefusedInput, match="300 mm") as refused:
        complete(large, MODELS, options())
    assert refused.value.code == "partial-size" and "146" in refused.value.message


def test_an_unknown_category_is_refused():
    with pytest.raises(RefusedInput, match="kidny"):
        complete(LOWER_HALF, MODELS, options(category="kidny"))


def test_progress_rises_and_may_cancel():
    fractions = []

    def progress(stage, fraction, event=None):
        fractions.append(fraction)
        if stage == "fitting":
            raise Cancelled

    with pytest.raises(Cancelled):
        complete(LOWER_HALF, MODELS, options(count=1), progress)
    assert fractions == sorted(fractions) and 0.4 < fractions[-1] < 0.8


def test_a_completion_away_from_the_given_surface_fails():
    vertices = ellipsoid_shape(AXES, CENTRE + [0, 0, 3]).vertices_lps
    moved = Solid(vertices, TRUTH.triangles, figures_of(vertices, TRUTH.triangles))
    member = measured(LOWER_HALF, [moved], Placement(CENTRE[None], np.array([52.0])))[0]
    assert member.failed == ("given surface",) and member.given_median_mm == pytest.approx(2.5, abs=0.5)
    kept = Solid(TRUTH.vertices_lps, TRUTH.triangles, moved.figures)
    assert measured(LOWER_HALF, [kept], Placement(CENTRE[None], np.array([52.0])))[0].failed == ()


def test_the_difference_is_measured_where_nothing_was_given():
    taller = ellipsoid_shape((52, 38, 34), CENTRE)
    upper = taller.vertices_lps.copy()
    upper[:, 2] = np.where(upper[:, 2] < 30, TRUTH.vertices_lps[:, 2], upper[:, 2])  # differs above alone, by up to 10 mm
    a = Solid(TRUTH.vertices_lps, TRUTH.triangles, figures_of(TRUTH.vertices_lps, TRUTH.triangles))
    b = Solid(upper, TRUTH.triangles, figures_of(upper, TRUTH.triangles))
    assert 3 < difference_mm(LOWER_HALF, [a, b], 0) < 10
    assert difference_mm(TRUTH, [a, a], 0) is None  # everything was given
    assert difference_mm(LOWER_HALF, [a], 0) is None


# ---- the parts


def ellipsoid_grid(axes_u):
    places = torch.from_numpy(grid_places_u().astype(np.float32))[None]
    values = MODELS.autoencoder.decoder(torch.tensor([axes_u]), places)[0].numpy()
    return values.reshape(3 * (round(len(values) ** (1 / 3)),))


def test_the_grid_knows_its_gradient_and_the_way_back_from_outside():
    values = grid_values(ellipsoid_grid((1.0, 0.7, 0.5)))
    distance, gradient = values(np.array([[[1.1, 0, 0], [0, 0.5, 0], [CUBE_U + 0.3, 0, 0]]]))
    assert distance[0, 0] == pytest.approx(0.1, abs=0.02) and distance[0, 1] == pytest.approx(-0.2, abs=0.02)
    assert np.allclose(gradient[0, 1], (0, 1, 0), atol=0.1)
    assert distance[0, 2] == pytest.approx(0.5, abs=0.02) and np.allclose(gradient[0, 2], (1, 0, 0), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_cap_finds_the_end_of_the_shape_to_which_it_belongs(axis, side):
    cap = piece_of(TRUTH, lambda v: side * (v[:, axis] - CENTRE[axis]) > 0.3 * AXES[axis])
    points, normals = surface_points(cap.vertices_lps, cap.triangles, 300, np.random.default_rng(0))
    grid = ellipsoid_grid(tuple(np.float32(np.array(AXES) / AXES[0])))
    place, bad = first_placement(grid, points, normals, np.log(49.0), 0.12)
    assert np.linalg.norm(place.centre_lps[0] - CENTRE) < 3.0 and bad < 0.5


def test_places_around_a_piece_have_known_distances():
    piece = Given(np.zeros((4, 3)), np.tile([0.0, 0.0, 1.0], (4, 1)))
    places, distances = piece.around(2.0)
    assert np.allclose(places[:, 2], [0, 0, 0, 0, 2, 2, -2, -2]) and np.allclose(distances, places[:, 2])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sampled_shape_is_placed_on_the_piece_even_where_its_triangles_are_inside_out(sign):
    """A cap from above: with its normals reversed it would fit the bottom of the shape as well."""
    cap = piece_of(TRUTH, lambda v: v[:, 2] > 40)
    points, normals = surface_points(cap.vertices_lps, cap.triangles, 300, np.random.default_rng(0))
    kind = category("kidney")
    latents, scale_mm = sample_latents(MODELS, "kidney", 2, 0, 0.0, 8)
    placement, piece = placed(MODELS, latents, scale_mm, Given(points, sign * normals), kind)
    assert np.array_equal(piece.normals, normals)
    assert len(placement) == 2 and np.abs(placement.centre_lps - CENTRE).max() < 12


def test_the_category_s_sizes_hold_a_piece_that_does_not_say_how_large_the_whole_is():
    """A flat piece of a shape with a flat bottom at z = -0.5 u fits at every size: the category decides."""

    def flat(places):
        return -0.5 - places[..., 2], np.broadcast_to([0.0, 0.0, -1.0], places.shape)

    points = np.random.default_rng(0).uniform(-10, 10, (200, 3)) * [1, 1, 0]  # in the plane z = 0 mm
    found = improved(Placement(np.array([[0.0, 0.0, 45.0]]), np.array([80.0])), points, flat,
                     Sizes(np.array([np.log(50.0)]), 0.12), 60)  # fmt: skip
    assert found.scale_mm[0] == pytest.approx(50, rel=0.02)
    assert found.centre_lps[0] == pytest.approx([0, 0, 0.5 * found.scale_mm[0]], abs=0.1)  # the bottom on the piece


def test_guidance_moves_samples_towards_the_piece():
    """The piece of an ellipsoid two standard deviations from the mean in both of its numbers."""
    piece = piece_of(ellipsoid_shape((52, 52 * 0.86, 52 * 0.38), CENTRE), lambda v: v[:, 2] < 38)
    points, normals = surface_points(piece.vertices_lps, piece.triangles, 300, np.random.default_rng(0))
    kind = category("kidney")
    placement = Placement(np.stack([CENTRE] * 2), np.full(2, 52.0))
    guide = Guidance(MODELS, kind, Given(points, normals), placement)
    free, _ = sample_latents(MODELS, "kidney", 2, 5, 0.0, 8, sizes_mm=placement.scale_mm)
    drawn, _ = sample_latents(MODELS, "kidney", 2, 5, 0.0, 8, sizes_mm=placement.scale_mm, guide=guide)
    likely = sizes_of(MODELS, kind, 2)
    off_mm = []
    for latents in (free, drawn):  # each in its best place
        values = network_values(MODELS, latents)
        place = improved(placement, points, values, likely, 20)
        off_mm.append(np.sqrt((values(place.places_u(points))[0] ** 2).mean(axis=1)) * place.scale_mm)
    assert off_mm[1].mean() < 0.4 * off_mm[0].mean() and (off_mm[1] < 1.0).all()


def test_a_sample_s_guidance_does_not_depend_on_the_others():
    points, normals = surface_points(LOWER_HALF.vertices_lps, LOWER_HALF.triangles, 300, np.random.default_rng(0))
    kind, piece = category("kidney"), Given(points, normals)
    drawn = []
    for count in (1, 3):
        guide = Guidance(MODELS, kind, piece, Placement(np.stack([CENTRE] * count), np.full(count, 52.0)))
        drawn.append(sample_latents(MODELS, "kidney", count, 5, 0.0, 8, sizes_mm=np.full(count, 52.0), guide=guide)[0][0])
    assert torch.allclose(*drawn, atol=1e-4)


def test_of_more_samples_than_asked_for_those_on_the_piece_are_kept():
    points, normals = surface_points(LOWER_HALF.vertices_lps, LOWER_HALF.triangles, 300, np.random.default_rng(0))
    latents, _ = sample_latents(MODELS, "kidney", 1, 5)
    shifts = np.array([6.0, 0.0, 12.0, 3.0])  # mm, of four places of one shape
    values, likely = network_values(MODELS, latents), sizes_of(MODELS, category("kidney"), 1)
    found = improved(Placement(CENTRE[None], np.array([52.0])), points, values, likely, 20)
    placement = Placement(found.centre_lps + shifts[:, None] * [0, 0, 1], np.repeat(found.scale_mm, 4))
    many = latents.repeat(4, 1, 1) + torch.arange(4)[:, None, None] * 1e-6
    kept, places = nearest_to(Given(points, normals), MODELS, many, placement, 2)
    assert torch.equal(kept, many[[1, 3]]) and np.allclose(places.centre_lps, placement.centre_lps[[1, 3]])


def test_the_likely_sizes_are_the_category_s():
    sizes = sizes_of(MODELS, category("kidney"), 2)
    assert np.allclose(np.exp(sizes.mean), 50) and sizes.deviation == pytest.approx(0.12)
    assert np.allclose(sizes.off(np.exp(sizes.mean + 0.24)), 2)
