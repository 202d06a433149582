"""From a signed distance function to a closed surface: nothing is lost, little is asked."""

import numpy as np
import pytest
import torch
from MedShapeCore.errors import Cancelled, FailedResult, OptionError
from MedShapeCore.surfaces import components, is_watertight, surface_volume_ml
from MedShapeGenLib.decoding import DecodeOptions, decode_surface, keep_largest

EXACT = DecodeOptions(safety=1.0, margin_u=0.0, components=None)


def ball(radius=0.8, centre=(0.0, 0.0, 0.0)):
    return lambda q: (q - torch.tensor(centre)).norm(dim=1) - radius


def tubes(radius, seed=0, corners=9):
    """Capsules around a random chain of line segments: exact outside, and no more than the distance inside."""
    ends = torch.tensor(np.random.default_rng(seed).uniform(-0.9, 0.9, (corners, 3)).astype(np.float32))

    def field(q):
        distance = torch.full((len(q),), 9.0)
        for a, b in zip(ends[:-1], ends[1:], strict=True):
            way = b - a
            share = ((q - a) @ way / (way @ way)).clamp(0, 1)[:, None]
            distance = torch.minimum(distance, (q - a - share * way).norm(dim=1))
        return distance - radius

    return field


def torus(ring=0.6, tube=0.25):
    return lambda q: ((q[:, :2].norm(dim=1) - ring) ** 2 + q[:, 2] ** 2).sqrt() - tube


def every_sign(field, options, low=-1.1, high=1.1):
    axis = torch.from_numpy((low + (high - low) / options.resolution * np.arange(options.resolution + 1)).astype(np.float32))
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (field(torch.stack([x, y, z], -1).reshape(-1, 3)) < 0).reshape(z.shape).numpy()


SHAPES = {
    "ball in the whole cube": (ball(1.05), 0.15),
    "small ball off the centre": (ball(0.11, (0.61, -0.4, 0.83)), 0.15),
    "torus": (torus(), 0.15),
    "tubes of 1.7 cells": (tubes(0.03), 0.05),
    "tubes thinner than a cell": (tubes(0.012, seed=3), 0.05),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("options", [EXACT, DecodeOptions(components=None)], ids=["exact", "default"])
def test_no_surface_cell_is_lost_and_little_is_asked(name, options):
    field, share = SHAPES[name]
    surface = decode_surface(field, options)
    assert np.array_equal(surface.signs, every_sign(field, options))
    assert surface.evaluated_fraction <= share
    assert is_watertight(surface.triangles)


def test_asking_everything_gives_the_same_mesh():
    field, options = torus(), DecodeOptions(resolution=64)
    everything = decode_surface(field, DecodeOptions(resolution=64, fraction=1.0), skeleton_u=np.zeros((1, 3)))
    surface = decode_surface(field, options)
    assert everything.evaluated_fraction == 1.0
    assert np.array_equal(surface.triangles, everything.triangles)
    assert np.array_equal(surface.vertices_u, everything.vertices_u)


def test_the_surface_lies_where_the_field_is_zero_and_faces_outward():
    surface = decode_surface(ball(0.8, (0.1, -0.2, 0.05)))
    radius = np.linalg.norm(surface.vertices_u - [0.1, -0.2, 0.05], axis=1)
    assert np.abs(radius - 0.8).max() < 5e-4  # linear interpolation over h = 0.0172: h^2 / (8 r) = 4.6e-5, times corners
    volume = 1000 * surface_volume_ml(surface.vertices_u, surface.triangles)
    assert volume == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.002)


def test_a_field_that_is_steeper_than_a_distance_keeps_its_surface():
    """The learned field's far values are not trusted: with a safety of 1.25 they may be 25 % too large."""
    for field, _ in SHAPES.values():
        surface = decode_surface(lambda q, f=field: 1.25 * f(q), DecodeOptions(safety=1.25, components=None))
        assert np.array_equal(surface.signs, every_sign(field, DecodeOptions()))


def test_a_surface_found_in_part_is_followed():
    """Values three times too large break the bound, yet the body stays whole and closed."""
    field = tubes(0.05, seed=1, corners=4)
    surface = decode_surface(lambda q: 3 * field(q), EXACT)
    found, true = surface.signs, every_sign(field, EXACT)
    assert is_watertight(surface.triangles)
    assert found.sum() == true.sum()


