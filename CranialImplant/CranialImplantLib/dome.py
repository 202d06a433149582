"""A statistical first guess of the missing dome: a Gaussian process over the vault map, and honest samples from it.

Prior: outer and inner radius over the directions = mean + modes of many registered skulls and their mirror images +
local parts with Gaussian kernels of several lengths, all learned from skulls. Posterior given the bone around the hole:
exact regression on the known pixels (`regression`); samples by Matheron's rule (draw from the prior, then correct by the
regression of what it misses at the known pixels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from .pose import Grid
from .regression import Prior, regress
from .vault import VAULT_MAP

KNOWN_NEAR = 800  # known pixels used close to the hole
KNOWN_FIRST = 400  # the same to judge those beside the cut
KNOWN_FAR = 200  # and elsewhere
KNOWN_OPPOSITE = 500  # and on the other side, at the hole's mirror image
AGREE = 1.5  # deviations by which a pixel beside the cut may make bone thinner than its surroundings tell
FOREIGN_MM = 1.0  # and twice as many and this by which it may make it thicker
DOUBTED_MM = 30.0  # noise of what does not agree
THINNEST_MM = 1.5  # of restored bone: thinner is not printed, and samples of thin bone would have holes
NEAR_MM, OPPOSITE_MM = 32.0, 20.0
CLEAR_PIXELS = 10  # around a hole, where what was met there tells more than the other side
HEAD_BOX_MM = ((-95.0, 95.0), (-120.0, 120.0), (-60.0, 115.0))  # x, y, z: every head's vault lies inside
NOISE_STEP = 0.4  # of a noise grid, in kernel lengths
NOISE_MARGIN = 2.0  # kernel lengths around the head


@dataclass(frozen=True)
class DomeModel:
    """The prior over vault maps; pixel lists refer to `domain`, channel 0 = outer, 1 = inner radius. See Prior."""

    domain: np.ndarray  # (H, W) bool, where the model speaks
    mean: np.ndarray  # (2, P) mm
    modes: np.ndarray  # (Q, 2, P) mm per standard deviation
    lengths_mm: np.ndarray  # (L,) of the local kernels
    local_mm: np.ndarray  # (L, 2, P) standard deviation of their parts
    couplings: np.ndarray  # (L,) correlation of outer and inner radius in them
    mirrorings: np.ndarray  # (L,) and with the other side of the head
    noise_mm: np.ndarray  # (2, P) of a measured radius: bone is rough, inside more than outside


@dataclass(frozen=True)
class Dome:
    """Posterior of one head: whole maps (H, W) in mm, measured where bone is there."""

    outer: np.ndarray
    inner: np.ndarray
    deviation: np.ndarray  # (2, H, W) posterior standard deviation of outer and inner radius, 0 where measured
    sample_outer: np.ndarray  # (S, H, W)
    sample_inner: np.ndarray  # (S, H, W)


def posterior(
    model: DomeModel, outer: np.ndarray, inner: np.ndarray, hole: np.ndarray, draws: np.ndarray | None = None,
    other: np.ndarray | None = None, doubt_mm: np.ndarray | float = 0.0,
) -> Dome:
    """Regresses the whole map on what is known outside the hole and beside its cut.

    outer, inner : (H, W) mm, NaN = unknown; hole : (H, W) bool, pixels to restore: the hole and some around it, whose rays
    may meet the wall of the cut. Measured radii there count where they agree with the surroundings (`_agreeing`);
    doubt_mm : (2, H, W), how much noisier they are than elsewhere, infinite = not to be used;
    draws : (S, n) standard normal numbers of S samples (see `draw_numbers`), None = no samples;
    other : (2, H, W) mm, the radii of the head's mirror image on and around the hole, NaN elsewhere: they fill a hole below
    the domain, and count as measured on the other side, where they lie better opposite the hole than what was met there;
    None = the maps mirrored about the head frame's own plane. No hole gives the maps as they are, no known pixel the prior.
    """
    points = mean_points(model)  # (P, 3) mm
    maps = np.stack([outer, inner])
    fill = maps[..., ::-1] if other is None else other
    across = fill[..., ::-1]  # as the other side has it, where the other side is
    near = ndimage.binary_dilation(hole, np.ones((3, 3), bool), iterations=CLEAR_PIXELS)
    believed = np.where(np.isfinite(across).all(0) & ~near, across, maps)
    measured = believed[:, model.domain] - model.mean  # (2, P)
    finite = np.isfinite(measured).all(0)
    doubt = np.broadcast_to(doubt_mm, (2, *hole.shape))[:, model.domain].astype(np.float64)
    own = np.isfinite(doubt)
    missing = hole[model.domain]
    wanted = np.flatnonzero(missing)
    with torch.inference_mode():
        prior = prior_of(model)
        seen = torch.from_numpy(np.where(finite, measured, 0.0).astype(np.float64))
        usable = finite & ~missing
        beside = torch.from_numpy(np.flatnonzero(finite & missing & own.any(0)))
        if len(beside):
            chosen = torch.from_numpy(known_pixels(model.domain, points, usable, missing, KNOWN_FIRST))
            first = regress(prior, seen[:, chosen], chosen, beside)
            noise = torch.hypot(prior.noise_mm[:, beside], torch.from_numpy(doubt[:, beside]))
            true = _agreeing(seen[:, beside] - first.deviation_mm, first.variance + noise**2)
            true &= torch.from_numpy(own[:, beside])
            prior.noise_mm[:, beside] = torch.where(true, noise, DOUBTED_MM)
            usable[beside[true.any(0)].numpy()] = True
        chosen = torch.from_numpy(known_pixels(model.domain, points, usable, missing & ~usable))
        solved = regress(prior, seen[:, chosen], chosen, torch.from_numpy(wanted))
    estimate = model.mean[:, wanted] + solved.deviation_mm.numpy()
    estimate[1] = np.minimum(estimate[1], estimate[0] - THINNEST_MM)
    deviation = np.sqrt(np.maximum(solved.variance.numpy(), 0.0))
    place = np.flatnonzero(model.domain.ravel())[wanted]

    def image(flat: np.ndarray, measured: np.ndarray, below: np.ndarray) -> np.ndarray:
        """A whole map: restored pixels (below the domain the other side's), else measured ones, else the nearest."""
        out = np.where(hole, np.where(model.domain, np.nan, below), measured).astype(np.float32)
        out.ravel()[place] = flat
        return extended(out)

    sample_maps = np.zeros((0, 2, *model.domain.shape), np.float32)
    if draws is not None and len(draws):
        samples = prior_samples(model, draws)  # (S, 2, P) deviations from the mean
        correction = samples[:, :, chosen.numpy()].reshape(len(draws), -1) @ solved.gain.numpy().T
        moved = estimate + samples[:, :, wanted] - correction.reshape(len(draws), 2, -1)
        moved[:, 1] = np.minimum(moved[:, 1], moved[:, 0] - THINNEST_MM)
        sample_maps = np.stack([[image(m[0], outer, fill[0]), image(m[1], inner, fill[1])] for m in moved])
    return Dome(
        image(estimate[0], outer, fill[0]), image(estimate[1], inner, fill[1]),
        np.stack([image(d, np.zeros_like(outer), np.zeros_like(outer)) for d in deviation]),
        sample_maps[:, 0], sample_maps[:, 1],
    )


def _agreeing(excess_mm: Tensor, variance: Tensor) -> Tensor:
    """(2, n) bool: radii that are bone's own, by what they exceed the expected ones, (2, n) mm, and its variance.

    The wall of a cut lies below the outer and above the inner table: it makes bone too thin, never too thick.
    """
    thinner = torch.stack([-excess_mm[0], excess_mm[1]])
    usual = AGREE * torch.sqrt(variance)
    return (thinner < usual) & (-thinner < 2 * usual + FOREIGN_MM)


def prior_of(model: DomeModel) -> Prior:
    """The model's prior at the points of its mean outer surface, as tensors."""
    parts = (mean_points(model), model.modes, model.lengths_mm, model.local_mm, model.couplings, model.mirrorings,
             model.noise_mm)  # fmt: skip
    return Prior(*(torch.from_numpy(np.asarray(part, np.float64)) for part in parts))


def extended(image: np.ndarray) -> np.ndarray:
    """A map (H, W) whose NaN pixels have the value of the nearest known pixel; as it is where none is known."""
    index = ndimage.distance_transform_edt(~np.isfinite(image), return_distances=False, return_indices=True)
    return image[tuple(index)]


def mean_maps(model: DomeModel) -> np.ndarray:
    """(2, H, W) float32 mm, the mean outer and inner radius, below the domain the nearest pixel's."""
    maps = np.full((2, *model.domain.shape), np.nan, np.float32)
    maps[:, model.domain] = model.mean
    return np.stack([extended(image) for image in maps])


def mean_points(model: DomeModel) -> np.ndarray:
    """(P, 3) points of the mean outer surface: distances between pixels are measured on them."""
    return VAULT_MAP.directions()[model.domain] * model.mean[0][:, None]


def known_pixels(
    domain: np.ndarray, points: np.ndarray, usable: np.ndarray, missing: np.ndarray, close: int = KNOWN_NEAR
) -> np.ndarray:
    """Indices of the known pixels to use: near the hole, opposite it, and far, each thinned evenly to its number.

    domain : (H, W) bool; points : (P, 3) mm of its pixels; usable, missing : (P,) bool; close : how many near the hole. A pixel
    more or less changes the choice by a pixel or two.
    """
    priority = _priority(domain)
    index = np.flatnonzero(usable)
    if missing.any():
        tree = cKDTree(points[missing])
        distance = tree.query(points[index], distance_upper_bound=NEAR_MM)[0]
        opposite = tree.query(points[index] * [-1.0, 1.0, 1.0], distance_upper_bound=OPPOSITE_MM)[0]
        near = index[np.isfinite(distance)]
        other = index[~np.isfinite(distance) & np.isfinite(opposite)]
        far = index[~np.isfinite(distance) & ~np.isfinite(opposite)]
    else:
        near, other, far = index[:0], index[:0], index
    groups = ((near, close), (other, KNOWN_OPPOSITE), (far, KNOWN_FAR))
    return np.sort(np.concatenate([group[np.argsort(priority[group])[:count]] for group, count in groups]))


def _priority(domain: np.ndarray) -> np.ndarray:
    """(P,) numbers in [0, 1) of the domain's pixels; those below any limit are spread evenly (an R2 sequence)."""
    row, column = np.nonzero(domain)
    return (0.7548776662466927 * row + 0.5698402909980532 * column) % 1.0


def noise_grid(length_mm: float) -> Grid:
    """The head-frame grid on which local noise of a kernel length is drawn; symmetric about x = 0."""
    step, margin = NOISE_STEP * length_mm, NOISE_MARGIN * length_mm
    low = [-step * np.ceil((margin - side[0]) / step) for side in HEAD_BOX_MM]
    count = [int(np.ceil((side[1] + margin - first) / step)) + 1 for side, first in zip(HEAD_BOX_MM, low, strict=True)]
    count[0] = 2 * int(round(-low[0] / step)) + 1
    return Grid((float(low[0]), float(low[1]), float(low[2])), (count[2], count[1], count[0]), step)


def draw_numbers(model: DomeModel, generator: np.random.Generator) -> np.ndarray:
    """Standard normal numbers for one prior sample: (n,), for the modes and two channels of each kernel's noise."""
    noise = sum(2 * int(np.prod(noise_grid(length).shape)) for length in model.lengths_mm)
    return generator.standard_normal(len(model.modes) + noise)


def prior_samples(model: DomeModel, draws: np.ndarray) -> np.ndarray:
    """(S, 2, P) deviations from the mean in mm: modes plus smooth local noise of the kernels' lengths.

    draws : (S, n) standard normal numbers, see `draw_numbers`. The noise is smooth in space, as the kernel is, not on
    the map, which is stretched far from the vertex.
    """
    modes = len(model.modes)
    deviations = (draws[:, :modes] @ model.modes.reshape(modes, -1)).reshape(len(draws), 2, -1)
    points = mean_points(model)
    used = modes
    parts = zip(model.lengths_mm, model.local_mm, model.couplings, model.mirrorings, strict=True)
    for length, local, coupling, mirroring in parts:
        grid = noise_grid(length)
        size = 2 * int(np.prod(grid.shape))
        white = draws[:, used : used + size].reshape(len(draws), 2, *grid.shape)
        used += size
        sigma = 1 / (np.sqrt(2.0) * NOISE_STEP)  # a kernel of length l is white noise blurred by l / sqrt(2)
        blurred = ndimage.gaussian_filter(white, (0, 0, sigma, sigma, sigma)) * (2 * sigma * np.sqrt(np.pi)) ** 1.5
        blurred[:, 1] = coupling * blurred[:, 0] + np.sqrt(1 - coupling**2) * blurred[:, 1]
        plus, minus = np.sqrt(1 + mirroring), np.sqrt(1 - mirroring)
        blurred = (plus + minus) / 2 * blurred + (plus - minus) / 2 * blurred[..., ::-1]
        noise = np.stack([[grid.sample(channel, points, 0.0, order=3) for channel in pair] for pair in blurred])
        deviations += noise * local
    return deviations
