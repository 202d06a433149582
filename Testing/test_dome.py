"""The first guess of the dome: exact where the model can be, honest about what it cannot know."""

import numpy as np
import pytest
from CranialImplantLib.dome import draw_numbers, extended, mean_points, posterior, prior_samples
from CranialImplantLib.vault import VAULT_MAP
from spherical_head import BACK, INNER_MM, LEFT, OUTER_MM, TOP, angle_rad, shell_model

DIRECTIONS = VAULT_MAP.directions()


def hole_map(direction, radius_mm):
    return angle_rad(DIRECTIONS, direction) * OUTER_MM < radius_mm


def maps_of(model, code):
    """Whole maps of mean + modes * code; NaN outside the model's domain."""
    values = model.mean + np.tensordot(code, model.modes, 1)
    maps = np.full((2, *model.domain.shape), np.nan, np.float32)
    maps[:, model.domain] = values
    return maps


def restored(model, maps, hole, draws=None, other=None):
    """The posterior where nothing is known of the hole."""
    return posterior(model, *(np.where(hole, np.nan, image) for image in maps), hole, draws, other)


def draws_of(model, count, seed=0):
    return np.stack([draw_numbers(model, np.random.default_rng([seed, n])) for n in range(count)])


@pytest.mark.parametrize(("direction", "radius_mm"), [(TOP, 45.0), (LEFT, 30.0), (BACK, 20.0)])
def test_a_dome_in_the_models_span_is_restored(direction, radius_mm):
    model = shell_model(residual_mm=0.05)
    truth = maps_of(model, np.array([1.5, -1.0, 0.5, 1.0, -2.0, 1.0]))
    hole = hole_map(direction, radius_mm)
    dome = restored(model, truth, hole)
    inside = hole & model.domain
    assert np.abs(dome.outer - truth[0])[inside].max() < 0.1 and np.abs(dome.inner - truth[1])[inside].max() < 0.1
    assert np.abs(truth[0] - OUTER_MM)[inside].max() > 2.0  # the mean alone would be wrong


def test_what_was_measured_stays():
    model = shell_model()
    truth = maps_of(model, np.array([1.0, 0.0, 1.0, 0.0, 0.0, 0.0]))
    hole = hole_map(TOP, 30.0)
    dome = restored(model, truth, hole, draws_of(model, 2))
    known = ~hole & model.domain
    for image in (dome.outer, *dome.sample_outer):
        assert np.array_equal(image[known], truth[0][known])
    for image in (dome.inner, *dome.sample_inner):
        assert np.array_equal(image[known], truth[1][known])
    assert (dome.deviation[:, known] == 0).all()
    assert all(np.isfinite(a).all() for a in (dome.outer, dome.inner, dome.deviation, dome.sample_outer))


def test_nothing_to_restore_gives_the_measured_maps_and_nothing_known_the_mean():
    model = shell_model()
    truth = maps_of(model, np.ones(6))
    dome = restored(model, truth, np.zeros(model.domain.shape, bool), draws_of(model, 1))
    assert np.array_equal(dome.outer[model.domain], truth[0][model.domain]) and len(dome.sample_outer) == 1
    unknown = np.full(model.domain.shape, np.nan, np.float32)
    guess = posterior(model, unknown, unknown, np.ones(model.domain.shape, bool))
    assert np.allclose(guess.outer, OUTER_MM, atol=1e-4) and np.allclose(guess.inner, INNER_MM, atol=1e-4)
    assert guess.sample_outer.shape == (0, *model.domain.shape)


