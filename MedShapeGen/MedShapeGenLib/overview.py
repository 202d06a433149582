"""Pictures of results: contact sheets that say what was made, how large it is, and that it is for research."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from MedShapeCore import pictures
from MedShapeCore.pictures import Body, Color, View
from MedShapeCore.surfaces import Surface, vertex_normals
from scipy.spatial import cKDTree

from .complete import Completions
from .generate import GeneratedShapes
from .interpolate import Interpolation
from .reconstruct import Reconstruction

RESEARCH_NOTICE = "For research, not for clinical use"
ALARM: Color = (0.72, 0.11, 0.08)
MODEL: Color = (0.55, 0.68, 0.80)  # a shape without a category
GIVEN: Color = (0.16, 0.18, 0.22)  # the surface that was given
INSIDE: Color = (0.45, 0.46, 0.50)  # of an open one
TILE = 340  # px
GAP = 12
HEAD = 92
FOOT = 48
MAX_TILES = 24
DRAWN_MM = 200.0
TOWARD = np.array([0.45, -1.0, 0.35])  # LPS: the viewer stands in front, a little to the left and above
UP = np.array([0.0, 0.0, 1.0])
SEEN_FROM = "seen from the front, slightly from the left and from above"
NEGATIVE: Color = (0.13, 0.33, 0.70)
NEUTRAL: Color = (0.92, 0.91, 0.89)
POSITIVE: Color = (0.75, 0.15, 0.10)
WINDOWS_MM = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet: bodies in mm, two lines under them."""

    bodies: tuple[Body, ...]
    label: str
    figures: str = ""
    alarm: bool = False


def generated_overview(result: GeneratedShapes, path: Path) -> np.ndarray:
    """The sheet of `generate`: every shape at one scale, with its size and volume."""
    kind = result.category
    tiles = [
        Tile(
            (Body(*solid.surface, kind.colour),), f"{kind.name}_{number}",
            f"{solid.figures.longest_mm:.0f} mm, {_volume(solid.figures.volume_ml)}{_failed(solid.figures.failed)}",
            not solid.figures.passed,
        )
        for number, solid in enumerate(result.solids, 1)
    ]  # fmt: skip
    origin = "synthetic, " if kind.synthetic else ""
    few = f", few training shapes ({kind.training_shapes})" if kind.few else ""
    line = f"{origin}generated, {len(tiles)} of seed {result.options.seed}{few}; one scale, {SEEN_FROM}"
    return sheet(tiles, f"Generated: {kind.label}", line, path)


def reconstruction_overview(result: Reconstruction, path: Path) -> np.ndarray:
    """The sheet of `reconstruct`: input, reconstruction, skeleton with its radii, signed error with its legend."""
    window_mm = error_window_mm(result.error_mm)
    balls = ball_bodies(result.skeleton_lps, result.radii_mm, result.shape.longest_mm)
    figures = result.solid.figures
    radii = np.percentile(result.radii_mm, [5, 95])
    tiles = [
        Tile((Body(result.shape.vertices_lps, result.shape.triangles, pictures.BONE),), "Input",
             f"{result.shape.longest_mm:.1f} mm"),
        Tile((Body(*result.solid.surface, MODEL),), "Reconstruction",
             f"{figures.longest_mm:.1f} mm, {_volume(figures.volume_ml)}{_failed(figures.failed)}", not figures.passed),
        Tile(balls, f"Skeleton, {len(result.radii_mm)} points", f"radius {radii[0]:.1f} to {radii[1]:.1f} mm (5 to 95 %)"),
        Tile((Body(*result.solid.surface, signed_colors(result.error_mm, window_mm), 0.45),), "Error",
             f"mean {np.abs(result.error_mm).mean():.2f} mm, "
             f"95 % within {np.percentile(np.abs(result.error_mm), 95):.2f} mm"),
    ]  # fmt: skip
    line = f"error: distance of the reconstruction to the input, red outside of it, blue inside; {SEEN_FROM}"
    legend = signed_bar(520, 50, window_mm)
    return sheet(tiles, f"Reconstruction of {result.shape.name}", line, path, legend)


