"""Segments of a .seg.nrrd by name, and the values of a label map.

The header of a .seg.nrrd is parsed here (key:=value lines of the NRRD format, keys SegmentN_Name, _ID, _LabelValue,
_Layer as 3D Slicer writes them), because overlapping segments lie in layers and image libraries know no names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import RefusedInput

MAX_HEADER_BYTES = 4 << 20
MAX_LABELS = 64  # more different whole numbers are grey values, not labels


@dataclass(frozen=True)
class Segment:
    """One segment: its name and where its voxels are, `layer` of the array (..., C) where it equals `label`."""

    name: str
    identifier: str
    label: int
    layer: int
    tags: str = ""


def read_nrrd_header(path: str | Path) -> dict[str, str]:
    """Fields and key/value pairs of a NRRD header; refuses what is no NRRD. Values keep their text."""
    path = Path(path)
    with open(path, "rb") as file:
        raw = file.read(MAX_HEADER_BYTES)
    if not raw.startswith(b"NRRD"):
        raise RefusedInput("unreadable", f"{path.name} is no NRRD file.", "Export it again from 3D Slicer.")
    end = re.search(rb"\r?\n\r?\n", raw)
    text = raw[: end.start() if end else len(raw)].decode("utf-8", "replace")
    header = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#"):
            continue
        key, separator, value = line.partition(":=")
        if not separator:
            key, separator, value = line.partition(": ")
        if separator:
            header[key.strip()] = value.replace("\\n", "\n").strip()
    return header


def segments_of(header: dict[str, str]) -> tuple[Segment, ...]:
    """The segments which a header names, in its order; empty for a NRRD that is no segmentation."""
    matches = [re.fullmatch(r"Segment(\d+)_(?:ID|Name|LabelValue|Layer)", key) for key in header]
    numbers = sorted({int(m.group(1)) for m in matches if m})
    found = []
    for n in numbers:
        identifier = header.get(f"Segment{n}_ID", f"Segment_{n}")
        # Before Slicer 4.11 every segment had its own layer with the value 1, and neither was written.
        layer = whole(header, f"Segment{n}_Layer", n if f"Segment{n}_LabelValue" not in header else 0)
        found.append(Segment(header.get(f"Segment{n}_Name", identifier), identifier,
                             whole(header, f"Segment{n}_LabelValue", 1), layer, header.get(f"Segment{n}_Tags", "")))
    return tuple(found)


def whole(header: dict[str, str], key: str, default: int) -> int:
    """A whole number of the header; refuses other text."""
    text = header.get(key, str(default))
    if not re.fullmatch(r"\s*[+-]?\d+\s*", text):
        raise RefusedInput("unreadable", f"The header has {key} = {text!r}, not a whole number.", "Export it again.")
    return int(text)


def listed(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def named_segment(segments: tuple[Segment, ...], wanted: str, file: str) -> Segment:
    """The segment called `wanted`: by name, else by ID, else by its label; refuses none and several."""
    names = [s.name for s in segments]
    for same in (
        lambda s: s.name == wanted,
        lambda s: s.name.casefold() == wanted.strip().casefold(),
        lambda s: s.identifier == wanted,
        lambda s: str(s.label) == wanted.strip(),
    ):
        found = [s for s in segments if same(s)]
        if len(found) == 1:
            return found[0]
        if found:
            raise RefusedInput("several-segments", f'{file} has {len(found)} segments called "{wanted}".',
                               f"Choose by ID: {listed([s.identifier for s in found])}.")
    raise RefusedInput("unknown-segment", f'{file} has no segment called "{wanted}"; it has {listed(names)}.',
                       "Choose one of these with --segment NAME.")


def segment_mask(array: np.ndarray, segment: Segment, file: str) -> np.ndarray:
    """(K, J, I) bool of a segment in an array (K, J, I) or (K, J, I, C); a layer that does not exist is refused."""
    layers = array[..., None] if array.ndim == 3 else array
    if not 0 <= segment.layer < layers.shape[-1]:
        raise RefusedInput("unreadable", f'{file} says that "{segment.name}" lies in layer {segment.layer}, but it has '
                           f"{layers.shape[-1]}.", "Export it again.")
    return layers[..., segment.layer] == segment.label


def values_of(array: np.ndarray) -> np.ndarray | None:
    """The different values of an array (K, J, I), sorted; None when they are grey: too many, not whole, or NaN."""
    if array.dtype == bool:
        array = array.view(np.uint8)
    found: set[float] = set()
    for plane in array:  # a plane at a time, counted where possible: sorting 65 million voxels takes seconds
        low, high = plane.min(), plane.max()
        if low == high:
            values = np.array([low])
        elif plane.dtype.kind in "ui" and int(high) - int(low) < 65536:
            values = np.flatnonzero(np.bincount(plane.ravel().astype(np.int64) - int(low))) + int(low)
        else:
            values = np.unique(plane)
        if len(values) > MAX_LABELS or not np.isfinite(values).all() or (values != np.round(values)).any():
            return None
        found.update(values.tolist())
        if len(found) > MAX_LABELS:
            return None
    return np.array(sorted(found))
