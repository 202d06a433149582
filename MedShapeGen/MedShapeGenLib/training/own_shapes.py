"""Shapes of a user's own folder: meshes and masks, split by name, right sides of paired organs mirrored."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from ..categories import category
from ..shapes import MASKS, MESHES, read_shape
from .anatomy import PreparedShape, mirrored_in_x

SOURCE, LICENCE = "own", "not stated"
RIGHT = re.compile(r"(^|[_\-. ])(R|Rt|right)([_\-. ]|$)", re.IGNORECASE)


def own_files(folder: Path) -> list[Path]:
    """The meshes and masks in a folder (not in its subfolders), by name."""
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith((*MESHES, *MASKS)))


def own_shape(path: Path) -> PreparedShape:
    """The shape in a file, whose folder's name is its category; refuses as `read_shape` does."""
    kind = category(path.parent.name)
    shape = read_shape(path)
    vertices, triangles, mirrored = shape.vertices_lps, shape.triangles, False
    if kind.paired and RIGHT.search(shape.name):
        vertices, triangles = mirrored_in_x(vertices, triangles)
        mirrored = True
    return PreparedShape(
        shape.name, kind.name, split_of(subject_of(shape.name)), SOURCE, LICENCE, vertices, triangles, mirrored
    )


def subject_of(name: str) -> str:
    """The name without what tells the side, so that both organs of a subject share it."""
    return re.sub(r"[_\-. ](L|Lt|left|R|Rt|right)(?=[_\-. ]|$)", "", name, flags=re.IGNORECASE)


def split_of(subject: str) -> str:
    """train (80 %), val or test (10 % each), from a hash of the subject: the same in every run and category."""
    part = zlib.crc32(subject.encode()) % 10
    return "val" if part == 8 else "test" if part == 9 else "train"
