"""The feature network: what it may depend on, and that its stage trains it."""

import numpy as np
import pytest
import torch
from MedShapeCore.errors import FailedResult
from MedShapeCore.training import Loop
from MedShapeCore.weights import write_manifest
from MedShapeGenLib.categories import CATEGORIES
from MedShapeGenLib.features import WIDTH, FeatureNetwork, described, load_features
from MedShapeGenLib.training.features_task import POINTS, task, varied
from safetensors.torch import save_file


class Packed:
    """Stands for a packed category: points on an ellipsoid with some half axes."""

    def __init__(self, name, axes, shapes=4):
        self.name, self.axes = name, np.array(axes)
        self.points = np.zeros((shapes, 2 * POINTS, 3), np.int16)
        self.split = np.array(["train"] * shapes)

    def of(self, *splits):
        return np.flatnonzero(np.isin(self.split, splits))

    def surface(self, index, chosen):
        normals = np.random.default_rng(index).normal(size=(len(chosen), 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return (normals * self.axes).astype(np.float32), normals.astype(np.float32)


def surface(seed, count=64):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return np.concatenate([points, points], axis=1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return FeatureNetwork().eval()


def test_it_is_small(network):
    assert 2 * sum(p.numel() for p in network.parameters()) < 1e6  # bytes in half precision


def test_the_order_of_the_points_does_not_matter(network):
    a = surface(0)
    features, _ = described(network, [a, np.random.default_rng(1).permutation(a)])
    assert features[0] == pytest.approx(features[1], abs=1e-5)


def test_shapes_are_described_alone_as_together(network):
    shapes = [surface(n) for n in range(70)]  # more than one batch
    together, named = described(network, shapes)
    alone, _ = described(network, shapes[66:67])
    assert together.shape == (70, WIDTH) and named.shape == (70,)
    assert together[66] == pytest.approx(alone[0], abs=1e-5)
    assert described(network, [])[0].shape == (0, WIDTH)


def test_normals_follow_a_stretched_surface():
    """On a ball turned and stretched to an ellipsoid a normal is along x / axes^2, here always outward."""
    where, normals = Packed("kidney", [1, 1, 1]).surface(0, np.arange(400))
    for seed in range(3):
        moved = varied(where, normals, np.random.default_rng(seed))
        assert moved.shape == (400, 6) and np.abs(moved[:, :3]).max() == pytest.approx(1.0, abs=0.02)
        axes = np.abs(moved[:, :3]).max(axis=0)  # the half axes lie along x, y, z: the stretch acts last
        true = moved[:, :3] / axes**2
        true /= np.linalg.norm(true, axis=1, keepdims=True)
        assert np.einsum("ij,ij->i", true, moved[:, 3:]).mean() > 0.98  # the tilt of 0.1 costs 0.01


def test_two_categories_are_told_apart_after_some_steps(tmp_path):
    names = [CATEGORIES[2].name, CATEGORIES[5].name]
    stage = task([Packed(names[0], [1, 0.3, 0.3]), Packed(names[1], [0.9, 1, 0.95])])
    loop = Loop(stage, tmp_path / "features.checkpoint.safetensors", torch.device("cpu"))
    shares = [loop.update(loop.batch(), 2e-3)["named"] for _ in range(12)]
    assert np.mean(shares[-3:]) > 0.9
    label = loop.batch()[1]
    assert set(label.tolist()) == {2, 5}


def test_weights_are_checked(tmp_path, network):
    with pytest.raises(FailedResult):
        load_features(tmp_path)
    save_file(network.state_dict(), tmp_path / "features.safetensors")
    write_manifest(tmp_path, {})
    a = surface(3)
    assert described(load_features(tmp_path), [a])[0] == pytest.approx(described(network, [a])[0])
    save_file({"answer.bias": torch.zeros(3)}, tmp_path / "features.safetensors")
    write_manifest(tmp_path, {})
    with pytest.raises(FailedResult) as caught:
        load_features(tmp_path)
    assert caught.value.code == "weights-architecture"
