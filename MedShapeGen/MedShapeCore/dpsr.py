"""Differentiable Poisson surface reconstruction: from oriented points to an indicator field, negative inside.

Peng et al., "Shape As Points", NeurIPS 2021: the gradient of a solid's indicator is its surface normal, spread over the
surface; so the divergence of the splatted normals is the Laplacian of the indicator, and one division in Fourier space
solves for it. Three things differ, each because a plate of 4 to 8 mm on voxels of 1 to 1.5 mm needs them:

1. The smoothing kernel has no second moment. A plain Gaussian of variance s^2 moves a surface of mean curvature H by
   s^2 H (the two faces of a curved plate move apart, a ball shrinks); the factor (1 + s^2 k^2 / 2) removes that term.
2. The surface is where the field has its usual value at the points: a mean in which points at sharp edges and strays,
   whose field is far from that value, hardly count. They would shift the level for all others.
3. The level follows the points slowly through space. Normals from a network are weights known to 10 or 40 percent; one
   level for all would move the surface by as much of the kernel's width, here the surface is drawn back to the points
   (the aim of Kazhdan and Hoppe's screened Poisson, ACM TOG 2013, without its linear system).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from scipy.fft import next_fast_len
from torch import Tensor

# Variance, voxel^2, of the linear splat and of the linear interpolation by which the field is read, 1/6 each.
LINEAR_VARIANCE = 1.0 / 3.0
# Width of the Gaussian, in voxels, over which the local level is averaged: some 12 points 2 mm apart, 1.25 mm voxels.
LEVEL_WIDTH = 2.0
# Deviation from the level, in units of the step of 1 from outside to inside, at which a point stops counting.
LEVEL_TOLERANCE = 0.1
# Rounds of local levelling. The first brings a weight error of 40 % from 0.21 to 0.06 voxel rms, the second to 0.04.
LEVEL_ROUNDS = 2
# Density of points, relative to a surface, below which the local level fades to the common one.
LEVEL_FLOOR = 0.05
# A step from outside to inside smaller than this is not scaled up to 1: it is noise of unoriented normals.
SMALLEST_STEP = 0.05

Corners: TypeAlias = tuple[Tensor, Tensor]


def poisson_indicator(
    points_mm: Tensor,
    normals: Tensor,
    shape: tuple[int, int, int],
    spacing_mm: float,
    sigma: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Indicator of the closed surface sampled by oriented points: about -0.5 inside, +0.5 outside, 0 on the surface.

    points_mm  : (B, N, 3) in mm along (k, j, i), relative to the centre of voxel (0, 0, 0).
    normals    : (B, N, 3) along (k, j, i), outward; the length is the area the point stands for. Area in mm^2 gives a
                 step of 1 before scaling; a common factor cancels. Inward normals turn the sign round.
    shape      : (D, H, W) of the grid; it need not be a cube.
    spacing_mm : edge of its cubic voxels.
    sigma      : standard deviation of the Gaussian, in voxels; 1.0 suits points up to 1.7 voxels apart.
    weights    : (B, N), factor on the areas; 0 = no point (padding), whatever its coordinates hold. Default 1.
    Returns (B, D, H, W), dtype and device of the points, differentiable with respect to points, normals and weights.
    The surface must be closed and inside the grid, but may touch its faces: the periodic solve is padded. Points more
    than one voxel outside are moved to there. A sample without points gives 0 everywhere.
    The order of points changes only rounding; on CUDA so does every run (atomic additions).
    """
    _check(points_mm, normals, shape, spacing_mm, sigma, weights)
    margin = math.ceil(3.0 * sigma) + 2
    depth, height, width = (int(next_fast_len(n + 2 * margin, real=True)) for n in shape)
    if weights is not None:
        real = (weights > 0.0)[..., None]
        points_mm = torch.where(real, points_mm, 0.0)
        normals = torch.where(real, normals, 0.0) * weights[..., None]  # outside `where`: 0 x nan has a nan slope
    top = torch.tensor(shape, dtype=points_mm.dtype, device=points_mm.device)
    voxels = torch.minimum((points_mm / spacing_mm).clamp_min(-1.0), top) + margin  # (B, N, 3)
    corners = _corners(voxels, (depth, height, width))
    normals = normals / spacing_mm**2  # areas in faces of a voxel
    field = _unlevelled(corners, normals, (depth, height, width), sigma)  # (B, depth, height, width)
    areas = (normals.square().sum(dim=-1) + 1e-24).sqrt()  # (B, N); the constant keeps the slope at 0 finite
    field = _levelled(field, corners, areas)
    inner = tuple(slice(margin, margin + n) for n in shape)
    return field[:, inner[0], inner[1], inner[2]]


