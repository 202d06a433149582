"""One member of the ensemble after the other: a sample of the dome, its points, their solid, the refined field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from MedShapeCore.distance import zero_set_distance
from scipy import ndimage
from torch import Tensor

from .completion import Source, flow
from .dome import draw_numbers
from .head import FIELD_LIMIT_MM
from .models import Models
from .options import ImplantOptions
from .pose import HeadPose
from .preparation import Prepared, Progress, silent
from .roi import NativeRegion, Patch, surface_normals, surface_rays
from .voxelization import indicator

SHARED = 0.5  # of the correction that all members share; on the development skulls 0.4 to 1 do equally well


@dataclass(frozen=True)
class Quality:
    """What a named quality stands for."""

    steps: int  # evaluations of the point network
    solve_mm: float  # voxel of the Poisson grid
    spacing_mm: float  # of the missing points


QUALITIES = {"best": Quality(8, 1.5, 2.0), "fast": Quality(8, 2.0, 2.5)}


def member_draws(models: Models, seed: int, members: int) -> np.ndarray:
    """Random numbers of the dome samples, one row a member: the middle first, then pairs of opposites.

    Member 1 is the most likely dome; members 2 and 3, 4 and 5, ... mirror each other's deviation, so that few members
    already have the right mean (antithetic sampling, Hammersley and Morton 1956). Row k depends on seed and k alone.
    """
    rows = []
    for n in range(members):
        numbers = draw_numbers(models.dome, np.random.default_rng([seed, (n + 1) // 2]))
        rows.append(numbers * (0.0 if n == 0 else (1.0 if n % 2 else -1.0)))
    return np.stack(rows)


@dataclass(frozen=True)
class MemberPoints:
    """Points of all members, (N, n, 3), with the area normals of the surface they started from; patch frame."""

    points: Tensor
    normals: Tensor
    kind: Tensor  # (1, n, 3) one-hot
    low: Tensor  # (3,)


def missing_points(
    prepared: Prepared, options: ImplantOptions, models: Models, steps: int, quality: Quality,
    progress: Progress = silent,
) -> MemberPoints:
    """The missing surface of every member by conditional point diffusion, all members as one batch."""
    dome, patch = prepared.dome, prepared.patch
    rays = surface_rays(prepared.outline, quality.spacing_mm, np.random.default_rng([options.seed, 10**6]))
    turn = patch.head_from_patch[:3, :3].astype(np.float32)
    maps = list(zip(dome.sample_outer, dome.sample_inner, strict=True))
    points = np.stack([patch.from_head(rays.points(*m)) for m in maps])
    normals = np.stack([surface_normals(rays, *m, quality.spacing_mm) @ turn for m in maps])
    mean_points = patch.from_head(rays.points(dome.outer, dome.inner))[None]
    generators = [np.random.default_rng([options.seed, n, 7]) for n in range(len(points))]
    noise = np.stack([generator.standard_normal(points.shape[1:]) for generator in generators])

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(models.device)

    low = tensor(np.asarray(patch.grid.low))
    kind = torch.from_numpy(rays.kind.astype(np.int64)).to(models.device)
    source = Source(tensor(points), tensor(normals), kind, tensor(mean_points), low, patch.grid.step)
    channels = tensor(prepared.channels)[None]
    moved = flow(
        models.completion, channels, source, tensor(noise), steps,
        lambda share: progress("placing the missing points", 0.36 + 0.14 * share),
    )
    return MemberPoints(moved, tensor(normals), source.kind, low)


@torch.inference_mode()
def member_solid(points: MemberPoints, member: int, prepared: Prepared, models: Models, quality: Quality) -> np.ndarray:
    """Signed distance / 6 mm, (D, H, W) float32 on the patch grid, of one member's closed solid.

    member : counted from 0. The voxelization network orients its points, DPSR makes them a solid.
    """
    grid = prepared.patch.grid
    channels = torch.from_numpy(prepared.channels)[None].to(models.device)
    chosen = slice(member, member + 1)
    moved, oriented = models.voxelization(
        channels, points.points[chosen], points.normals[chosen], points.kind, points.low, grid.step)
    depth, height, width = (int(round((n - 1) * grid.step / quality.solve_mm)) + 1 for n in grid.shape)
    fine = (depth, height, width)
    solved = indicator(moved, oriented, points.low, fine, quality.solve_mm)[0].float().cpu().numpy()
    distance = zero_set_distance(solved, (quality.solve_mm,) * 3, FIELD_LIMIT_MM)
    if fine != grid.shape:
        place = np.meshgrid(*[np.arange(n) * grid.step / quality.solve_mm for n in grid.shape], indexing="ij")
        distance = ndimage.map_coordinates(distance, place, order=1, mode="nearest", output=np.float32)
    return distance / FIELD_LIMIT_MM


@torch.inference_mode()
def network_field(solid: np.ndarray, prepared: Prepared, models: Models, member: bool) -> np.ndarray:
    """Signed distance in mm, (D, H, W) on the patch grid, of what the refinement makes of a closed solid / 6 mm."""
    channels = torch.from_numpy(prepared.channels)[None].to(models.device)
    field = models.refinement(channels, torch.from_numpy(solid)[None, None].to(models.device), member)
    return np.asarray(field[0, 0].float().cpu().numpy() * np.float32(FIELD_LIMIT_MM))


def refined_field(
    solid: np.ndarray, prepared: Prepared, models: Models, member: bool, shared: np.ndarray | float = 0.0
) -> np.ndarray:
    """Signed distance in mm, (D, H, W) on the patch grid, of the completed bone.

    shared : mm, what `shared_correction` adds to every member.
    """
    return np.minimum(network_field(solid, prepared, models, member) + shared, prepared.other_side)


def shared_correction(prepared: Prepared, models: Models) -> np.ndarray:
    """What the refinement changes of the first guess without a member: (D, H, W) float32, mm of signed distance.

    A member is refined so that it stays itself. What every dome lacks (thickness at the temple, the orbital roof) only
    the network that may leave the guess can add; members share it, and differ by their own domes.
    """
    guess = prepared.channels[2]
    first = np.minimum(prepared.channels[0], guess) * np.float32(FIELD_LIMIT_MM)
    return np.float32(SHARED) * (network_field(guess, prepared, models, member=False) - first)


def native_field(field: np.ndarray, patch: Patch, region: NativeRegion, pose: HeadPose) -> np.ndarray:
    """The patch's field at the voxels of the region, +6 mm elsewhere: (k, j, i) float32."""
    native = np.full(region.bone.shape, FIELD_LIMIT_MM, np.float32)
    native[region.region] = patch.grid.sample(field, patch.from_head(region.points_head), FIELD_LIMIT_MM)
    return native
