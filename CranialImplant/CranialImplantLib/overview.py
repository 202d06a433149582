"""One picture of an ensemble: the implant in the skull, where the members differ, each member, two slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from MedShapeCore import pictures
from MedShapeCore.pictures import Body
from MedShapeCore.surfaces import Surface, field_surface, mask_surface, vertex_normals
from MedShapeCore.volumes import Volume, box_of, cropped_matrix, kji_from_lps, lps_from_ijk, sample, spacing_of
from scipy import ndimage
from scipy.spatial import cKDTree

from .ensemble import ImplantEnsemble

WIDTH, HEIGHT = 1800, 1200
SPREAD_MAX_MM = 2.0  # one window for all cases, so that two pictures can be compared
RESEARCH_NOTICE = "For research, not for clinical use"
IMPLANT = (0.10, 0.55, 0.75)  # where there is no number to show
ALARM = (0.72, 0.11, 0.08)
NIGHT = (0.07, 0.07, 0.08)
LETTERS = (1.0, 0.58, 0.10)  # readable on black and on bone
SLICE_HEAD = 30
MAX_TILES = 16
FINE = 2  # pixels are drawn this much finer along each side, then averaged
# The standard planes: name, directions to the right and down in LPS, letters at the left, right, top and bottom.
PLANES = (
    ("Axial", (1, 0, 0), (0, 1, 0), "RLAP"),
    ("Coronal", (1, 0, 0), (0, 0, -1), "RLSI"),
    ("Sagittal", (0, 1, 0), (0, 0, -1), "APSI"),
)


def overview(ensemble: ImplantEnsemble, path: str | Path, members: Sequence[Surface] | None = None) -> np.ndarray:
    """Draws the ensemble, writes it as PNG to `path` and returns it, (1200, 1800, 3) uint8; one member: (860, 1800, 3).

    members : the surfaces of `ensemble.implants` in LPS mm, where the caller has them already.
    Colours are millimetres in one fixed window: on the mean implant and in the slices the spread of the members along
    the normal, on each member its distance to the mean implant. An empty ensemble gives the skull alone.
    """
    matrix = cropped_matrix(ensemble.skull.ijk_to_lps, ensemble.box)
    if members is None:
        members = [mask_surface(implant, matrix) for implant in ensemble.implants]
    spread = ensemble.spread
    mean: Surface = (spread.vertices_lps, spread.triangles)
    skull = skull_surface(ensemble.skull.mask, ensemble.skull.ijk_to_lps)
    outward, up = implant_direction(ensemble, skull[0])
    differ = len(members) > 1
    colors = pictures.color_map(spread.spread_mm, SPREAD_MAX_MM) if differ else np.array(IMPLANT)
    body, word = Body(*mean, colors=colors, shading=0.45), "Mean implant" if differ else "Implant"
    picture = pictures.blank(WIDTH, HEIGHT)
    top = _title_inplace(picture, ensemble)

    high = 790 - top
    toward = look_from(outward)
    view = pictures.fitted_view(np.concatenate([skull[0], mean[0]]), toward, np.array([0.0, 0.0, 1.0]), 720, high - 28)
    in_place = pictures.render_surface([Body(*skull), body], view, 720, high - 28, supersample=FINE)
    pictures.paste_inplace(picture, in_place, 24, top + 28)
    _caption_inplace(picture, f"{word} in place, seen from {direction_words(toward)}", 24, top, 720)

    wide, slice_high = 500, high - 240
    for number, plane in enumerate(cutting_planes(outward)):
        image = draw_slice(ensemble, matrix, plane, wide, slice_high)
        pictures.paste_inplace(picture, image, 760 + number * (wide + 16), top)
    for number, (sign, words) in enumerate(((1.0, "outer side"), (-1.0, "inner side, toward the brain"))):
        alone = pictures.fitted_view(mean[0], sign * outward, up, wide, 190, 1.1)
        image = pictures.render_surface([body], alone, wide, 190, supersample=FINE)
        x = 760 + number * (wide + 16)
        pictures.paste_inplace(picture, image, x, top + slice_high + 46)
        _caption_inplace(picture, f"{word}, {words}", x, top + slice_high + 18, wide)

    _legend_inplace(picture, ensemble, 806)
    if differ:
        _tiles_inplace(picture, ensemble, members, outward, up, 884)
    else:
        picture = picture[:860]  # the one implant is shown above
    pictures.write_png(path, picture)
    return picture


def skull_surface(mask: np.ndarray, ijk_to_lps: np.ndarray, voxel_mm: float = 1.5) -> Surface:
    """A light surface of the bone for pictures, from block means of about `voxel_mm`; (0, 3) both for no bone."""
    box = box_of(mask)
    if box is None:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    step = np.maximum(np.round(voxel_mm / spacing_of(ijk_to_lps)[::-1]), 1).astype(int)  # (k, j, i)
    part = mask[box].view(np.uint8)
    part = np.pad(part, [(0, -size % by) for size, by in zip(part.shape, step, strict=True)])
    k, j, i = (size // by for size, by in zip(part.shape, step, strict=True))
    blocks = part.reshape(k * step[0], j * step[1], i, step[2]).sum(axis=3, dtype=np.uint16)
    blocks = blocks.reshape(k, step[0], j, step[1], i).sum(axis=(1, 3), dtype=np.uint16)
    soft = ndimage.gaussian_filter(blocks / np.float32(step.prod()), 0.5, output=np.float32)
    coarse = cropped_matrix(ijk_to_lps, box)
    coarse[:3, 3] = lps_from_ijk(coarse, (step[None] - 1) / 2.0)[0]  # a block's centre
    coarse[:3, :3] = coarse[:3, :3] * step[::-1]
    return field_surface(soft, 0.4, coarse)  # below one half: a squama of 1 mm must not become a hole


def implant_direction(ensemble: ImplantEnsemble, skull_points_lps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit LPS vectors: outward at the implant, and what is up in a picture that looks at it."""
    spread = ensemble.spread
    outer = spread.side == 1
    outward = np.zeros(3)
    if outer.any():
        outward = vertex_normals(spread.vertices_lps, spread.triangles)[outer].mean(axis=0).astype(float)
    elif len(spread.vertices_lps) and len(skull_points_lps):
        outward = spread.vertices_lps.mean(axis=0).astype(float) - skull_points_lps.mean(axis=0)
    if np.linalg.norm(outward) < 1e-3:
        outward = np.array([0.0, -1.0, 0.0])
    outward = _unit(outward)
    # Near the vertex 'superior' would point at the viewer: then the face is up.
    return outward, np.array([0.0, -1.0, 0.0]) if abs(outward[2]) > 0.85 else np.array([0.0, 0.0, 1.0])


