"""A statistical first guess of the missing dome: a Gaussian process over the vault map, and honest samples from it.

Prior: outer and inner radius over the directions = mean + modes of many registered skulls and their mirror images + a
local residual with a Gaussian kernel. Posterior given the bone around the hole: exact regression on the known pixels;
samples by Matheron's rule (draw from the prior, then correct by the regression of what it misses at the known pixels).

The regression is done twice and averaged: on the radii with the leading modes, and on outer radius and logarithm of the
thickness with all modes. Their errors differ; on unseen skulls the average errs 5 % less than the better of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg, ndimage
from scipy.spatial import cKDTree

from .pose import Grid
from .vault import VAULT_MAP

KNOWN_NEAR = 500  # known pixels used close to the hole
KNOWN_FAR = 200  # and elsewhere
KNOWN_OPPOSITE = 250  # and on the other side, at the hole's mirror image
NEAR_MM, OPPOSITE_MM = 32.0, 8.0
HEAD_BOX_MM = ((-95.0, 95.0), (-120.0, 120.0), (-60.0, 115.0))  # x, y, z: every head's vault lies inside
NOISE_STEP = 0.4  # of a noise grid, in kernel lengths
NOISE_MARGIN = 2.0  # kernel lengths around the head
LEADING_MODES = 40  # of the view on the radii
THICKNESS_MM = 6.0  # where the logarithmic view has the same unit as the other
THINNEST_MM = 0.8


@dataclass(frozen=True)
class DomeModel:
    """The prior over vault maps; pixel lists refer to `domain`, channel 0 = outer, 1 = inner radius."""

    domain: np.ndarray  # (H, W) bool, where the model speaks
    mean: np.ndarray  # (2, P) mm
    modes: np.ndarray  # (Q, 2, P) mm per standard deviation
    residual_mm: np.ndarray  # (2, P) standard deviation of what the modes leave
    lengths_mm: tuple[float, float] = (60.0, 12.0)  # of the residual's two Gaussian kernels, long and short
    shares: tuple[float, float] = (0.95, 0.05)  # of the residual's variance
    couplings: tuple[float, float] = (0.8, 0.3)  # correlation of outer and inner residual
    mirroring: float = 0.7  # correlation of the residual with that of the other side
    noise_mm: tuple[float, float] = (0.2, 0.6)  # of a measured outer and inner radius: inside, bone is rough
    inflation: float = 3.5  # of the posterior deviation, so that members of unseen skulls differ as much as they err


@dataclass(frozen=True)
class Dome:
    """Posterior of one head: whole maps (H, W) in mm, measured where bone is there."""

    outer: np.ndarray
    inner: np.ndarray
    deviation: np.ndarray  # (H, W) posterior standard deviation of the outer radius, 0 where measured
    sample_outer: np.ndarray  # (S, H, W)
    sample_inner: np.ndarray  # (S, H, W)


def fit_dome_model(
    outer: np.ndarray, inner: np.ndarray, domain: np.ndarray, modes: int = 80, rounds: int = 4
) -> DomeModel:
    """Learns the prior from radius maps (N, H, W) in mm with NaN where unknown; each map is also used mirrored.

    domain : (H, W) bool, symmetric, every pixel known in some map; no more than N modes are kept. Missing pixels are filled by the
    model itself and the fit repeated (expectation-maximisation on the linear model).
    """
    both = np.stack([outer, inner], 1)  # (N, 2, H, W)
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
        deviation = np.sqrt(values[keep] / len(centred))
        loading = basis * deviation[:, None]
        for n in np.flatnonzero(~known.all(1)):
            part = loading[:, known[n]]
            seen = part @ (data[n, known[n]] - mean[known[n]])
            code = linalg.solve(part @ part.T + 0.5 * np.eye(modes), seen, assume_a="pos")
            filled[n] = np.where(known[n], data[n], mean + code @ loading)
    residual = centred - (centred @ basis.T) @ basis
    # The sample residual is too small by the degrees of freedom the modes took.
    shrink = np.sqrt(len(centred) / max(len(centred) - modes, 1))
    size = int(domain.sum())
    spread = np.sqrt((residual**2).mean(0)).reshape(2, size) * shrink
    smooth = np.stack([_smooth_on(domain, s) for s in spread])
    return DomeModel(
        domain, mean.reshape(2, size).astype(np.float32), loading.reshape(-1, 2, size).astype(np.float32),
        smooth.astype(np.float32),
    )


def _smooth_on(domain: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (P,) of the domain's pixels, averaged with their neighbours within the domain."""
    image = np.zeros(domain.shape)
    image[domain] = values
    weight = ndimage.gaussian_filter(domain.astype(float), 2.0)
    return (ndimage.gaussian_filter(image, 2.0) / np.maximum(weight, 1e-6))[domain]


