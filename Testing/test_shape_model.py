"""The dome's shape model: mean, modes and roughness of maps, and the kernel that is learned by prediction."""

import numpy as np
import pytest
import torch
from CranialImplantLib import dome
from CranialImplantLib.dome import mean_points
from CranialImplantLib.training import kernel_task
from CranialImplantLib.training.kernel import Kernel, kernel_of
from CranialImplantLib.training.pack import PackedSkull
from CranialImplantLib.training.shape_model import dome_model, fit_shape, roughness
from CranialImplantLib.vault import VAULT_MAP
from MedShapeCore.training import Loop
from safetensors.torch import save_file
from spherical_head import INNER_MM, OUTER_MM, shell_model
from test_dome import maps_of


def test_a_shape_learns_mean_and_modes_from_maps_with_gaps():
    truth = shell_model(modes=3)
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(30, 3))
    maps = np.stack([maps_of(truth, c) for c in codes])  # (30, 2, H, W)
    # The domain is symmetric, but its modes see x: each map counts mirrored too.
    gaps = rng.random(maps.shape[-2:]) < 0.05
    holed = maps.copy()
    holed[::3, :, gaps & truth.domain] = np.nan
    model = fit_shape(holed[:, 0], holed[:, 1], truth.domain, modes=4)
    assert model.mean.shape == truth.mean.shape and model.modes.shape == (4, *truth.mean.shape)
    both = np.concatenate([maps, maps[..., ::-1]])[:, :, truth.domain]
    assert np.abs(model.mean - both.mean(0)).max() < 0.05
    left = both - model.mean
    basis = model.modes.reshape(4, -1)
    basis = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    flat = left.reshape(len(both), -1)
    rest = flat - flat @ basis.T @ basis
    assert np.sqrt((rest**2).mean()) < 0.05 * np.sqrt((flat**2).mean())


def test_few_maps_make_few_modes():
    truth = shell_model(modes=3)
    maps = np.stack([maps_of(truth, c) for c in np.random.default_rng(1).normal(size=(5, 3))])
    assert len(fit_shape(maps[:, 0], maps[:, 1], truth.domain).modes) == 5



def test_roughness_is_the_size_of_what_is_fine_and_the_same_on_both_sides():
    domain = shell_model().domain
    rng = np.random.default_rng(0)
    smooth = 80.0 + 5.0 * VAULT_MAP.directions()[..., 0]
    size = np.where(VAULT_MAP.directions()[..., 1] > 0, 0.5, 0.1)  # rough at the back
    maps = smooth + size * rng.normal(size=(60, 2, *domain.shape))
    maps[::4, :, 60:64] = np.nan
    rough = np.full(domain.shape, np.nan)
    rough[domain] = roughness(maps, domain)[1]
    assert np.median(rough[(VAULT_MAP.directions()[..., 1] > 0.3) & domain]) == pytest.approx(0.49, abs=0.03)
    assert np.median(rough[(VAULT_MAP.directions()[..., 1] < -0.3) & domain]) == pytest.approx(0.1, abs=0.03)
    assert np.allclose(rough[:, ::-1][domain], rough[domain])


def test_a_model_is_the_shape_with_as_much_of_its_modes_as_the_kernel_believes():
    truth = shell_model(modes=3)
    maps = np.stack([maps_of(truth, c) for c in np.random.default_rng(1).normal(size=(8, 3))])
    shape = fit_shape(maps[:, 0], maps[:, 1], truth.domain, modes=3)
    kernel = Kernel()
    model = dome_model(shape, kernel)
    believed = np.sqrt(kernel.believed(3).detach().numpy())
    assert np.allclose(model.modes, believed[:, None, None] * shape.modes, atol=1e-4) and (believed < 1).all()
    assert model.local_mm.shape == (4, 2, len(mean_points(model))) and (model.local_mm > 0).all()
    assert (model.noise_mm > 0.05).all() and len(model.lengths_mm) == len(model.couplings) == len(model.mirrorings) == 4


def test_a_kernel_that_was_trained_goes_before_the_bundled_one(tmp_path):
    bundled = kernel_of(tmp_path)
    other = Kernel()
    torch.nn.init.ones_(other.mirroring)
    save_file(other.state_dict(), tmp_path / "kernel.safetensors")
    assert torch.equal(kernel_of(tmp_path).mirroring, other.mirroring)
    assert not torch.equal(bundled.mirroring, other.mirroring)


def test_training_the_kernel_lowers_the_error_of_restored_holes(tmp_path, monkeypatch):
    domain = VAULT_MAP.polar_deg() < 70
    rng = np.random.default_rng(0)
    x, y, _ = VAULT_MAP.directions().transpose(2, 0, 1)
    waves = np.stack([np.cos(k * x + a) * np.cos(k * y + b) for k, a, b in rng.uniform(2, 5, (12, 3))])
    inner = INNER_MM + np.tensordot(rng.normal(size=(30, 12)), waves, 1)
    outer = inner + OUTER_MM - INNER_MM + rng.normal(0, 0.05, inner.shape)
    maps = outer.astype(np.float32), inner.astype(np.float32)
    monkeypatch.setattr(kernel_task, "whole_maps", lambda skulls, kernel: (*maps, domain))
    monkeypatch.setattr(kernel_task, "vault_maps", lambda skulls, expected: maps)
    monkeypatch.setattr(kernel_task, "KNOWN_FIRST", 100)
    monkeypatch.setattr(dome, "KNOWN_FAR", 30)
    monkeypatch.setattr(dome, "KNOWN_OPPOSITE", 30)
    skulls = [PackedSkull(str(n), np.zeros(1, np.int8), np.ones(1, bool), True) for n in range(30)]
    task = kernel_task.task(skulls, tmp_path)
    batches = [tuple(part[None] for part in task.sample(np.random.default_rng(n))) for n in range(3)]

    def error():
        with torch.no_grad():
            return np.mean([sum(task.loss(task.network, batch)[1].values()) for batch in batches])

    before = error()
    loop = Loop(task, tmp_path / "k.safetensors", torch.device("cpu"))
    for _ in range(8):
        loop.update(loop.batch(), 0.05)
    assert error() < 0.97 * before


def test_holes_of_the_kernel_are_boxes_at_the_back_and_blobs_within_the_domain():
    model = shell_model()
    points = mean_points(model)
    generator = np.random.default_rng(0)
    holes = [kernel_task.random_hole(generator, points, model.domain) for _ in range(12)]
    assert all(hole.sum() > 120 and not (hole & ~model.domain).any() for hole in holes)
    assert len({int(hole.sum()) for hole in holes}) > 6
