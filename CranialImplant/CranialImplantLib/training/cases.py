"""Cases for the networks around the hole: a skull of the pack, bent and turned a little, with a random hole.

The first guess of a case comes from a shape model that never saw that skull (cross-fitting): otherwise the networks
would learn to trust it more than they may.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..defect import around_cut, bone_facing, find_holes, fine_outline, vault_bone
from ..dome import DomeModel, draw_numbers, posterior
from ..head import FIELD_LIMIT_MM, HEAD_GRID
from ..other_side import mirror_near, other_radii
from ..pose import own_mirror
from ..roi import patch_around, roi_channels, surface_normals, surface_rays
from ..vault import VAULT_MAP, cast
from .defects import Cutter, random_cutter
from .kernel import Kernel
from .pack import QUANTUM_MM, PackedSkull
from .shape_model import Shape, dome_model, fit_shape

SAMPLES = 4  # draws of the dome's posterior kept with a case
POINT_SPACING_MM = 2.0
FOLDS = 6
MIN_PIXELS = 150  # of a hole on the fine map, about 1.5 cm2
MAX_VOXELS = 96 * 96 * 48  # of a patch: larger holes are too rare to pay for
TRIES = 20
BEND_MM = 0.6  # largest deviation of the smooth bending; with 2.2 the first guess misses bent skulls half as much again
CASE_FILES = "case_*.npz"


@dataclass(frozen=True)
class Case:
    """One training case; points and normals in the patch frame, grids (D, H, W) on the patch grid."""

    channels: np.ndarray  # (6, D, H, W) float16, see roi_channels
    truth: np.ndarray  # (D, H, W) float16, signed distance of the complete bone / 6 mm
    low: np.ndarray  # (3,) of the grid
    kind: np.ndarray  # (n,) int8
    true_points: np.ndarray  # (n, 3) float32; NaN where the truth has no bone
    true_normals: np.ndarray  # (n, 3) float32, length = area in mm^2
    guess_points: np.ndarray  # (1 + SAMPLES, n, 3): the dome's mean, then its samples
    guess_normals: np.ndarray  # (1 + SAMPLES, n, 3)

    def save(self, path: Path) -> None:
        """Writes an .npz file, whole or not at all: a training may be reading the folder."""
        temporary = path.with_name("part_" + path.name)
        np.savez(temporary, **{f.name: getattr(self, f.name) for f in fields(self)})
        temporary.replace(path)

    @staticmethod
    def load(path: Path) -> Case:
        with np.load(path, allow_pickle=False) as z:
            return Case(**{f.name: z[f.name] for f in fields(Case)})


def vault_domain(outer: np.ndarray) -> np.ndarray:
    """Where the vault is: pixels (H, W) at which nearly all complete skulls have bone at a similar place.

    outer : (N, H, W) outer radius maps in mm, NaN where there is no bone.
    """
    share = np.isfinite(outer).mean(0)
    with np.errstate(invalid="ignore"):
        deviation = np.where(share > 0.5, np.nanstd(np.where(share > 0.5, outer, 0.0), 0), np.inf)
    domain = (share > 0.93) & (deviation < 8.0) & (VAULT_MAP.polar_deg() <= 120.0)
    domain &= domain[:, ::-1]
    domain = ndimage.binary_opening(domain, iterations=2)
    labels, count = ndimage.label(domain)
    largest = 1 + int(np.argmax(ndimage.sum_labels(domain, labels, range(1, count + 1))))
    return ndimage.binary_fill_holes(labels == largest)


def vault_maps(skulls: Iterable[PackedSkull], expected_mm: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Outer and inner radius maps (N, H, W) in mm of packed skulls, NaN where no bone.

    Two passes: the second passes over bone that is far from where the vault is expected.
    """
    fields_mm = [s.field.astype(np.float32) * QUANTUM_MM for s in skulls]
    directions = VAULT_MAP.directions()
    if expected_mm is None:
        first = np.stack([cast(f, HEAD_GRID, directions)[0] for f in fields_mm])
        expected_mm = np.nanmedian(first, 0)
    maps = []
    for f in fields_mm:
        coarse = cast(f, HEAD_GRID, directions[::4, ::4])[0]
        ratio = float(np.nanmedian(coarse / expected_mm[::4, ::4]))
        maps.append(cast(f, HEAD_GRID, directions, expected_mm * ratio))
    return np.stack([m[0] for m in maps]), np.stack([m[1] for m in maps])


