"""What a Gaussian per category knows about latents: mean, modes, smooth rest, sizes, and the best linear denoiser.

Token k of every training latent of a category lies at the same place of the organ (`correspondence`), so that a category is
well described by a mean and few modes. What the modes of twenty shapes leave of the next shape is mostly smooth along the
surface, so its variance is given by frequency: in harmonics of the mean shape, from broad bends to single points. The
denoiser of this Gaussian (a Wiener filter) takes the place of EDM's scalar skip connection, and the network learns only what
the Gaussian misses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MODES = 24
CHANNELS = 16
RANGES_U = (0.1, 0.2, 0.4, 0.8)  # of the kernels whose eigenvectors are the harmonics
FOLDS = 5


class ClassGaussians(nn.Module):
    """Gaussians of C categories over latents (m, 16), each channel standardised over all training data.

    The last row, number C, is the Gaussian of all categories together: of a latent whose category is not told.
    """

    def __init__(self, categories: int, tokens: int = 256, modes: int = MODES) -> None:
        super().__init__()
        rows, size = categories + 1, tokens * CHANNELS
        self.shift: Tensor
        self.scale: Tensor
        self.mean: Tensor
        self.slope: Tensor
        self.basis: Tensor
        self.variance: Tensor
        self.harmonics: Tensor
        self.rest: Tensor
        self.log_size: Tensor
        self.register_buffer("shift", torch.zeros(CHANNELS))  # of the channels, before everything else
        self.register_buffer("scale", torch.ones(CHANNELS))
        self.register_buffer("mean", torch.zeros(rows, tokens, CHANNELS))
        self.register_buffer("slope", torch.zeros(rows, tokens, CHANNELS))  # change per standard deviation of size
        self.register_buffer("basis", torch.zeros(rows, modes, size))  # orthonormal rows
        self.register_buffer("variance", torch.zeros(rows, modes))
        self.register_buffer("harmonics", torch.eye(tokens).repeat(rows, 1, 1))  # orthonormal rows, over the tokens
        self.register_buffer("rest", torch.ones(rows, tokens, CHANNELS))  # variance outside the modes, of each harmonic
        self.register_buffer("log_size", torch.tensor([0.0, 1.0]).repeat(rows, 1))  # mean, deviation of ln(scale in mm)

    @property
    def unknown(self) -> int:
        """The row of latents without a category."""
        return len(self.mean) - 1

    def standardise(self, latents: Tensor) -> Tensor:
        """Latents in u -> channels of mean 0 and variance 1."""
        return (latents - self.shift) / self.scale

    def restore(self, latents: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return latents * self.scale + self.shift

    def centre(self, label: Tensor, size: Tensor) -> Tensor:
        """(B, m, 16) mean of the categories `label` (B,) at sizes `size` (B,) in standard deviations of ln(mm)."""
        return self.mean[label] + self.slope[label] * size[:, None, None]

    def filtered(self, offset: Tensor, label: Tensor, modes: Tensor, rest: Tensor) -> Tensor:
        """Scales the part of `offset` (B, m, 16) along mode k by modes[:, k], harmonic j of the remainder by rest[:, j]."""
        basis, harmonics = self.basis[label], self.harmonics[label]  # (B, K, m 16), (B, m, m)
        along = torch.einsum("bkd,bd->bk", basis, offset.flatten(1))
        outside = offset - torch.einsum("bkd,bk->bd", basis, along).view_as(offset)
        smooth = harmonics.transpose(1, 2) @ (rest * (harmonics @ outside))
        again = torch.einsum("bkd,bd->bk", basis, smooth.flatten(1))  # the harmonics are not exactly outside the modes
        return smooth + torch.einsum("bkd,bk->bd", basis, along * modes - again).view_as(offset)

    def denoised(self, noisy: Tensor, sigma: Tensor, label: Tensor, size: Tensor) -> Tensor:
        """The mean of x given x + sigma n = noisy (B, m, 16), sigma (B,): the Wiener filter of the category."""
        centre = self.centre(label, size)
        modes, rest, squared, even = self._variances(sigma, label)
        return centre + self.filtered(noisy - centre, label, modes / (modes + squared), rest / (rest + even))

    def uncertain(self, offset: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """The covariance of x given x + sigma n, applied to `offset` (B, m, 16)."""
        modes, rest, squared, even = self._variances(sigma, label)
        return self.filtered(offset, label, modes * squared / (modes + squared), rest * even / (rest + even))

    def error(self, sigma: Tensor, label: Tensor) -> Tensor:
        """(B,) root mean square error of `denoised` per channel and token."""
        modes, rest, squared, even = self._variances(sigma, label)
        count = self.basis.shape[-1]
        inside = (modes * squared / (modes + squared)).sum(1)
        outside = (rest * even / (rest + even)).mean((1, 2)) * (count - modes.shape[1])
        return ((inside + outside) / count).sqrt()

    def noisy_start(self, noise: Tensor, sigma: Tensor, label: Tensor, size: Tensor) -> Tensor:
        """A sample of x + sigma n, exact for the Gaussian, made of `noise` (B, m, 16) of variance 1."""
        modes, rest, squared, even = self._variances(sigma, label)
        spread = self.filtered(noise, label, (modes + squared).sqrt(), (rest + even).sqrt())
        return self.centre(label, size) + spread

    def _variances(self, sigma: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the modes (B, K), of the rest (B, m, 16), and sigma^2 as (B, 1) and (B, 1, 1)."""
        squared = sigma[:, None] ** 2
        return self.variance[label], self.rest[label], squared, squared[:, None]