def posterior(
    model: DomeModel, outer: np.ndarray, inner: np.ndarray, hole: np.ndarray, draws: np.ndarray | None = None,
    other: np.ndarray | None = None,
) -> Dome:
    """Regresses the whole map on what is known outside the hole.

    outer, inner : (H, W) mm, NaN = unknown; hole : (H, W) bool, pixels to restore (never used as known);
    draws : (S, n) standard normal numbers of S samples (see `draw_numbers`), None = no samples;
    other : (2, H, W) mm, the radii of the head's mirror image, which fill a hole below the domain; None = the maps
    mirrored about the head frame's own plane. No hole gives the maps as they are, no known pixel the prior.
    """
    points = mean_points(model)  # (P, 3) mm
    finite = np.isfinite(outer[model.domain]) & np.isfinite(inner[model.domain])
    missing = hole[model.domain]
    usable = finite & ~missing
    chosen = _choose_known(points, usable, missing, _priority(model.domain))
    values = np.stack([outer[model.domain], inner[model.domain]])  # (2, P)
    wanted = np.flatnonzero(missing)

    straight = leading(model, LEADING_MODES)
    estimate, factor, cross = _regression(straight, points, values, chosen, wanted)
    gain = linalg.cho_solve(factor, cross.T, check_finite=False).T  # (2W, 2C)
    variance = _prior_variance(straight)[:, wanted] - (gain * cross).sum(1).reshape(2, -1)
    curved = _regression(logarithmic(model), points, with_log_thickness(values), chosen, wanted)[0]
    estimate = (estimate + without_log_thickness(curved)) / 2
    deviation = model.inflation * np.sqrt(np.maximum(variance, 0.0))
    place = np.flatnonzero(model.domain.ravel())[wanted]

    fill = np.stack([outer, inner])[:, :, ::-1] if other is None else other

    def image(flat: np.ndarray, measured: np.ndarray, below: np.ndarray) -> np.ndarray:
        """A whole map: restored pixels (below the domain the other side's), else measured ones, else the nearest."""
        out = np.where(hole, np.where(model.domain, np.nan, below), measured).astype(np.float32)
        out.ravel()[place] = flat
        return extended(out)

    sample_maps = np.zeros((0, 2, *model.domain.shape), np.float32)
    if draws is not None and len(draws):
        samples = prior_samples(straight, draws)  # (S, 2, P) deviations from the mean
        correction = samples[:, :, chosen].reshape(len(draws), -1) @ gain.T
        moved = estimate + model.inflation * (samples[:, :, wanted] - correction.reshape(len(draws), 2, -1))
        sample_maps = np.stack([[image(m[0], outer, fill[0]), image(m[1], inner, fill[1])] for m in moved])
    return Dome(
        image(estimate[0], outer, fill[0]), image(estimate[1], inner, fill[1]),
        image(deviation[0], np.zeros_like(outer), np.zeros_like(outer)),
        sample_maps[:, 0], sample_maps[:, 1],
    )


