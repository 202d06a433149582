"""Lines along which an image has one value: marching squares with the crossings in order."""

from __future__ import annotations

import numpy as np


def level_lines(image: np.ndarray, level: float) -> list[np.ndarray]:
    """Lines (m, 2) of continuous (row, column) along which `image` (H, W) crosses `level`, linear between pixels.

    Closed lines end with the point they start with; lines that leave the image are open. No crossing gives no line.
    """
    width = image.shape[1]
    above = image > level
    corner = above[:-1, :-1]
    mixed = (corner != above[:-1, 1:]) | (corner != above[1:, :-1]) | (corner != above[1:, 1:])
    links: dict[int, list[int]] = {}  # crossed edge -> the crossed edges it is joined to, one per cell beside it
    for row, column in np.argwhere(mixed).tolist():
        pixel = row * width + column
        # An edge's number is twice that of its first pixel, plus one where it goes down.
        top, left, bottom, right = 2 * pixel, 2 * pixel + 1, 2 * (pixel + width), 2 * (pixel + 1) + 1
        a, b = above[row, column], above[row, column + 1]
        c, d = above[row + 1, column], above[row + 1, column + 1]
        crossed = [e for e, yes in ((top, a != b), (left, a != c), (bottom, c != d), (right, b != d)) if yes]
        if len(crossed) == 4:  # a saddle: the middle tells which two opposite corners belong together
            middle = image[row : row + 2, column : column + 2].mean() > level
            crossed = [top, right, bottom, left] if middle == a else [top, left, bottom, right]
        for one, other in zip(crossed[::2], crossed[1::2], strict=True):
            links.setdefault(one, []).append(other)
            links.setdefault(other, []).append(one)
    ends = [edge for edge, others in links.items() if len(others) == 1]
    lines, seen = [], set[int]()
    for start in [*ends, *links]:
        if start not in seen:
            line = _followed(start, links)
            seen.update(line)
            lines.append(_crossings(image, level, np.array(line)))
    return lines


def _followed(start: int, links: dict[int, list[int]]) -> list[int]:
    """The edges of one line in order from `start` to its other end, or back to `start`."""
    line, before = [start], -1
    while True:
        others = links[line[-1]]
        # A line of two edges goes back the way it came: then both links are the same edge.
        ahead = others[0] if others[0] != before else others[-1]
        if ahead == before and others.count(before) < 2:
            return line  # an open end
        before = line[-1]
        line.append(ahead)
        if ahead == start:
            return line


def _crossings(image: np.ndarray, level: float, edges: np.ndarray) -> np.ndarray:
    """(m, 2) continuous (row, column) where edges (m,) cross the level."""
    row, column = np.divmod(edges // 2, image.shape[1])
    down = edges % 2
    here, there = image[row, column], image[row + down, column + 1 - down]
    share = (level - here) / (there - here)
    return np.stack([row + down * share, column + (1 - down) * share], -1)