def fit_gaussians(latents: list[Tensor], sizes: list[Tensor], modes: int = MODES) -> ClassGaussians:
    """Gaussians of categories from their training latents (n, V, m, 16) in u and half longest sides (n,) in mm.

    V latents of each shape are of other samples of its surface. Variance outside the modes comes from shapes that were left
    out when fitting: in 4,096 numbers twenty shapes explain themselves, not the next one.
    """
    tokens = latents[0].shape[2]
    model = ClassGaussians(len(latents), tokens, modes)
    pooled = torch.cat([x.reshape(-1, CHANNELS) for x in latents])
    model.shift, model.scale = pooled.mean(0), pooled.std(0).clamp_min(1e-6)
    for row, (raw, size) in enumerate(zip(latents, sizes, strict=True)):
        x, log = model.standardise(raw), size.log()
        deviation = log.std().clamp_min(0.02) if len(log) > 1 else torch.tensor(0.1)
        model.log_size[row] = torch.stack([log.mean(), deviation])
        z = (log - log.mean()) / deviation
        model.mean[row], model.slope[row], basis, variance = gaussian_of(x, z, modes)
        model.basis[row, : len(basis)], model.variance[row, : len(basis)] = basis, variance
        harmonics = harmonics_of(model.restore(model.mean[row])[:, :3])
        model.harmonics[row] = harmonics
        model.rest[row] = rest_of(x, z, modes, harmonics)
    everything = torch.cat([x.flatten(0, 1) for x in latents])  # tokens of different categories do not correspond: no modes
    model.mean[-1] = model.standardise(everything.mean((0, 1)))
    model.rest[-1] = model.standardise(everything).var((0, 1)).clamp_min(1e-4)
    log = torch.cat(sizes).log()
    model.log_size[-1] = torch.stack([log.mean(), log.std().clamp_min(0.02)])
    return model


def gaussian_of(x: Tensor, z: Tensor, modes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (m, 16), slope over size, orthonormal modes (k, m 16), their variances (k,) of x (n, V, m, 16), z (n,)."""
    mean = x.mean((0, 1))
    slope = torch.einsum("n,nmc->mc", z, x.mean(1) - mean) / (z.square().sum() + 4)  # shrunk as by four shapes without slope
    offset = (x - mean - slope * z[:, None, None, None]).flatten(0, 1).flatten(1)
    count = min(modes, len(x) // 2)  # the other half would describe the noise of these shapes
    if count < 1:
        return mean, slope, offset[:0], offset.new_zeros(0)
    _, singular, rows = torch.linalg.svd(offset, full_matrices=False)
    return mean, slope, rows[:count], singular[:count].square() / (len(offset) - 1)


def rest_of(x: Tensor, z: Tensor, modes: int, harmonics: Tensor) -> Tensor:
    """(m, 16) variance of each harmonic outside the modes, from folds of shapes (n, V, m, 16) that were left out."""
    left_out = []
    for fold in range(min(FOLDS, len(x))):
        out = torch.arange(len(x)) % FOLDS == fold
        if out.all():
            continue
        mean, slope, basis, _ = gaussian_of(x[~out], z[~out], modes)
        offset = (x[out] - mean - slope * z[out, None, None, None]).flatten(0, 1)
        along = offset.flatten(1) @ basis.T
        left_out.append(harmonics @ (offset - (along @ basis).view_as(offset)))
    if not left_out:
        return x.new_ones(x.shape[2:])
    variance = torch.cat(left_out).square().mean(0)  # (m, 16)
    # A mean over neighbouring frequencies: one harmonic of twenty shapes is a rough estimate.
    padded = nn.functional.pad(variance.T[None], (4, 4), mode="replicate")
    return nn.functional.avg_pool1d(padded, 9, stride=1)[0].T.clamp_min(1e-4)


def harmonics_of(places: Tensor) -> Tensor:
    """(m, m) orthonormal rows over the places (m, 3) in u, from broad to fine: eigenvectors of a sum of Gaussian kernels."""
    squared = torch.cdist(places.double(), places.double()).square()
    kernel = sum(torch.exp(-squared / (2 * length**2)) for length in RANGES_U)
    assert isinstance(kernel, Tensor)
    return torch.linalg.eigh(kernel).eigenvectors.flip(1).T.to(places.dtype)