def whole_maps(skulls: list[PackedSkull], kernel: Kernel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outer and inner maps (N, H, W) in mm of all skulls, and the vault's domain (H, W) bool.

    The hole that a skull came with is filled by a sample of the posterior of the complete skulls' model: its mean would
    teach a second model that all heads are average there.
    """
    complete = np.array([s.complete for s in skulls])
    outer, inner = vault_maps([s for s in skulls if s.complete])
    domain = vault_domain(outer)
    whole = np.empty((2, len(skulls), *domain.shape), np.float32)
    whole[:, complete] = outer, inner
    if not complete.all():
        model = dome_model(fit_shape(outer, inner, domain), kernel)
        cut = [s for s in skulls if not s.complete]
        whole[:, ~complete] = filled_maps(model, cut, *vault_maps(cut, np.nanmedian(outer, 0)))
    return whole[0], whole[1], domain


def filled_maps(
    model: DomeModel, skulls: Iterable[PackedSkull], outer: np.ndarray, inner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, H, W) in mm of skulls whose holes within the model's domain hold one posterior sample each."""
    generator = np.random.default_rng(0)
    filled_outer, filled_inner = [], []
    for skull, o, i in zip(skulls, outer, inner, strict=True):
        gone = ndimage.binary_opening(~np.isfinite(o) & model.domain)
        facing = bone_facing(skull.field.astype(np.float32) * QUANTUM_MM, np.stack([o, i]), model)
        gone, (o_met, i_met), doubt_mm = around_cut(gone, np.stack([o, i]), facing)
        dome = posterior(model, o_met, i_met, gone, draw_numbers(model, generator)[None], doubt_mm=doubt_mm)
        inside = gone & model.domain
        filled_outer.append(np.where(inside, dome.sample_outer[0], o))
        filled_inner.append(np.where(inside, dome.sample_inner[0], i))
    return np.stack(filled_outer), np.stack(filled_inner)


def folded_shapes(maps: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[list[Shape], np.ndarray]:
    """Shapes that each leave out a part of whole_maps' skulls, and for each skull the number of the one without it."""
    outer, inner, domain = maps
    fold = np.arange(len(outer)) % FOLDS
    return [fit_shape(outer[fold != f], inner[fold != f], domain) for f in range(FOLDS)], fold


def folded_models(skulls: list[PackedSkull], kernel: Kernel) -> tuple[list[DomeModel], np.ndarray]:
    """The shape models of folded_shapes."""
    shapes, fold = folded_shapes(whole_maps(skulls, kernel))
    return [dome_model(shape, kernel) for shape in shapes], fold


def bent_field(skull: PackedSkull, generator: np.random.Generator) -> np.ndarray:
    """The skull's field in mm on HEAD_GRID after a small turn, stretch, smooth bending, mirroring and threshold."""
    turn = Rotation.from_rotvec(np.radians(generator.normal(0, 1.5, 3))).as_matrix()
    stretch = np.exp(generator.normal(0, 0.025, 3) + generator.normal(0, 0.03))
    linear = (turn * (1 / stretch)).astype(np.float32)
    shift = generator.normal(0, 1.0, 3).astype(np.float32)
    noise = [ndimage.gaussian_filter(generator.normal(size=(9, 11, 9)), 1.0) for _ in range(3)]
    coarse = [ndimage.zoom(n, 3, order=1) for n in noise]
    sized = [(c / c.std() * generator.uniform(0, BEND_MM)).astype(np.float32) for c in coarse]  # mm
    bend = [ndimage.zoom(c, np.array(HEAD_GRID.shape) / c.shape, order=1) for c in sized]
    moved = HEAD_GRID.points() @ linear.T + shift + np.stack(bend, -1)
    field = HEAD_GRID.sample(skull.field.astype(np.float32) * np.float32(QUANTUM_MM), moved, FIELD_LIMIT_MM)
    if generator.random() < 0.5:
        field = field[:, :, ::-1]
    return np.ascontiguousarray(field) + np.float32(generator.normal(0, 0.12))


def cut_field(field: np.ndarray, cutter: Cutter) -> np.ndarray:
    """The bone's field without what the cutter takes away; evaluated near the cutter only."""
    reach = float(cutter.outline_mm.max()) * 1.3 + 40.0
    low = HEAD_GRID.kji(cutter.centre - reach)
    high = HEAD_GRID.kji(cutter.centre + reach)
    box = tuple(slice(max(0, int(a)), min(n, int(b) + 2)) for a, b, n in zip(low, high, HEAD_GRID.shape, strict=True))
    points = HEAD_GRID.points()[box]
    cut = field.copy()
    cut[box] = np.maximum(cut[box], -cutter(points))
    return np.minimum(cut, FIELD_LIMIT_MM)


def make_case(skull: PackedSkull, model: DomeModel, generator: np.random.Generator) -> Case | None:
    """One case, or None where the random hole is of no use: too small, outside, or over the skull's own hole."""
    whole = bent_field(skull, generator)
    inside = np.ones(HEAD_GRID.shape, bool)
    true_bone = vault_bone(whole, inside, model)  # its mirror image is not used
    cutter = random_cutter(generator, true_bone.outer, VAULT_MAP)
    cut = cut_field(whole, cutter)
    surface = np.argwhere(np.abs(cut) < HEAD_GRID.step / 2)
    chosen = surface[generator.permutation(len(surface))[:3000]]
    mirror = own_mirror(chosen[:, ::-1] * HEAD_GRID.step + np.array(HEAD_GRID.low), cut, HEAD_GRID)
    bone = vault_bone(cut, inside, model, mirror)
    new = replace(bone, outer=np.where(np.isfinite(true_bone.outer), bone.outer, 0.0))
    holes = find_holes(new, model, np.ones(VAULT_MAP.shape))
    if not holes:
        return None
    hole = holes[0]
    gone, (outer, inner), doubt_mm = around_cut(hole.pixels, np.stack([bone.outer, bone.inner]), bone.facing)
    if not skull.complete and (gone & ~np.isfinite(true_bone.outer) & model.domain).sum() > 3:
        return None
    draws = np.stack([draw_numbers(model, generator) for _ in range(SAMPLES)])
    other = other_radii(cut, mirror_near(cut, mirror, hole.centre_head), hole.pixels, bone.expected)
    dome = posterior(model, outer, inner, gone, draws, other, doubt_mm)
    outline = fine_outline(cut, dome, hole)
    if outline.missing.sum() < MIN_PIXELS:
        return None
    patch = patch_around(outline, dome, hole.centre_head)
    if np.prod(patch.grid.shape) > MAX_VOXELS:
        return None
    channels = roi_channels(cut, mirror, dome, outline, patch)
    truth = HEAD_GRID.sample(whole, patch.points_head(), FIELD_LIMIT_MM) / FIELD_LIMIT_MM
    rays = surface_rays(outline, POINT_SPACING_MM, generator)
    turn = patch.head_from_patch[:3, :3].astype(np.float32)

    def placed(outer: np.ndarray, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return patch.from_head(rays.points(outer, inner)), surface_normals(rays, outer, inner, POINT_SPACING_MM) @ turn

    true_points, true_normals = placed(true_bone.outer, true_bone.inner)
    guesses = [placed(dome.outer, dome.inner)]
    guesses += [placed(outer, inner) for outer, inner in zip(dome.sample_outer, dome.sample_inner, strict=True)]
    return Case(
        channels=np.clip(channels, -8, 8).astype(np.float16),
        truth=truth.astype(np.float16),
        low=np.asarray(patch.grid.low),
        kind=rays.kind.astype(np.int8),
        true_points=true_points.astype(np.float32),
        true_normals=true_normals.astype(np.float32),
        guess_points=np.stack([points for points, _ in guesses]).astype(np.float32),
        guess_normals=np.stack([normals for _, normals in guesses]).astype(np.float32),
    )


def write_cases(skulls: list[PackedSkull], kernel: Kernel, folder: Path, count: int, seed: int) -> int:
    """Writes the cases 0 to `count` - 1 of a seed that are missing; returns how many files the folder has."""
    models, number = folded_models(skulls, kernel)
    write_numbered_cases(skulls, models, number, folder, seed, range(count))
    return len(list(folder.glob(CASE_FILES)))


def write_numbered_cases(
    skulls: list[PackedSkull], models: list[DomeModel], number: np.ndarray, folder: Path, seed: int,
    wanted: Iterable[int], seconds: float = np.inf,
) -> None:
    """Writes the cases `wanted` as case_SEED_N.npz, without those that are there, until the time is over.

    models, number : see folded_models. A number whose every try is of no use is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for n in wanted:
        if time.monotonic() - start > seconds:
            return
        path = folder / f"case_{seed}_{n}.npz"
        if path.exists():
            continue
        generator = np.random.default_rng([seed, n])
        for _ in range(TRIES):
            which = int(generator.integers(len(skulls)))
            case = make_case(skulls[which], models[number[which]], generator)
            if case is not None:
                case.save(path)
                break