def test_a_body_that_leaves_the_cube_is_closed():
    surface = decode_surface(ball(0.5, (0.9, 0.0, 0.0)), DecodeOptions(resolution=32))
    assert is_watertight(surface.triangles)
    assert surface.vertices_u[:, 0].max() <= 1.1 + 2.2 / 32


def test_the_largest_bodies_are_kept_without_cavities():
    hollow, small = ball(0.5, (-0.4, 0, 0)), ball(0.15, (0.7, 0, 0))

    def field(q):
        return torch.minimum(torch.maximum(hollow(q), -ball(0.2, (-0.4, 0, 0))(q)), small(q))

    everything = decode_surface(field, DecodeOptions(resolution=64, components=None))
    assert everything.bodies_found == 2 and components(everything.triangles) == 3
    both = decode_surface(field, DecodeOptions(resolution=64, components=2))
    one = decode_surface(field, DecodeOptions(resolution=64))
    assert components(both.triangles) == 2 and both.vertices_u[:, 0].max() > 0.8
    assert components(one.triangles) == 1 and one.vertices_u[:, 0].max() < 0.2
    assert 1000 * surface_volume_ml(one.vertices_u, one.triangles) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.01)
    assert one.bodies_found == 2  # what was dropped is told


def test_no_triangles_have_no_bodies():
    vertices, triangles, bodies = keep_largest(np.zeros((0, 3)), np.zeros((0, 3), np.int32), 1)
    assert len(vertices) == len(triangles) == bodies == 0


def test_the_chunk_changes_nothing_and_is_kept():
    sizes = []

    def field(q):
        sizes.append(len(q))
        return torus()(q)

    small = decode_surface(field, DecodeOptions(resolution=32, chunk=1000))
    assert max(sizes) <= 1000
    large = decode_surface(torus(), DecodeOptions(resolution=32))
    assert np.array_equal(small.vertices_u, large.vertices_u)


def test_the_published_share_loses_the_surface_of_a_ball_but_not_of_tubes():
    """Facts, 1.8: a tenth of the points lies near the skeleton; that holds a tree and not an organ."""
    points = np.random.default_rng(0).normal(size=(256, 3))
    sunk = 0.7 * points / np.linalg.norm(points, axis=1, keepdims=True)  # skeleton of a ball: a surface sample, sunk
    options = DecodeOptions(resolution=64, fraction=0.1, components=None)
    lost = decode_surface(ball(0.9), options, skeleton_u=sunk)
    assert lost.evaluated_fraction == pytest.approx(0.1, abs=1e-4)
    assert (lost.signs != every_sign(ball(0.9), options)).mean() > 0.02
    assert is_watertight(lost.triangles)  # a wrong surface, but a closed one
    tree = tubes(0.05)
    line = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (100000, 3)).astype(np.float32))
    found = decode_surface(tree, options, skeleton_u=line[tree(line) < -0.02].numpy())
    assert np.array_equal(found.signs, every_sign(tree, options))


def test_what_cannot_be_decoded_is_said():
    with pytest.raises(FailedResult) as caught:
        decode_surface(lambda q: torch.ones(len(q)))
    assert caught.value.code == "no-surface"
    with pytest.raises(FailedResult) as caught:
        decode_surface(lambda q: torch.full((len(q),), torch.nan))
    assert caught.value.code == "field-values"
    with pytest.raises(OptionError):
        decode_surface(ball(), DecodeOptions(fraction=0.1))


@pytest.mark.parametrize("wrong", [{"resolution": 100}, {"resolution": 1024}, {"safety": 0.5}, {"margin_u": -1.0},
                                   {"fraction": 0.0}, {"components": 0}, {"chunk": 0}])  # fmt: skip
def test_wrong_options_are_refused(wrong):
    with pytest.raises(OptionError):
        DecodeOptions(**wrong)


def test_decoding_can_be_cancelled():
    def stop(stage, fraction):
        raise Cancelled

    with pytest.raises(Cancelled):
        decode_surface(ball(), progress=stop)
