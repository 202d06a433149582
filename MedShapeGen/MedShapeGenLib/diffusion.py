"""EDM diffusion of skeletal latents (Karras et al. 2022), with the category's Gaussian as its linear part.

D(x; sigma) = W(x; sigma) + c_out F(x; sigma), where W is the Wiener filter of the category (`gaussian`). For an isotropic
Gaussian of variance sigma_d^2 this is EDM's own preconditioning: W = c_skip x with c_skip = s_d^2 / (sigma^2 + s_d^2), and
c_out = sigma s_d / sqrt(sigma^2 + s_d^2) is the error of W (EDM, table 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .decoder import attention
from .gaussian import CHANNELS, ClassGaussians

SIGMA_MIN, SIGMA_MAX, RHO = 0.02, 4.0, 7.0  # in standard deviations of the channels

Guide = Callable[[Tensor, float], Tensor]  # denoised latents (N, m, 16) in u with gradient, sigma -> loss (N,)


class Block(nn.Module):
    """Pre-norm transformer block whose norms are scaled and shifted by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(2)])
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.heads = heads
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        inner = self.norms[0](x) * (1 + scale1) + shift1
        x = x + (1 + gate1) * self.out(attention(self.qkv(inner), self.heads))
        return x + (1 + gate2) * self.mlp(self.norms[1](x) * (1 + scale2) + shift2)


class LatentDiffusion(nn.Module):
    """The denoiser of latents, conditioned on category and size; works in standardised channels."""

    def __init__(self, categories: int, tokens: int = 256, width: int = 128, blocks: int = 6, heads: int = 4) -> None:
        super().__init__()
        self.gaussians = ClassGaussians(categories, tokens)
        self.embed = nn.Linear(3 * CHANNELS, width)
        self.category = nn.Embedding(categories + 1, width)
        self.condition = nn.Sequential(nn.Linear(18, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, CHANNELS)
        nn.init.zeros_(self.answer.weight)  # the first answer is the Gaussian's
        nn.init.zeros_(self.answer.bias)

    def correction(self, noisy: Tensor, linear: Tensor, sigma: Tensor, label: Tensor, size: Tensor) -> Tensor:
        """F: (B, m, 16) of variance about 1. Which token is which is told by the category's mean, not by its index."""
        centre = self.gaussians.centre(label, size)
        scale = (sigma**2 + 1).rsqrt()[:, None, None]  # EDM's c_in for variance 1
        x = self.embed(torch.cat([(noisy - centre) * scale, linear - centre, centre], -1))
        noise = sigma.log() / 4  # EDM's c_noise
        angles = noise[:, None] * 2 ** torch.arange(8, device=x.device) * (math.pi / 2)
        parts = torch.cat([angles.sin(), angles.cos(), size[:, None], noise[:, None]], -1)
        condition = nn.functional.silu(self.condition(parts) + self.category(label))
        for block in self.blocks:
            x = block(x, condition)
        return self.answer(self.norm(x))

    def forward(self, noisy: Tensor, sigma: Tensor, label: Tensor, size: Tensor) -> Tensor:
        """D: the denoised latents (B, m, 16); noisy = x + sigma n, sigma, label, size (B,); all standardised."""
        linear = self.gaussians.denoised(noisy, sigma, label, size)
        step = self.gaussians.error(sigma, label)[:, None, None]
        return linear + step * self.correction(noisy, linear, sigma, label, size)


def sigmas(steps: int) -> list[float]:
    """Noise levels of the sampler, falling, the last 0 (EDM, eq. 5)."""
    ends = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(ends[0] + k / max(steps - 1, 1) * (ends[1] - ends[0])) ** RHO for k in range(steps)] + [0.0]


def guided(model: LatentDiffusion, x: Tensor, sigma: float, label: Tensor, size: Tensor, weight: float,
           interval: tuple[float, float], guide: Guide | None) -> Tensor:  # fmt: skip
    """D with classifier-free guidance and, where there is a `guide`, drawn towards a smaller loss.

    Guidance: D = (1 + w) D(category) - w D(unknown), away from what any shape is. The paper's formula has the signs the
    other way round, which leads away from the category; its code has them as here, in the corrector alone. It is applied
    in every evaluation with sigma within `interval` (Kynkaanniemi et al. 2024): early it only takes away variety.
    """
    noise = x.new_full((len(x),), sigma)
    denoised = model(x, noise, label, size)
    if weight and interval[0] <= sigma <= interval[1]:
        unknown = torch.full_like(label, model.gaussians.unknown)
        denoised = denoised + weight * (denoised - model(x, noise, unknown, size))
    if guide is None:
        return denoised
    with torch.enable_grad():
        free = denoised.detach().requires_grad_(True)
        loss = guide(model.gaussians.restore(free), sigma)
        (gradient,) = torch.autograd.grad(loss.sum(), free)
    # The covariance that is left spreads the pull over the whole shape, along its modes (Song et al. 2023).
    pull = model.gaussians.uncertain(gradient, noise, label)
    longest = 2 * model.gaussians.error(noise, label) * math.sqrt(free[0].numel())
    length = pull.flatten(1).norm(dim=1).clamp_min(1e-12)
    return denoised - pull * torch.minimum(torch.ones_like(length), longest / length)[:, None, None]


def sample(model: LatentDiffusion, noise: Tensor, label: Tensor, size: Tensor, steps: int = 8, weight: float = 0.0,
           interval: tuple[float, float] = (0.05, 2.0), guide: Guide | None = None, half: bool = False,
           progress: Callable[[float], None] | None = None) -> Tensor:  # fmt: skip
    """Latents in u from noise (N, m, 16) of variance 1; EDM's algorithm 1 (Heun), 2 steps - 1 evaluations.

    label (N,) rows of the categories, size (N,) in standard deviations; `half` = the published sampler's way of guiding
    only the corrector. Shape n depends on row n of the arguments alone.
    """
    levels = sigmas(steps)
    first = noise.new_full((len(noise),), levels[0])
    x = model.gaussians.noisy_start(noise, first, label, size)
    with torch.no_grad():
        for k, (now, then) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            plain = 0.0 if half else weight
            slope = (x - guided(model, x, now, label, size, plain, interval, guide)) / now
            ahead = x + (then - now) * slope
            if then > 0:
                second = (ahead - guided(model, ahead, then, label, size, weight, interval, guide)) / then
                ahead = x + (then - now) * (slope + second) / 2
            x = ahead
            if progress:
                progress((k + 1) / steps)
    return model.gaussians.restore(x)
