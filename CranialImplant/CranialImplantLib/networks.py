"""The one building block of the volume networks: a small 3-D U-Net with a space-to-depth stem.

Widths are multiples of 16 and tensors are channels-last, which is many times faster on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Unit(nn.Module):
    """Convolution, group normalisation, SiLU: (B, inputs, D, H, W) -> (B, outputs, D, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.conv(x)))


def space_to_depth(x: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B, 8 C, D/2, H/2, W/2)."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c, d // 2, 2, h // 2, 2, w // 2, 2)
    return x.permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(b, 8 * c, d // 2, h // 2, w // 2)


def depth_to_space(x: Tensor) -> Tensor:
    """(B, 8 C, D, H, W) -> (B, C, 2 D, 2 H, 2 W); undoes space_to_depth."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, 2, 2, 2, c // 8, d, h, w)
    return x.permute(0, 4, 5, 1, 6, 2, 7, 3).reshape(b, c // 8, 2 * d, 2 * h, 2 * w)


class UNet3d(nn.Module):
    """Features at half resolution from a grid at full resolution.

    (B, inputs, D, H, W) with D, H, W multiples of 2^len(widths) -> (B, widths[0], D/2, H/2, W/2), two units a level.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv3d(8 * inputs, widths[0], 1)
        self.down = nn.ModuleList()
        for n, width in enumerate(widths):
            before = widths[max(n - 1, 0)]
            self.down.append(nn.Sequential(Unit(before, width), Unit(width, width)))
        self.up = nn.ModuleList()
        for n in range(len(widths) - 2, -1, -1):
            self.up.append(Unit(widths[n] + widths[n + 1], widths[n]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(space_to_depth(x).contiguous(memory_format=torch.channels_last_3d))
        skips: list[Tensor] = []
        for n, block in enumerate(self.down):
            if n:
                x = F.avg_pool3d(x, 2)
            x = block(x)
            skips.append(x)
        for n, block in enumerate(self.up):
            skip = skips[-2 - n]
            x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = block(torch.cat([x, skip], 1))
        return x