def direction_words(toward_lps: np.ndarray) -> str:
    """Where the viewer stands, in words: 'behind, above and the left'."""
    names = (("the right", "the left"), ("the front", "behind"), ("below", "above"))
    strongest_first = np.argsort(-np.abs(toward_lps))
    words = [names[axis][int(toward_lps[axis] > 0)] for axis in strongest_first if abs(toward_lps[axis]) > 0.3]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def look_from(outward: np.ndarray) -> np.ndarray:
    """Direction to a viewer who stands upright, sees the implant well and still recognises the head: (3,) unit LPS."""
    level = np.array([outward[0], outward[1], 0.0])
    level = _unit(level) if np.linalg.norm(level) > 0.1 else np.array([0.0, 1.0, 0.0])  # the very vertex: from behind
    height = np.clip(np.arcsin(np.clip(outward[2], -1, 1)), np.radians(-10), np.radians(42))
    turn = np.radians(22 if level[0] >= 0 else -22) * np.sign(level[1] or 1.0)  # away from the midline, for depth
    angle = np.arctan2(level[1], level[0]) - turn
    return np.array([np.cos(height) * np.cos(angle), np.cos(height) * np.sin(angle), np.sin(height)])


def cutting_planes(outward: np.ndarray) -> list[tuple]:
    """The two of the three standard planes that cut an implant with this outward direction most steeply."""
    along = [abs(float(np.dot(np.cross(right, down), outward))) for _, right, down, _ in PLANES]
    return [plane for number, plane in enumerate(PLANES) if number != int(np.argmax(along))]


