"""Training of the refinement: follow the member where the truth is bent, start from the first guess without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from MedShapeCore.training import Task
from scipy import ndimage
from torch import Tensor, nn

from ..head import FIELD_LIMIT_MM
from ..refinement import RefinementNetwork
from ..roi import RIM_REACH_MM, ROI_STEP_MM
from .case_source import CaseFolder, grid_tensor
from .pack import PackedSkull

CLIP_MM = 3.0  # errors of the field beyond this do not matter


def task(skulls: list[PackedSkull], folder: Path) -> Task:
    """The stage `refinement`; `folder` has the cases, the skulls are not used."""
    source = CaseFolder(folder)

    def sample(generator: np.random.Generator) -> tuple[Tensor, ...]:
        case = source.draw(generator)
        channels = case.channels.astype(np.float32)
        truth = case.truth.astype(np.float32)
        wall = channels[3] * 20.0
        member = generator.random() < 0.5
        solid = channels[2]
        if member:
            # Another dome with the same rim is the truth; the member is that dome with a small error of its own.
            image = truth.shape[1:]
            bend = smooth_noise(generator, image, generator.uniform(14, 30), abs(generator.normal(0, 1.0)))
            truth = shifted(truth, rim_window(wall) * bend)
            error = smooth_noise(generator, image, generator.uniform(4, 15), abs(generator.normal(0, 0.5)))
            thicker = np.float32(generator.normal(0, 0.2))
            moved = shifted(truth, np.broadcast_to(error, truth.shape)) + thicker / FIELD_LIMIT_MM
            solid = np.maximum(moved, (wall - RIM_REACH_MM) / FIELD_LIMIT_MM)
            solid = np.clip(solid + generator.normal(0, 0.02, solid.shape), -1, 1)
        flag = torch.tensor(float(member))
        return grid_tensor(channels), grid_tensor(solid[None]), grid_tensor(truth[None]), flag

    return Task(RefinementNetwork(), sample, refinement_loss, batch=1, rate=1.5e-3)


def smooth_noise(
    generator: np.random.Generator, shape: tuple[int, ...], length_mm: float, size_mm: float
) -> np.ndarray:
    """(H, W) smooth random shift in mm of standard deviation `size_mm`, the same along the patch's normal."""
    noise = ndimage.gaussian_filter(generator.normal(size=shape), length_mm / ROI_STEP_MM, mode="wrap")
    return (noise / max(noise.std(), 1e-6) * size_mm).astype(np.float32)


def rim_window(wall_mm: np.ndarray) -> np.ndarray:
    """0 at the rim and outside, 1 from 12 mm inside the hole."""
    share = np.clip(-wall_mm / 12.0, 0, 1)
    return share * share * (3 - 2 * share)


def shifted(field: np.ndarray, shift_mm: np.ndarray) -> np.ndarray:
    """The field moved along the patch's normal by `shift_mm` (broadcast to (D, H, W)), linear between voxels."""
    depth = field.shape[0]
    place = np.arange(depth, dtype=np.float32)[:, None, None] - np.broadcast_to(shift_mm, field.shape) / ROI_STEP_MM
    low = np.clip(np.floor(place).astype(int), 0, depth - 2)
    share = np.clip(place - low, 0, 1).astype(np.float32)
    return np.take_along_axis(field, low, 0) * (1 - share) + np.take_along_axis(field, low + 1, 0) * share


def refinement_loss(network: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
    """Clipped absolute error of the field where an implant may be, plus a soft Dice of the implant."""
    channels, solid, truth, member = batch
    field = network(channels, solid, bool(member[0] > 0.5))
    clip = CLIP_MM / FIELD_LIMIT_MM
    wall = channels[:, 3:4] * 20.0
    free = (channels[:, :1] > 0).to(field.dtype)
    zone = free * (wall < 3.0)
    weight = 0.02 + zone + zone * (wall > -6.0)  # the rim counts twice
    error = ((field.clamp(-clip, clip) - truth.clamp(-clip, clip)).abs() * weight).sum() / weight.sum() * FIELD_LIMIT_MM
    width = 0.5 / FIELD_LIMIT_MM
    predicted, true = torch.sigmoid(-field / width) * zone, torch.sigmoid(-truth / width) * zone
    dice = 1 - (2 * (predicted * true).sum() + 1) / ((predicted**2).sum() + (true**2).sum() + 1)
    base = torch.minimum(channels[:, :1], solid)
    first = torch.sigmoid(-base / width) * zone
    start = 1 - (2 * (first * true).sum() + 1) / ((first**2).sum() + (true**2).sum() + 1)
    name = "member" if float(member[0]) > 0.5 else "free"
    return error + 2 * dice, {f"{name}_dice": float(dice.detach()), f"{name}_start": float(start)}
