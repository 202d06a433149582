"""Corresponding places: on the surface, covering it, following a known deformation, and few modes for few parameters."""

import numpy as np
import pytest
import torch
from MedShapeCore.errors import RefusedInput
from MedShapeGenLib.correspondence import even_points, mean_template, medoid, on_surface, register_template, transported
from MedShapeGenLib.skeleton import fps, skeletonize
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

M = 96
POINTS = 1200


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def egg(half, seed, bend=0.0, n=POINTS):
    """Surface points and normals of an ellipsoid with these half axes, whose axis is bent to z + bend x^2."""
    rng = np.random.default_rng(seed)
    half = np.asarray(half, float)
    sphere = rng.normal(size=(8 * n, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    stretch = np.linalg.norm(sphere / half, axis=1)
    sphere = sphere[rng.random(8 * n) < stretch / stretch.max()][:n]
    points, normals = sphere * half, sphere / half
    normals[:, 0] -= 2 * bend * points[:, 0] * normals[:, 2]  # the inverse transpose of the bend's derivative
    points[:, 2] += bend * points[:, 0] ** 2
    return points, normals / np.linalg.norm(normals, axis=1, keepdims=True)


def off_surface(places, half, bend=0.0):
    """About the distance from the bent ellipsoid."""
    x = places.copy().astype(float)
    x[:, 2] -= bend * x[:, 0] ** 2
    level = np.sqrt(((x / half) ** 2).sum(1))
    return np.abs(level - 1) * np.linalg.norm(x, axis=1)


def plain(reference, points):
    """The rejected alternative: farthest points in the order of an optimal assignment."""
    spread = points[fps(torch.from_numpy(points)[None], len(reference))[0].numpy()]
    return spread[linear_sum_assignment(cdist(reference, spread) ** 2)[1]]


def test_places_lie_on_the_surface_and_cover_it():
    half = (1, 0.6, 0.4)
    points, normals = egg(half, 0)
    template = even_points(egg((0.9, 0.7, 0.45), 1)[0], M)
    places = register_template(template, points, normals)
    assert places.shape == (M, 3) and places.dtype == np.float32
    assert off_surface(places, half).mean() < 0.001 and off_surface(places, half).max() < 0.01
    gaps = cKDTree(places).query(points)[0]
    farthest = cKDTree(plain(template, points)).query(points)[0]
    assert gaps.mean() < 1.15 * farthest.mean() and gaps.max() < 2 * farthest.max()
    # Twelve of a thousand points is not a spacing: no two places fall together.
    assert cdist(places, places)[~np.eye(M, dtype=bool)].min() > 0.02


def test_transport_of_a_shape_to_another_sample_of_itself_does_not_shrink_it():
    half = (1, 0.6, 0.4)
    first, second = (even_points(egg(half, seed)[0], M) for seed in (0, 1))
    moved = transported(first, second, 0.2)
    assert abs(np.linalg.norm(moved, axis=1).mean() / np.linalg.norm(second, axis=1).mean() - 1) < 0.01


def test_a_known_deformation_is_followed():
    before, after = (1, 0.6, 0.4), (0.8, 0.65, 0.5)
    template = even_points(egg(before, 0, n=4000)[0], M)
    template = on_surface(template, *egg(before, 0, n=4000))
    true = template / before * after
    true[:, 2] += 0.3 * true[:, 0] ** 2
    places = register_template(template, *egg(after, 1, bend=0.3))
    error = np.linalg.norm(places - true, axis=1)
    # Neighbouring places are 0.18 u apart; farthest points hit their partner only to about half of that.
    assert error.mean() < 0.06
    assert error.mean() < 0.75 * np.linalg.norm(plain(template, egg(after, 1, bend=0.3)[0]) - true, axis=1).mean()


def test_other_points_of_the_same_surface_give_the_same_places():
    half = (1, 0.6, 0.4)
    template = even_points(egg(half, 0)[0], M)
    first, second = (register_template(template, *egg(half, seed)) for seed in (1, 2))
    other = np.linalg.norm(plain(template, egg(half, 1)[0]) - plain(template, egg(half, 2)[0]), axis=1).mean()
    assert np.linalg.norm(first - second, axis=1).mean() < 0.6 * other


def test_the_storage_order_does_not_matter():
    points, normals = egg((1, 0.6, 0.4), 0)
    template = even_points(egg((1, 0.7, 0.5), 1)[0], M)
    order = np.random.default_rng(0).permutation(len(points))
    np.testing.assert_allclose(
        register_template(template, points, normals), register_template(template, points[order], normals[order]), atol=1e-6
    )


def test_two_parameters_of_shape_need_few_modes():
    rng = np.random.default_rng(5)
    family = [(1, rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.6)) for _ in range(14)]
    surfaces = [egg(half, k) for k, half in enumerate(family)]
    template = mean_template([points for points, _ in surfaces], M)
    captured = []
    for places in (
        [register_template(template, *surface) for surface in surfaces],
        [plain(even_points(surfaces[0][0], M), points) for points, _ in surfaces],
    ):
        rows = np.array(places).reshape(len(places), -1)
        size = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
        captured.append((size[:2] ** 2).sum() / (size**2).sum())
    assert captured[0] > 0.7 and captured[0] > captured[1] + 0.15


def test_the_template_of_a_family_is_its_middle():
    family = [(1, 0.6 + d, 0.4 - d / 2) for d in (-0.1, -0.05, 0, 0.05, 0.1)]
    template = mean_template([egg(half, k)[0] for k, half in enumerate(family)], M)
    assert template.shape == (M, 3)
    assert off_surface(template, (1, 0.6, 0.4)).mean() < 0.04
    assert medoid([egg(half, k)[0] for k, half in enumerate(family)]) == 2


def test_places_are_seeds_of_a_skeleton():
    points, normals = egg((1, 0.6, 0.4), 0)
    template = mean_template([points, egg((1, 0.7, 0.4), 1)[0]], 256)
    seeds = register_template(template, points, normals)
    p, n = (torch.from_numpy(x.astype(np.float32))[None] for x in (points, normals))
    skeleton = skeletonize(p, seeds=torch.from_numpy(seeds)[None], normals=n)[0]
    depth = off_surface(skeleton[:, :3].numpy(), (1, 0.6, 0.4))
    assert depth.min() > 0.005 and np.linalg.norm(skeleton[:, :3].numpy() - seeds, axis=1).max() < 0.026


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("no-shapes", lambda: mean_template([])),
        ("too-few-points", lambda: mean_template([np.zeros((20, 3))], 50)),
        ("points", lambda: register_template(np.zeros((5, 2)), np.zeros((20, 3)), np.zeros((20, 3)))),
        ("points", lambda: register_template(np.zeros((5, 3)), np.full((20, 3), np.nan), np.zeros((20, 3)))),
        ("normals", lambda: register_template(np.zeros((5, 3)), np.zeros((20, 3)), np.zeros((19, 3)))),
    ],
)
def test_what_cannot_correspond_is_refused(code, call):
    with pytest.raises(RefusedInput) as caught:
        call()
    assert caught.value.code == code
