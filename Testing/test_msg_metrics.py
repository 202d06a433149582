"""Figures of one surface against another, on shapes whose figures are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from MedShapeCore.errors import RefusedInput
from MedShapeGenLib.decoding import DecodeOptions, decode_surface
from MedShapeGenLib.shape_metrics import (
    branch_ends,
    distance_mm,
    earth_movers_distance,
    even_points,
    point_figures,
    reconstruction_figures,
    signed_distance_mm,
    topology,
)
from scipy.spatial.distance import cdist


def surface_of(field, scale_mm=1.0, place=(0.0, 0.0, 0.0), resolution=64, components=1):
    made = decode_surface(field, DecodeOptions(resolution=resolution, components=components))
    return SimpleNamespace(vertices_lps=made.vertices_u.astype(float) * scale_mm + place, triangles=made.triangles)


def ball(radius=0.8):
    return lambda q: q.norm(dim=1) - radius


def torus(q):
    return ((q[:, :2].norm(dim=1) - 0.6) ** 2 + q[:, 2] ** 2).sqrt() - 0.2


def star(ends, radius=0.08):
    """Tubes from the centre to some places."""

    def field(q):
        distance = torch.full((len(q),), 9.0)
        for end in torch.tensor(ends, dtype=torch.float32):
            share = ((q @ end) / (end @ end)).clamp(0, 1)[:, None]
            distance = torch.minimum(distance, (q - share * end).norm(dim=1))
        return distance - radius

    return field


@pytest.fixture(scope="module")
def large_ball():
    return surface_of(ball(0.8), 50.0, (100.0, -40.0, 900.0))  # radius 40 mm, far from the origin as in a scanner


@pytest.fixture(scope="module")
def same(large_ball):
    return reconstruction_figures(large_ball, large_ball)


def test_a_surface_agrees_with_itself_up_to_the_sampling(same):
    assert same["mean_mm"] < 1e-4 and same["hausdorff_mm"] < 1e-3  # float32 of the search
    assert same["surface_dice_1pct"] == 1.0 and same["f1_percent"] > 99.8
    assert same["normal_consistency"] > 0.99
    assert same["volume_error_percent"] == 0.0
    assert same["cd_x100"] == pytest.approx(same["cd_x100_floor"], rel=0.05)
    assert same["watertight"] and same["components"] == 1 and same["genus"] == 0


def test_the_floor_of_a_ball_is_the_published_one(same):
    """facts/medshape.md, section 3: two farthest-point samples of a ball of 1 u give CD x100 = 2.70. The
    largest gap (0.53 there) depends on how dense the points are among which the farthest are looked for."""
    assert same["cd_x100_floor"] == pytest.approx(2.70, rel=0.05)
    assert 0.45 < same["hd_x10_floor"] < 0.75


def test_a_larger_ball_is_wrong_by_the_difference_of_the_radii(large_ball):
    other = surface_of(ball(0.84), 50.0, (100.0, -40.0, 900.0))
    figures = reconstruction_figures(large_ball, other)
    assert figures["mean_mm"] == pytest.approx(2.0, rel=0.01)
    assert figures["p95_mm"] == pytest.approx(2.0, rel=0.03)
    assert figures["mean_percent"] == pytest.approx(100 * 2.0 / 80.0, rel=0.01)
    assert figures["surface_dice_1pct"] == 0.0  # 1 % of 80 mm is less than 2 mm
    assert figures["volume_error_percent"] == pytest.approx(100 * (1.05**3 - 1), rel=0.01)
    assert figures["hd_x10"] >= 10 * 2.0 / 40.0


def test_surface_dice_counts_areas(large_ball):
    """A ball moved by 2 mm: within 0.8 mm (1 % of 80) of the other is what has |cos| <= 0.4 to the motion, 40 % of the area."""
    moved = SimpleNamespace(vertices_lps=large_ball.vertices_lps + [2.0, 0, 0], triangles=large_ball.triangles)
    figures = reconstruction_figures(large_ball, moved)
    assert figures["surface_dice_1pct"] == pytest.approx(0.4, abs=0.03)
    assert figures["mean_mm"] == pytest.approx(1.0, rel=0.05)  # mean of 2 |cos| over the sphere


def test_an_inside_out_surface_is_noticed(large_ball):
    turned = SimpleNamespace(vertices_lps=large_ball.vertices_lps, triangles=large_ball.triangles[:, ::-1].copy())
    assert reconstruction_figures(large_ball, turned)["normal_consistency"] < -0.99


def test_distances_are_exact_and_signed():
    cube = np.array([[x, y, z] for x in (0.0, 10) for y in (0.0, 10) for z in (0.0, 10)])
    triangles = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
                          [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])  # fmt: skip
    points = np.array([[5.0, 5, 5], [5, 5, 1], [-3, 5, 5], [13, 14, 5], [11, 12, 12]])
    assert signed_distance_mm(points, cube, triangles) == pytest.approx([-5, -1, 3, 5, 3], abs=1e-5)
    assert distance_mm(points, cube, triangles) == pytest.approx([5, 1, 3, 5, 3], abs=1e-5)
    far = 5000.1237  # which float32 does not hold exactly: it is 2e-4 off there
    assert signed_distance_mm(points + far, cube + far, triangles) == pytest.approx([-5, -1, 3, 5, 3], abs=1e-5)
    assert distance_mm(points + far, cube + far, triangles) == pytest.approx([5, 1, 3, 5, 3], abs=1e-5)


def test_the_papers_figures_follow_their_formulas():
    """Against the textbook over all pairs: two random sets."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-0.2, 0.2, (2, 60, 3))
    pairs = cdist(a, b)
    figures = point_figures(a, b)
    assert figures.cd_x100 == pytest.approx(100 * (pairs.min(0).mean() + pairs.min(1).mean()) / 2)
    assert figures.hd_x10 == pytest.approx(10 * max(pairs.min(0).max(), pairs.min(1).max()))
    precision, recall = (pairs.min(0) < 0.06).mean(), (pairs.min(1) < 0.06).mean()
    assert 0.05 < precision < 0.95  # the limit matters here
    assert figures.f1_percent == pytest.approx(100 * 2 * precision * recall / (precision + recall))


