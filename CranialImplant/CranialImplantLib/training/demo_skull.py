"""The bundled demo skull, demo/demo_skull.nrrd: a skull with a craniectomy that is no person's.

Sixteen training skulls are bent onto their mean shape and averaged there, so that orbits, zygomatic arches and the base
stay sharp. Their bendings are then mixed with random weights, and random smooth bending is added (the shape model of
Cootes 1995, on fields instead of points). A left fronto-parietal craniotomy with burr holes and a bevelled rim is cut
out, and the surface is roughened as by thresholding a CT. The closed skull is not kept.

No one's: its outer vault, rigidly aligned, is 1.8 mm (median distance) from the median one of 74 training skulls and
0.84 mm from the nearest. Sixteen of these skulls are 1.6 mm from the median other one and 0.79 to 1.17 mm (median 0.91)
from the nearest: it is as far from each person as two persons are from each other.

The file is derived from SkullFix and has its licence, CC BY-NC-SA 4.0, as the weights have.

    python -m CranialImplantLib.training.demo_skull --pack PACK --out FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from MedShapeCore.errors import RefusedInput
from MedShapeCore.volumes import Volume, box_of, crop, write_volume
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..dome import extended
from ..head import FIELD_LIMIT_MM, HEAD_GRID
from ..pose import Grid, register
from ..vault import VAULT_MAP
from .cases import vault_maps
from .defects import Cutter
from .pack import QUANTUM_MM, PackedSkull, read_pack
from .train import training_skulls

SKULLS = 16
LOWEST_MM = -57.0  # the scans of these skulls reach down to here: base, zygomatic arches and nose are in them
WIDE_MM = 14.0  # distances are clipped here for the registration
# (voxel in steps of HEAD_GRID, first and last width in mm of the smoothing, rounds): coarse to fine
LEVELS = ((4, 40.0, 15.0, 25), (2, 12.0, 6.0, 20))
AGAIN = ((2, 12.0, 5.0, 20),)
LARGEST_WEIGHT = 0.45  # of one skull in the mix: the result must not look like it
MIX_WIDTH_MM = 7.5  # the mix is smoothed over this: errors of single registrations tear thin orbital roofs
SMOOTH_MM, SMOOTH_WIDTH_MM = 1.3, 25.0  # deviation and width of the added bending
THIN_MM = 0.4  # averaging thins the walls of orbits and sinuses: face and base are thickened by this on each side
ROUGHNESS = ((3.0, 0.12), (0.9, 0.08))  # width and deviation in mm of the surface's noise
VOXEL_MM = (0.8, 0.8, 1.0)
BURR_MM = 7.0  # radius of a burr hole
RIM_MM = 1.2  # edges of the cut are rounded over this
SEED = 8


@dataclass(frozen=True)
class Known:
    """A skull for registration, both (K, J, I) float32 on HEAD_GRID."""

    distance: np.ndarray  # signed mm to bone, clipped at WIDE_MM
    seen: np.ndarray  # 1 where the distance is sure, 0 where bone beyond the scan might be nearer


@dataclass(frozen=True)
class Group:
    """The mean of bent skulls and how each is bent."""

    mean: np.ndarray  # (K, J, I) signed mm on HEAD_GRID
    bends: np.ndarray  # (N, 3, k, j, i) mm along x, y, z on coarse(2): skull n has at p + bends[n] what the mean has at p


# ---- registration


def coarse(by: int) -> Grid:
    """Every `by`-th voxel of HEAD_GRID along each axis."""
    k, j, i = HEAD_GRID.shape
    return Grid(HEAD_GRID.low, (-(-k // by), -(-j // by), -(-i // by)), HEAD_GRID.step * by)


def known(skull: PackedSkull) -> Known:
    """Distances beyond the 6 mm of the pack, and where they are sure."""
    field = skull.field.astype(np.float32) * np.float32(QUANTUM_MM)
    bone, half = field < 0, HEAD_GRID.step / 2
    outside, inside = (ndimage.distance_transform_edt(part, sampling=HEAD_GRID.step) - half for part in (~bone, bone))
    distance = np.where(np.abs(field) < FIELD_LIMIT_MM - 1, field, np.where(bone, -inside, outside))
    seen = np.abs(distance) < room_mm(skull)
    return Known(np.clip(distance, -WIDE_MM, WIDE_MM).astype(np.float32), seen.astype(np.float32))


def room_mm(skull: PackedSkull) -> np.ndarray:
    """(K, J, I) float32, mm to the edge of the scan; above the braincase's middle there is none: it is air."""
    inside = skull.inside.copy()
    inside[HEAD_GRID.points()[:, 0, 0, 2] > 0] = True
    edge = [(1, 0), (0, 0), (0, 0)]
    return ndimage.distance_transform_edt(np.pad(inside, edge), sampling=HEAD_GRID.step)[1:].astype(np.float32)


