"""The data pack: many skulls in their head frames as int8 signed distances, one file for any training machine.

Training skulls come whole; challenge skulls carry a hole of their own, whose neighbourhood is never a target (`own_hole`).
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from MedShapeCore.volumes import cropped_matrix

from ..head import FIELD_LIMIT_MM, HEAD_GRID, head_field
from ..pose import ATLAS_GRID, HeadPose, bone_points, pose_from_similarity, register

QUANTUM_MM = FIELD_LIMIT_MM / 127


@dataclass(frozen=True)
class PackedSkull:
    """One skull of a pack, in its head frame."""

    name: str
    field: np.ndarray  # (K, J, I) int8 on HEAD_GRID, times QUANTUM_MM = mm
    inside: np.ndarray  # (K, J, I) bool, inside the scan
    complete: bool  # False: it has a hole of its own


def upright_start(points_lps: np.ndarray) -> np.ndarray:
    """A first similarity for a head that lies roughly straight in its scanner: (4, 4), atlas <- LPS."""
    top = np.percentile(points_lps[:, 2], 99.8)
    upper = points_lps[points_lps[:, 2] > top - 110]
    low, high = np.percentile(upper, 0.5, 0), np.percentile(upper, 99.5, 0)
    start = np.eye(4)
    start[:3, 3] = -np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, top - 85.0])
    return start


def upright_pose(mask: np.ndarray, ijk_to_lps: np.ndarray, atlas: np.ndarray, seed: int = 0) -> HeadPose:
    """Pose of an upright training skull by registration alone."""
    points = bone_points(mask, ijk_to_lps, 5000, np.random.default_rng(seed))
    return pose_from_similarity(*register(points, atlas, ATLAS_GRID, upright_start(points)))


def read_compact(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a compact skull file: an .npz inside an .xz stream."""
    with lzma.open(path) as file:
        return dict(np.load(io.BytesIO(file.read()), allow_pickle=False))


def unpack_bits(bits: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, axis=-1, count=int(shape[-1])).reshape(shape).astype(bool)


def compact_case(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Complete skull (K, J, I) bool, cropped to the bone, and its ijk_to_lps."""
    z = read_compact(path)
    matrix = np.eye(4)
    matrix[:3, :3] = z["direction"].reshape(3, 3) * z["spacing"]
    matrix[:3, 3] = z["origin"]
    corner = tuple(slice(int(c), None) for c in z["corner"])
    return unpack_bits(z["complete"], z["shape"]), cropped_matrix(matrix, corner)  # type: ignore[arg-type]


def compact_pack(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, complete (K, J, I) bool, ijk_to_lps of each skull of a compact 1 mm pack."""
    z = read_compact(path)
    for name in z["names"]:
        matrix = np.diag([float(z["mm"])] * 3 + [1.0])
        matrix[:3, 3] = z[f"{name}/origin"]
        yield str(name), unpack_bits(z[f"{name}/complete"], z[f"{name}/shape"]), matrix


def packed(name: str, mask: np.ndarray, ijk_to_lps: np.ndarray, atlas: np.ndarray, complete: bool) -> PackedSkull:
    pose = upright_pose(mask, ijk_to_lps, atlas)
    field, inside = head_field(mask, ijk_to_lps, pose)
    return PackedSkull(name, np.round(field / QUANTUM_MM).astype(np.int8), inside, complete)


def write_pack(path: Path, skulls: list[PackedSkull]) -> None:
    arrays: dict[str, np.ndarray] = {"names": np.array([s.name for s in skulls]), "complete": np.array([s.complete for s in skulls])}
    for s in skulls:
        arrays[f"{s.name}/field"] = s.field
        arrays[f"{s.name}/inside"] = np.packbits(s.inside)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with lzma.open(path, "wb", preset=4) as file:
        file.write(buffer.getvalue())


def read_pack(path: Path) -> list[PackedSkull]:
    z = read_compact(path)
    size = int(np.prod(HEAD_GRID.shape))
    return [
        PackedSkull(str(name), z[f"{name}/field"], np.unpackbits(z[f"{name}/inside"], count=size).reshape(HEAD_GRID.shape).astype(bool), bool(c))
        for name, c in zip(z["names"], z["complete"], strict=True)
    ]
