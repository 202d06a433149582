"""The data pack: many skulls in their head frames as int8 signed distances, one file for any training machine.

Sources are compact skull files (*.npz.xz: one case at its native resolution, or a pack of many at 1 mm) and masks
(NRRD, NIfTI). Some skulls come with a hole of their own; its neighbourhood is never a target of training.
"""

from __future__ import annotations

import io
import lzma
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from MedShapeCore.errors import MedShapeError, RefusedInput
from MedShapeCore.volumes import cropped_matrix
from MedShapeCore.weights import open_weights

from ..head import FIELD_LIMIT_MM, HEAD_GRID, head_field
from ..pose import ATLAS_GRID, HeadPose, bone_points, pose_from_similarity, register

QUANTUM_MM = FIELD_LIMIT_MM / 127
COMPACT = ".npz.xz"
MASKS = (".nrrd", ".nii", ".nii.gz", ".mha")
MIN_FIT = 0.82  # share of the vault's points near the atlas: 199 public skulls have 0.86 to 1, balls and bricks less
NEAR_MM = 6.0


@dataclass(frozen=True)
class PackedSkull:
    """One skull of a pack, in its head frame."""

    name: str
    field: np.ndarray  # (K, J, I) int8 on HEAD_GRID, times QUANTUM_MM = mm
    inside: np.ndarray  # (K, J, I) bool, inside the scan
    complete: bool  # False: it has, or may have, a hole of its own


@dataclass(frozen=True)
class Source:
    """One skull somewhere in a file."""

    path: Path
    member: str | None  # name within a compact pack, None = the file is one skull

    @property
    def name(self) -> str:
        ending = next(e for e in (COMPACT, ".seg.nrrd", *reversed(MASKS)) if self.path.name.endswith(e))
        return self.member or self.path.name.removesuffix(ending)


@dataclass(frozen=True)
class SourceSkull:
    """A skull as its file has it: mask (K, J, I) bool, ijk_to_lps (4, 4); complete None = the file does not say."""

    mask: np.ndarray
    ijk_to_lps: np.ndarray
    complete: bool | None


# ---- reading


def find_sources(paths: list[Path]) -> tuple[list[Source], list[str]]:
    """The skulls of files and folders (not of their subfolders), and sentences about what is left out.

    Of several skulls with one name the first counts. Raises RefusedInput where a path does not exist.
    """
    found: dict[str, Source] = {}
    left_out = []
    for path in paths:
        if not path.exists():
            raise RefusedInput("no-file", f"There is no {path}.", "Give a folder or a file with skulls.")
        files = sorted(p for p in path.iterdir() if p.name.endswith((COMPACT, *MASKS))) if path.is_dir() else [path]
        for file in files:
            try:
                sources = _sources_of(file)
            except MedShapeError as error:
                left_out.append(error.message)
                continue
            for source in sources:
                if found.setdefault(source.name, source) is not source:
                    left_out.append(f"{source.name} of {file} was found before, in {found[source.name].path}.")
    return list(found.values()), left_out


def _sources_of(file: Path) -> list[Source]:
    if file.name.endswith(COMPACT):
        names = read_compact(file).get("names")
        return [Source(file, None)] if names is None else [Source(file, str(n)) for n in names]
    if file.name.endswith(MASKS):
        return [Source(file, None)]
    raise RefusedInput("file-type", f"{file} is no skull file.", f"Give {COMPACT}, " + ", ".join(MASKS) + ".")