def _unlevelled(corners: Corners, normals: Tensor, shape: tuple[int, int, int], sigma: float) -> Tensor:
    """Smoothed indicator (B, *shape) before scale and level: 0 on the grid's faces, lower inside."""
    k, j, i = frequencies = _frequencies(shape, normals)
    square = k**2 + j**2 + i**2
    divergence: Tensor | float = 0.0
    for axis, size in enumerate(shape):  # one component at a time: a third of the memory
        frequency = frequencies[axis]
        if size % 2 == 0:  # the highest frequency of an even axis has no sign, hence no derivative
            frequency = torch.where(frequency.abs() > math.pi * (1.0 - 0.5 / size), 0.0, frequency)
        component = _splat(normals[..., axis], corners, shape)
        divergence = divergence + torch.fft.rfftn(component, dim=(1, 2, 3)) * (1j * frequency)
    flat = 1.0 + 0.5 * (sigma**2 + LINEAR_VARIANCE) * square  # takes the second moment out of the kernel
    solve = -torch.exp(-0.5 * sigma**2 * square) * flat / square.clamp_min(1e-12)
    solve[0, 0, 0] = 0.0
    field = torch.fft.irfftn(divergence * solve, s=shape, dim=(1, 2, 3))
    outside = torch.stack([field[:, 0].mean((1, 2)), field[:, :, 0].mean((1, 2)), field[:, :, :, 0].mean((1, 2))])
    return field - outside.mean(dim=0)[:, None, None, None]


def _levelled(field: Tensor, corners: Corners, areas: Tensor) -> Tensor:
    """The field (B, D, H, W) scaled to a step of 1 from outside to inside, with its zero level at the points."""
    at_points = _read(field, corners)
    step = (2.0 * _mean(at_points, areas).abs()).clamp_min(SMALLEST_STEP)  # (B, 1): half the step at the points
    field, at_points, areas = field / step[..., None, None], at_points / step, areas / step
    level = _mean(at_points, areas)
    for _ in range(2):
        level = _mean(at_points, areas * _trust(at_points - level))
    field = field - level[..., None, None]
    floor = LEVEL_FLOOR / (math.sqrt(2.0 * math.pi) * LEVEL_WIDTH)  # a plane of density 1 has 1 / (sqrt(2 pi) width)
    areas = areas * _trust(_read(field, corners))  # once: an edge must not win trust round by round
    density = floor + _blurred(_splat(areas, corners, field.shape[1:]), LEVEL_WIDTH)
    for _ in range(LEVEL_ROUNDS):
        error = _read(field, corners)  # (B, N)
        field = field - _blurred(_splat(areas * error, corners, field.shape[1:]), LEVEL_WIDTH) / density
    return field


def _trust(error: Tensor) -> Tensor:
    """How much a point counts whose field is `error` off the level; never quite zero, so that a mean always exists."""
    return torch.exp(-0.5 * (error / LEVEL_TOLERANCE) ** 2) + 1e-3


def _mean(values: Tensor, areas: Tensor) -> Tensor:
    """Mean over points: (B, N), (B, N) -> (B, 1). 0 without points."""
    return (values * areas).sum(dim=1, keepdim=True) / areas.sum(dim=1, keepdim=True).clamp_min(1e-20)


