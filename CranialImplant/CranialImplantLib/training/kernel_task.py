"""Training of the kernel by prediction: holes in maps, restored by a shape that never saw the skull.

A likelihood would ask what explains whole maps; what counts is how well a hole is restored from its surroundings.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from MedShapeCore.training import Task
from scipy import ndimage
from torch import Tensor, nn

from ..defect import RIM_PIXELS
from ..dome import KNOWN_FIRST, known_pixels
from ..regression import Prior, regress
from ..vault import VAULT_MAP
from .cases import folded_shapes, vault_maps, whole_maps
from .kernel import Kernel
from .pack import PackedSkull

BOXES = 0.35  # share of holes that are boxes at the back, the public benchmark's place
UNKNOWN = 40  # so many pixels of a hole may lie over the skull's own hole
FAR_MM = 6.0  # larger errors count as this: they are another bone
USUAL_MM = (0.5, 0.9)  # errors of the outer and inner radius, which weigh alike
HONESTY = 0.15  # weight of the likelihood, which keeps the deviations honest


def task(skulls: list[PackedSkull], folder: Path) -> Task:
    """The stage `kernel`; the folder of cases is not used."""
    kernel = Kernel()
    maps = whole_maps(skulls, kernel)
    domain = maps[2]
    shapes, number = folded_shapes(maps)
    surfaces = [VAULT_MAP.directions()[domain] * shape.mean[0][:, None] for shape in shapes]  # (P, 3) mm
    complete = [n for n, skull in enumerate(skulls) if skull.complete]
    measured = np.full((len(skulls), 2, *domain.shape), np.nan, np.float32)
    expected = np.nanmedian(maps[0][complete], 0)
    measured[:, 0], measured[:, 1] = vault_maps(skulls, expected)

    def sample(generator: np.random.Generator) -> tuple[Tensor, ...]:
        while True:
            n = int(generator.integers(len(skulls)))
            shape = shapes[number[n]]
            points = surfaces[number[n]]
            inside = random_hole(generator, points, domain)
            missing = ndimage.binary_dilation(inside, iterations=RIM_PIXELS)[domain]
            radii = measured[n][:, domain].astype(np.float64)
            finite = np.isfinite(radii).all(0)
            if skulls[n].complete or (missing & ~finite).sum() <= UNKNOWN:
                break
        known = known_pixels(domain, points, finite & ~missing, missing, KNOWN_FIRST)
        wanted = np.flatnonzero(missing & finite & inside[domain])
        seen = torch.from_numpy(np.nan_to_num(radii - shape.mean))
        return torch.tensor(number[n]), torch.from_numpy(known), torch.from_numpy(wanted), seen

    def loss(network: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        """Mean absolute error of the restored radii, and the likelihood of Laplace's distribution."""
        fold, known, wanted, seen = (part[0] for part in batch)
        shape = shapes[int(fold)]
        points = torch.from_numpy(surfaces[int(fold)])
        local = network(torch.from_numpy(shape.roughness_mm), points)
        modes = torch.from_numpy(shape.modes) * network.believed(len(shape.modes)).sqrt()[:, None, None]
        prior = Prior(points, modes, **vars(local))
        solved = regress(prior, seen[:, known], known, wanted)
        error = (solved.deviation_mm - seen[:, wanted]).abs().clamp(max=FAR_MM)
        width = torch.sqrt(solved.variance.clamp(min=1e-4) + 0.01) / math.sqrt(2)
        mean = error.mean(1)
        unlikely = (error / width + torch.log(width)).mean(1)
        weighed = (mean / mean.new_tensor(USUAL_MM) + HONESTY * unlikely).sum()
        tame = sum((part**2).sum() for part in (network.slope, network.noise_slope))
        return weighed + 0.01 * tame, {"outer_mm": mean[0].item(), "inner_mm": mean[1].item()}

    return Task(kernel, sample, loss, batch=1, rate=0.03, ema=0.98)


def random_hole(generator: np.random.Generator, points: np.ndarray, domain: np.ndarray, fewest: int = 120) -> np.ndarray:
    """(H, W) bool: a box at the back of the vertex or a blob anywhere; points : (P, 3) mm of the domain's pixels."""
    while True:
        if generator.random() < BOXES:
            aim = np.array([generator.normal(0, 0.1), generator.uniform(0.45, 1.3), 0.9])
            middle = points[np.argmax(points @ aim / np.linalg.norm(points, axis=1))]
            along = np.cross(middle, [1.0, 0.0, 0.0])
            size = generator.uniform(30, 55), generator.uniform(22, 45)
            inside = np.abs((points - middle) @ along / np.linalg.norm(along)) < size[1]
            inside &= (np.abs(points[:, 0] - middle[0]) < size[0]) & (points @ middle > 0)
        else:
            middle = points[generator.integers(len(points))]
            wave = ndimage.gaussian_filter(generator.normal(size=domain.shape), 6)
            radius = generator.uniform(18, 50) * (1 + 0.15 * wave / wave.std())
            inside = np.linalg.norm(points - middle, axis=1) < radius[domain]
        if inside.sum() > fewest:
            hole = np.zeros(domain.shape, bool)
            hole[domain] = inside
            return hole
