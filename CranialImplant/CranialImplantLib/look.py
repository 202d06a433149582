"""The whole-head look: a small network that sees the head at 4 mm and says where bone is missing and how it is turned.

For every voxel it gives the missing occupancy and the head-frame coordinates of that place; the coordinates of all bone
voxels give the pose by a weighted Procrustes fit, which registration to the atlas then makes exact.
"""

from __future__ import annotations

import numpy as np
import torch
from MedShapeCore.volumes import spacing_of
from scipy import ndimage
from torch import Tensor, nn

from .head import averaged
from .networks import UNet3d, depth_to_space
from .pose import procrustes

LOOK_SIZE = 64
LOOK_STEP_MM = 4.0
FEWEST_VOXELS = 20  # of 8 mm with bone; fewer say nothing about a pose
COORDINATE_MM = 100.0  # head coordinates are divided by this


class LookNetwork(nn.Module):
    """(B, 2, 64, 64, 64) occupancy and outside-the-scan -> missing logits (B, 1, 64^3) and coordinates (B, 3, 32^3)."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.unet = UNet3d(2, widths)
        self.missing = nn.Conv3d(widths[0], 8, 1)
        self.coordinates = nn.Conv3d(widths[0], 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.unet(x)
        return depth_to_space(self.missing(features)), self.coordinates(features)


def look_matrix(centre_lps: np.ndarray) -> np.ndarray:
    """(4, 4) LPS <- (i, j, k) of the look grid around a centre (3,) in LPS mm, axes along LPS."""
    matrix = np.diag([LOOK_STEP_MM] * 3 + [1.0])
    matrix[:3, 3] = centre_lps - LOOK_STEP_MM * (LOOK_SIZE - 1) / 2
    return matrix


def look_input(mask: np.ndarray, ijk_to_lps: np.ndarray, lps_from_look: np.ndarray) -> np.ndarray:
    """(2, 64, 64, 64) float32: averaged occupancy of a mask (K, J, I), and 1 outside the scan, on the look grid."""
    occupancy, matrix = averaged(mask, ijk_to_lps, LOOK_STEP_MM / 2)
    axis = np.arange(LOOK_SIZE, dtype=np.float64)
    k, j, i = np.meshgrid(axis, axis, axis, indexing="ij")
    to_input = np.linalg.inv(matrix) @ lps_from_look
    index = (np.stack([i, j, k], -1) @ to_input[:3, :3].T + to_input[:3, 3])[..., ::-1]
    size = np.array(occupancy.shape)
    outside = ~((index > -0.5) & (index < size - 0.5)).all(-1)
    step = spacing_of(matrix)[::-1]
    smooth = ndimage.gaussian_filter(occupancy, 0.35 * LOOK_STEP_MM / step)
    values = ndimage.map_coordinates(smooth, np.moveaxis(index, -1, 0), order=1, mode="constant", output=np.float32)
    return np.stack([values, outside.astype(np.float32)])


def head_centre(mask: np.ndarray, ijk_to_lps: np.ndarray) -> np.ndarray:
    """A rough centre (3,) of the braincase in LPS mm: middle of the upper bone's box, 80 mm below the top.

    mask : (K, J, I) bool, with bone; the head is roughly upright.
    """
    step = np.maximum(1, (3.0 / spacing_of(ijk_to_lps)[::-1]).astype(int))
    index = np.argwhere(mask[:: step[0], :: step[1], :: step[2]]) * step
    points = index[:, ::-1] @ ijk_to_lps[:3, :3].T + ijk_to_lps[:3, 3]
    top = np.percentile(points[:, 2], 99.8)
    upper = points[points[:, 2] > top - 120]
    low, high = np.percentile(upper, 1, 0), np.percentile(upper, 99, 0)
    return np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, top - 80.0])


@torch.inference_mode()
def look(network: LookNetwork, channels: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Missing probability (64, 64, 64) and head coordinates x, y, z in mm (32, 32, 32, 3) of one look."""
    logits, coordinates = network(torch.from_numpy(channels)[None].to(device))
    probability = torch.sigmoid(logits)[0, 0].float().cpu().numpy()
    return probability, coordinates[0].permute(1, 2, 3, 0).float().cpu().numpy() * COORDINATE_MM


def similarity_from_look(channels: np.ndarray, coordinates: np.ndarray, lps_from_look: np.ndarray) -> np.ndarray:
    """(4, 4) head <- LPS similarity from the coordinates the network gave to the voxels with bone.

    channels, coordinates : as `look_input` and `look` return them. The identity where there is hardly any bone.
    """
    half = channels[0].reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5))
    index = np.argwhere(half > 0.08)
    centres = 2.0 * index + 0.5
    points = centres[:, ::-1] @ lps_from_look[:3, :3].T + lps_from_look[:3, 3]
    target = coordinates[tuple(index.T)]
    weights = np.ones(len(points))
    matrix = np.eye(4)
    if len(index) < FEWEST_VOXELS:
        return matrix
    for _ in range(8):  # reweighted: a wrong patch must not turn the head
        rotation, shift, scale = procrustes(points, target, weights)
        error = np.linalg.norm(target - (scale * points @ rotation.T + shift), axis=1)
        weights = 1.0 / (1.0 + (error / max(4.0, float(np.median(error)))) ** 2) ** 2
        matrix[:3, :3], matrix[:3, 3] = scale * rotation, shift
    return matrix