def test_the_matching_finds_a_shuffled_shift():
    rng = np.random.default_rng(1)
    a = rng.uniform(-1, 1, (200, 3))
    assert earth_movers_distance(a, rng.permutation(a)) == pytest.approx(0.0, abs=1e-12)
    shift = np.array([0.001, 0.0, 0.0])  # far less than the spacing: everyone keeps his partner
    assert earth_movers_distance(a, rng.permutation(a + shift)) == pytest.approx(0.001)


def test_sets_far_apart_have_no_f1():
    a = np.zeros((3, 3))
    assert point_figures(a, a + 1.0).f1_percent == 0.0


def test_even_points_are_even(large_ball):
    points = even_points(large_ball, 500, np.random.default_rng(0))
    pairs = cdist(points, points)
    np.fill_diagonal(pairs, np.inf)
    assert pairs.min() > 0.5 * np.sqrt(4 * np.pi * 40.0**2 / 500)  # random points: some pair lies at a tenth of that


@pytest.mark.parametrize(
    ("field", "bodies", "genus"),
    [(ball(), 1, 0), (torus, 1, 1),
     (lambda q: torch.minimum(torus(q), (q - torch.tensor([0.0, 0.0, 0.8])).norm(dim=1) - 0.2), 2, 1)],
)  # fmt: skip
def test_bodies_and_handles_are_counted(field, bodies, genus):
    found = topology(surface_of(field, components=None).triangles)
    assert (found.watertight, found.components, found.genus) == (True, bodies, genus)


def test_a_hole_is_open(large_ball):
    assert not topology(large_ball.triangles[:-1]).watertight
    assert topology(large_ball.triangles[:0]).components == 0


@pytest.mark.parametrize("ends", [
    [(0.9, 0, 0), (-0.9, 0, 0)],
    [(0.9, 0, 0), (-0.9, 0.3, 0), (0, 0.9, 0)],
    [(0.9, 0, 0), (-0.9, 0.3, 0), (0, 0.9, 0), (0, 0, 0.9), (0, 0, -0.6)],
])  # fmt: skip
def test_the_ends_of_a_tree_are_counted(ends):
    tree = surface_of(star(ends))
    assert branch_ends(tree.vertices_lps, tree.triangles, 0.2) == len(ends)


def test_a_bump_is_no_branch():
    tree = surface_of(star([(0.9, 0, 0), (-0.9, 0, 0), (0, 0.35, 0)]))
    assert branch_ends(tree.vertices_lps, tree.triangles, 0.4) == 2
    assert branch_ends(tree.vertices_lps, tree.triangles, 0.15) == 3
    assert branch_ends(np.zeros((0, 3)), np.zeros((0, 3), int), 0.1) == 0


def test_an_empty_surface_is_refused(large_ball):
    with pytest.raises(RefusedInput) as caught:
        reconstruction_figures(large_ball, SimpleNamespace(vertices_lps=np.zeros((0, 3)), triangles=np.zeros((0, 3), int)))
    assert caught.value.code == "empty-surface"
