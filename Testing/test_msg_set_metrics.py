"""Sets of shapes against sets of shapes: what equal, far apart, collapsed and copied sets give."""

import numpy as np
import pytest
from MedShapeGenLib.set_metrics import (
    agreement,
    chamfer_distance,
    distance_matrix,
    expected_coverage,
    frechet_distance,
    kernel_distance,
    memorisation,
)
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist


def matrix_of(real, made):
    points = np.concatenate([real, made])
    return cdist(points, points), len(real)


def drawn(count, seed, shift=0.0, spread=1.0):
    return np.random.default_rng(seed).normal(shift, spread, (count, 6))


def test_the_chamfer_distance_is_not_squared():
    a = np.array([[0.0, 0, 0], [1, 0, 0]])
    b = np.array([[0.0, 0, 3]])
    # from a: 3 and sqrt(10); from b: 3
    assert chamfer_distance(cKDTree(a), cKDTree(b)) == pytest.approx(((3 + np.sqrt(10)) / 2 + 3) / 2)


def test_a_matrix_is_symmetric_or_has_rows_and_columns():
    sets = [cKDTree(np.random.default_rng(n).normal(size=(50, 3))) for n in range(4)]
    square, wide = distance_matrix(sets), distance_matrix(sets[:2], sets)
    assert np.array_equal(square, square.T) and np.all(np.diag(square) == 0)
    assert np.allclose(wide, square[:2], atol=1e-12)
    assert distance_matrix([], sets).shape == (0, 4)


def test_sets_of_one_distribution_are_told_apart_by_chance_alone():
    """And the interval holds the level of chance as often as it says: 95 %, so 9 of 10 times with room."""
    results = [agreement([matrix_of(drawn(40, 2 * n), drawn(40, 2 * n + 1))], draws=20, seed=n) for n in range(10)]
    assert np.mean([r.nna - r.nna_chance for r in results]) == pytest.approx(0, abs=0.05)
    assert sum(r.nna_low <= r.nna_chance <= r.nna_high for r in results) >= 9
    assert np.mean([r.nna_high - r.nna_low for r in results]) < 0.3  # 2 * 1.96 * sqrt(0.25 / 80) = 0.22


def test_chance_is_below_one_half_for_few_shapes():
    """n of each kind: of the 2 n - 1 others n - 1 are of the own kind."""
    result = agreement([matrix_of(drawn(5, 0), drawn(5, 1))], keep=1.0)
    assert result.nna_chance == pytest.approx(4 / 9)


def test_more_generated_shapes_do_not_help():
    """Equal numbers are drawn: a set of five times as many shapes has the same expectation."""
    few = agreement([matrix_of(drawn(40, n), drawn(40, 100 + n)) for n in range(6)])
    many = agreement([matrix_of(drawn(40, n), drawn(200, 100 + n)) for n in range(6)])
    assert many.nna == pytest.approx(few.nna, abs=0.06)
    assert many.coverage == pytest.approx(few.coverage, abs=0.06)


def test_sets_far_apart_are_told_apart_always():
    result = agreement([matrix_of(drawn(20, 0), drawn(20, 1, shift=50.0))])
    assert result.nna == result.nna_low == result.nna_high == 1.0
    assert result.mmd > 50


def test_copies_fall_below_chance():
    real = drawn(20, 0)
    copied = agreement([matrix_of(real, real + 1e-6)], keep=1.0)
    assert copied.nna == 0.0 and copied.coverage == 1.0 and copied.mmd < 1e-4


def test_a_collapsed_set_covers_one_shape():
    result = agreement([matrix_of(drawn(20, 0), drawn(20, 1, spread=1e-6))], keep=1.0)
    assert result.coverage == pytest.approx(1 / 20)


def test_neighbours_are_looked_for_within_a_category():
    """Two categories in each of which the sets are far apart, although each set lies on the other category's place."""
    near, far = drawn(20, 0), drawn(20, 1, shift=50.0)
    assert agreement([matrix_of(near, far), matrix_of(far, near)]).nna == 1.0


def test_the_same_seed_gives_the_same_figures():
    matrices = [matrix_of(drawn(12, 0), drawn(12, 1))]
    assert agreement(matrices, seed=3) == agreement(matrices, seed=3)


def test_too_few_shapes_give_no_figures():
    result = agreement([matrix_of(drawn(1, 0), drawn(9, 1))])
    assert result.shapes == 0 and np.isnan(result.nna)


def test_expected_coverage_of_equal_distributions():
    covered = [agreement([matrix_of(drawn(30, n), drawn(30, 500 + n))], keep=1.0, draws=1).coverage for n in range(6)]
    assert expected_coverage(30) == pytest.approx(0.638, abs=0.001)
    assert 0.4 < np.mean(covered) < 0.7  # hubs among neighbours lower it


def test_fid_of_two_normal_distributions():
    """|difference of means|^2 + sum of (s1 - s2)^2 over independent features."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1.0, (20000, 3)), rng.normal(0, 2.0, (20000, 3)) + [3.0, 0, 0]
    assert frechet_distance(a, b) == pytest.approx(9 + 3, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(frechet_distance(a[:1], b))


def test_fid_stands_a_covariance_without_full_rank():
    a = np.random.default_rng(0).normal(size=(5, 20))
    assert frechet_distance(a, a + 1.0) == pytest.approx(20.0)


def test_kid_is_without_bias():
    rng = np.random.default_rng(0)
    same = [kernel_distance(rng.normal(size=(12, 4)), rng.normal(size=(12, 4))) for _ in range(400)]
    assert np.mean(same) == pytest.approx(0.0, abs=3 * np.std(same) / 20)
    assert kernel_distance(rng.normal(size=(50, 4)), rng.normal(2.0, 1.0, (50, 4))) > 10
    assert np.isnan(kernel_distance(np.zeros((1, 4)), np.zeros((5, 4))))


def test_copies_of_training_shapes_are_noticed():
    train, unseen, fresh = drawn(30, 0), drawn(10, 1), drawn(10, 2)
    honest = memorisation(cdist(fresh, train), cdist(unseen, train), 0.1)
    copied = memorisation(cdist(train[:10] + 0.01, train), cdist(unseen, train), 0.1)
    assert honest.copies == 0.0 and honest.generated == pytest.approx(honest.unseen, rel=0.3)
    assert copied.copies == 1.0 and copied.generated < 0.1
    assert np.isnan(memorisation(np.zeros((0, 3)), np.zeros((2, 3)), 0.1).copies)
