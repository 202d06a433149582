"""The head's other side, laid on the bone around a hole: what is missing here is often there."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .head import HEAD_GRID
from .pose import own_mirror
from .vault import VAULT_MAP, cast

REACH_MM = 60.0  # around the hole: bone on which its mirror image is laid
POINTS = 6000  # of it
MOST_TURNED_DEG = 4.5  # against the whole head's reflection; near the middle plane a part of the head does not hold it
MOST_SHIFTED_MM = 5.0
AROUND_PIXELS = 10  # of a hole whose mirror image is wanted


def mirror_near(field: np.ndarray, mirror_head: np.ndarray, centre_head: np.ndarray) -> np.ndarray:
    """The reflection (4, 4), head frame, that lays the other side best onto the bone around a hole.

    A face is symmetric piece by piece: about the whole head's plane an orbit may lie 3 mm off. With too little bone near
    the hole, or where it does not hold the image, it is the whole head's reflection.

    field : signed mm to bone on HEAD_GRID; mirror_head : (4, 4), the whole head's; centre_head : (3,) mm, the hole's.
    """
    surface = np.argwhere(np.abs(field) < HEAD_GRID.step / 2)[:, ::-1]
    points = surface * HEAD_GRID.step + np.array(HEAD_GRID.low)
    near = points[np.linalg.norm(points - centre_head, axis=1) < REACH_MM]
    if len(near) < POINTS // 10:
        return mirror_head
    found = own_mirror(near[:: -(-len(near) // POINTS)], field, HEAD_GRID, mirror_head)
    turned = np.degrees(np.arccos(np.clip(found[0, :3] @ mirror_head[0, :3], -1, 1)))
    shifted = np.linalg.norm((found - mirror_head)[:3] @ np.append(centre_head, 1.0))
    return found if turned < MOST_TURNED_DEG and shifted < MOST_SHIFTED_MM else mirror_head


def other_radii(field: np.ndarray, mirror_head: np.ndarray, pixels: np.ndarray, expected_mm: np.ndarray) -> np.ndarray:
    """Outer and inner radius of the head's mirror image on and around a hole: (2, H, W) mm, NaN elsewhere.

    field, mirror_head : as in mirror_near; pixels : (H, W) bool, of the hole; expected_mm : (H, W), see VaultBone.
    """
    wanted = ndimage.binary_dilation(pixels, np.ones((3, 3), bool), iterations=AROUND_PIXELS)
    radii = np.full((2, *pixels.shape), np.nan, np.float32)
    radii[:, wanted] = cast(field, HEAD_GRID, VAULT_MAP.directions()[wanted], expected_mm[wanted], mirror_head)
    return radii