def read_compact(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a compact file, an .npz inside an .xz stream; refuses what is none."""
    try:
        with lzma.open(path) as file:
            return dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
    except FileNotFoundError as error:
        raise RefusedInput("no-file", f"There is no file {path}.", "Check the path.") from error
    except (lzma.LZMAError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise RefusedInput("unreadable", f"{path} is no compact file: {error}.", "Make or copy it again.") from error


def unpack_bits(bits: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Mask from its bits, packed along the last axis."""
    return np.unpackbits(bits, axis=-1, count=int(shape[-1])).reshape(shape).astype(bool)


def read_source(source: Source) -> SourceSkull:
    """Reads one skull whole (with its implant); in a compact file it is complete when it has an implant."""
    if not source.path.name.endswith(COMPACT):
        from ..skull import load_skull  # needs more packages than a training machine has

        skull = load_skull(source.path)
        return SourceSkull(skull.mask, skull.ijk_to_lps, None)
    arrays = read_compact(source.path)
    try:
        return _case(arrays) if source.member is None else _member(arrays, source.member)
    except (KeyError, ValueError) as error:
        raise RefusedInput("unreadable", f"{source.path} is no compact skull file: {error}.",
                           "Make or copy it again.") from error


def _case(arrays: dict[str, np.ndarray]) -> SourceSkull:
    """A case at its native resolution, cropped to the bone."""
    matrix = np.eye(4)
    matrix[:3, :3] = arrays["direction"].reshape(3, 3) * arrays["spacing"]
    matrix[:3, 3] = arrays["origin"]
    k, j, i = (slice(int(c), None) for c in arrays["corner"])
    mask = unpack_bits(arrays["complete"], arrays["shape"])
    return SourceSkull(mask, cropped_matrix(matrix, (k, j, i)), bool(arrays["implant"].any()))


def _member(arrays: dict[str, np.ndarray], name: str) -> SourceSkull:
    """One skull of a compact pack, on its LPS grid."""
    matrix = np.diag([float(arrays["mm"])] * 3 + [1.0])
    matrix[:3, 3] = arrays[f"{name}/origin"]
    mask = unpack_bits(arrays[f"{name}/complete"], arrays[f"{name}/shape"])
    return SourceSkull(mask, matrix, bool(arrays[f"{name}/implant"].any()))


# ---- into the head frame


def upright_start(points_lps: np.ndarray) -> np.ndarray:
    """A first similarity for a head that lies roughly straight in its scanner: (4, 4), atlas <- LPS."""
    top = np.percentile(points_lps[:, 2], 99.8)
    upper = points_lps[points_lps[:, 2] > top - 110]
    low, high = np.percentile(upper, 0.5, 0), np.percentile(upper, 99.5, 0)
    start = np.eye(4)
    start[:3, 3] = -np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, top - 85.0])
    return start


def upright_pose(mask: np.ndarray, ijk_to_lps: np.ndarray, atlas: np.ndarray, seed: int = 0) -> HeadPose:
    """Pose of an upright training skull by registration alone; RefusedInput where it does not fit the atlas."""
    points = bone_points(mask, ijk_to_lps, 5000, np.random.default_rng(seed))
    if not len(points):
        raise RefusedInput("empty", "The mask is empty.", "Leave it out.")
    matrix, residual_mm = register(points, atlas, ATLAS_GRID, upright_start(points))
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    vault = moved[moved[:, 2] > 0]
    near = np.abs(ATLAS_GRID.sample(atlas, vault, 2 * NEAR_MM)) < NEAR_MM
    fit = float(near.mean()) if len(near) else 0.0
    if fit < MIN_FIT:
        raise RefusedInput("pose", f"Only {100 * fit:.0f} % of the vault lies on the atlas.",
                           "Training skulls must be upright heads with their vault.")
    return pose_from_similarity(matrix, residual_mm)


def packed(
    name: str, mask: np.ndarray, ijk_to_lps: np.ndarray, atlas: np.ndarray, complete: bool | None
) -> PackedSkull:
    """A skull (K, J, I) in its head frame; complete None = it is when the vault has no hole. Raises as upright_pose."""
    pose = upright_pose(mask, ijk_to_lps, atlas)
    field, inside = head_field(mask, ijk_to_lps, pose)
    if complete is None:
        complete = not _has_hole(field, inside)
    return PackedSkull(name, np.round(field / QUANTUM_MM).astype(np.int8), inside, complete)