def draw_slice(ensemble: ImplantEnsemble, matrix: np.ndarray, plane: tuple, width: int, height: int) -> np.ndarray:
    """A standard plane through the mean implant's centre: bone grey, implant outlined and its uncertain band in colour.

    matrix : (4, 4) of the ensemble's crop. The colour is the spread in mm at the nearest point of the mean surface, its
    strength the variance of the members there. (height, width, 3) uint8.
    """
    name, right, down, letters = plane
    height -= SLICE_HEAD
    right_lps, down_lps = np.array(right, float), np.array(down, float)
    shown = ensemble.mean if ensemble.mean.any() else ensemble.implants.any(axis=0)
    inside = lps_from_ijk(matrix, np.argwhere(shown)[::7]) if shown.any() else matrix[None, :3, 3]
    normal = np.cross(right_lps, down_lps)
    level = float((inside @ normal).mean())
    cut = inside[np.abs(inside @ normal - level) < 3.0] if shown.any() else inside
    cut = cut if len(cut) else inside
    low = np.array([(cut @ right_lps).min(), (cut @ down_lps).min()])
    high = np.array([(cut @ right_lps).max(), (cut @ down_lps).max()])
    mm_per_px = max((high[0] - low[0] + 36.0) / width, (high[1] - low[1] + 36.0) / height)
    x = (np.arange(width * FINE) + 0.5 - width * FINE / 2) * mm_per_px / FINE + (low + high)[0] / 2
    y = (np.arange(height * FINE) + 0.5 - height * FINE / 2) * mm_per_px / FINE + (low + high)[1] / 2
    points = x[None, :, None] * right_lps + y[:, None, None] * down_lps + level * normal  # (2h, 2w, 3)

    bone = _cut(Volume(ensemble.skull.mask, ensemble.skull.ijk_to_lps), points)
    implant = _cut(Volume(ensemble.mean, matrix), points)
    variance = _cut(Volume(ensemble.variance, matrix), points)
    image = np.array(NIGHT) + bone[..., None] * (np.array([0.86, 0.85, 0.83]) - NIGHT)
    image += 0.42 * implant[..., None] * (np.array([0.75, 0.85, 0.95]) - image)
    solid = implant >= 0.5
    line = solid & ~ndimage.binary_erosion(solid, iterations=2 * FINE)  # 2 px
    strength = np.sqrt(np.clip(variance, 0.0, 0.25) / 0.25) * 0.6
    if len(ensemble.implants) == 1 or not len(ensemble.spread.vertices_lps):
        image[line] = IMPLANT
    else:
        strength[line] = 1.0
        touched = strength > 0.05
        _, nearest = cKDTree(ensemble.spread.vertices_lps).query(points[touched])
        color = pictures.color_map(ensemble.spread.spread_mm[nearest], SPREAD_MAX_MM)
        image[touched] += strength[touched, None] * (color - image[touched])
    small = pictures.as_bytes(pictures.averaged(image, FINE))

    places = ((14, height // 2), (width - 14, height // 2), (width // 2, 8), (width // 2, height - 26))
    for letter, (px, py) in zip(letters, places, strict=True):
        pictures.draw_text_inplace(small, letter, px, py, 17, LETTERS, bold=True, anchor="centre")
    head = pictures.blank(width, SLICE_HEAD, (0.20, 0.21, 0.23))  # beside the picture: a plate would hide bone
    axis = int(np.argmax(np.abs(normal)))
    place_mm = level * normal[axis]
    where = f"{name} at {('RL', 'AP', 'IS')[axis][int(place_mm > 0)]} {abs(place_mm):.0f} mm"
    pictures.draw_text_inplace(head, where, 10, 7, 16, pictures.WHITE, bold=True)
    bar = round(20.0 / mm_per_px)
    head[SLICE_HEAD // 2 - 2 : SLICE_HEAD // 2 + 2, width - 10 - bar : width - 10] = 255
    pictures.draw_text_inplace(head, "20 mm", width - 18 - bar, 8, 15, pictures.WHITE, anchor="right")
    return np.concatenate([head, small])


def _cut(volume: Volume, points_lps: np.ndarray) -> np.ndarray:
    """Trilinear values (h, w) of a volume on a plane of points (h, w, 3); only what the plane touches is converted."""
    corners = kji_from_lps(volume.ijk_to_lps, points_lps[[0, 0, -1, -1], [0, -1, 0, -1]])  # (4, 3)
    low = np.clip(np.floor(corners.min(axis=0)) - 1, 0, None).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)) + 2, volume.array.shape).astype(int)
    if np.any(low >= high):
        return np.zeros(points_lps.shape[:2], np.float32)
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    return sample(volume.array[box].astype(np.float32), cropped_matrix(volume.ijk_to_lps, box), points_lps, 0.0)


