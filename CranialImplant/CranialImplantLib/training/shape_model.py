"""The dome's shape model from many vault maps: mean, modes, and how rough bone is where."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy import linalg, ndimage

from ..dome import DomeModel
from ..vault import VAULT_MAP
from .kernel import Kernel

MODES = 40
SMOOTH_PIXELS = 2.0  # what differs from an average over so many pixels is roughness
MAD = 1.48  # standard deviation of a Gaussian / its median absolute deviation


@dataclass(frozen=True)
class Shape:
    """What many maps have in common; pixel lists refer to `domain`, channel 0 = outer, 1 = inner radius."""

    domain: np.ndarray  # (H, W) bool
    mean: np.ndarray  # (2, P) mm
    modes: np.ndarray  # (Q, 2, P) mm per standard deviation
    roughness_mm: np.ndarray  # (2, P), see roughness()


def fit_shape(outer: np.ndarray, inner: np.ndarray, domain: np.ndarray, modes: int = MODES, rounds: int = 4) -> Shape:
    """The shape of radius maps (N, H, W) in mm with NaN where unknown; each map is also used mirrored.

    domain : (H, W) bool, symmetric, every pixel known in some map; no more than N modes are kept. Missing pixels are filled by the
    modes themselves and the fit repeated (expectation-maximisation on the linear model).
    """
    both = np.stack([outer, inner], 1)  # (N, 2, H, W)
    rough = roughness(both, domain)
    both = np.concatenate([both, both[..., ::-1]])
    data = both[:, :, domain].reshape(len(both), -1).astype(np.float64)  # (2N, 2P)
    modes = min(modes, len(outer))
    known = np.isfinite(data)
    mean = np.nanmean(data, 0)
    filled = np.where(known, data, mean)
    for _ in range(rounds):
        mean = filled.mean(0)
        centred = filled - mean
        values, vectors = linalg.eigh(centred @ centred.T)
        values = np.maximum(values, 1e-9 * values.max() + 1e-30)  # rounding leaves tiny negative ones
        keep = np.argsort(values)[::-1][:modes]
        basis = (vectors[:, keep].T @ centred) / np.sqrt(values[keep])[:, None]  # (Q, 2P) orthonormal
        loading = basis * np.sqrt(values[keep] / len(centred))[:, None]
        for n in np.flatnonzero(~known.all(1)):
            part = loading[:, known[n]]
            seen = part @ (data[n, known[n]] - mean[known[n]])
            code = linalg.solve(part @ part.T + 0.5 * np.eye(modes), seen, assume_a="pos")
            filled[n] = np.where(known[n], data[n], mean + code @ loading)
    return Shape(domain, mean.reshape(2, -1), loading.reshape(modes, 2, -1), rough)


def dome_model(shape: Shape, kernel: Kernel) -> DomeModel:
    """The dome's prior: as much of the modes as the kernel believes, and its local parts."""
    points = VAULT_MAP.directions()[shape.domain] * shape.mean[0][:, None]
    with torch.no_grad():
        local = kernel(torch.from_numpy(shape.roughness_mm), torch.from_numpy(points))
        believed = kernel.believed(len(shape.modes)).sqrt().numpy()
    parts = (shape.mean, believed[:, None, None] * shape.modes, *(getattr(local, f.name).numpy() for f in fields(local)))
    return DomeModel(shape.domain, *(part.astype(np.float32) for part in parts))


def roughness(maps: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """(2, P) mm, the usual size of what is finer than SMOOTH_PIXELS in maps (N, 2, H, W); the same on both sides."""
    fine = np.empty((*maps.shape[:2], int(domain.sum())))
    for skull, rows in zip(maps, fine, strict=True):
        for image, row in zip(skull, rows, strict=True):
            known = np.isfinite(image) & domain
            row[:] = np.where(known, image - _blurred(np.where(known, image, 0.0), known), np.nan)[domain]
    with np.errstate(invalid="ignore"):
        usual = MAD * np.nanmedian(np.abs(fine), 0)
    images = np.zeros((2, *domain.shape))
    images[:, domain] = np.nan_to_num(usual)
    images = (images + images[..., ::-1]) / 2
    return np.stack([_blurred(image, domain)[domain] for image in images])


def _blurred(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Average (H, W) over the known neighbours within a few pixels; the image is 0 elsewhere."""
    weight = ndimage.gaussian_filter(known.astype(float), SMOOTH_PIXELS)
    return ndimage.gaussian_filter(image.astype(float), SMOOTH_PIXELS) / np.maximum(weight, 1e-3)
