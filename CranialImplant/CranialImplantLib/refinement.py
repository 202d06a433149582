"""A network that sees the bone and one member's solid and gives the field whose zero set is the restored bone.

It adds a correction to the union of bone and member that is bounded near the member's surface; a flag turns it into the
deterministic network that starts from the first guess alone, with a wider bound (the baseline without diffusion).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .head import FIELD_LIMIT_MM
from .networks import UNet3d, depth_to_space
from .points import RAW_CHANNELS

MEMBER_BOUND_MM = 1.5  # how far a member's surface may be moved
FREE_BOUND_MM = 5.0  # the same for the first guess
FAR_BOUND_MM = 12.0  # where the solid is more than NEAR_MM away, other bone (orbital roof, arch) may be made or removed
NEAR_MM = (2.5, 5.5)


class RefinementNetwork(nn.Module):
    """channels (1, 6, D, H, W), a closed solid's field / 6 mm (B, 1, D, H, W) -> field of the completed bone / 6 mm."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64)) -> None:
        super().__init__()
        self.unet = UNet3d(RAW_CHANNELS + 2, widths)
        self.head = nn.Conv3d(widths[0], 8, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # untrained, the network returns bone and solid as they are

    def forward(self, channels: Tensor, solid: Tensor, member: bool) -> Tensor:
        flag = torch.full_like(solid, 1.0 if member else 0.0)
        base = torch.minimum(channels[:, :1], solid)
        near = (MEMBER_BOUND_MM if member else FREE_BOUND_MM) / FIELD_LIMIT_MM
        far = ((solid.abs() * FIELD_LIMIT_MM - NEAR_MM[0]) / (NEAR_MM[1] - NEAR_MM[0])).clamp(0, 1) * (solid > 0)
        bound = near + (FAR_BOUND_MM / FIELD_LIMIT_MM - near) * far
        seen = torch.cat([channels.expand(len(solid), -1, -1, -1, -1), solid, flag], 1)
        change = depth_to_space(self.head(self.unet(seen)))
        return base + bound * torch.tanh(change)
