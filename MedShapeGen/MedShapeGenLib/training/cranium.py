"""The calvaria, bone of the skull's vault, from the SkullFix training skulls: one closed body per skull.

The rule: on the scanner's axes (gantry tilt undone), L is the front-to-back length of the bone within 50 mm of the
highest point; the calvaria is the bone within 0.34 L (50 to 61 mm) of the highest point. That stays above brow and
orbits in all but two of the 74 heads, which are left out; at 0.40 L it was ten. Hollow diploe, sutures and vessel canals
are closed, so that the plate is solid; five plates with wider holes are left out too.
"""

from __future__ import annotations

import csv
import io
import lzma
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from MedShapeCore.errors import FailedResult, RefusedInput
from scipy import ndimage

from .anatomy import PreparedShape
from .decimation import decimated, sphere_like

CATEGORY, SOURCE, LICENCE = "calvaria", "skullfix", "CC BY-NC-SA 4.0"
# Of the 74 training skulls (the 15 validation skulls are never read): the ten that are kept for development decide here.
VALIDATION = ("004", "013", "019", "029")
TEST = ("054", "060", "068", "073", "083")
# 000 has a bandage over the forehead in its mask; 009 and 081 lie so that the plane meets brow and orbits.
LEFT_OUT = ("000", "009", "081")

LENGTH_WITHIN_MM = 50.0
HEIGHT_SHARE = 0.34
SMALL_HOLE_MM2 = 300.0  # holes in a slice that are diploe or a canal, not the brain's room
CLOSING_MM = (2.0, 4.0, 6.0)  # the first that leaves a plate without holes; wider ones would fill the frontal sinus
SMOOTHING_MM = 0.8
PAD = 4  # voxels of air around the plate, beyond the Gaussian's reach
MOST_TRIANGLES = 8000


@dataclass(frozen=True)
class Skull:
    """A complete skull on an LPS grid."""

    key: str
    mask: np.ndarray  # (K, J, I) bool
    spacing_mm: float
    origin_lps: np.ndarray  # (3,) mm, centre of the first voxel


def training_skulls(folder: Path) -> Iterator[Skull]:
    """The training skulls of a folder with skullfix.csv and skullfix_1mm.npz.xz, by id."""
    train = [key for key in training_ids(folder / "skullfix.csv") if key not in LEFT_OUT]
    arrays = _read_compact(folder / "skullfix_1mm.npz.xz")
    for key in train:
        shape = arrays[f"{key}/shape"]
        mask = np.unpackbits(arrays[f"{key}/complete"], axis=-1, count=int(shape[-1])).reshape(shape).astype(bool)
        yield Skull(key, mask, float(arrays["mm"]), arrays[f"{key}/origin"].astype(np.float64))


def prepared_calvaria(skull: Skull) -> PreparedShape:
    """The calvaria of a skull, with its split; FailedResult where the plate keeps a hole at the widest closing."""
    try:
        vertices, triangles = calvaria(skull.mask, skull.spacing_mm)
    except FailedResult as error:
        raise FailedResult(error.code, f"Skull {skull.key}: {error.message}", error.hint) from error
    split = "val" if skull.key in VALIDATION else "test" if skull.key in TEST else "train"
    return PreparedShape(
        f"skullfix_{skull.key}", CATEGORY, split, SOURCE, LICENCE, vertices + skull.origin_lps, triangles, mirrored=False
    )


def training_ids(table: Path) -> list[str]:
    """Ids of the skulls marked `train`."""
    if not table.is_file():
        raise RefusedInput("no-file", f"There is no file {table}.", "Give the folder with skullfix.csv.")
    with open(table, newline="", encoding="utf-8") as file:
        return [row["id"] for row in csv.DictReader(file) if row["split"] == "train"]


