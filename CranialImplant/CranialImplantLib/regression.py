"""Gaussian process regression on the vault map: the covariance of a prior, and its regression on bone that is known.

Written with torch, so that training learns the prior by descending through the very code that predicts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HEAVINESS = 2.0  # degrees of freedom of the noise
ROUNDS = 2  # of its reweighting


@dataclass(frozen=True)
class Prior:
    """Modes that all heads share and local kernels, at P points; channel 0 = outer, 1 = inner radius; float64."""

    points: Tensor  # (P, 3) mm
    modes: Tensor  # (Q, 2, P) mm per standard deviation
    lengths_mm: Tensor  # (L,) of Gaussian kernels
    local_mm: Tensor  # (L, 2, P) standard deviation of each kernel's part
    couplings: Tensor  # (L,) correlation of outer and inner radius in it
    mirrorings: Tensor  # (L,) correlation with the other side of the head
    noise_mm: Tensor  # (2, P) of a measured radius


def covariance(prior: Prior, a: Tensor, b: Tensor) -> Tensor:
    """(2A, 2B) mm^2 between the points a (A,) and b (B,), indices; the first halves are the outer radii."""
    whole = prior.modes[:, :, a].flatten(1).T @ prior.modes[:, :, b].flatten(1)
    size_a, size_b = len(a), len(b)
    blocks = [[whole[p * size_a : (p + 1) * size_a, q * size_b : (q + 1) * size_b] for q in (0, 1)] for p in (0, 1)]
    here = torch.cdist(prior.points[a], prior.points[b]) ** 2
    across = torch.cdist(prior.points[a], _reflected(prior.points[b])) ** 2
    for n, length in enumerate(prior.lengths_mm):
        near = torch.exp(-0.5 * here / length**2) + prior.mirrorings[n] * torch.exp(-0.5 * across / length**2)
        for p in (0, 1):
            for q in (0, 1):
                size = prior.local_mm[n, p, a][:, None] * prior.local_mm[n, q, b]
                blocks[p][q] = blocks[p][q] + (1.0 if p == q else prior.couplings[n]) * size * near
    return torch.cat([torch.cat(row, 1) for row in blocks])


def variance(prior: Prior, a: Tensor) -> Tensor:
    """(2, A) mm^2, the diagonal of covariance(prior, a, a)."""
    across = (2 * prior.points[a, 0]) ** 2
    whole = (prior.modes[:, :, a] ** 2).sum(0)
    for n, length in enumerate(prior.lengths_mm):
        whole = whole + prior.local_mm[n][:, a] ** 2 * (1 + prior.mirrorings[n] * torch.exp(-0.5 * across / length**2))
    return whole


def _reflected(points: Tensor) -> Tensor:
    return points * points.new_tensor([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Regression:
    """The posterior at the wanted points."""

    deviation_mm: Tensor  # (2, W) from the prior's mean
    variance: Tensor  # (2, W) mm^2
    gain: Tensor  # (2W, 2C): takes what is missed at the known points to the wanted ones


def regress(prior: Prior, seen_mm: Tensor, known: Tensor, wanted: Tensor) -> Regression:
    """Regresses the points `wanted` (W,) on `known` (C,), indices; seen_mm : (2, C) measured there less the mean.

    The noise has Student's distribution, so that a ridge or a vessel beside the hole does not bend the dome: its
    variance is reweighted point by point (Lange, Little and Taylor 1989), the reweighting itself is not differentiated.
    """
    own = covariance(prior, known, known)
    noise = prior.noise_mm[:, known].flatten() ** 2
    seen = seen_mm.flatten()[:, None]
    with torch.no_grad():
        weight = torch.ones_like(noise)
        for _ in range(ROUNDS):
            factor = torch.linalg.cholesky(own + torch.diag(noise * weight))
            error = noise * weight * torch.cholesky_solve(seen, factor)[:, 0]  # what is taken for noise
            weight = ((HEAVINESS + error**2 / noise) / (HEAVINESS + 1)).clamp(min=1.0)
    factor = torch.linalg.cholesky(own + torch.diag(noise * weight))
    cross = covariance(prior, wanted, known)
    gain = torch.cholesky_solve(cross.T, factor).T
    shape = (2, len(wanted))
    explained = (gain * cross).sum(1).reshape(shape)
    return Regression((gain @ seen).reshape(shape), variance(prior, wanted) - explained, gain)
