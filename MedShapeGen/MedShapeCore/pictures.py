"""Pictures without a display: surfaces, text, colour bars and contact sheets as (H, W, 3) uint8 arrays.

Everything is drawn on the CPU by array code (scan lines and a depth buffer); vtk only sets type and writes PNG files.
No OpenGL, EGL, X server or font has to be installed, and the same input gives the same pixels on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkIOImage import vtkPNGWriter
from vtkmodules.vtkRenderingCore import vtkTextProperty, vtkTextRenderer
from vtkmodules.vtkRenderingFreeType import vtkMathTextFreeTypeTextRenderer  # noqa: F401  registers the text renderer

from .surfaces import Surface, vertex_normals

Color = tuple[float, float, float]

INK: Color = (0.13, 0.14, 0.16)
GREY: Color = (0.30, 0.32, 0.35)
BONE: Color = (0.93, 0.87, 0.74)
WHITE: Color = (1.0, 1.0, 1.0)

# Eleven samples of viridis, at 0, 0.1, .. 1: lightness rises evenly, readable in grey and by the colour-blind.
_VIRIDIS = np.array(
    [
        (0.267, 0.005, 0.329),
        (0.283, 0.141, 0.458),
        (0.254, 0.265, 0.530),
        (0.207, 0.372, 0.553),
        (0.164, 0.471, 0.558),
        (0.128, 0.567, 0.551),
        (0.135, 0.659, 0.518),
        (0.267, 0.749, 0.441),
        (0.478, 0.821, 0.318),
        (0.741, 0.873, 0.150),
        (0.993, 0.906, 0.144),
    ]
)
_FRAGMENTS_AT_ONCE = 4_000_000  # bounds the memory of the depth test to about 100 MB


def color_map(values: np.ndarray, maximum: float) -> np.ndarray:
    """Viridis colours (..., 3) in 0..1 of values (...) in the fixed window 0 .. maximum; others take the ends."""
    position = np.clip(np.nan_to_num(np.asarray(values, float)) / maximum, 0.0, 1.0)
    grid = np.linspace(0.0, 1.0, len(_VIRIDIS))
    return np.stack([np.interp(position, grid, _VIRIDIS[:, channel]) for channel in range(3)], axis=-1)


@dataclass(frozen=True)
class Body:
    """A closed surface to draw. `colors` in 0..1 is (3,) for all of it or (V, 3) per vertex."""

    vertices_lps: np.ndarray  # (V, 3) mm
    triangles: np.ndarray  # (T, 3), outward
    colors: np.ndarray | Color = BONE
    shading: float = 0.75  # how much of its colour a face turned away may lose; little where the colour is a number


@dataclass(frozen=True)
class View:
    """A parallel projection: who looks from where, at what, how large."""

    toward_viewer: np.ndarray  # (3,) LPS direction from the object to the viewer
    up: np.ndarray  # (3,) LPS direction that points up in the picture; need not be at right angles
    centre_lps: np.ndarray  # (3,) mm, in the middle of the picture
    mm_per_px: float

    def axes(self) -> np.ndarray:
        """(3, 3): rows are right, down and toward the viewer, in LPS."""
        toward = np.asarray(self.toward_viewer, float) / np.linalg.norm(self.toward_viewer)
        right = np.cross(self.up, toward)
        if np.linalg.norm(right) < 1e-6:  # looking along `up`: any other direction will do
            right = np.cross(np.roll(np.eye(3)[int(np.argmax(np.abs(toward)))], 1), toward)
        right /= np.linalg.norm(right)
        return np.stack([right, -np.cross(toward, right), toward])


def fitted_view(
    points_lps: np.ndarray, toward_viewer: np.ndarray, up: np.ndarray, width: int, height: int, margin: float = 1.06
) -> View:
    """The view from a direction that shows all points (n, 3) in mm, centred, with a margin (1 = none)."""
    if len(points_lps) == 0:
        return View(toward_viewer, up, np.zeros(3), 1.0)
    axes = View(toward_viewer, up, np.zeros(3), 1.0).axes()
    seen = np.asarray(points_lps, float) @ axes.T  # (n, 3)
    low, high = seen.min(axis=0), seen.max(axis=0)
    mm_per_px = margin * float(max((high[0] - low[0]) / width, (high[1] - low[1]) / height, 1e-3))
    return View(toward_viewer, up, ((low + high) / 2) @ axes, mm_per_px)


def render_surface(
    bodies: Sequence[Body], view: View, width: int, height: int, background: Color = WHITE, supersample: int = 2
) -> np.ndarray:
    """Draws closed surfaces, nearest in front, softly lit from the viewer's upper left -> (height, width, 3) uint8.

    Hollows are darkened from the depth buffer (Luft 2006), which shows gaps and steps that a single lamp hides.
    Bodies without triangles are skipped; no bodies give the plain background.
    """
    bodies = [body for body in bodies if len(body.triangles)]
    wide, high = width * supersample, height * supersample
    image = np.empty((high, wide, 3), np.float32)
    image[:] = background
    if bodies:
        axes = view.axes()
        offsets = np.cumsum([0] + [len(body.vertices_lps) for body in bodies])
        triangles = np.concatenate([body.triangles + start for body, start in zip(bodies, offsets, strict=False)])
        points = np.concatenate([np.asarray(body.vertices_lps, float) for body in bodies])
        seen = (points - view.centre_lps) @ axes.T  # (V, 3) mm: right, down, toward the viewer
        screen = seen[:, :2] * (supersample / view.mm_per_px) + (wide / 2, high / 2)
        nearest, depth = _scan(screen, seen[:, 2], triangles, wide, high)  # (pixels,)
        hit = np.flatnonzero(nearest >= 0)
        if len(hit):
            corner = triangles[nearest[hit]]  # (n, 3)
            weights = _barycentric(screen[corner], hit % wide + 0.5, hit // wide + 0.5)  # (n, 3)
            normals = np.concatenate([vertex_normals(b.vertices_lps, b.triangles) for b in bodies]) @ axes.T
            colors = np.concatenate([np.broadcast_to(b.colors, (len(b.vertices_lps), 3)) for b in bodies])
            shading = np.repeat([b.shading for b in bodies], np.diff(offsets))[corner[:, 0], None]
            normal = _blend(weights, normals.astype(np.float32), corner)
            color = _blend(weights, colors.astype(np.float32), corner)
            # The hollows are soft: every second pixel is enough and saves half the time of the picture.
            hollows = _hollows(depth.reshape(high, wide)[::supersample, ::supersample], view.mm_per_px)
            light = _lit(normal) * hollows[hit // wide // supersample, hit % wide // supersample]
            flat = image.reshape(-1, 3)
            flat[hit] = color * (1.0 - shading * (1.0 - light[:, None]))
    return as_bytes(averaged(image, supersample))


def _lit(normal: np.ndarray) -> np.ndarray:
    """Brightness 0..1 of normals (n, 3) in view axes (right, down, toward): a lamp above left, a weak one in front."""
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    key = np.array([-0.45, -0.55, 0.70]) / np.linalg.norm([-0.45, -0.55, 0.70])
    return np.clip(0.12 + 0.58 * np.maximum(normal @ key, 0.0) + 0.36 * np.maximum(normal[:, 2], 0.0), 0.0, 1.0)


def _hollows(depth: np.ndarray, mm_per_px: float) -> np.ndarray:
    """Factor (H, W) in 0.45..1 that darkens what lies behind its surroundings; `depth` in mm, -inf = background."""
    inside = np.isfinite(depth)
    value = np.where(inside, depth, 0.0).astype(np.float32)
    factor = np.ones(depth.shape, np.float32)
    for reach_mm, strength in ((1.2, 0.10), (5.0, 0.05)):
        sigma = reach_mm / mm_per_px
        weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma, mode="constant", truncate=2.5)
        mean = ndimage.gaussian_filter(value, sigma, mode="constant", truncate=2.5) / np.maximum(weight, 1e-6)
        factor *= 1.0 - np.clip(strength * (mean - value), 0.0, 0.4)
    return np.maximum(factor, 0.45)


def _scan(
    screen: np.ndarray, height_mm: np.ndarray, triangles: np.ndarray, wide: int, high: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest front-facing triangle at every pixel centre.

    screen (V, 2) in px, height_mm (V,) toward the viewer, triangles (T, 3).
    Returns triangle index int32, -1 = none, and depth float32, -inf = none; both (high * wide,).
    """
    nearest, depth = np.full(high * wide, -1, np.int32), np.full(high * wide, -np.inf, np.float32)
    p, q, r = (screen[triangles[:, c]] for c in range(3))
    low = np.minimum(np.minimum(p, q), r)
    top = np.maximum(np.maximum(p, q), r)
    twice_area = (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0])
    # Down-pointing y turns counter-clockwise corners, seen from outside, into a negative area.
    keep = np.flatnonzero((twice_area < -1e-9) & (top.min(axis=1) > 0) & (low[:, 0] < wide) & (low[:, 1] < high))
    first_row = np.maximum(np.ceil(low[keep, 1] - 0.5), 0).astype(np.int64)
    last_row = np.minimum(np.floor(top[keep, 1] - 0.5), high - 1).astype(np.int64)
    rows = np.maximum(last_row - first_row + 1, 0)
    triangle = np.repeat(keep, rows)  # one entry per row of each triangle
    y = _counting(first_row, rows)
    left, right = np.zeros(len(y)), np.full(len(y), wide - 1.0)
    for a, b in ((p, q), (q, r), (r, p)):  # inside: to one side of all three edges
        slope, rise = (b - a)[triangle, 1], (b - a)[triangle, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = a[triangle, 0] + rise * (y + 0.5 - a[triangle, 1]) / slope - 0.5
        # Both ends are inclusive by a hair, so that no background shines through a shared edge.
        left = np.where(slope > 0, np.maximum(left, np.ceil(crossing - 1e-6)), left)
        right = np.where(slope < 0, np.minimum(right, np.floor(crossing + 1e-6)), right)
    count = np.maximum(right - left + 1, 0).astype(np.int64)
    z0, z1, z2 = (height_mm[triangles[:, c]] for c in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        dx = ((z1 - z0) * (r[:, 1] - p[:, 1]) - (z2 - z0) * (q[:, 1] - p[:, 1])) / twice_area
        dy = ((z2 - z0) * (q[:, 0] - p[:, 0]) - (z1 - z0) * (r[:, 0] - p[:, 0])) / twice_area
    ends = np.cumsum(count)
    pieces = np.searchsorted(ends, np.arange(0, (ends[-1] if len(ends) else 0) + 1, _FRAGMENTS_AT_ONCE))
    for start, stop in zip(pieces, [*pieces[1:], len(count)], strict=True):
        n = count[start:stop]
        t = np.repeat(triangle[start:stop], n)
        x = _counting(left[start:stop].astype(np.int64), n)
        row = np.repeat(y[start:stop], n)
        z = (z0[t] + dx[t] * (x + 0.5 - p[t, 0]) + dy[t] * (row + 0.5 - p[t, 1])).astype(np.float32)
        pixel = row * wide + x
        np.maximum.at(depth, pixel, z)
        front = z >= depth[pixel]
        nearest[pixel[front]] = t[front]
    return nearest, depth


def _counting(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, .. (count[0] of them), first[1], ..: the concatenated ranges, int64."""
    total = int(count.sum())
    return np.arange(total) + np.repeat(first - (np.cumsum(count) - count), count)


def _barycentric(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (n, 3) of the triangle corners (n, 3, 2) at points x, y (n,) in the plane."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    v = ((x - a[:, 0]) * (c[:, 1] - a[:, 1]) - (y - a[:, 1]) * (c[:, 0] - a[:, 0])) / area
    w = ((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0])) / area
    return np.stack([1.0 - v - w, v, w], axis=1).astype(np.float32)


def _blend(weights: np.ndarray, values: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Values (V, 3) of the corners (n, 3) mixed by weights (n, 3) -> (n, 3)."""
    return sum(weights[:, c, None] * values[corner[:, c]] for c in range(3))  # type: ignore[return-value]


def averaged(image: np.ndarray, by: int) -> np.ndarray:
    """Means of blocks of `by` x `by` pixels: (h * by, w * by, 3) -> (h, w, 3)."""
    # Adding views takes a third of the time of a mean over a reshaped array.
    total = image[::by, ::by].copy()
    for y, x in list(np.ndindex(by, by))[1:]:
        total += image[y::by, x::by]
    return total / (by * by)


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Colours in 0..1 -> uint8."""
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def blank(width: int, height: int, color: Color = WHITE) -> np.ndarray:
    """A picture (height, width, 3) uint8 of one colour."""
    return np.broadcast_to(as_bytes(np.array(color)), (height, width, 3)).copy()


def paste_inplace(picture: np.ndarray, part: np.ndarray, x: int, y: int) -> None:
    """Puts `part` into `picture` with its upper left corner at (x, y); what hangs over is cut."""
    height, width = max(min(part.shape[0], picture.shape[0] - y), 0), max(min(part.shape[1], picture.shape[1] - x), 0)
    picture[y : y + height, x : x + width] = part[:height, :width]


def text_image(text: str, size: int, bold: bool = False) -> np.ndarray:
    """How much ink `text` puts on each pixel, (h, w) float32 in 0..1, (0, 0) for no text; `size` in px."""
    if not text.strip():
        return np.zeros((0, 0), np.float32)
    style = vtkTextProperty()
    style.SetFontFamilyToArial()
    style.SetFontSize(size)
    style.SetBold(bold)
    style.SetColor(1.0, 1.0, 1.0)
    style.SetBackgroundOpacity(0.0)
    image, used = vtkImageData(), [0, 0]
    # FreeType by name: otherwise a dollar sign in a file's name would be read as a formula.
    vtkTextRenderer.GetInstance().RenderString(style, text, image, used, 72, vtkTextRenderer.FreeType)
    width, height, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)
    return np.ascontiguousarray(pixels[: used[1], : used[0], -1][::-1], np.float32) / 255.0


def draw_text_inplace(
    picture: np.ndarray, text: str, x: int, y: int, size: int = 16, color: Color = INK, bold: bool = False,
    anchor: str = "left", width: int | None = None,
) -> int:  # fmt: skip
    """Writes one line with its top at y and its left, centre or right at x (`anchor`); returns its width in px.

    `width` shortens the text with dots until it fits. What hangs over the picture is cut.
    """
    ink = text_image(text, size, bold)
    while width is not None and ink.shape[1] > width and len(text) > 4:
        text = text[: min(int(len(text) * width / ink.shape[1]), len(text) - 4)].rstrip(" .") + "..."
        ink = text_image(text, size, bold)
    x -= {"left": 0, "centre": ink.shape[1] // 2, "right": ink.shape[1]}[anchor]
    left, top = max(-x, 0), max(-y, 0)
    ink = ink[top : max(picture.shape[0] - y, 0), left : max(picture.shape[1] - x, 0)]
    area = picture[y + top : y + top + ink.shape[0], x + left : x + left + ink.shape[1]]
    area[:] = area + (np.array(color) * 255.0 - area) * ink[..., None] + 0.5
    return ink.shape[1]


def color_bar(width: int, height: int, maximum: float, unit: str, ticks: int = 4, size: int = 15) -> np.ndarray:
    """A horizontal legend of `color_map` from 0 to `maximum` with its numbers -> (height, width, 3) uint8, on white."""
    picture = blank(width, height)
    side, bar = 24, height - size - 12  # room for half a number at each end, and for the numbers below
    picture[:bar, side : width - side] = as_bytes(color_map(np.linspace(0.0, 1.0, width - 2 * side), 1.0))
    for tick in range(ticks + 1):
        x = side + round((width - 2 * side - 1) * tick / ticks)
        picture[bar : bar + 4, x] = as_bytes(np.array(INK))
        label = f"{maximum * tick / ticks:g}"
        label = f"\u2265 {label} {unit}" if tick == ticks else label
        draw_text_inplace(picture, label, min(x, width - 30), bar + 6, size, anchor="centre")
    return picture


def contact_sheet(
    images: Sequence[np.ndarray], labels: Sequence[str], path: str | Path, columns: int | None = None, title: str = ""
) -> np.ndarray:
    """Many pictures (h, w, 3) uint8 with a label under each, written as PNG and returned; none give a blank strip."""
    columns = columns or max(1, int(np.ceil(np.sqrt(1.5 * max(len(images), 1)))))
    width = max([image.shape[1] for image in images], default=200)
    height = max([image.shape[0] for image in images], default=20)
    rows, head, foot, gap = -(-len(images) // columns), 36 if title else 0, 24, 8
    sheet = blank(columns * (width + gap) + gap, head + rows * (height + foot + gap) + gap)
    draw_text_inplace(sheet, title, gap, 10, 18, bold=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = gap + number % columns * (width + gap), head + gap + number // columns * (height + foot + gap)
        paste_inplace(sheet, image, x + (width - image.shape[1]) // 2, y)
        draw_text_inplace(sheet, label, x + width // 2, y + height + 4, 14, anchor="centre", width=width)
    write_png(path, sheet)
    return sheet


def body_of(surface: Surface, colors: np.ndarray | Color = BONE, shading: float = 0.75) -> Body:
    """A surface (vertices, triangles) as a Body."""
    return Body(surface[0], surface[1], colors, shading)


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 as PNG."""
    image = vtkImageData()
    image.SetDimensions(picture.shape[1], picture.shape[0], 1)
    rows = np.ascontiguousarray(picture[::-1]).reshape(-1, 3)  # vtk counts rows from below
    image.GetPointData().SetScalars(numpy_to_vtk(rows, deep=True))
    writer = vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(image)
    writer.Write()
    if not Path(path).is_file():
        raise OSError(f"{Path(path).name} could not be written.")
