"""Reconstruction and interpolation: place, size, skeleton and error in mm, ends and matching; ellipsoids whose answer is known."""

import numpy as np
import pytest
import torch
from ellipsoid_models import ellipsoid_models, ellipsoid_shape
from MedShapeGenLib.interpolate import interpolate, matched
from MedShapeGenLib.options import InterpolateOptions, ReconstructOptions
from MedShapeGenLib.reconstruct import between, encoded_shape, reconstruct
from MedShapeGenLib.shapes import Shape
from scipy.spatial import cKDTree

MODELS = ellipsoid_models()
CENTRE = (40.0, -120.0, 900.0)
SHAPE = ellipsoid_shape((50, 35, 25), CENTRE)


@pytest.fixture(scope="module")
def result():
    return reconstruct(SHAPE, MODELS, ReconstructOptions(resolution=64))


def test_a_reconstruction_lies_where_the_input_is_at_its_size(result):
    vertices = result.solid.vertices_lps
    assert np.allclose((vertices.min(axis=0) + vertices.max(axis=0)) / 2, CENTRE, atol=0.1)
    assert np.allclose(np.ptp(vertices, axis=0), (100, 70, 50), atol=0.6)
    assert result.solid.figures.passed


def test_the_error_is_signed_and_in_mm(result):
    assert result.error_mm.shape == (len(result.solid.vertices_lps),)
    assert np.abs(result.error_mm).max() < 0.3 and result.figures["mean_mm"] < 0.1
    # The same latent against an input that is 2 mm smaller all around: its surface is outside.
    smaller = ellipsoid_shape((48, 33, 23), CENTRE)
    larger_error = reconstruct(smaller, FixedEncoder(), ReconstructOptions(resolution=64)).error_mm
    assert larger_error.min() > 1.0 and larger_error.mean() == pytest.approx(1.8, abs=0.4)


class FixedEncoder:
    """Models that make every shape 2 mm larger than it is."""

    def __init__(self):
        self.device = MODELS.device
        self.autoencoder = self
        self.decoder = MODELS.autoencoder.decoder

    def encode(self, points, normals, skeleton):
        latent = MODELS.autoencoder.encode(points, normals, skeleton)
        latent[..., 4:7] += 2 / 48
        return latent


def test_the_skeleton_is_in_the_input_s_place_with_radii_in_mm(result):
    assert result.skeleton_lps.shape == (256, 3) and result.radii_mm.shape == (256,)
    inside = ((result.skeleton_lps - CENTRE) / (50, 35, 25)) ** 2
    assert (inside.sum(axis=1) < 1.01).all() and (result.radii_mm > 0).all()
    # A radius is the distance to the surface: compare with a fine sampling of it.
    fine = ellipsoid_shape((50, 35, 25), CENTRE, rings=300).vertices_lps
    away = cKDTree(fine).query(result.skeleton_lps)[0]
    assert np.abs(result.radii_mm - away).mean() < 0.6


def test_the_seed_draws_the_surface_points():
    a, again, other = (encoded_shape(SHAPE, MODELS, seed).latent for seed in (0, 0, 1))
    assert torch.equal(a, again) and not torch.equal(a, other)


def test_an_input_of_two_bodies_keeps_both():
    second = ellipsoid_shape((30, 20, 20), (0, 0, 90))
    both = Shape(
        np.concatenate([SHAPE.vertices_lps, second.vertices_lps + CENTRE]),
        np.concatenate([SHAPE.triangles, second.triangles + len(SHAPE.vertices_lps)]), "both",
    )  # fmt: skip
    assert encoded_shape(SHAPE, MODELS, 0).bodies == 1 and encoded_shape(both, MODELS, 0).bodies == 2


# ---- interpolation


SECOND = ellipsoid_shape((60, 30, 20), (0.0, 0.0, 0.0), "second")


@pytest.fixture(scope="module")
def way():
    return interpolate(SHAPE, SECOND, MODELS, InterpolateOptions(steps=5, resolution=64))


def test_the_ends_are_the_reconstructions(way, result):
    assert np.array_equal(way.solids[0].vertices_lps, result.solid.vertices_lps)
    end = reconstruct(SECOND, MODELS, ReconstructOptions(resolution=64)).solid
    there = cKDTree(end.vertices_lps).query(way.solids[-1].vertices_lps)[0]
    assert there.max() < 0.05  # mm; the latent points come in another order


def test_sizes_change_by_equal_factors_and_the_centre_moves_evenly(way):
    longest = np.array([solid.figures.longest_mm for solid in way.solids])
    assert np.allclose(longest[1:] / longest[:-1], (60 / 50) ** 0.25, atol=0.003)
    centres = [(s.vertices_lps.min(axis=0) + s.vertices_lps.max(axis=0)) / 2 for s in way.solids]
    assert np.allclose(centres, np.linspace(CENTRE, (0, 0, 0), 5), atol=0.5)
    assert way.shares == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_matching_undoes_any_order_of_the_points():
    latent = encoded_shape(SHAPE, MODELS, 0).latent
    order = torch.randperm(len(latent), generator=torch.Generator().manual_seed(3))
    assert torch.equal(matched(latent, latent[order]), latent)


def test_matching_keeps_the_two_walls_of_a_sheet_apart():
    """Points of two walls 0.02 u apart that differ in their features alone: a matching by place would mix them."""
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(60, 2, generator=generator)
    wall = torch.cat([torch.ones(30), -torch.ones(30)])
    a = torch.cat([place, 0.01 * wall[:, None], torch.zeros(60, 1), wall[:, None].expand(-1, 12)], 1)
    b = a.clone()
    b[:, :2] += 0.05 * torch.randn(60, 2, generator=generator)
    found = matched(a, b[torch.randperm(60, generator=generator)])
    assert torch.equal(found[:, 4].sign(), wall)


def test_halfway_is_between_and_changes_neither_end():
    a, b = encoded_shape(SHAPE, MODELS, 0), encoded_shape(SECOND, MODELS, 0)
    half = between(a, b, 0.5)
    assert half.scale_mm == pytest.approx(np.sqrt(50 * 60), rel=1e-3)
    assert torch.allclose(half.latent, (a.latent + b.latent) / 2, atol=1e-5)
    assert between(a, b, 0.0).scale_mm == a.scale_mm and between(a, b, 1.0).scale_mm == pytest.approx(b.scale_mm)
