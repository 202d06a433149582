"""Conditional point diffusion of the missing surface: flow matching from a sample of the dome to the true bone.

x_t = (1 - t) x_0 + t x_1 with x_0 a point of one posterior sample of the statistical dome plus noise, x_1 the point of
the bone along the same ray; the network learns the velocity x_1 - x_0 (Lipman et al., ICLR 2023; any source
distribution is allowed, Tong et al., TMLR 2024) and sampling integrates it from t = 0 to 1. The bone is encoded once
per case; all members move as one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .points import PLACE_MM, BoneEncoder, PointBody, wave

TRUST = 0.1  # share of the learned motion that is kept; on the development skulls more costs DSC, by 0.001 at a quarter
JITTER_MM = 1.0  # of the source points, besides the dome's own spread
OWN = 3 + 3 + 3 + 8 + 3 + 1  # position, normal, kind, time, moved, offset of the sample
OFFSET_MM = 3.0


class CompletionNetwork(nn.Module):
    """Velocity in mm of every missing point."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), width: int = 64) -> None:
        super().__init__()
        self.encoder = BoneEncoder(widths)
        self.body = PointBody(self.encoder.width, OWN, width)
        self.head = nn.Linear(width, 3)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def velocity(self, encoded: Tensor, channels: Tensor, points: Tensor, t: Tensor, source: Source) -> Tensor:
        """points (B, N, 3) patch frame mm at time t (B,) -> velocity (B, N, 3) mm."""
        index = (points - source.low) / source.step_mm
        count = points.shape[1]
        own = torch.cat([
            points / PLACE_MM, source.normals, source.kind.expand(len(points), -1, -1),
            wave(t)[:, None].expand(-1, count, -1), (points - source.points) / OFFSET_MM,
            source.offset[..., None] / OFFSET_MM,
        ], 2)
        return self.head(self.body(encoded, channels, index, own)) * OFFSET_MM


class Source:
    """The points a flow starts from; all in the patch frame.

    points (B, N, 3) mm without noise, normals (B, N, 3) unit, kind (1, N, 3) one-hot (wall, outer, inner), offset
    (B, N) mm of the sample from the mean dome along the normal, low (3,) mm and step_mm of the patch grid.
    """

    def __init__(
        self, points: Tensor, normals: Tensor, kind: Tensor, mean_points: Tensor, low: Tensor, step_mm: float
    ) -> None:
        self.points, self.low, self.step_mm = points, low, step_mm
        self.normals = F.normalize(normals, dim=-1)
        self.kind = F.one_hot(kind.long(), 3).to(points.dtype)[None]
        self.offset = ((points - mean_points) * self.normals).sum(-1)


@torch.inference_mode()
def flow(
    network: CompletionNetwork, channels: Tensor, source: Source, noise: Tensor, steps: int,
    told: Callable[[float], None] | None = None,
) -> Tensor:
    """Missing points of all members, (B, N, 3) mm in the patch frame.

    channels (1, 6, D, H, W); noise (B, N, 3) standard normal; steps = evaluations: Heun's method, which takes two a
    step, and one last Euler step where odd; told : hears the share that is done.
    """
    encoded = network.encoder(channels)
    points = source.points + JITTER_MM * noise
    batch = len(points)
    pairs, single = divmod(steps, 2)
    times = torch.linspace(0, 1, pairs + single + 1, device=points.device)
    for n in range(pairs + single):
        step = times[n + 1] - times[n]
        slope = network.velocity(encoded, channels, points, times[n].expand(batch), source)
        if n < pairs:
            ahead = network.velocity(encoded, channels, points + step * slope, times[n + 1].expand(batch), source)
            slope = (slope + ahead) / 2
        points = points + step * slope
        if told is not None:
            told((n + 1) / (pairs + single))
    return source.points + TRUST * (points - source.points)