def _corners(voxels: Tensor, shape: tuple[int, int, int]) -> Corners:
    """The eight voxels around each point: flat index (8 B N,) into (B, *shape), and linear weight (8, B, N).

    voxels : (B, N, 3) continuous index along (k, j, i), at least one voxel below the top of each axis.
    """
    base = voxels.detach().floor()
    part = voxels - base
    base = base.long()
    first = torch.arange(voxels.shape[0], device=voxels.device)[:, None] * math.prod(shape)  # (B, 1)
    index, weight = [], []
    for steps in itertools.product((0, 1), repeat=3):
        k, j, i = (base[..., axis] + step for axis, step in enumerate(steps))
        a, b, c = (part[..., axis] if step else 1.0 - part[..., axis] for axis, step in enumerate(steps))
        index.append(first + (k * shape[1] + j) * shape[2] + i)
        weight.append(a * b * c)
    return torch.stack(index).reshape(-1), torch.stack(weight)


def _splat(values: Tensor, corners: Corners, shape: Sequence[int]) -> Tensor:
    """Linear spread of point values (B, N) onto a grid (B, *shape); the sum is kept."""
    index, weight = corners
    grid = values.new_zeros(values.shape[0] * math.prod(shape))
    return grid.index_add(0, index, (weight * values).reshape(-1)).view(values.shape[0], *shape)


def _read(grid: Tensor, corners: Corners) -> Tensor:
    """Linear interpolation of a grid (B, D, H, W) at the points: (B, N), the adjoint of _splat."""
    index, weight = corners
    return (weight * grid.reshape(-1)[index].view_as(weight)).sum(dim=0)


def _frequencies(shape: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Angular frequencies in radians per voxel of a real transform, as (D, 1, 1), (1, H, 1), (1, 1, W // 2 + 1)."""
    made = {"dtype": like.dtype, "device": like.device}
    k, j = (2.0 * math.pi * torch.fft.fftfreq(n, **made) for n in shape[:2])
    i = 2.0 * math.pi * torch.fft.rfftfreq(shape[2], **made)
    return k[:, None, None], j[None, :, None], i[None, None, :]


def _blurred(grid: Tensor, width: float) -> Tensor:
    """Gaussian of the given width in voxels over a periodic grid (B, D, H, W)."""
    k, j, i = _frequencies(grid.shape[1:], grid)
    kernel = torch.exp(-0.5 * width**2 * k**2) * torch.exp(-0.5 * width**2 * j**2) * torch.exp(-0.5 * width**2 * i**2)
    return torch.fft.irfftn(torch.fft.rfftn(grid, dim=(1, 2, 3)) * kernel, s=grid.shape[1:], dim=(1, 2, 3))


def _check(
    points_mm: Tensor,
    normals: Tensor,
    shape: tuple[int, int, int],
    spacing_mm: float,
    sigma: float,
    weights: Tensor | None,
) -> None:
    if points_mm.dim() != 3 or points_mm.shape[2] != 3 or normals.shape != points_mm.shape:
        raise ValueError(
            f"points and normals must both be (B, N, 3), not {tuple(points_mm.shape)} and {tuple(normals.shape)}"
        )
    if weights is not None and weights.shape != points_mm.shape[:2]:
        raise ValueError(f"weights must be {tuple(points_mm.shape[:2])}, not {tuple(weights.shape)}")
    if points_mm.dtype not in (torch.float32, torch.float64) or normals.dtype != points_mm.dtype:
        # Half precision overflows in the spectrum.
        raise ValueError(f"points and normals must be float32 or float64, not {points_mm.dtype} and {normals.dtype}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"the grid's shape must be three positive numbers, not {tuple(shape)}")
    if not spacing_mm > 0.0 or not sigma > 0.0:
        raise ValueError(f"spacing and sigma must be positive, not {spacing_mm} mm and {sigma} voxels")
