"""Whether the spread of an ensemble tells the error of its mean implant, away from the rim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from MedShapeCore.metrics import surface_index
from MedShapeCore.volumes import box_of, cropped_matrix, kji_from_lps, lps_from_ijk, sample, spacing_of

from .ensemble import SpreadSurface

BEYOND_RIM_MM = 5.0  # nearer to bone every member is right, and spread says nothing about error
ERROR_LIMIT_MM = 10.0  # errors beyond count as this
FEWEST_VERTICES = 10  # a rank correlation over fewer says nothing


@dataclass(frozen=True)
class SpreadError:
    """How the members' spread foretells the error of the mean implant, beyond 5 mm from the rim."""

    rank_correlation: float | None  # Spearman's; None with too few vertices or a constant spread
    spread_mm: float | None  # medians over the vertices; None without any
    error_mm: float | None
    vertices: int


def spread_error_correlation(
    spread: SpreadSurface, truth: np.ndarray, bone: np.ndarray, ijk_to_lps: np.ndarray
) -> SpreadError:
    """Compares the spread at the mean surface's outer and inner vertices with their distance to the true surface."""
    from scipy.stats import spearmanr

    values_mm, error_mm = spread_and_error(spread, truth, bone, ijk_to_lps)
    if not len(values_mm):
        return SpreadError(None, None, None, 0)
    rank = None
    if len(values_mm) >= FEWEST_VERTICES and np.ptp(values_mm) > 0 and np.ptp(error_mm) > 0:
        rank = float(spearmanr(values_mm, error_mm).statistic)
    return SpreadError(rank, float(np.median(values_mm)), float(np.median(error_mm)), len(values_mm))


def spread_and_error(
    spread: SpreadSurface, truth: np.ndarray, bone: np.ndarray, ijk_to_lps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Spread and distance to the true surface, (n,) mm, at the outer and inner vertices of the mean surface.

    truth, bone : (K, J, I) bool on the grid `ijk_to_lps`. Vertices of the rim or within 5 mm of bone are left out; an
    empty truth leaves none.
    """
    from MedShapeCore.distance import signed_distance
    from scipy.spatial import cKDTree

    spacing_mm = spacing_of(ijk_to_lps)[::-1]
    vertices, values_mm = (np.asarray(a, float)[spread.side != 0] for a in (spread.vertices_lps, spread.spread_mm))
    truth_box = box_of(truth, np.ceil(ERROR_LIMIT_MM / spacing_mm).astype(int))
    if truth_box is None or not len(vertices):
        return np.zeros(0), np.zeros(0)
    index = kji_from_lps(ijk_to_lps, vertices)
    reach = BEYOND_RIM_MM / spacing_mm + 1
    low = np.maximum(np.floor(index.min(0) - reach), 0).astype(int)
    high = np.maximum(np.ceil(index.max(0) + reach) + 1, low).astype(int)
    near = surface_index(bone[low[0] : high[0], low[1] : high[1], low[2] : high[2]]) + low
    if len(near):
        tree = cKDTree(lps_from_ijk(ijk_to_lps, near))
        far = np.isinf(tree.query(vertices, distance_upper_bound=BEYOND_RIM_MM, workers=-1)[0])
        vertices, values_mm = vertices[far], values_mm[far]
    field_mm = signed_distance(truth[truth_box], spacing_mm.tolist(), ERROR_LIMIT_MM)
    return values_mm, np.abs(sample(field_mm, cropped_matrix(ijk_to_lps, truth_box), vertices, ERROR_LIMIT_MM))