def _calmed(values: np.ndarray, points_lps: np.ndarray, outer: np.ndarray, reach_mm: float = 3.0) -> np.ndarray:
    """Values (V,) at surface points (V, 3), averaged over about `reach_mm`, outer and inner side (bool, (V,)) apart.

    A mask places its surface in steps of a voxel; the mean over a neighbourhood is where it really lies.
    """
    cell_mm = reach_mm / 2
    result = np.zeros(len(values))
    index = (points_lps - points_lps.min(axis=0)) / cell_mm
    for side in (outer, ~outer):
        place = np.round(index[side]).astype(int)
        shape = tuple(np.round(index.max(axis=0)).astype(int) + 1)
        flat = np.ravel_multi_index(tuple(place.T), shape)
        sums, counts = (
            ndimage.gaussian_filter(np.bincount(flat, w, minlength=int(np.prod(shape))).reshape(shape), 2.0)
            for w in (values[side], np.ones(len(flat)))
        )
        result[side] = ndimage.map_coordinates(sums / np.maximum(counts, 1e-9), index[side].T, order=1, mode="nearest")
    return result


def _title_inplace(picture: np.ndarray, ensemble: ImplantEnsemble) -> int:
    """Name, notice, figures and warnings; returns the row where the pictures may begin."""
    taken = pictures.draw_text_inplace(picture, RESEARCH_NOTICE, WIDTH - 24, 22, 19, ALARM, bold=True, anchor="right")
    pictures.draw_text_inplace(picture, f"Cranial implant: {ensemble.skull.name}", 24, 18, 26, bold=True,
                               width=WIDTH - taken - 80)  # fmt: skip
    mean, number = ensemble.mean_report, len(ensemble.implants)
    parts = [f"{number} implants" if number > 1 else "1 implant"]
    which = "mean implant " if number > 1 else ""
    parts.append(f"{which}{mean.volume_ml:.1f} ml, covers {mean.area_cm2:.0f} cm\u00b2, "
                 f"{mean.thickness_mm:.1f} mm thick")  # fmt: skip
    if number > 1 and len(ensemble.spread.spread_mm):
        middle, far = np.percentile(ensemble.spread.spread_mm, [50, 95])
        parts.append(f"spread {middle:.2f} mm (median), {far:.2f} mm (95 %)")
        parts.append(f"best: implant {ensemble.ranking[0] + 1}")
    passed = sum(report.passed for report in ensemble.checks)
    parts.append("all checks passed" if passed == number and mean.passed else f"{passed} of {number} pass all checks")
    pictures.draw_text_inplace(picture, "  \u00b7  ".join(parts), 24, 56, 17, pictures.GREY, width=WIDTH - 48)
    messages = list(dict.fromkeys(n.message for n in (*ensemble.skull.warnings, *ensemble.notices)))
    if not mean.passed:
        messages.insert(0, f"The mean implant fails: {', '.join(mean.failed)}.")
    lines = messages[:3]
    if len(messages) > 3:
        lines[2] = f"{len(messages) - 2} more warnings: see report.json."
    for number, line in enumerate(lines):
        pictures.draw_text_inplace(picture, f"Warning: {line}", 24, 84 + 24 * number, 16, ALARM, width=WIDTH - 48)
    return 96 + 24 * len(lines)


