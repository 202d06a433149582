"""The holes of a skull as a person wants to see them before a run: side, size and outline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .contours import level_lines
from .dome import extended
from .preparation import Located, side_of
from .vault import VAULT_MAP


@dataclass(frozen=True)
class HoleView:
    """One hole; `number` is what ImplantOptions.hole means by it, 1 = largest."""

    number: int
    side: str  # left, right or middle
    area_cm2: float
    length_mm: float  # of the outline along its longest direction
    width_mm: float  # across it
    centre_lps: tuple[float, float, float]
    outline_lps: np.ndarray  # (m, 3) closed polygon without the repeated point; (0, 3) where none could be drawn


def views_of(located: Located) -> list[HoleView]:
    """All holes of a located skull, largest first; none gives an empty list."""
    if not located.holes:
        return []
    radius = ndimage.gaussian_filter(extended(located.bone.outer), 1.0)  # mm; across a hole, that of the nearest bone
    views = []
    for number, hole in enumerate(located.holes, 1):
        soft = ndimage.gaussian_filter(hole.pixels.astype(np.float32), 0.7)
        lines = level_lines(np.pad(soft, 1), 0.5)
        index = max(lines, key=len)[:-1] - 1.0 if lines else np.zeros((0, 2))
        head = VAULT_MAP.directions(index[:, 0], index[:, 1]) * VAULT_MAP.sample(radius, index)[:, None]
        outline = located.pose.to_lps(head) if len(head) else np.zeros((0, 3))
        length, width = extents_mm(outline)
        centre = located.pose.to_lps(hole.centre_head[None])[0]
        views.append(HoleView(
            number, side_of(hole.centre_head), hole.area_cm2, length, width,
            (float(centre[0]), float(centre[1]), float(centre[2])), outline,
        ))
    return views


def extents_mm(points: np.ndarray) -> tuple[float, float]:
    """Extents of points (m, 3) along their first and second principal axis; zeros for fewer than three."""
    if len(points) < 3:
        return 0.0, 0.0
    offsets = points - points.mean(0)
    axes = np.linalg.svd(offsets, full_matrices=False)[2]
    along = offsets @ axes[:2].T
    length, width = np.ptp(along, axis=0)
    return float(length), float(width)
