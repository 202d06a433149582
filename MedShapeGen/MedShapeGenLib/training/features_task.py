"""Training of the feature network: to tell the categories apart by slightly turned, stretched and noisy surface points."""

from __future__ import annotations

import numpy as np
import torch
from MedShapeCore.training import Task
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn import functional as F

from ..categories import CATEGORIES
from ..features import FeatureNetwork
from .shape_pack import PackedCategory

POINTS = 512  # of a sample; half of what is looked at later
TURN_DEG = 12.0  # standard deviation; patients lie like this, and aligned sources should not be known by it
STRETCH = 0.06  # standard deviation of the logarithm along each axis
NOISE_U = 0.004  # a decoded surface is not exact
TILT = 0.1  # of its normals
SMOOTHING = 0.05  # of the labels: what is certain leaves no features


def task(categories: list[PackedCategory]) -> Task:
    """The stage `features`; every category is drawn alike."""
    numbers = [next(n for n, c in enumerate(CATEGORIES) if c.name == packed.name) for packed in categories]
    training = [packed.of("train") for packed in categories]
    filled = [n for n, rows in enumerate(training) if len(rows)]

    def sample(generator: np.random.Generator) -> tuple[Tensor, ...]:
        which = int(generator.choice(filled))
        index = int(generator.choice(training[which]))
        chosen = generator.choice(categories[which].points.shape[1], POINTS, replace=False)
        surface = varied(*categories[which].surface(index, chosen), generator)
        return torch.from_numpy(surface), torch.tensor(numbers[which])

    return Task(FeatureNetwork(), sample, classification_loss, batch=16, rate=2e-3, ema=0.99)


def varied(points: np.ndarray, normals: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(n, 6) float32: points (n, 3) u and normals (n, 3) turned, stretched, scaled to the cube again, and noisy."""
    turn = Rotation.from_rotvec(generator.normal(0, np.radians(TURN_DEG), 3)).as_matrix()
    stretch = np.exp(generator.normal(0, STRETCH, 3))
    moved = points @ (turn * stretch[:, None]).T  # the stretch acts after the turn
    moved /= np.abs(moved).max()
    tilted = normals @ (turn / stretch[:, None]).T + generator.normal(0, TILT, normals.shape)  # normals go the other way
    tilted /= np.maximum(np.linalg.norm(tilted, axis=1, keepdims=True), 1e-6)
    return np.concatenate([moved + generator.normal(0, NOISE_U, moved.shape), tilted], axis=1).astype(np.float32)


def classification_loss(network: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy, and the share of shapes whose category is named."""
    surface, label = batch
    logits = network(surface)
    named = (logits.argmax(-1) == label).float().mean()
    return F.cross_entropy(logits, label, label_smoothing=SMOOTHING), {"named": float(named)}
