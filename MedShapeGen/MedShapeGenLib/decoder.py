"""Implicit decoder: the signed distance at any place from the latent points around it.

The latent points exchange what they know once per shape (latent attention); then every query attends to its nearest
latent points (cross-attention with relative places). Each of these proposes a distance: of its tangent plane, or of the
ball with its radius where the shape is a tube, plus a learned correction. Positions are measured in the local spacing of
the skeleton, so that a liver and a thin artery look alike to the network. The published decoder attends to all latent
points with Fourier features that end at 6.28 u, three cube sides: 100 times slower here and blind to detail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .encoder import FEATURES, gather, nearest, spacing

OCTAVES = 3  # Fourier features of the relative place: wavelengths of 8, 4 and 2 spacings
PLANE_OFFSET = 3  # where Tokens.plane has the plane's offset
REACH = 4.0  # spacings; further away the place saturates


@dataclass(frozen=True)
class Tokens:
    """What the queries attend to; made once per shape."""

    position: Tensor  # (B, m, 3) u
    radius: Tensor  # (B, m) u
    spacing: Tensor  # (B, m) u
    key: Tensor  # (B, m, h)
    plane: Tensor  # (B, m, 6): normal, offset in spacings, logit of tube, log of the attention's sharpness


class LatentBlock(nn.Module):
    """Pre-norm self-attention and MLP over the latent points."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(attention(self.qkv(self.norms[0](x)), self.heads))
        return x + self.mlp(self.norms[1](x))


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Multi-head self-attention of (B, m, 3 w) -> (B, m, w)."""
    batch, count, triple = qkv.shape
    q, k, v = qkv.view(batch, count, 3, heads, triple // (3 * heads)).permute(2, 0, 3, 1, 4)
    mixed = nn.functional.scaled_dot_product_attention(q, k, v)  # (B, heads, m, w / heads)
    return mixed.transpose(1, 2).reshape(batch, count, triple // 3)


class FieldDecoder(nn.Module):
    """Signed distance in u, negative inside, from latents (B, m, 4 + 12)."""

    def __init__(self, width: int = 128, blocks: int = 3, heads: int = 4, hidden: int = 64, near: int = 12,
                 latent_attention: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.near = near
        self.embed = nn.Linear(4 + FEATURES + 1, width)
        self.blocks = nn.ModuleList([LatentBlock(width, heads) for _ in range(blocks if latent_attention else 0)])
        self.norm = nn.LayerNorm(width)
        self.key = nn.Linear(width, hidden)
        self.plane = nn.Linear(width, 6)
        self.place = nn.Linear(3 + 1 + 2 + 6 * OCTAVES, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.answer = nn.Linear(hidden, 2)  # correction in spacings, logit of the attention

    def tokens(self, latents: Tensor) -> Tokens:
        """Latent attention, once per shape."""
        position, radius = latents[..., :3], latents[..., 3]
        distance = spacing(position)
        x = self.embed(torch.cat([latents, distance[..., None].log()], -1))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Tokens(position, radius, distance, self.key(x), self.plane(x))

    def forward(self, tokens: Tokens, queries: Tensor) -> Tensor:
        """(B, Q) u at the queries (B, Q, 3) u."""
        count = min(self.near + 1, tokens.position.shape[1])
        near = nearest(queries, tokens.position, count)  # (B, Q, k + 1)
        own = torch.cat([tokens.position, tokens.radius[..., None], tokens.spacing[..., None], tokens.plane], -1)
        own = gather(own, near)  # (B, Q, k + 1, 11)
        offset = queries[:, :, None] - own[..., :3]
        radius, step = own[..., 3], own[..., 4]
        distance = (offset**2).sum(-1).add(1e-12).sqrt()
        scaled = offset / step[..., None]
        length = distance / step
        shrink = torch.tanh(length / REACH) * REACH / length.clamp_min(1e-6)
        place = scaled * shrink[..., None]
        angles = torch.cat([place * (math.pi / 4 * 2**octave) for octave in range(OCTAVES)], -1)
        places = torch.cat([place, (length * shrink)[..., None], (radius / step)[..., None], step.log()[..., None],
                            angles.sin(), angles.cos()], -1)  # fmt: skip
        inner = nn.functional.gelu(gather(tokens.key, near) + self.place(places))
        correction, logit = self.answer(nn.functional.gelu(self.mix(inner))).unbind(-1)
        plane = (own[..., 5:8] * offset).sum(-1) + own[..., 8] * step
        tube = torch.sigmoid(own[..., 9])
        proposal = torch.lerp(plane, distance - radius, tube) + correction * step
        # The weight of the last neighbour ends at 0, so that the field is continuous where neighbours change.
        edge = distance.amax(-1, keepdim=True)
        window = (1 - (distance / edge) ** 2).clamp_min(0) ** 2 + 1e-9
        logit = logit - nn.functional.softplus(own[..., 10]) * length**2
        weight = torch.softmax(logit + window.log(), -1)
        return (weight * proposal).sum(-1)