def interpolation_overview(result: Interpolation, path: Path) -> np.ndarray:
    """The sheet of `interpolate`: all steps at one scale, from the first input to the second."""
    tiles = [
        Tile((Body(*solid.surface, MODEL),), f"step_{number}, {100 * share:.0f} %",
             f"{solid.figures.longest_mm:.0f} mm, {_volume(solid.figures.volume_ml)}{_failed(solid.figures.failed)}",
             not solid.figures.passed)
        for number, (share, solid) in enumerate(zip(result.shares, result.solids, strict=True), 1)
    ]  # fmt: skip
    title = f"Between {result.first.name} and {result.second.name}"
    return sheet(tiles, title, f"matched by the centres of their boxes; one scale, {SEEN_FROM}", path)


def completion_overview(result: Completions, path: Path) -> np.ndarray:
    """The sheet of `complete`: the given piece, then every completion with the given part of it dark."""
    given = result.given
    tree = cKDTree(given.vertices_lps)
    edge = np.linalg.norm(np.diff(given.vertices_lps[given.triangles[:, :2]], axis=1)[:, 0], axis=1)
    near_mm = 1.0 + float(np.percentile(edge, 90))
    tiles = [Tile(sheet_bodies(given.vertices_lps, given.triangles), "Given", f"{given.longest_mm:.0f} mm")]
    for number, member in enumerate(result.members, 1):
        surface = member.solid.surface
        was_given = tree.query(surface[0])[0] <= near_mm
        colors = np.where(was_given[:, None], np.array(GIVEN), np.array(result.category.colour))
        differs = "" if member.differs_mm is None else f", differs by {member.differs_mm:.1f} mm"
        tiles.append(Tile(
            (Body(*surface, colors),), f"completion_{number}, {member.solid.figures.longest_mm:.0f} mm",
            f"given within {member.given_median_mm:.2f} mm{differs}{_failed(member.failed)}", bool(member.failed),
        ))  # fmt: skip
    line = f"dark: where the surface was given; {len(result.members)} of seed {result.options.seed}; one scale, {SEEN_FROM}"
    return sheet(tiles, f"Completed: {result.category.label}", line, path)