def bent(points: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """Points (K, J, I, 3) moved by a bending (3, K, J, I)."""
    return points + np.moveaxis(bend, 0, -1)


def resampled(bend: np.ndarray, source: Grid, points: np.ndarray) -> np.ndarray:
    """A bending (3, k, j, i) on `source` at points (..., 3); beyond the grid the border's."""
    index = np.moveaxis(source.kji(points), -1, 0)
    return np.stack([ndimage.map_coordinates(c, index, order=1, mode="nearest", output=np.float32) for c in bend])


def register_bend(
    fixed: Known, moving: Known, levels: Sequence[tuple[int, float, float, int]], bend: np.ndarray | None = None
) -> np.ndarray:
    """The bending (3, k, j, i) mm on the last level's grid with moving(p + bend) = fixed(p) near bone.

    Demons (Thirion 1998): every round adds the step that makes the distances equal, smoothed as the mean over the
    bone around, with both images' slopes. bend : where to start, on the first level's grid.
    """
    grid = coarse(levels[0][0])
    bend = np.zeros((3, *grid.shape), np.float32) if bend is None else bend.copy()
    for by, first_mm, last_mm, rounds in levels:
        last_grid, grid = grid, coarse(by)
        points = grid.points()
        if bend.shape[1:] != grid.shape:
            bend = resampled(bend, last_grid, points)
        thin = (slice(None, None, by),) * 3
        target, source = (ndimage.gaussian_filter(s.distance, by / 3 if by > 1 else 0.0)[thin] for s in (fixed, moving))
        slope = np.stack(np.gradient(target, grid.step)[::-1])
        weight = np.exp(-((target / 6.0) ** 2)) * fixed.seen[thin]
        for width_mm in np.geomspace(first_mm, last_mm, rounds):
            here = bent(points, bend)
            moved = grid.sample(source, here, WIDE_MM)
            difference = target - moved
            g = (slope + np.stack(np.gradient(moved, grid.step)[::-1])) / 2
            squared = (g**2).sum(0)
            trust = weight * (grid.sample(moving.seen[thin], here, 0.0) > 0.5) / (1 + (difference / 4.0) ** 2)
            sigma = width_mm / grid.step
            share = ndimage.gaussian_filter(trust * squared, sigma, truncate=3) + 1e-3
            for a in range(3):
                step = trust * np.clip(difference * g[a] / (squared + 0.15), -4, 4)
                bend[a] += np.clip(1.3 * ndimage.gaussian_filter(step, sigma, truncate=3) / share, -3, 3)
                bend[a] = ndimage.gaussian_filter(bend[a], 0.6)
    return bend


def group_of(skulls: list[PackedSkull], progress: Callable[[str], None] = print) -> Group:
    """Bends the skulls to the fourth one, then to their mean, in which that one counts as much as the others."""
    each = [known(s) for s in skulls]
    room = [room_mm(s) for s in skulls]
    fixed = each[min(3, len(each) - 1)]
    bends: list[Any] = [None] * len(each)
    for levels in (LEVELS, AGAIN):
        bends = [register_bend(fixed, k, levels, b) for k, b in zip(each, bends, strict=True)]
        mean = mean_field(each, room, bends)
        inverse = inverted(full(np.mean(bends, 0)))
        centred = HEAD_GRID.sample(mean, bent(HEAD_GRID.points(), inverse), WIDE_MM)
        fixed = Known(centred, np.ones_like(centred))
        # The bendings from the mean shape: first back to the old frame, then on to the skull.
        thin = coarse(2).points()
        back = inverse[:, ::2, ::2, ::2]
        bends = [back + resampled(b, coarse(2), bent(thin, back)) for b in bends]
        rms = np.sqrt(np.mean(np.square(bends)))
        progress(f"{len(skulls)} skulls bent onto their mean by {rms:.1f} mm (root mean square)")
    thinned = THIN_MM / (1 + np.exp((HEAD_GRID.points()[..., 2] + 22.0) / 4.0))  # below the brows
    return Group(centred - thinned, np.stack(bends))


def full(bend: np.ndarray) -> np.ndarray:
    """A bending on coarse(2) on HEAD_GRID."""
    return resampled(bend, coarse(2), HEAD_GRID.points())


def mean_field(each: list[Known], room: list[np.ndarray], bends: list[np.ndarray]) -> np.ndarray:
    """Mean signed distance of the bent skulls where their scans reach, fading out over 6 mm at the edges."""
    total, share = np.zeros(HEAD_GRID.shape, np.float32), np.zeros(HEAD_GRID.shape, np.float32)
    for k, r, b in zip(each, room, bends, strict=True):
        here = bent(HEAD_GRID.points(), full(b))
        weight = np.clip(HEAD_GRID.sample(r, here, 0.0) / 6.0, 0, 1)
        total += weight * HEAD_GRID.sample(k.distance, here, WIDE_MM)
        share += weight
    return np.where(share > 0.5, total / np.maximum(share, 0.5), WIDE_MM).astype(np.float32)


def inverted(bend: np.ndarray) -> np.ndarray:
    """The bending (3, K, J, I) on HEAD_GRID that undoes another one, by fixed-point iteration."""
    inverse = -bend
    for _ in range(10):
        inverse = -resampled(bend, HEAD_GRID, bent(HEAD_GRID.points(), inverse))
    return inverse


# ---- a new skull


def new_skull(group: Group, generator: np.random.Generator) -> np.ndarray:
    """The bending (3, K, J, I) on HEAD_GRID from a new skull to the group's mean."""
    number = len(group.bends)
    weights = generator.uniform(-LARGEST_WEIGHT, LARGEST_WEIGHT, number)
    # The mean of the bends is near zero, so the weights need no sum: a sample of their covariance.
    mix = np.tensordot(weights - weights.mean(), group.bends, 1)
    mix = full(ndimage.gaussian_filter(mix, (0, *[MIX_WIDTH_MM / coarse(2).step] * 3)))
    sigma = SMOOTH_WIDTH_MM / coarse(4).step
    noise = ndimage.gaussian_filter(generator.standard_normal((3, *coarse(4).shape)), (0, sigma, sigma, sigma))
    mix += resampled(SMOOTH_MM * noise / noise.std(), coarse(4), HEAD_GRID.points())
    return inverted(mix)


def lowest_mm(bend: np.ndarray) -> float:
    """Lowest height (z of the head frame) at which the new skull is known everywhere."""
    height = HEAD_GRID.points()[..., 2] + bend[2]
    x, y, _ = np.moveaxis(HEAD_GRID.points()[0], -1, 0)
    sure = (height[:, np.hypot(x / 70.0, y / 105.0) < 1] > HEAD_GRID.low[2] + 1.0).all(1)
    return float(HEAD_GRID.low[2] + HEAD_GRID.step * np.argmax(sure))


def craniotomy(outer_mm: np.ndarray, generator: np.random.Generator) -> Cutter:
    """A left parieto-frontal bone flap, sawn between four burr holes; outer_mm : (H, W) outer radii of the vault."""
    axis = np.array([0.80, -0.18, 0.60])
    axis /= np.linalg.norm(axis)
    index, _ = VAULT_MAP.pixels(axis[None])
    radius = float(VAULT_MAP.sample(outer_mm, index)[0])
    forward = np.array([0.0, -1.0, 0.15])
    first = forward - (forward @ axis) * axis
    first /= np.linalg.norm(first)
    outline = flap_outline_mm(58.0, 44.0, np.radians([40, 148, 214, 322]) + generator.normal(0, 0.08, 4), generator)
    frame = np.stack([first, np.cross(axis, first), axis])
    # The saw points at the middle of the head: the cut closes by 1 / 80 per mm of depth, so the rim is bevelled.
    return Cutter(radius * axis, frame, outline, 1 / 80.0, np.zeros((0, 3)), np.zeros((0, 3)))


def flap_outline_mm(a_mm: float, b_mm: float, burrs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Radius over the angle (512,) float32: a wavy rounded rectangle with burr holes at some angles (n,)."""
    angle = np.arange(512) * 2 * np.pi / 512
    radius = (np.abs(np.cos(angle) / a_mm) ** 2.5 + np.abs(np.sin(angle) / b_mm) ** 2.5) ** (-1 / 2.5)
    for n in range(2, 14):
        radius *= 1 + generator.normal(0, 0.05 / n**0.9) * np.cos(n * angle + generator.uniform(0, 2 * np.pi))
    for at in burrs:
        reach = float(np.interp(at % (2 * np.pi), angle, radius, period=2 * np.pi)) + 2.0
        aside = reach * np.sin(angle - at)
        far = reach * np.cos(angle - at) + np.sqrt(np.maximum(BURR_MM**2 - aside**2, 0.0))
        radius = np.where((np.abs(aside) < BURR_MM) & (np.cos(angle - at) > 0), np.maximum(radius, far), radius)
    return radius.astype(np.float32)


def scanned(
    mean: np.ndarray, bend: np.ndarray, cutter: Cutter | None, generator: np.random.Generator
) -> Volume:
    """The new skull as the mask of a head CT: uint8, in LPS axes, the head a little turned and off the middle."""
    lps_from_head = np.eye(4)
    lps_from_head[:3, :3] = Rotation.from_euler("xyz", [0.6, -1.0, 3.0], degrees=True).as_matrix()
    lps_from_head[:3, 3] = (3.0, -14.0, 52.0)
    floor = lowest_mm(bend)
    corners = np.array([[x, y, z] for x in (-88, 88) for y in (-112, 112) for z in (floor, 112)])
    corners = corners @ lps_from_head[:3, :3].T + lps_from_head[:3, 3]
    matrix = np.diag([*VOXEL_MM, 1.0])
    matrix[:3, 3] = corners.min(0)
    matrix[2, 3] = np.sort(corners[:, 2])[3]  # the highest of the four lower corners: below it not all is known
    size = np.ceil((corners.max(0) - matrix[:3, 3]) / VOXEL_MM).astype(int)
    head_from_ijk = np.linalg.inv(lps_from_head) @ matrix
    noise = [w * normal_noise(size[::-1], s / np.array(VOXEL_MM[::-1]), generator) for s, w in ROUGHNESS]
    rough = np.sum(noise, 0)
    smooth = ndimage.spline_filter(np.clip(mean, -FIELD_LIMIT_MM, FIELD_LIMIT_MM), 3, np.float32)
    mask = np.zeros(size[::-1], bool)
    j, i = np.meshgrid(np.arange(size[1]), np.arange(size[0]), indexing="ij")
    for k in range(size[2]):  # slice by slice: whole, the points alone would take 0.5 GB
        index = np.stack([i, j, np.full_like(i, k)], -1)
        points = (index @ head_from_ijk[:3, :3].T + head_from_ijk[:3, 3]).astype(np.float32)
        there = bent(points, resampled(bend, HEAD_GRID, points))
        place = np.moveaxis(HEAD_GRID.kji(there), -1, 0)
        field = ndimage.map_coordinates(smooth, place, order=3, mode="nearest", prefilter=False, output=np.float32)
        if cutter is not None:
            field = rounded_max(field, -cutter(points), RIM_MM)
        mask[k] = field + rough[k] < 0
    label, _ = ndimage.label(mask)
    sizes = np.bincount(label.ravel())
    sizes[0] = 0
    volume = Volume((label == np.argmax(sizes)).astype(np.uint8), matrix)
    box = box_of(volume.array > 0, np.array([8, 12, 12]))
    if box is None:
        raise RefusedInput("empty", "The mean of the skulls has no bone.", "Pack skulls of whole heads.")
    return crop(volume, (slice(0, box[0].stop), box[1], box[2]))


def normal_noise(shape: np.ndarray, sigma: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Smooth noise of deviation 1, float32."""
    noise = ndimage.gaussian_filter(generator.standard_normal(tuple(shape), np.float32), sigma)
    return noise / noise.std()


def rounded_max(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """The larger of two fields in mm, with the edge between them rounded over `width`."""
    near = np.maximum(width - np.abs(a - b), 0.0) / width
    return np.maximum(a, b) + near**2 * (width / 4)


# ---- is it a person's?


def surface_field(outer_mm: np.ndarray) -> np.ndarray:
    """(k, j, i) mm on coarse(2), about the signed distance to the surface of a vault (H, W) that counts as solid."""
    index, radius = VAULT_MAP.pixels(coarse(2).points())
    return np.clip(radius - VAULT_MAP.sample(extended(outer_mm), index), -WIDE_MM, WIDE_MM).astype(np.float32)


def vault_points(outer_mm: np.ndarray) -> np.ndarray:
    """(n, 3) points of the outer vault, down to 95 degrees from the vertex."""
    use = np.isfinite(outer_mm) & (VAULT_MAP.polar_deg() < 95.0)
    return (VAULT_MAP.directions() * outer_mm[..., None])[use][::4]


def difference_mm(points: np.ndarray, surface: np.ndarray) -> float:
    """Median distance of points (n, 3) to a vault's surface, see surface_field, after rigid alignment."""
    matrix, _ = register(points, surface, coarse(2), np.eye(4), with_scale=False, clip_mm=WIDE_MM)
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    return float(np.median(np.abs(coarse(2).sample(surface, moved, WIDE_MM))))


def differences(new_mm: np.ndarray, outer_mm: np.ndarray, sample: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Differences in mm of a new vault (H, W) to each of (N, H, W), and of a sample of these to the others (S, N - 1)."""
    surfaces = [surface_field(o) for o in outer_mm]

    def to_all(vault_mm: np.ndarray, leave_out: int = -1) -> list[float]:
        points = vault_points(vault_mm)
        return [difference_mm(points, s) for n, s in enumerate(surfaces) if n != leave_out]

    chosen = np.random.default_rng(0).choice(len(outer_mm), min(sample, len(outer_mm)), replace=False)
    return np.array(to_all(new_mm)), np.array([to_all(outer_mm[n], int(n)) for n in chosen])


# ---- the file


def group_skulls(skulls: list[PackedSkull]) -> list[PackedSkull]:
    """The first complete training skulls, by name, whose scans reach the lower end of the base; refuses too few."""
    row = int(np.ceil((LOWEST_MM - HEAD_GRID.low[2]) / HEAD_GRID.step))
    deep = [s for s in training_skulls(skulls, False) if s.complete and s.inside[row].mean() > 0.5]
    if len(deep) < SKULLS:
        raise RefusedInput("few-skulls", f"The pack has {len(deep)} complete skulls with their base; {SKULLS} are needed.",
                           "Pack more skulls.")  # fmt: skip
    return sorted(deep, key=lambda s: s.name)[:SKULLS]


def make(pack: Path, out: Path, seed: int = SEED, progress: Callable[[str], None] = print) -> Path:
    """Makes the demo skull from a pack, says how different it is from the training skulls, and writes it."""
    skulls = read_pack(pack)
    group = group_of(group_skulls(skulls), progress)
    generator = np.random.default_rng(seed)
    bend = new_skull(group, generator)
    field = HEAD_GRID.sample(group.mean, bent(HEAD_GRID.points(), bend), WIDE_MM)
    packed = np.clip(np.round(field / QUANTUM_MM), -127, 127).astype(np.int8)
    new_one = PackedSkull("new", packed, np.ones(HEAD_GRID.shape, bool), True)
    outer, _ = vault_maps([*(s for s in training_skulls(skulls, True) if s.complete), new_one])
    new, others = differences(outer[-1], outer[:-1])
    progress(f"vault: {np.median(new):.2f} mm from the median training skull, {new.min():.2f} mm from the nearest; "
             f"training skulls from each other: {np.median(others):.2f} mm, and {np.median(others.min(1)):.2f} mm "
             f"({others.min():.2f} to {others.min(1).max():.2f}) from the nearest")  # fmt: skip
    volume = scanned(group.mean, bend, craniotomy(outer[-1], generator), generator)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_volume(out, volume)
    progress(f"{out}: {volume}, {out.stat().st_size / 2**20:.2f} MiB")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes the bundled demo skull from a pack of training skulls.")
    parser.add_argument("--pack", type=Path, required=True, help="file made by `cranial-implant pack`")
    parser.add_argument("--out", type=Path, required=True, help="the .nrrd file to write")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    make(arguments.pack, arguments.out, arguments.seed)