def test_the_samples_mean_and_deviation_are_those_of_the_posterior():
    model = shell_model(modes=4, residual_mm=0.6)
    hole = hole_map(TOP, 30.0)
    truth = maps_of(model, np.array([0.5, 1.0, 0.0, -0.5]))
    dome = restored(model, truth, hole, draws_of(model, 80))
    middle = hole_map(TOP, 24.0)
    samples = dome.sample_outer[:, middle]
    assert dome.deviation[0][middle].min() > 0.05
    # 80 samples know the mean to deviation / 9 and the deviation to 8 %; neighbours hang together, so no better.
    assert np.abs(samples.mean(0) - dome.outer[middle]).max() < 0.4 * dome.deviation[0][middle].max()
    assert np.median(samples.std(0) / dome.deviation[0][middle]) == pytest.approx(1.0, abs=0.15)


def test_the_guess_is_less_sure_the_farther_from_bone():
    model = shell_model()
    truth = maps_of(model, np.zeros(6))
    sizes = [restored(model, truth, hole_map(TOP, r)).deviation[0, 64, 64] for r in (10.0, 25.0, 40.0)]
    assert 0.02 < sizes[0] < sizes[1] < sizes[2]


def test_a_sample_does_not_depend_on_how_many_there_are():
    model = shell_model()
    truth = maps_of(model, np.zeros(6))
    hole = hole_map(LEFT, 25.0)
    draws = draws_of(model, 4)
    many = restored(model, truth, hole, draws)
    one = restored(model, truth, hole, draws[2:3])
    none = restored(model, truth, hole)
    assert np.allclose(many.sample_outer[2], one.sample_outer[0], atol=1e-4)
    assert np.abs(many.sample_outer[2] - many.sample_outer[1])[hole].max() > 0.2
    assert np.array_equal(none.outer, many.outer)


def test_no_draw_is_the_mean_and_opposite_draws_are_opposite():
    model = shell_model()
    truth = maps_of(model, np.zeros(6))
    hole = hole_map(LEFT, 25.0)
    numbers = draws_of(model, 1)[0]
    dome = restored(model, truth, hole, np.stack([0 * numbers, numbers, -numbers]))
    assert np.allclose(dome.sample_outer[0], dome.outer, atol=1e-4)
    assert np.allclose(dome.sample_outer[1] + dome.sample_outer[2], 2 * dome.outer, atol=1e-3)


def test_one_pixel_more_hardly_changes_the_guess():
    model = shell_model()
    truth = maps_of(model, np.array([1.0, 1.0, -1.0, 0.0, 1.0, -1.0]))
    rough = (0.6 * np.random.default_rng(0).normal(size=VAULT_MAP.shape)).astype(np.float32)
    truth = truth + rough  # which pixels are used matters
    hole = hole_map(LEFT, 30.0)
    one = truth.copy()
    one[:, 64, 64] = np.nan
    guesses = [restored(model, maps, hole).outer[hole] for maps in (truth, one)]
    assert np.abs(guesses[0] - guesses[1]).max() < 0.1


def test_below_the_domain_a_given_mirror_image_stands_in():
    model = shell_model()
    truth = maps_of(model, np.zeros(6))
    hole = hole_map((1.0, 0.3, -0.1), 25.0)
    other = np.where(model.domain, np.nan, np.full((2, *VAULT_MAP.shape), 71.0, np.float32))
    dome = restored(model, truth, hole, other=other)
    assert (dome.outer[hole & ~model.domain] == 71.0).all()
    assert np.abs(dome.outer[hole & model.domain] - OUTER_MM).max() < 0.1


def test_the_restored_map_joins_the_rim_smoothly():
    model = shell_model()
    truth = maps_of(model, np.array([1.0, 1.0, -1.0, 0.0, 1.0, -1.0]))
    wave = np.cos(3 * DIRECTIONS[..., 0]) + np.sin(4 * DIRECTIONS[..., 1])  # what the modes do not know
    truth = truth + 0.8 * wave.astype(np.float32)
    hole = hole_map(LEFT, 30.0)
    dome = restored(model, truth, hole, draws_of(model, 1))
    for image, true in ((dome.outer, truth[0]), (dome.inner, truth[1]), (dome.sample_outer[0], truth[0])):
        for axis in (0, 1):  # across the rim, steps are no larger than the truth's by more than 0.4 mm
            edge = np.diff(hole.astype(int), axis=axis) != 0
            known = np.isfinite(np.diff(true, axis=axis))
            more = np.abs(np.diff(image, axis=axis) - np.diff(true, axis=axis))[edge & known]
            assert more.mean() < 0.15 and more.max() < 0.5


