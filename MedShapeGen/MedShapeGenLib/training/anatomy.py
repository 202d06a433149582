"""Reads the folder of anatomical shapes (meshes/CATEGORY.npz, subjects.csv): in LPS, paired organs all of the left side.

The format is the folder's own: vertices and corners as running differences. Its axes are RAS (x to the right, y to the
front, z up) for the bundled categories but one source; the categories used for measurement alone lie as their sources
have them, and are turned about z like the others.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from MedShapeCore.errors import RefusedInput

from ..shapes import largest_body


@dataclass(frozen=True)
class PreparedShape:
    """One shape on its way into the pack."""

    id: str
    category: str
    split: str  # train, val or test; by subject
    source: str  # key of categories.SOURCES
    licence: str
    vertices_lps: np.ndarray  # (V, 3) float64, mm
    triangles: np.ndarray  # (F, 3) int32, outward
    mirrored: bool  # it was of the right side


# What a line of subjects.csv has in its column `source`, and our key.
SOURCE_WORDS = {
    "kits23": "kits23", "Decathlon Task04": "msd-hippocampus", "Decathlon Task07": "msd-pancreas",
    "Decathlon Task09": "msd-spleen", "tcia-ct-scan-dataset": "tcia-head-neck",
    "automatic_pulmonary_lobe": "luna-lobes", "Gibson": "multi-organ-ct", "IntrA": "intra", "SynthAorta": "synthaorta",
    "SSM-morphable-model": "knee-model", "MyoSegmenTUM": "myosegmentum", "Menezes-Reis": "lumbar-discs",
    "2018 Left Atrial": "left-atrium-2018", "University of Basel": "femora-basel", "Femur_Modeling": "femora-grenoble",
}  # fmt: skip
LPS_FROM_RAS = np.array([-1.0, -1.0, 1.0])
# Already in LPS, which the folder does not say: of the 48 ways to exchange and flip axes, the one that brings these 34
# spleens nearest to the 16 of multi-organ-ct (mean distance 0.159 u; those among themselves: 0.150) undoes LPS_FROM_RAS.
LPS_SOURCES = ("msd-spleen",)


def read_anatomy(root: Path, categories: tuple[str, ...]) -> Iterator[PreparedShape]:
    """The shapes of the named categories, in the order of the files; refuses a folder without them."""
    table = subjects(root)
    for category in categories:
        for key, vertices, triangles in category_meshes(root, category):
            row = table.get((category, key))
            if row is None:
                raise RefusedInput("anatomy", f"{key} of {category} is not in subjects.csv.", "Take both of one version.")
            source = source_of(row["source"])
            vertices_lps = vertices if source in LPS_SOURCES else vertices * LPS_FROM_RAS
            mirrored = right_sided(key)
            if mirrored:
                vertices_lps, triangles = mirrored_in_x(vertices_lps, triangles)
            # A third of the kidneys have closed cavities of up to 0.2 % in them, one gland has an island of 1 %.
            vertices_lps, triangles = largest_body(vertices_lps, triangles, key)
            yield PreparedShape(
                key, category, row["split"], source, row["licence"], vertices_lps, triangles, mirrored
            )


def subjects(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Lines of subjects.csv by (category, id)."""
    path = root / "subjects.csv"
    if not path.is_file():
        raise RefusedInput("no-file", f"{root} has no subjects.csv.", "Give the folder of anatomical shapes.")
    with open(path, newline="", encoding="utf-8") as file:
        return {(row["category"], row["id"]): row for row in csv.DictReader(file)}


def available_categories(root: Path) -> list[str]:
    """Names of the categories that the folder has meshes of, sorted."""
    return sorted(path.stem for path in (root / "meshes").glob("*.npz"))


def category_meshes(root: Path, category: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """id, vertices (V, 3) float64 mm in the frame of the folder, triangles (F, 3) int32 of each shape of a category."""
    path = root / "meshes" / f"{category}.npz"
    if not path.is_file():
        raise RefusedInput("no-file", f"There are no shapes of {category} in {root}.", "Check the folder and the name.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("id", "verts", "faces", "voff", "foff", "origin", "scale")}
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RefusedInput("unreadable", f"{path.name} is no file of shapes: {error}.", "Copy it again.") from error
    for i, key in enumerate(arrays["id"].tolist()):
        steps = arrays["verts"][:, arrays["voff"][i] : arrays["voff"][i + 1]].T
        whole = np.cumsum(steps, axis=0, dtype=np.uint16)  # differences modulo 2^16
        vertices = whole * arrays["scale"][i] + arrays["origin"][i]
        corner = arrays["faces"][:, arrays["foff"][i] : arrays["foff"][i + 1]].T.astype(np.int32)
        first = np.cumsum(corner[:, 0], dtype=np.int32)
        yield key, vertices, np.stack([first, first + corner[:, 1], first + corner[:, 2]], axis=1)


def source_of(text: str) -> str:
    """Our key of a source from its description in subjects.csv."""
    for words, key in SOURCE_WORDS.items():
        if words in text:
            return key
    raise RefusedInput("anatomy", f"{text!r} is no known source of shapes.", "Add it to SOURCE_WORDS and SOURCES.")


def right_sided(key: str) -> bool:
    """True for the right one of a paired organ, by the end of its id.

    Hippocampus ids name no side, and none is needed: all 234 are hollow towards -x (LPS; middle third against ends:
    2.7 to 8.6 mm), so their makers stored them as left ones.
    """
    return re.search(r"_(R|Rt)$", key) is not None


def mirrored_in_x(vertices_lps: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The other side's shape: x changes its sign, and the corners their order, so that the outside stays outside."""
    return vertices_lps * np.array([-1.0, 1.0, 1.0]), triangles[:, ::-1].copy()