def calvaria(mask: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Closed surface of the calvaria of a skull.

    mask : (K, J, I) bool on axes S, P, L (z up, y back, x left) with voxels of `spacing_mm`.
    Returns vertices (V, 3) float64 in mm (x, y, z) from the first voxel's centre, triangles (F, 3) int32, outward: one
    body without handles, at most MOST_TRIANGLES. Raises FailedResult where every closing leaves a hole in the plate,
    RefusedInput for an empty mask.
    """
    from MedShapeCore.surfaces import field_surface  # vtk: not on a bare training machine

    cap, corner = vault_mask(mask, spacing_mm)
    matrix = np.diag([spacing_mm] * 3 + [1.0])
    matrix[:3, 3] = (np.array(corner[::-1]) - PAD) * spacing_mm
    for closing_mm in CLOSING_MM:
        solid = solid_plate(cap, closing_mm / spacing_mm, spacing_mm)
        soft = ndimage.gaussian_filter(np.pad(solid, PAD).astype(np.float32), SMOOTHING_MM / spacing_mm)
        fine = field_surface(soft, 0.5, matrix)
        if sphere_like(*fine):
            vertices, triangles = decimated(*fine, MOST_TRIANGLES)
            if sphere_like(vertices, triangles):
                return vertices, triangles
    raise FailedResult("calvaria", f"The plate has holes wider than {CLOSING_MM[-1]:.0f} mm.", "Leave this skull out.")


def vault_mask(mask: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The part of a skull (K, J, I) near its highest point, cropped, and the index (k, j, i) where it begins."""
    labels, count = ndimage.label(mask)
    if count == 0:
        raise RefusedInput("empty-mask", "The skull's mask is empty.", "Check the file.")
    skull = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    top = int(np.flatnonzero(skull.any(axis=(1, 2)))[-1])
    upper = skull[max(0, top + 1 - round(LENGTH_WITHIN_MM / spacing_mm)) : top + 1]
    rows = np.flatnonzero(upper.any(axis=(0, 2)))
    height = HEIGHT_SHARE * float(rows[-1] + 1 - rows[0])  # voxels
    bottom = max(0, top + 1 - round(height))
    box = ndimage.find_objects(skull[bottom : top + 1].astype(np.uint8))[0]
    box = (slice(box[0].start + bottom, box[0].stop + bottom), *box[1:])
    return skull[box], (box[0].start, box[1].start, box[2].start)


def solid_plate(cap: np.ndarray, closing: float, spacing_mm: float) -> np.ndarray:
    """The cap (K, J, I) with gaps up to twice `closing` voxels closed and small holes of its slices filled; one part."""
    room = int(np.ceil(closing)) + 1
    # Repeated below its lowest slice, so that closing sees no border there; cut again afterwards.
    padded = np.pad(np.pad(cap, ((room, 0), (0, 0), (0, 0)), mode="edge"), ((0, room), (room, room), (room, room)))
    near = ndimage.distance_transform_edt(~padded) <= closing
    closed = (ndimage.distance_transform_edt(near) > closing)[room:-room, room:-room, room:-room] | cap
    for axis in range(3):
        closed |= _small_holes(closed, axis, SMALL_HOLE_MM2 / spacing_mm**2)
    closed = ndimage.binary_fill_holes(closed)
    labels, _ = ndimage.label(closed)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def _small_holes(mask: np.ndarray, axis: int, largest: float) -> np.ndarray:
    """Background parts within slices across `axis` that touch no border of their slice and are at most `largest`."""
    slices = np.moveaxis(mask, axis, 0)
    holes = np.zeros_like(slices)
    for number, picture in enumerate(slices):
        labels, count = ndimage.label(~picture)
        if count:
            size = np.bincount(labels.ravel(), minlength=count + 1)
            fill = size <= largest
            fill[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] = False
            fill[0] = False
            holes[number] = fill[labels]
    return np.moveaxis(holes, 0, axis)


def _read_compact(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz inside an .xz stream."""
    if not path.is_file():
        raise RefusedInput("no-file", f"There is no file {path}.", "Give the folder with skullfix_1mm.npz.xz.")
    try:
        with lzma.open(path) as file:
            return dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
    except (lzma.LZMAError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise RefusedInput("unreadable", f"{path.name} is no compact file: {error}.", "Copy it again.") from error
