"""From missing points to a solid: a network that orients and moves points, and the differentiable Poisson solver.

As in Shape As Points (Peng et al., NeurIPS 2021) every point becomes several oriented points; here the reference normal
of the point's own surface is known, so the network only corrects it. The solve (DPSR) happens in a box around the hole.
"""

from __future__ import annotations

import torch
from MedShapeCore.dpsr import poisson_indicator
from torch import Tensor, nn

from .points import PLACE_MM, BoneEncoder, PointBody

COPIES = 2
MAX_OFFSET_MM = 1.5


class VoxelizationNetwork(nn.Module):
    """Points (B, N, 3) with area normals -> (B, COPIES N, 3) oriented points with area normals, in the patch frame."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48), width: int = 48) -> None:
        super().__init__()
        self.encoder = BoneEncoder(widths)
        self.body = PointBody(self.encoder.width, 3 + 3 + 3, width)
        self.head = nn.Linear(width, COPIES * 7)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, channels: Tensor, points: Tensor, normals: Tensor, kind: Tensor, low: Tensor, step_mm: float
    ) -> tuple[Tensor, Tensor]:
        """The points in mm and their normals in mm^2, outward.

        channels (1, 6, D, H, W); points mm and normals mm^2 (B, N, 3); kind (1, N, 3) one-hot; low (3,) mm and step_mm
        of the patch grid.
        """
        area = normals.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        unit = normals / area
        own = torch.cat([points / PLACE_MM, unit, kind.expand(len(points), -1, -1)], 2)
        out = self.head(self.body(self.encoder(channels), channels, (points - low) / step_mm, own))
        out = out.reshape(*points.shape[:2], COPIES, 7)
        moved = points[:, :, None] + MAX_OFFSET_MM * torch.tanh(out[..., :3])
        turned = unit[:, :, None] + out[..., 3:6]
        turned = turned / turned.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        sized = turned * (area[:, :, None] / COPIES) * torch.exp(out[..., 6:].clamp(-1, 1))
        return moved.flatten(1, 2), sized.flatten(1, 2)


def indicator(
    points: Tensor, normals: Tensor, low: Tensor, shape: tuple[int, int, int], spacing_mm: float
) -> Tensor:
    """DPSR on a patch grid: about -0.5 inside and +0.5 outside, (B, D, H, W).

    points (B, M, 3) mm in the patch frame with area normals (B, M, 3) mm^2, low (3,) mm of the grid of `shape`.
    """
    return poisson_indicator((points - low).flip(-1), normals.flip(-1), shape, spacing_mm)
