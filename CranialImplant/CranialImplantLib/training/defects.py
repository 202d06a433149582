"""Synthetic defects: smooth cutters in the head frame, negative where bone is taken away.

Styles follow the public benchmarks and the clinic: boxes with drill holes at the corners (SkullFix), bilateral,
fronto-orbital and parieto-temporal free forms (SkullBreak), irregular craniotomies with bevelled rims; 10 to 150 ml
anywhere on the vault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..vault import MapGrid

STYLES = ("box", "ellipse", "free", "bilateral", "frontal", "temporal", "large")
STYLE_SHARES = (0.22, 0.1, 0.2, 0.08, 0.17, 0.17, 0.06)
HALF_WIDTHS_MM = {"bilateral": (34, 56), "frontal": (20, 38), "temporal": (28, 48), "large": (48, 66)}


@dataclass(frozen=True)
class Cutter:
    """One hole: a cone of changing outline around an axis through the skull."""

    centre: np.ndarray  # (3,) on the outer surface, head frame mm
    frame: np.ndarray  # (3, 3) rows: two tangents and the outward normal
    outline_mm: np.ndarray  # (A,) radius over the angle, equal steps
    bevel: float  # share of the radius by which it grows per mm along the normal
    pegs: np.ndarray  # (n, 3) x, y, radius of drill holes in the tangent plane
    islands: np.ndarray  # (m, 3) pieces of bone left standing

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Signed mm to the cut (negative inside it) at head-frame points (..., 3); exact only near its surface."""
        local = (points - self.centre.astype(points.dtype)) @ self.frame.T.astype(points.dtype)
        x, y, z = local[..., 0], local[..., 1], local[..., 2]
        rho = np.hypot(x, y)
        angle = np.arctan2(y, x)
        position = (angle / (2 * np.pi) % 1.0) * len(self.outline_mm)
        low = position.astype(np.int32) % len(self.outline_mm)
        share = position - np.floor(position)
        radius = self.outline_mm[low] * (1 - share) + self.outline_mm[(low + 1) % len(self.outline_mm)] * share
        distance = rho - radius * (1 + self.bevel * z)
        slope = np.gradient(self.outline_mm) * len(self.outline_mm) / (2 * np.pi)
        distance = distance / np.sqrt(1 + (slope[low] / self.outline_mm[low]) ** 2)
        for px, py, pr in self.pegs:
            distance = np.minimum(distance, np.hypot(x - px, y - py) - pr)
        for px, py, pr in self.islands:
            distance = np.maximum(distance, pr - np.hypot(x - px, y - py))
        return np.maximum(distance, np.maximum(z - 30.0, -34.0 - z)).astype(np.float32)


def random_cutter(generator: np.random.Generator, outer_map_mm: np.ndarray, map_grid: MapGrid) -> Cutter:
    """A random hole for a skull whose outer vault map (H, W) in mm is given, NaN where it has no bone."""
    style = str(generator.choice(STYLES, p=np.array(STYLE_SHARES) / sum(STYLE_SHARES)))
    direction = _direction(generator, style)
    index, _ = map_grid.pixels(direction[None])
    row, column = np.clip(np.round(index[0]).astype(int), 0, outer_map_mm.shape[0] - 1)
    radius = outer_map_mm[row, column]
    if not np.isfinite(radius):
        radius = float(np.nanmedian(outer_map_mm))
    normal = direction + generator.normal(0, 0.08, 3)
    normal /= np.linalg.norm(normal)
    tangent = np.cross(normal, [0.0, 1.0, 0.0] if abs(normal[1]) < 0.9 else [1.0, 0.0, 0.0])
    tangent /= np.linalg.norm(tangent)
    turn = generator.uniform(0, 2 * np.pi) if style != "box" else generator.normal(0, 0.15)
    second = np.cross(normal, tangent)
    first, second = (
        np.cos(turn) * tangent + np.sin(turn) * second, -np.sin(turn) * tangent + np.cos(turn) * second,
    )  # fmt: skip
    frame = np.stack([first, second, normal])
    outline, pegs = _outline(generator, style)
    islands = np.zeros((0, 3))
    if generator.random() < 0.04:
        islands = np.array([[*generator.normal(0, 0.3, 2) * outline.mean(), generator.uniform(3, 6)]])
    bevel = generator.normal(0, 0.006) if generator.random() < 0.6 else 0.0
    return Cutter(radius * direction, frame, outline, float(np.clip(bevel, -0.015, 0.015)), pegs, islands)


def _direction(generator: np.random.Generator, style: str) -> np.ndarray:
    """Unit vector (3,) in the head frame to the middle of a hole."""
    side = generator.choice([-1.0, 1.0])
    if style == "bilateral":
        base = np.array([generator.normal(0, 0.1), generator.uniform(-0.5, 0.5), 1.0])
    elif style == "frontal":
        base = np.array([side * generator.uniform(0.1, 0.7), -0.85, generator.uniform(0.15, 0.7)])
    elif style == "temporal":
        base = np.array([side, generator.uniform(-0.4, 0.5), generator.uniform(0.0, 0.5)])
    elif style == "box" and generator.random() < 0.6:
        base = np.array([generator.normal(0, 0.1), generator.uniform(0.45, 1.3), 0.9])  # back of the vertex
    else:
        base = generator.normal(size=3)
        base[2] = abs(base[2]) * 1.2 + 0.05
    base = base + generator.normal(0, 0.06, 3)
    return base / np.linalg.norm(base)


def _outline(generator: np.random.Generator, style: str, angles: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Radius over the angle (angles,) in mm, and drill holes (n, 3)."""
    angle = np.arange(angles) * 2 * np.pi / angles
    small, large = HALF_WIDTHS_MM.get(style, (14, 52))
    a, b = generator.uniform(small, large), generator.uniform(small, large)
    ratio = 2.2
    b = float(np.clip(b, a / ratio, a * ratio))
    pegs = np.zeros((0, 3))
    if style == "box":
        outline = 1.0 / np.maximum(np.abs(np.cos(angle)) / a, np.abs(np.sin(angle)) / b)
        if generator.random() < 0.6:
            size = generator.uniform(4, 9)
            pegs = np.array([[sx * (a - size / 3), sy * (b - size / 3), size] for sx in (-1, 1) for sy in (-1, 1)])
    else:
        outline = a * b / np.hypot(b * np.cos(angle), a * np.sin(angle))
        if style != "ellipse":
            wave = np.zeros(angles)
            for n in range(2, 9):
                wave += generator.normal(0, 0.16 / n) * np.cos(n * angle + generator.uniform(0, 2 * np.pi))
            outline = outline * np.clip(1 + wave, 0.6, 1.5)
    return outline.astype(np.float32), pegs