def sheet(
    tiles: Sequence[Tile], title: str, line: str, path: Path, legend: np.ndarray | None = None
) -> np.ndarray:
    """Draws up to MAX_TILES tiles at one scale under a title, writes the PNG and returns it (H, W, 3) uint8."""
    shown = list(tiles[:MAX_TILES])
    rows = -(-len(shown) // (4 if len(shown) <= 12 else 6))
    columns = -(-len(shown) // rows)
    below = 0 if legend is None else legend.shape[0] + GAP
    width = max(columns * (TILE + GAP) + GAP, 2 * (TILE + GAP) + GAP)
    height = HEAD + rows * (TILE + FOOT + GAP) + below + GAP
    picture = pictures.blank(width, height)
    notice = pictures.draw_text_inplace(picture, RESEARCH_NOTICE, width - 16, 18, 17, ALARM, bold=True, anchor="right")
    pictures.draw_text_inplace(picture, title, 16, 14, 24, bold=True, width=width - notice - 56)
    if len(tiles) > len(shown):
        line = f"the first {len(shown)} of {len(tiles)}; {line}"
    pictures.draw_text_inplace(picture, line, 16, 54, 15, pictures.GREY, width=width - 32)
    views = [_view(tile) for tile in shown]
    mm_per_px = max([view.mm_per_px for view in views])
    # The shading of hollows reaches a few mm: every sheet is drawn as if a tile were as wide as a head.
    larger = DRAWN_MM / (mm_per_px * TILE)
    for number, (tile, view) in enumerate(zip(shown, views, strict=True)):
        x, y = GAP + number % columns * (TILE + GAP), HEAD + number // columns * (TILE + FOOT + GAP)
        same = View(view.toward_viewer, view.up, view.centre_lps * larger, mm_per_px * larger)
        bodies = [replace(body, vertices_lps=body.vertices_lps * larger) for body in tile.bodies]
        pictures.paste_inplace(picture, pictures.render_surface(bodies, same, TILE, TILE), x, y)
        ink = ALARM if tile.alarm else pictures.INK
        middle = x + TILE // 2
        pictures.draw_text_inplace(picture, tile.label, middle, y + TILE + 2, 16, ink, True, "centre", TILE)
        pictures.draw_text_inplace(picture, tile.figures, middle, y + TILE + 24, 14, pictures.GREY if not tile.alarm else ALARM,
                                   anchor="centre", width=TILE)  # fmt: skip
    if legend is not None:
        pictures.paste_inplace(picture, legend, width - legend.shape[1] - GAP, height - legend.shape[0] - GAP // 2)
    pictures.write_png(path, picture)
    return picture


def _view(tile: Tile) -> View:
    points = [body.vertices_lps for body in tile.bodies if len(body.vertices_lps)]
    return pictures.fitted_view(np.concatenate(points) if points else np.zeros((0, 3)), TOWARD, UP, TILE, TILE)


def _volume(volume_ml: float) -> str:
    return f"{volume_ml:.0f} ml" if volume_ml >= 20 else f"{volume_ml:.2g} ml"


def _failed(failed: Sequence[str]) -> str:
    return f"; fails: {', '.join(failed)}" if failed else ""


def error_window_mm(error_mm: np.ndarray) -> float:
    """The smallest of a few round windows in mm that shows 95 % of the errors (V,)."""
    far = float(np.percentile(np.abs(error_mm), 95)) if len(error_mm) else 0.0
    return next((window for window in WINDOWS_MM if window >= far), WINDOWS_MM[-1])


def signed_colors(values: np.ndarray, maximum: float) -> np.ndarray:
    """Colours (..., 3) of signed values (...): blue at -maximum, light grey at 0, red at +maximum."""
    share = np.clip(np.asarray(values, float) / maximum, -1.0, 1.0)
    ends = np.array([NEGATIVE, NEUTRAL, POSITIVE])
    return np.stack([np.interp(share, (-1.0, 0.0, 1.0), ends[:, channel]) for channel in range(3)], axis=-1)


def signed_bar(width: int, height: int, maximum: float) -> np.ndarray:
    """The legend of `signed_colors` with its numbers in mm, (height, width, 3) uint8."""
    picture = pictures.blank(width, height)
    side, bar = 34, height - 26
    picture[:bar, side : width - side] = pictures.as_bytes(signed_colors(np.linspace(-1, 1, width - 2 * side), 1.0))
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = side + round((width - 2 * side - 1) * (tick + 1) / 2)
        picture[bar : bar + 4, x] = 30
        label = f"{tick * maximum:+g} mm" if tick else "0"
        pictures.draw_text_inplace(picture, label, x, bar + 6, 14, anchor="centre")
    return picture


def ball_bodies(centres_lps: np.ndarray, radii_mm: np.ndarray, longest_mm: float) -> tuple[Body, ...]:
    """Balls (n, 3), (n,) in mm as one body; at least 0.6 % of the longest side, so that every one is seen."""
    vertices, triangles = octahedral_ball()
    radius = np.maximum(radii_mm, 0.006 * longest_mm)
    points = centres_lps[:, None] + radius[:, None, None] * vertices  # (n, v, 3)
    faces = triangles[None] + (np.arange(len(centres_lps)) * len(vertices))[:, None, None]
    colors = pictures.color_map(radii_mm, float(radii_mm.max()) if len(radii_mm) else 1.0)
    return (Body(points.reshape(-1, 3), faces.reshape(-1, 3), np.repeat(colors, len(vertices), axis=0), 0.6),)


def sheet_bodies(vertices_lps: np.ndarray, triangles: np.ndarray) -> tuple[Body, Body]:
    """A surface that may be open: its outside, and its inside just beneath, where only that is seen."""
    beneath = vertices_lps - 0.002 * np.ptp(vertices_lps, axis=0).max() * vertex_normals(vertices_lps, triangles)
    return Body(vertices_lps, triangles, GIVEN), Body(beneath, triangles[:, ::-1], INSIDE)


def octahedral_ball(splits: int = 2) -> Surface:
    """A unit ball (V, 3), (T, 3): an octahedron whose triangles are halved along each side `splits` times."""
    corners = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    faces = []
    for signs in np.ndindex(2, 2, 2):
        face = corners * np.where(signs, -1.0, 1.0)
        faces.append(face[::-1] if sum(signs) % 2 else face)
    soup = np.array(faces)  # (T, 3, 3)
    for _ in range(splits):
        a, b, c = soup[:, 0], soup[:, 1], soup[:, 2]
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        soup = np.concatenate([np.stack(f, axis=1) for f in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    points = soup.reshape(-1, 3)
    points, index = np.unique(np.round(points / np.linalg.norm(points, axis=1, keepdims=True), 9), axis=0, return_inverse=True)
    return points, index.reshape(-1, 3)
