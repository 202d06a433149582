"""Which voxels does the user mean? Segments of a .seg.nrrd by name, labels of a plain label map by number."""

from __future__ import annotations

import re

import numpy as np
from MedShapeCore.errors import RefusedInput
from MedShapeCore.segments import Segment, listed, named_segment, values_of

BONE_WORDS = ("bone", "skull", "crani", "calvari", "knochen", "schädel", "crâne", "cráneo", "hueso", "cranio")


def is_bone_like(segment: Segment) -> bool:
    """True where name, identifier or terminology say bone or skull."""
    text = f"{segment.name} {segment.identifier}".lower()
    by_term = re.search(r"\^(bone|skull)([~^|]|$)", segment.tags.lower())  # DICOM terminology, SCT^272673000^Bone
    return any(word in text for word in BONE_WORDS) or by_term is not None


def choose_segment(segments: tuple[Segment, ...], wanted: str | None, file: str) -> Segment:
    """The segment called `wanted` (name, else ID, else its label); None = the only one, or the only bone-like one."""
    names = [s.name for s in segments]
    if wanted is None:
        if len(segments) == 1:
            return segments[0]
        bones = [s for s in segments if is_bone_like(s)]
        if len(bones) == 1:
            return bones[0]
        raise RefusedInput("several-segments", f"{file} has {len(segments)} segments: {listed(names)}.",
                           "Choose the skull's bone with --segment NAME.")
    return named_segment(segments, wanted, file)


def label_mask(array: np.ndarray, wanted: str | None, voxel_ml: float, file: str) -> np.ndarray:
    """(K, J, I) bool of a plain mask or label map; grey values, several labels and unknown labels are refused."""
    values = values_of(array)
    if values is None:
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (float("nan"), float("nan"))
        hint = "For a CT volume give --bone-threshold HU, for instance 300."
        if 0 <= low and high <= 1:
            hint = "For a map of probabilities give --bone-threshold 0.5."
        message = f"{file} holds grey values from {low:g} to {high:g}, not a mask of 0 and 1."
        raise RefusedInput("not-binary", message, hint)
    labels = [float(v) for v in values if v != 0]
    if not labels:
        raise RefusedInput("empty", f"{file} is empty: every voxel is 0.", "Choose the segment with the skull's bone.")
    if wanted is not None:
        chosen = [v for v in labels if f"{v:g}" == wanted.strip()]
        if not chosen:
            known = listed([f"{v:g}" for v in labels])
            raise RefusedInput("unknown-segment", f'{file} has no label "{wanted}"; it has {known}.',
                               "A plain label map has numbers, no names: choose one of these with --segment NUMBER.")
        return array == chosen[0]
    if len(labels) > 1:
        sizes = [(v, np.count_nonzero(array == v) * voxel_ml) for v in labels[:12]]
        shown = ", ".join(f"{v:g} ({ml:.0f} ml)" for v, ml in sizes) + (" ..." if len(labels) > 12 else "")
        hint = "Choose the skull's bone with --segment NUMBER."
        if labels[0] < 0:
            hint += " If it is a CT volume, give --bone-threshold HU."
        raise RefusedInput("several-labels", f"{file} has {len(labels)} labels: {shown}.", hint)
    if len(values) == 1:
        raise RefusedInput("not-binary", f"{file} holds nothing but the value {labels[0]:g}: there is no background.",
                           "Export the segment as a mask of 0 and 1.")
    return array == labels[0]
