"""How close an implant is to the true one: the AutoImplant challenge's figures in mm, and what a surgeon asks besides.

Everything is computed near the two implants only. Distances come from k-d trees over surface voxels, which at native CT
resolution is several times faster than distance transforms and gives the same numbers (the tests keep the textbook).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from .errors import RefusedInput
from .volumes import Box, box_of

Figures = dict[str, float | int | bool | None]

BORDER_MM = 10.0  # the challenge's border zone; its code takes 10 mm or 10 voxels depending on the call, we take mm
COVERED_MM = 1.0  # a true surface counts as covered when the implant's surface is this near
STEP_ZONE_MM = 3.0  # how far from the rim the faces are compared for the rim step
BLOCK_MM = 1.0  # voxels are held against the border zone in blocks of this size, and one by one only in doubt
TIE_MM = 1e-6  # a voxel at exactly the limit counts as within it, whatever the rounding


def implant_metrics(
    prediction: np.ndarray, truth: np.ndarray, defective: np.ndarray, spacing_mm: Sequence[float] | np.ndarray
) -> Figures:
    """All figures of one implant against the true one.

    prediction, truth, defective : (K, J, I) bool on one grid; `defective` is the skull with the hole.
    spacing_mm                   : (3,) mm per voxel along k, j, i.

    Returned, with surface = voxels with a face neighbour outside the mask:
    dsc                      2 |A and B| / (|A| + |B|).
    bdsc                     dsc of the voxels at most 10 mm from the bone of `defective`; 0 when neither has any.
    hd95_mm, assd_mm         95th percentile and mean of both directed surface distances, pooled.
    nsd_05mm, nsd_1mm        share of both surfaces within 0.5 and 1 mm of the other one (surface Dice).
    volume_ml, truth_volume_ml, volume_error_ml (signed, prediction - truth).
    coverage_1mm, excess_1mm share of the true surface within 1 mm of the prediction's surface; share of the
                             prediction's surface farther than 1 mm from the true one.
    rim_gap_mean_mm, _p95_mm from each true voxel that touches bone to the nearest predicted voxel, 0 = closed.
    rim_step_mean_mm, _p95_mm from the true faces within 3 mm of the rim to the prediction's surface (for large steps a
                             little less than the step: a side wall can be nearer than the face).
                             Rim figures are None where no true voxel touches bone, the step also without such faces.
    bone_overlap_ml          predicted volume on bone; must be 0.
    components, empty        face-connected parts of the prediction; whether it has no voxel.

    An empty prediction scores dsc, bdsc, nsd, coverage 0 and every distance the diagonal of the truth's box. An empty
    truth or skull is no case and refused. Raises ValueError for arrays not bool or of unequal shapes and a bad spacing.
    """
    spacing = _checked_spacing(spacing_mm)
    for name, mask in (("prediction", prediction), ("truth", truth), ("defective", defective)):
        # A difference of masks holds -1, which is truthy: only a bool array is surely a mask.
        if mask.dtype != bool or mask.ndim != 3 or mask.shape != truth.shape:
            raise ValueError(f"{name} must be bool of shape {truth.shape}, not {mask.dtype} of shape {mask.shape}")
    truth_box, box = box_of(truth), box_of(prediction)
    if truth_box is None:
        raise RefusedInput("empty-truth", "The true implant has no voxel.", "Choose the implant's file or label.")
    voxel_ml = float(spacing.prod()) / 1000.0
    box = _widened(truth_box if box is None else _union(truth_box, box), BORDER_MM / spacing, truth.shape)
    prediction, truth, bone = prediction[box], truth[box], defective[box]
    if not bone.any() and not defective.any():
        raise RefusedInput("empty-skull", "The skull with the hole has no voxel.", "Choose the bone's file or label.")

    counts = int(prediction.sum()), int(truth.sum())
    figures: Figures = {
        "dsc": dice(prediction, truth),
        "bdsc": border_dice(prediction, truth, bone, spacing),
        "volume_ml": counts[0] * voxel_ml,
        "truth_volume_ml": counts[1] * voxel_ml,
        "volume_error_ml": (counts[0] - counts[1]) * voxel_ml,
        "bone_overlap_ml": int((prediction & bone).sum()) * voxel_ml,
        "components": int(ndimage.label(prediction)[1]) if counts[0] else 0,
        "empty": counts[0] == 0,
    }
    if counts[0] == 0:
        size = np.array([s.stop - s.start for s in truth_box])
        return figures | _worst_distances(float(np.linalg.norm(size * spacing)))
    return figures | _distance_figures(prediction, truth, bone, spacing)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two bool arrays of one shape. Both empty: 0, as the challenge's code has it."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 0.0


def pairwise_dice(members: np.ndarray) -> np.ndarray:
    """Dice of every pair of masks (N, ...) bool: (N, N) float, 1 on the diagonal, 0 beside an empty member."""
    flat = members.reshape(len(members), -1)
    matrix = np.eye(len(members))
    for a in range(len(members)):
        for b in range(a):
            matrix[a, b] = matrix[b, a] = dice(flat[a], flat[b])
    return matrix


def border_dice(prediction: np.ndarray, truth: np.ndarray, bone: np.ndarray, spacing_mm: np.ndarray) -> float:
    """Dice of the parts at most 10 mm from bone (the challenge's bDSC, in mm). No part that near: 0.

    The arrays (K, J, I) bool must hold all bone within 10 mm of both masks.
    """
    index = np.argwhere(prediction | truth)
    near = within_mm(index, bone, spacing_mm, BORDER_MM)
    index = index[near]
    both = prediction[tuple(index.T)].astype(np.int64) + truth[tuple(index.T)]
    total = int(both.sum())
    return 2.0 * int((both == 2).sum()) / total if total else 0.0


def within_mm(index_kji: np.ndarray, mask: np.ndarray, spacing_mm: np.ndarray, limit_mm: float) -> np.ndarray:
    """Which voxels (n, 3) int lie at most `limit_mm` from the nearest voxel of `mask` (K, J, I) bool: (n,) bool.

    Exact: a distance transform of blocks settles every voxel but those about the limit, and these are looked up. At
    native CT resolution 0.3 s, where the transform of all voxels takes 1.0 s and looking up all of them 3 s.
    """
    edge = np.maximum(1, np.round(BLOCK_MM / spacing_mm)).astype(int)
    padded = np.pad(mask, [(0, int(w)) for w in -np.array(mask.shape) % edge])
    k, j, i = (int(n) for n in np.array(padded.shape) // edge)
    blocks = np.asarray(padded.reshape(k, edge[0], j, edge[1], i, edge[2]).any((1, 3, 5)))
    if not blocks.any():
        return np.zeros(len(index_kji), bool)
    block_mm = ndimage.distance_transform_edt(~blocks, sampling=edge * spacing_mm)[tuple((index_kji // edge).T)]
    # Both ends of a distance lie at most half a block's diagonal, between voxel centres, from the blocks' centres.
    doubt_mm = 2 * float(np.linalg.norm((edge - 1) / 2 * spacing_mm)) + TIE_MM
    near = block_mm <= limit_mm - doubt_mm
    unsettled = np.flatnonzero(~near & (block_mm <= limit_mm + doubt_mm))
    tree = _tree(surface_index(mask) * spacing_mm)  # the voxel of a mask nearest to one outside is on its surface
    exact_mm = tree.query(index_kji[unsettled] * spacing_mm, distance_upper_bound=limit_mm + TIE_MM, workers=-1)[0]
    near[unsettled] = np.isfinite(exact_mm) | mask[tuple(index_kji[unsettled].T)]
    return near


def surface_index(mask: np.ndarray) -> np.ndarray:
    """Voxels (n, 3) int of a mask (K, J, I) bool with a face neighbour outside it; beyond the array is outside."""
    box = box_of(mask)
    if box is None:
        return np.zeros((0, 3), np.int64)
    part = np.pad(mask[box], 1)
    return np.argwhere(part & _touches(~part)) + [s.start - 1 for s in box]


def _distance_figures(
    prediction: np.ndarray, truth: np.ndarray, bone: np.ndarray, spacing: np.ndarray
) -> Figures:
    predicted, true = surface_index(prediction), surface_index(truth)
    predicted_mm = predicted * spacing
    to_truth = _tree(true * spacing).query(predicted_mm, workers=-1)[0]
    to_prediction = _tree(predicted_mm).query(true * spacing, workers=-1)[0]
    pooled = np.concatenate([to_truth, to_prediction])
    touching = _touches(bone)[tuple(true.T)]
    # Of a true voxel that the prediction fills, the nearest predicted voxel is itself, on its surface or not.
    gap = np.where(prediction[tuple(true.T)], 0.0, to_prediction)[touching]
    step = to_prediction[_faces_near(true * spacing, touching)]
    return {
        "hd95_mm": float(np.percentile(pooled, 95)),
        "assd_mm": float(pooled.mean()),
        "nsd_05mm": float((pooled <= 0.5 + TIE_MM).mean()),
        "nsd_1mm": float((pooled <= 1.0 + TIE_MM).mean()),
        "coverage_1mm": float((to_prediction <= COVERED_MM + TIE_MM).mean()),
        "excess_1mm": float((to_truth > COVERED_MM + TIE_MM).mean()),
    } | _mean_and_p95("rim_gap", gap) | _mean_and_p95("rim_step", step)


def _faces_near(surface_mm: np.ndarray, touching: np.ndarray) -> np.ndarray:
    """Surface voxels that touch no bone but lie within 3 mm of one that does; (n,) bool."""
    near = np.zeros(len(surface_mm), bool)
    if touching.any() and not touching.all():
        rim = _tree(surface_mm[touching])
        to_rim = rim.query(surface_mm[~touching], distance_upper_bound=STEP_ZONE_MM, workers=-1)[0]
        near[~touching] = np.isfinite(to_rim)
    return near


def _worst_distances(diagonal_mm: float) -> Figures:
    shares: Figures = dict.fromkeys(("nsd_05mm", "nsd_1mm", "coverage_1mm", "excess_1mm"), 0.0)
    distances = ("hd95_mm", "assd_mm", "rim_gap_mean_mm", "rim_gap_p95_mm", "rim_step_mean_mm", "rim_step_p95_mm")
    return shares | dict.fromkeys(distances, diagonal_mm)


def _mean_and_p95(name: str, values_mm: np.ndarray) -> Figures:
    if len(values_mm) == 0:
        return {f"{name}_mean_mm": None, f"{name}_p95_mm": None}
    return {f"{name}_mean_mm": float(values_mm.mean()), f"{name}_p95_mm": float(np.percentile(values_mm, 95))}


def _touches(mask: np.ndarray) -> np.ndarray:
    """Where a face neighbour is in the mask (K, J, I) bool."""
    touched = np.zeros(mask.shape, bool)
    touched[1:] |= mask[:-1]
    touched[:-1] |= mask[1:]
    touched[:, 1:] |= mask[:, :-1]
    touched[:, :-1] |= mask[:, 1:]
    touched[:, :, 1:] |= mask[:, :, :-1]
    touched[:, :, :-1] |= mask[:, :, 1:]
    return touched


def _tree(points_mm: np.ndarray) -> cKDTree:
    # Surface voxels are spread evenly: unbalanced nodes build four times faster and answer as fast.
    return cKDTree(points_mm, balanced_tree=False, compact_nodes=False)


def _union(a: Box, b: Box) -> Box:
    k, j, i = (slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
    return k, j, i


def _widened(box: Box, voxels: np.ndarray, shape: tuple[int, ...]) -> Box:
    wide = np.ceil(voxels).astype(int) + 1
    low = [max(s.start - int(w), 0) for s, w in zip(box, wide, strict=True)]
    high = [min(s.stop + int(w), n) for s, w, n in zip(box, wide, shape, strict=True)]
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


def _checked_spacing(spacing_mm: Sequence[float] | np.ndarray) -> np.ndarray:
    spacing = np.asarray(spacing_mm, float)
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(f"spacing must be three positive numbers in mm, not {spacing_mm}")
    return spacing