def _regression(
    model: DomeModel, points: np.ndarray, values: np.ndarray, chosen: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, bool], np.ndarray]:
    """Exact regression of the pixels `wanted` (W,) on `chosen` (C,).

    points : (P, 3) mm; values : (2, P) mm, used at the chosen pixels. Returns the estimate (2, W) in mm, the Cholesky
    factor of the chosen pixels' covariance (2 C, 2 C) and the covariance (2 W, 2 C) of the wanted pixels with them.
    """
    k_known = _kernel(model, points, chosen, chosen)
    k_known[np.diag_indices_from(k_known)] += np.repeat(np.square(model.noise_mm), len(chosen))
    factor = linalg.cho_factor(k_known, lower=True, overwrite_a=True, check_finite=False)
    difference = (values - model.mean)[:, chosen].reshape(-1)
    cross = _kernel(model, points, wanted, chosen)  # (2W, 2C)
    estimate = model.mean[:, wanted] + (cross @ linalg.cho_solve(factor, difference, check_finite=False)).reshape(2, -1)
    return estimate, factor, cross


def leading(model: DomeModel, count: int) -> DomeModel:
    """The model with its first `count` modes; the variance of the others goes to the residual."""
    left_out = (model.modes[count:] ** 2).sum(0)
    return replace(model, modes=model.modes[:count], residual_mm=np.sqrt(model.residual_mm**2 + left_out))


def with_log_thickness(radii: np.ndarray) -> np.ndarray:
    """Radii (2, ...) in mm -> outer radius and outer radius - c - c log(thickness / c), c = THICKNESS_MM."""
    outer, inner = radii
    thickness = np.maximum(outer - inner, THINNEST_MM)
    return np.stack([outer, outer - THICKNESS_MM * (1 + np.log(thickness / THICKNESS_MM))])


def without_log_thickness(values: np.ndarray) -> np.ndarray:
    """Undoes with_log_thickness: (2, ...) -> radii (2, ...) in mm."""
    outer, other = values
    return np.stack([outer, outer - THICKNESS_MM * np.exp((outer - other) / THICKNESS_MM - 1)])


def logarithmic(model: DomeModel) -> DomeModel:
    """The model of with_log_thickness(radii), to first order in the deviations from the mean."""
    slope = THICKNESS_MM / np.maximum(model.mean[0] - model.mean[1], THINNEST_MM)  # (P,)
    modes = np.stack([model.modes[:, 0], (1 - slope) * model.modes[:, 0] + slope * model.modes[:, 1]], 1)
    outer, inner = model.residual_mm
    coupling = float(np.dot(model.shares, model.couplings))
    squared = ((1 - slope) * outer) ** 2 + (slope * inner) ** 2 + 2 * coupling * slope * (1 - slope) * outer * inner
    residual = np.stack([outer, np.sqrt(np.maximum(squared, 1e-4))])
    return replace(model, mean=with_log_thickness(model.mean), modes=modes, residual_mm=residual)


def extended(image: np.ndarray) -> np.ndarray:
    """A map (H, W) whose NaN pixels have the value of the nearest known pixel; as it is where none is known."""
    index = ndimage.distance_transform_edt(~np.isfinite(image), return_distances=False, return_indices=True)
    return image[tuple(index)]


def mean_points(model: DomeModel) -> np.ndarray:
    """(P, 3) points of the mean outer surface: distances between pixels are measured on them."""
    return VAULT_MAP.directions()[model.domain] * model.mean[0][:, None]


def _choose_known(
    points: np.ndarray, usable: np.ndarray, missing: np.ndarray, priority: np.ndarray
) -> np.ndarray:
    """Indices of the known pixels to use: near the hole, opposite it, and far, each thinned to its number.

    points : (P, 3) mm; usable, missing : (P,) bool; priority : (P,), the lowest stay. A pixel more or less changes the
    choice by a pixel or two.
    """
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
    groups = ((near, KNOWN_NEAR), (other, KNOWN_OPPOSITE), (far, KNOWN_FAR))
    return np.sort(np.concatenate([group[np.argsort(priority[group])[:count]] for group, count in groups]))