def test_the_other_side_helps_where_the_modes_know_nothing():
    model = shell_model(modes=1, residual_mm=2.0, mirroring=0.9)
    bump = 3.0 * np.exp(-(((np.abs(DIRECTIONS[..., 0]) - 0.7) / 0.15) ** 2 + (DIRECTIONS[..., 1] / 0.15) ** 2))
    truth = maps_of(model, np.zeros(1)) + bump.astype(np.float32)  # the same on both sides
    hole = hole_map((0.7, 0.0, 0.7), 30.0)
    alone = shell_model(modes=1, residual_mm=2.0, mirroring=0.0)
    helped, unaided = (
        np.abs(restored(m, truth, hole).outer - truth[0])[hole].max() for m in (model, alone)
    )
    assert helped < 0.6 * unaided


def test_the_other_side_counts_where_it_was_laid_opposite_the_hole():
    """A bump that both sides have, on the other one 9 mm farther back: the head is not quite symmetric."""
    model = shell_model(modes=1, residual_mm=2.0, lengths_mm=(25.0, 10.0), mirroring=0.9)
    here, there = (0.7, 0.0, 0.7), (-0.7, 0.11, 0.7)
    bumps = [3.0 * np.exp(-((angle_rad(DIRECTIONS, place) * OUTER_MM / 12.0) ** 2)) for place in (here, there)]
    truth = maps_of(model, np.zeros(1)) + np.float32(bumps[0] + bumps[1])
    hole, around = hole_map(here, 26.0), hole_map(here, 40.0)
    laid = np.where(around, maps_of(model, np.zeros(1)) + np.float32(bumps[0]), np.nan)
    with_it, without = (np.abs(restored(model, truth, hole, other=o).outer - truth[0])[hole].max() for o in (laid, None))
    assert with_it < 0.6 * without


def test_below_the_domain_the_other_side_stands_in():
    model = shell_model()
    truth = maps_of(model, np.zeros(6))
    low = (1.0, 0.3, -0.1)
    truth = np.where(model.domain, truth, np.float32(70.0) + 3 * np.sign(DIRECTIONS[..., 0]).astype(np.float32))
    hole = hole_map(low, 25.0)
    below = hole & ~model.domain
    assert below.sum() > 20
    dome = posterior(model, np.where(hole, np.nan, truth[0]), np.where(hole, np.nan, truth[1]), hole)
    assert np.allclose(dome.outer[below], 67.0)


def test_prior_samples_are_as_smooth_low_down_as_at_the_vertex():
    model = shell_model(modes=2, residual_mm=1.0, lengths_mm=(20.0, 12.0))
    residual = prior_samples(model, draws_of(model, 60)) - np.tensordot(draws_of(model, 60)[:, :2], model.modes, 1)
    image = np.full((60, *model.domain.shape), np.nan)
    image[:, model.domain] = residual[:, 0]
    for polar in (0.5, 1.55):  # radians from the vertex, to the left; 12 mm apart along the same circle of latitude
        turn = 12.0 / (OUTER_MM * np.sin(polar))
        a, b = (np.array([np.sin(polar) * np.cos(t), np.sin(polar) * np.sin(t), np.cos(polar)]) for t in (0.0, turn))
        at = [VAULT_MAP.pixels(p[None])[0][0] for p in (a, b)]
        one, other = (np.array([VAULT_MAP.sample(s, p[None])[0] for s in image]) for p in at)
        expected = 0.95 * np.exp(-0.5 * (12 / 20) ** 2) + 0.05 * np.exp(-0.5)
        assert np.corrcoef(one, other)[0, 1] == pytest.approx(expected, abs=0.13)


