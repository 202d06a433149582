"""The learned baselines beside mirror and thin plate: a PCA shape model fitted to the bone, the network without diffusion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from MedShapeCore.volumes import spacing_of
from scipy import linalg

from . import baselines
from .baselines import HoleCase
from .defect import around_cut
from .dome import DomeModel, extended
from .head import FIELD_LIMIT_MM
from .members import native_field, refined_field
from .models import Models
from .preparation import Prepared
from .roi import NativeRegion, region_points, shell_field
from .subtraction import implant_from_field


def pca_maps(model: DomeModel, outer: np.ndarray, inner: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outer and inner radius maps (H, W) in mm of the mean plus the modes that fit the known bone best (ridge regression)."""
    known = np.isfinite(outer) & np.isfinite(inner) & ~hole
    use = known[model.domain]
    values = (np.stack([outer[model.domain], inner[model.domain]]) - model.mean)[:, use].reshape(-1)
    weights = 1.0 / (model.local_mm**2).sum(0)[:, use].reshape(-1)
    part = model.modes[:, :, use].reshape(len(model.modes), -1)
    code = linalg.solve((part * weights) @ part.T + np.eye(len(part)), (part * weights) @ values, assume_a="pos")
    fitted = model.mean + np.tensordot(code, model.modes, 1)
    maps = []
    for channel, measured in enumerate((outer, inner)):
        image = np.where(hole, np.nan, measured).astype(np.float32)
        image[model.domain & hole] = fitted[channel][hole[model.domain]]
        maps.append(extended(image))
    return maps[0], maps[1]


def _pca(hole: HoleCase) -> np.ndarray:
    prepared, models = _context(hole)
    located = prepared.located
    bone = located.bone
    gone, _, _ = around_cut(prepared.hole.pixels, np.stack([bone.outer, bone.inner]), bone.facing)
    outer, inner = pca_maps(models.dome, bone.outer, bone.inner, gone)
    field = np.full(hole.region.shape, FIELD_LIMIT_MM, np.float32)
    field[hole.region] = shell_field(outer, inner, prepared.outline, region_points(hole.region, hole.ijk_to_lps, located.pose))
    return implant_from_field(field, hole.bone, hole.region, spacing_of(hole.ijk_to_lps))


def _network(hole: HoleCase) -> np.ndarray:
    prepared, models = _context(hole)
    field = refined_field(prepared.channels[2], prepared, models, member=False)
    pose = prepared.located.pose
    region = NativeRegion(hole.box, hole.ijk_to_lps, hole.bone, hole.region, region_points(hole.region, hole.ijk_to_lps, pose))
    native = native_field(field, prepared.patch, region, pose)
    return implant_from_field(native, hole.bone, hole.region, spacing_of(hole.ijk_to_lps))


def _context(hole: HoleCase) -> tuple[Prepared, Models]:
    return hole.context  # type: ignore[return-value]


BASELINES: dict[str, Callable[[HoleCase], np.ndarray]] = baselines.BASELINES | {"pca": _pca, "network": _network}
