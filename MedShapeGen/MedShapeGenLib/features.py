"""A small network that knows the categories by their surface points; FID and KID compare sets of shapes in its features.

It is our own and ships with the weights. Published FID and KID of shapes come from other networks, most of them not
published: no figure made with this one may be held against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from MedShapeCore.errors import FailedResult
from MedShapeCore.weights import open_weights
from torch import Tensor, nn

from .categories import CATEGORIES

POINTS = 1024  # surface points with normals of one shape
WIDTH = 64  # features: few, because a covariance needs more shapes than it has rows
AT_ONCE = 64


class FeatureNetwork(nn.Module):
    """Classifier of point sets (PointNet, Qi et al. 2017): one network for all points, twice, with the set's maximum."""

    def __init__(self, categories: int = len(CATEGORIES)) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 64), nn.GELU(), nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU())
        self.point, self.everywhere = nn.Linear(128, 128), nn.Linear(128, 128, bias=False)
        self.second = nn.Sequential(nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 128))
        self.head = nn.Sequential(nn.LayerNorm(256), nn.Linear(256, WIDTH), nn.GELU())
        self.answer = nn.Linear(WIDTH, categories)

    def features(self, surface: Tensor) -> Tensor:
        """(B, WIDTH) of surfaces (B, n, 6): place in u and outward unit normal; the order of points does not matter."""
        points = self.first(surface)
        points = self.second(self.point(points) + self.everywhere(points.amax(1, keepdim=True)))  # (B, n, 128)
        return self.head(torch.cat([points.amax(1), points.mean(1)], -1))

    def forward(self, surface: Tensor) -> Tensor:
        """Logits (B, categories) of surfaces (B, n, 6)."""
        return self.answer(self.features(surface))


def load_features(folder: Path) -> FeatureNetwork:
    """The network with the weights of a folder; FailedResult where they are missing, changed or of another network."""
    network = FeatureNetwork()
    try:
        network.load_state_dict(open_weights(folder).tensors("features"))
    except RuntimeError as error:
        raise FailedResult("weights-architecture", "The weights of the feature network do not fit it.",
                           "Train it again with this version.") from error  # fmt: skip
    return network.eval().requires_grad_(False)


def described(network: FeatureNetwork, surfaces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, WIDTH) float64 and category numbers (n,) of surfaces, each (p, 6): place in u and normal."""
    found, named = [np.zeros((0, WIDTH))], [np.zeros(0, np.int64)]
    with torch.inference_mode():
        for start in range(0, len(surfaces), AT_ONCE):
            batch = torch.from_numpy(np.stack(surfaces[start : start + AT_ONCE]).astype(np.float32))
            features = network.features(batch)
            found.append(features.double().numpy())
            named.append(network.answer(features).argmax(-1).numpy())
    return np.concatenate(found), np.concatenate(named)