def _caption_inplace(picture: np.ndarray, text: str, x: int, y: int, width: int) -> None:
    pictures.draw_text_inplace(picture, text, x, y, 17, bold=True, width=width)


def _legend_inplace(picture: np.ndarray, ensemble: ImplantEnsemble, y: int) -> None:
    if len(ensemble.implants) == 1:
        text = "One implant was asked for: there is no spread to show."
        pictures.draw_text_inplace(picture, text, 24, y + 12, 16, pictures.GREY)
        return
    pictures.paste_inplace(picture, pictures.color_bar(560, 54, SPREAD_MAX_MM, "mm"), 0, y)
    lines = (
        "Mean implant and slices: spread of the implants (standard deviation along the surface normal). "
        "In the slices the coloured band is where they disagree.",
        "Single implants below: distance to the mean implant. Dark: they agree. Yellow: they differ, look closely. "
        "The scale is the same in every picture.",
    )
    for number, line in enumerate(lines):
        pictures.draw_text_inplace(picture, line, 590, y + 4 + 24 * number, 16, pictures.GREY, width=WIDTH - 614)


def _tiles_inplace(
    picture: np.ndarray, ensemble: ImplantEnsemble, members: Sequence[Surface],
    outward: np.ndarray, up: np.ndarray, y: int,
) -> None:  # fmt: skip
    """Small pictures of the members, best first, all at one scale."""
    shown = list(ensemble.ranking)[:MAX_TILES]
    rows = 1 if len(shown) <= 6 else 2
    columns = max(-(-len(shown) // rows), 4 if rows == 1 else 1)
    width, height = (WIDTH - 24) // columns - 12, (HEIGHT - y - 8) // rows
    start = (WIDTH - min(len(shown), columns) * (width + 12) + 12) // 2
    foot = 46 if rows == 1 else 40
    points = np.concatenate([members[m][0] for m in shown])
    view = pictures.fitted_view(points, outward, up, width, height - foot, 1.12)
    mean = ensemble.spread
    tree = cKDTree(mean.vertices_lps) if len(mean.vertices_lps) else None
    normals = vertex_normals(mean.vertices_lps, mean.triangles)
    for place, member in enumerate(shown):
        vertices, triangles = members[member]
        colors: np.ndarray = np.array(IMPLANT)
        if tree is not None and len(vertices):
            _, nearest = tree.query(vertices)
            gap = np.einsum("ij,ij->i", vertices - mean.vertices_lps[nearest], normals[nearest])  # mm
            outer = vertex_normals(vertices, triangles) @ outward > 0
            colors = pictures.color_map(np.abs(_calmed(gap, vertices, outer)), SPREAD_MAX_MM)
        body = Body(vertices, triangles, colors, 0.45)
        image = pictures.render_surface([body], view, width, height - foot, supersample=FINE)
        left, top = start + place % columns * (width + 12), y + place // columns * height
        pictures.paste_inplace(picture, image, left, top)
        report, size = ensemble.checks[member], 17 if rows == 1 else 14
        head = f"Implant {member + 1}, rank {place + 1}"
        figures = f"{report.volume_ml:.1f} ml, {report.thickness_mm:.1f} mm thick, DSC {report.agreement:.3f}"
        if not report.passed:
            head, figures = f"{head}: fails its checks", f"{figures}; {', '.join(report.failed)}"
        ink, foot_top = pictures.INK if report.passed else ALARM, top + height - foot
        middle = left + width // 2
        pictures.draw_text_inplace(picture, head, middle, foot_top, size, ink, bold=True, anchor="centre", width=width)
        pictures.draw_text_inplace(picture, figures, middle, foot_top + size + 5, size - 2, pictures.GREY,
                                   anchor="centre", width=width)  # fmt: skip
    if len(ensemble.ranking) > len(shown):
        pictures.draw_text_inplace(picture, f"the best {len(shown)} of {len(ensemble.ranking)}", WIDTH - 24, y - 22, 15,
                                   pictures.GREY, anchor="right")  # fmt: skip