def _priority(domain: np.ndarray) -> np.ndarray:
    """(P,) numbers in [0, 1) of the domain's pixels; those below any limit are spread evenly (an R2 sequence)."""
    row, column = np.nonzero(domain)
    return (0.7548776662466927 * row + 0.5698402909980532 * column) % 1.0


def _kernel(model: DomeModel, points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Prior covariance (2A, 2B) of both channels at pixels a and b."""
    left = model.modes[:, :, a].reshape(len(model.modes), -1)
    right = model.modes[:, :, b].reshape(len(model.modes), -1)
    covariance = left.T @ right
    reflected = points[b] * np.array([-1.0, 1.0, 1.0])
    squared, across = (
        ((points[a] ** 2).sum(1)[:, None] + (other**2).sum(1) - 2 * points[a] @ other.T).astype(np.float32)
        for other in (points[b], reflected)
    )
    size_a, size_b = len(a), len(b)
    for length, share, coupling in zip(model.lengths_mm, model.shares, model.couplings, strict=True):
        narrow = np.float32(-0.5 / length**2)
        local = share * (np.exp(squared * narrow) + model.mirroring * np.exp(across * narrow))
        for p in range(2):
            for q in range(2):
                factor = 1.0 if p == q else coupling
                covariance[p * size_a : (p + 1) * size_a, q * size_b : (q + 1) * size_b] += (
                    factor * model.residual_mm[p, a][:, None] * model.residual_mm[q, b]
                ) * local
    return covariance


def _prior_variance(model: DomeModel) -> np.ndarray:
    """(2, P) mm^2, the diagonal of the kernel."""
    across = (2 * mean_points(model)[:, 0]) ** 2  # squared distance of a pixel to its mirror image
    factor = 1.0 + sum(
        share * model.mirroring * np.exp(-0.5 * across / length**2)
        for length, share in zip(model.lengths_mm, model.shares, strict=True)
    )
    return (model.modes**2).sum(0) + model.residual_mm**2 * factor


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
    return generator.standard_normal(min(len(model.modes), LEADING_MODES) + noise)


def prior_samples(model: DomeModel, draws: np.ndarray) -> np.ndarray:
    """(S, 2, P) deviations from the mean in mm: modes plus smooth local noise of the kernels' lengths.

    draws : (S, n) standard normal numbers, see `draw_numbers`. The noise is smooth in space, as the kernel is, not on
    the map, which is stretched far from the vertex.
    """
    modes = len(model.modes)
    deviations = (draws[:, :modes] @ model.modes.reshape(modes, -1)).reshape(len(draws), 2, -1)
    points = mean_points(model)
    used = modes
    for length, share, coupling in zip(model.lengths_mm, model.shares, model.couplings, strict=True):
        grid = noise_grid(length)
        size = 2 * int(np.prod(grid.shape))
        white = draws[:, used : used + size].reshape(len(draws), 2, *grid.shape)
        used += size
        sigma = 1 / (np.sqrt(2.0) * NOISE_STEP)  # a kernel of length l is white noise blurred by l / sqrt(2)
        blurred = ndimage.gaussian_filter(white, (0, 0, sigma, sigma, sigma)) * (2 * sigma * np.sqrt(np.pi)) ** 1.5
        blurred[:, 1] = coupling * blurred[:, 0] + np.sqrt(1 - coupling**2) * blurred[:, 1]
        plus, minus = np.sqrt(1 + model.mirroring), np.sqrt(1 - model.mirroring)
        blurred = (plus + minus) / 2 * blurred + (plus - minus) / 2 * blurred[..., ::-1]
        noise = np.stack([[grid.sample(channel, points, 0.0, order=3) for channel in pair] for pair in blurred])
        deviations += np.sqrt(share) * noise * model.residual_mm
    return deviations