def _has_hole(field: np.ndarray, inside: np.ndarray) -> bool:
    """Whether the vault has a hole by the bundled shape model alone; every blob of missing rays counts."""
    from ..defect import find_holes, vault_bone
    from ..models import WEIGHTS, dome_of
    from ..vault import VAULT_MAP

    dome = dome_of(open_weights(WEIGHTS))
    return bool(find_holes(vault_bone(field, inside, dome), dome, np.ones(VAULT_MAP.shape)))


# ---- the pack


def build_pack(
    sources: list[Path], out: Path, atlas: np.ndarray | None = None, progress: Callable[[str], None] = print,
    processes: int | None = None,
) -> Path:
    """Reads skulls from files and folders, registers each to the atlas and writes one pack; returns its path.

    atlas : (K, J, I) mm on ATLAS_GRID, None = the bundled one; processes : None = one per processor core. Skulls that
    cannot be used are left out, with a sentence. Raises RefusedInput where none is left.
    """
    found, left_out = find_sources(sources)
    for sentence in left_out:
        progress(f"left out: {sentence}")
    if atlas is None:
        from ..models import WEIGHTS, atlas_of

        atlas = atlas_of(open_weights(WEIGHTS))
    skulls: list[PackedSkull] = []
    for number, (source, answer) in enumerate(zip(found, _each_packed(found, atlas, processes), strict=True), 1):
        if isinstance(answer, PackedSkull):
            skulls.append(answer)
            said = "complete" if answer.complete else "with a hole of its own"
        else:
            said = f"left out: {answer}"
        progress(f"{number}/{len(found)} {source.name}: {said}")
    if not skulls:
        raise RefusedInput("no-skulls", "None of the sources has a skull that can be used.",
                           f"Give folders with {COMPACT}, " + ", ".join(MASKS) + " files.")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_pack(out, skulls)
    progress(f"{len(skulls)} skulls, {sum(s.complete for s in skulls)} of them complete, are in {out}.")
    return out


def _each_packed(found: list[Source], atlas: np.ndarray, processes: int | None) -> Iterator[PackedSkull | str]:
    """The packed skull of each source, or why it is left out, in order."""
    count = min(processes or os.cpu_count() or 1, len(found))
    if count <= 1:
        yield from map(partial(_packed_source, atlas=atlas), found)
        return
    with ProcessPoolExecutor(count) as pool:
        yield from pool.map(partial(_packed_source, atlas=atlas), found)


def _packed_source(source: Source, atlas: np.ndarray) -> PackedSkull | str:
    try:
        skull = read_source(source)
        return packed(source.name, skull.mask, skull.ijk_to_lps, atlas, skull.complete)
    except MedShapeError as error:
        return error.message


def write_pack(path: Path, skulls: list[PackedSkull]) -> None:
    """Writes a pack, whole or not at all."""
    arrays: dict[str, np.ndarray] = {
        "names": np.array([s.name for s in skulls]),
        "complete": np.array([s.complete for s in skulls]),
    }
    for s in skulls:
        arrays[f"{s.name}/field"] = s.field
        arrays[f"{s.name}/inside"] = np.packbits(s.inside)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    temporary = path.with_name(path.name + ".part")
    with lzma.open(temporary, "wb", preset=4) as file:
        file.write(buffer.getbuffer())
    temporary.replace(path)


def read_pack(path: Path) -> list[PackedSkull]:
    """The skulls of a pack; refuses what is none."""
    arrays = read_compact(path)
    size = int(np.prod(HEAD_GRID.shape))

    def inside(name: str) -> np.ndarray:
        return np.unpackbits(arrays[f"{name}/inside"], count=size).reshape(HEAD_GRID.shape).astype(bool)

    try:
        return [
            PackedSkull(str(name), arrays[f"{name}/field"], inside(name), bool(complete))
            for name, complete in zip(arrays["names"], arrays["complete"], strict=True)
        ]
    except (KeyError, ValueError) as error:
        raise RefusedInput("not-a-pack", f"{path} is no pack of training skulls.",
                           "Make one with `cranial-implant pack`.") from error
