"""The auto-encoder: a closed surface to a skeletal latent, and back to a signed distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .decoder import FieldDecoder
from .encoder import SkeletalEncoder

POINTS = 2560  # surface points that the encoder sees
SKELETON = 256  # latent points
CUBE = 1.15  # half side of the cube in u in which the decoder was trained


@dataclass(frozen=True)
class AutoEncoderOptions:
    """Sizes, and the paper's ablations."""

    encoder_width: int = 64
    decoder_width: int = 128
    decoder_blocks: int = 3
    hidden: int = 64  # of a query's attention to one latent point
    near: int = 12  # latent points that a query attends to
    latent_attention: bool = True
    skeleton_constraint: bool = True  # the field at a skeleton point is minus its radius
    precomputed_skeleton: bool = True  # False: skeletonize every training sample anew


class AutoEncoder(nn.Module):
    """latent = encode(points, normals, skeleton); distance = field(latent, queries)."""

    def __init__(self, options: AutoEncoderOptions | None = None) -> None:
        super().__init__()
        options = options or AutoEncoderOptions()
        self.encoder = SkeletalEncoder(options.encoder_width)
        self.decoder = FieldDecoder(options.decoder_width, options.decoder_blocks, hidden=options.hidden,
                                    near=options.near, latent_attention=options.latent_attention)  # fmt: skip

    def encode(self, points: Tensor, normals: Tensor, skeleton: Tensor) -> Tensor:
        """(B, m, 16) x, y, z, radius in u and 12 standardised features; see SkeletalEncoder for the arguments."""
        return torch.cat([skeleton, self.encoder(points, normals, skeleton)], -1)

    def field(self, latents: Tensor, queries: Tensor) -> Tensor:
        """(B, Q) signed distance in u, negative inside, of latents (B, m, 16) at queries (B, Q, 3) in u."""
        return self.decoder(self.decoder.tokens(latents), queries)