def test_prior_samples_have_the_models_spread_and_symmetry():
    model = shell_model(modes=2, residual_mm=1.0)
    samples = prior_samples(model, draws_of(model, 60))
    assert samples.shape == (60, 2, model.domain.sum())
    polar = VAULT_MAP.polar_deg()[model.domain]
    near = polar < 60
    side = near & (np.abs(mean_points(model)[:, 0]) > 30)
    residual = samples - np.tensordot(draws_of(model, 60)[:, :2], model.modes, 1)
    assert residual[:, 0, side].std() == pytest.approx(1.0, abs=0.15)  # far from its mirror image: residual_mm
    outer, inner = residual[:, 0, near].ravel(), residual[:, 1, near].ravel()
    assert np.corrcoef(outer, inner)[0, 1] == pytest.approx(0.95 * 0.8 + 0.05 * 0.3, abs=0.1)
    image = np.full((60, *model.domain.shape), np.nan)
    image[:, model.domain] = residual[:, 0]
    sides = image[:, 64, 95], image[:, 64, 33]  # 62 degrees to the left and to the right
    assert np.corrcoef(*sides)[0, 1] == pytest.approx(0.7, abs=0.25)


def test_radii_beside_the_cut_count_where_they_are_bone_and_not_where_they_are_its_wall():
    model = shell_model(modes=2, residual_mm=1.5, lengths_mm=(25.0, 10.0))
    bump = 2.0 * np.exp(-((angle_rad(DIRECTIONS, TOP) * OUTER_MM / 25.0) ** 2))  # over the hole and what is beside it
    truth = maps_of(model, np.zeros(2)) + bump.astype(np.float32)
    hole, open_part = hole_map(TOP, 30.0), hole_map(TOP, 24.0)
    beside = hole & ~open_part
    middle = hole_map(TOP, 20.0)

    def error(outer, inner):
        dome = posterior(model, *(np.where(open_part, np.nan, image) for image in (outer, inner)), hole)
        return np.abs(dome.outer - truth[0])[middle].mean()

    blind = np.where(beside, np.nan, truth[0])
    wall = np.where(beside, truth[0] - np.float32(4.0), truth[0])  # the ray meets the wall far below the outer table
    assert error(truth[0], truth[1]) < 0.8 * error(blind, truth[1])
    assert error(wall, truth[1]) < 1.05 * error(blind, truth[1])


def test_restored_bone_is_nowhere_too_thin_to_be_printed():
    model = shell_model(residual_mm=0.6)
    truth = maps_of(model, np.zeros(6))
    truth[1] = truth[0] - 1.0  # bone of 1 mm
    hole = hole_map(LEFT, 30.0)
    dome = restored(model, truth, hole, draws_of(model, 4))
    pairs = ((dome.outer, dome.inner), *zip(dome.sample_outer, dome.sample_inner, strict=True))
    assert min((outer - inner)[hole].min() for outer, inner in pairs) == pytest.approx(1.5, abs=1e-4)


def test_a_ridge_beside_the_hole_does_not_bend_the_dome():
    model = shell_model()
    truth = maps_of(model, np.zeros(6))
    ridge = hole_map((0.62, 0.0, 0.8), 6.0)  # 6 mm of another bone on 1 cm2 near the rim
    outer = truth[0] + 6.0 * ridge.astype(np.float32)
    hole = hole_map(TOP, 40.0)
    assert (ridge & ~hole).any()
    dome = restored(model, (outer, truth[1]), hole)
    assert np.abs(dome.outer - truth[0])[hole].max() < 0.35


def test_unknown_pixels_take_the_nearest_value():
    image = np.full((5, 5), np.nan, np.float32)
    image[0, 0], image[4, 4] = 1.0, 2.0
    assert extended(image)[1, 1] == 1.0 and extended(image)[3, 4] == 2.0
    assert np.isnan(extended(np.full((3, 3), np.nan))).all()
