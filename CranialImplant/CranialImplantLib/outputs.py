"""The files of a result: volumes on the input's grid, surfaces, a segmentation for 3D Slicer, report and picture."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from MedShapeCore.errors import FailedResult, RefusedInput
from MedShapeCore.surfaces import mask_surface, write_stl, write_vtp
from MedShapeCore.volumes import Box, box_of, cropped_matrix, spacing_of

from .ensemble import ImplantEnsemble
from .overview import RESEARCH_NOTICE, SPREAD_MAX_MM, overview

Progress = Callable[..., None]

# Built-in terms of 3D Slicer's DICOM master list: physical object, implant, in the skull.
TERM = (
    "Segmentation category and type - DICOM master list~SCT^260787004^Physical object~SCT^40388003^Implant~^^"
    "~Anatomic codes - DICOM master list~SCT^89546000^Skull~^^"
)
MEAN_COLOR = (0.10, 0.55, 0.75)
# No two differ by red against green only, none is the beige of bone; repeated from the seventh member on.
MEMBER_COLORS = (
    (0.90, 0.62, 0.00),
    (0.80, 0.47, 0.65),
    (0.34, 0.71, 0.91),
    (0.94, 0.89, 0.26),
    (0.84, 0.37, 0.00),
    (0.40, 0.30, 0.70),
)
OWN_NAME = re.compile(r"(implant_\d+|mean_implant)\.(nrrd|stl)")
_RLE = 3  # zlib.Z_RLE, which Python does not name


def write_outputs(
    ensemble: ImplantEnsemble, directory: str | Path, progress: Progress | None = None
) -> dict[str, Path]:
    """Writes all files of a result into `directory`, made if needed, and returns their paths by file name.

    implant_K.nrrd, mean_implant.nrrd, variance.nrrd, agreement.nrrd on the input's grid; implant_K.stl,
    mean_implant.stl, spread_mm.vtp in LPS mm; ensemble.seg.nrrd; report.json; overview.png. K counts the members in
    the order of their seeds, so that a member keeps its name whatever its rank.
    The files are moved into place when all are written, the report last. Implants of an earlier run with more members
    are removed, other files in the folder stay as they are. RefusedInput when the folder cannot be used, FailedResult
    when the disk is full; whatever `progress` raises goes through. Nothing is left behind then.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise RefusedInput("output-folder", f"{directory.name} is a file, not a folder.", "Choose another folder.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=directory))
    except OSError as error:
        raise RefusedInput("output-folder", f"The folder {directory.name} cannot be written.", str(error)) from error
    try:
        names = _write_all(ensemble, partial, progress or (lambda *_: None))
        for old in directory.iterdir():
            if old.name not in names and OWN_NAME.fullmatch(old.name):
                old.unlink()
        for name in names:
            os.replace(partial / name, directory / name)
    except OSError as error:
        raise FailedResult("output", "The results could not be written.", str(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {name: directory / name for name in names}


def _write_all(ensemble: ImplantEnsemble, folder: Path, progress: Progress) -> list[str]:
    started = time.perf_counter()
    skull, box = ensemble.skull, ensemble.box
    matrix = cropped_matrix(skull.ijk_to_lps, box)

    def volume(name: str, array: np.ndarray, content: str) -> str:
        write_padded_nrrd(folder / name, array, box, skull.mask.shape, skull.ijk_to_lps, {"content": content})
        return name

    progress("writing the results", 0.0)
    jobs: list[tuple] = [(volume, "variance.nrrd", ensemble.variance, "variance of the implants' occupancy")]
    jobs += [(volume, "agreement.nrrd", ensemble.agreement, "number of implants that fill the voxel")]
    jobs += [(volume, "mean_implant.nrrd", ensemble.mean, "mean implant")]
    for number, implant in enumerate(ensemble.implants, 1):
        jobs.append((volume, f"implant_{number}.nrrd", implant, f"implant {number}"))
    jobs.append((_write_segmentation, folder / "ensemble.seg.nrrd", ensemble))
    # zlib leaves the interpreter free, so the volumes are packed by one thread while the other meshes and draws.
    with ThreadPoolExecutor(1) as packing:
        packed = [packing.submit(*job) for job in jobs]
        members = []
        for number, implant in enumerate(ensemble.implants, 1):
            members.append(mask_surface(implant, matrix))
            write_stl(folder / f"implant_{number}.stl", *members[-1])
        write_stl(folder / "mean_implant.stl", *mask_surface(ensemble.mean, matrix))
        progress("writing the results", 0.3)
        spread = ensemble.spread
        scalars = {"spread_mm": spread.spread_mm, "side": spread.side}
        write_vtp(folder / "spread_mm.vtp", spread.vertices_lps, spread.triangles, scalars)
        overview(ensemble, folder / "overview.png", members)
        progress("writing the results", 0.8)
        for job in packed:
            job.result()
    names = [*sorted(path.name for path in folder.iterdir()), "report.json"]
    report = report_of(ensemble, names, time.perf_counter() - started)
    text = json.dumps(plain(report), indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    progress("writing the results", 1.0)
    return names


def report_of(ensemble: ImplantEnsemble, files: Iterable[str] = (), seconds: float | None = None) -> dict:
    """Everything about a result that is not a volume: what was asked, found, measured and warned about."""
    skull, spread = ensemble.skull, ensemble.spread
    rank = {member: place for place, member in enumerate(ensemble.ranking, 1)}
    members = [
        {"implant": number + 1, "rank": rank[number], **dataclasses.asdict(check)}
        for number, check in enumerate(ensemble.checks)
    ]
    report = {
        "notice": f"{RESEARCH_NOTICE}.",
        "case": skull.name,
        "coordinates": "LPS, millimetres (STL and VTP files too)",
        "input": {
            "size_ijk": skull.mask.shape[::-1],
            "spacing_mm": spacing_of(skull.ijk_to_lps),
            "ijk_to_lps": skull.ijk_to_lps,
            "bone_voxels": int(np.count_nonzero(skull.mask)),
        },
        **ensemble.report,
        "ranking": [member + 1 for member in ensemble.ranking],
        "mean_implant": dataclasses.asdict(ensemble.mean_report),
        "implants": members,
        "spread_mm": {
            "all": _summary(spread.spread_mm),
            **{word: _summary(spread.spread_mm[spread.side == s]) for s, word in enumerate(("rim", "outer", "inner"))},
        },
        "warnings": [dataclasses.asdict(n) for n in dict.fromkeys((*skull.warnings, *ensemble.notices))],
        "picture": {"spread_window_mm": [0.0, SPREAD_MAX_MM]},
        "files": list(files),
    }
    if seconds is not None:
        report["seconds"] = {**ensemble.report.get("seconds", {}), "outputs": round(seconds, 2)}
    return report


def _summary(values: np.ndarray) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    middle, far = np.percentile(values, [50, 95])
    return {"median": float(middle), "p95": float(far), "max": float(values.max())}


def plain(value: object) -> object:
    """The same with numpy types, tuples and paths as what JSON knows; NaN and infinity become null, a path its name."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, os.PathLike):
        return Path(value).name  # folders may hold a person's name
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def write_padded_nrrd(
    path: Path, crop: np.ndarray, box: Box, shape: tuple[int, ...], ijk_to_lps: np.ndarray, fields: dict[str, str]
) -> None:
    """An NRRD file of the whole grid `shape` (K, J, I) that holds `crop` in `box` and zero elsewhere.

    crop : bool or integer (written as unsigned char) or float32, of the box's size. `fields` are header lines; the
    grid is streamed slice by slice and never lies in memory.
    """
    crop = crop.astype(np.float32 if crop.dtype.kind == "f" else np.uint8)
    start = [s.start or 0 for s in box]
    after = [size - first - part for size, first, part in zip(shape, start, crop.shape, strict=True)]
    around = [(start[1], after[1]), (start[2], after[2])]
    empty = bytes(shape[1] * shape[2] * crop.itemsize)

    def slices() -> Iterable[bytes]:
        for _ in range(start[0]):
            yield empty
        for layer in crop:
            yield np.pad(layer, around).tobytes()
        for _ in range(after[0]):
            yield empty

    write_nrrd(path, slices(), crop.dtype, shape[::-1], ijk_to_lps, {**fields, "MedShapeGen.Notice": RESEARCH_NOTICE})


def write_nrrd(
    path: Path, chunks: Iterable[bytes], dtype: np.dtype, sizes: tuple[int, ...], ijk_to_lps: np.ndarray,
    fields: dict[str, str],
) -> None:  # fmt: skip
    """A gzip-compressed NRRD file in LPS. `sizes` are those of (i, j, k), or of (list, i, j, k); fastest axis first.

    `fields`: the standard field `content`, and key/value pairs, which keep their order.
    """
    listed = len(sizes) == 4
    matrix = np.asarray(ijk_to_lps, float)
    axes = " ".join(f"({','.join(repr(float(v)) for v in matrix[:3, axis])})" for axis in range(3))
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {'float' if np.dtype(dtype).kind == 'f' else 'unsigned char'}",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' if listed else ''}{axes}",
        f"kinds: {'list ' if listed else ''}domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({','.join(repr(float(v)) for v in matrix[:3, 3])})",
    ]
    lines += [f"content: {fields['content']}"] if "content" in fields else []
    lines += [f"{key}:={value}" for key, value in fields.items() if key != "content"]
    # Runs of equal bytes are all that masks have: the RLE strategy is as fast as level 1 and four times as small.
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, 9, _RLE)
    with open(path, "wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode("utf-8"))
        for chunk in chunks:
            file.write(packer.compress(chunk))
        file.write(packer.flush())


def _write_segmentation(path: Path, ensemble: ImplantEnsemble) -> None:
    """ensemble.seg.nrrd: the mean implant and every member, each in its own layer because they overlap."""
    masks = [ensemble.mean, *ensemble.implants]
    place = {member: rank for rank, member in enumerate(ensemble.ranking, 1)}
    segments = [("MeanImplant", "Mean implant", MEAN_COLOR, "mean", ensemble.mean_report.passed)]
    for number, check in enumerate(ensemble.checks):
        color = MEMBER_COLORS[number % len(MEMBER_COLORS)]
        segments.append((f"Implant_{number + 1}", f"Implant {number + 1}", color, str(number + 1), check.passed))
    # 3D Slicer takes an image of a single voxel for none at all.
    used = box_of(np.logical_or.reduce(masks)) or (slice(0, 2), slice(0, 2), slice(0, 2))
    layers = np.stack([mask[used] for mask in masks], axis=-1).astype(np.uint8)  # (k, j, i, layers)
    matrix = cropped_matrix(ensemble.skull.ijk_to_lps, ensemble.box)
    offset = [(whole.start or 0) + part.start for whole, part in zip(ensemble.box, used, strict=True)][::-1]  # i, j, k
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": "Reference image geometry|"
        + _slicer_geometry(ensemble.skull.ijk_to_lps, ensemble.skull.mask.shape)
        + "|Image geometry of the input&",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, offset)),
        "MedShapeGen.Notice": RESEARCH_NOTICE,
    }
    for number, (identity, name, color, member, passed) in enumerate(segments):
        box = box_of(layers[..., number].astype(bool))
        extent = [0, -1, 0, -1, 0, -1] if box is None else [e for s in box[::-1] for e in (s.start, s.stop - 1)]
        tags = f"TerminologyEntry:{TERM}|CranialImplant.Member:{member}|"
        if member != "mean":
            tags += f"CranialImplant.Rank:{place[number - 1]}|"
        if not passed:
            tags += "Segmentation.Status:flagged|"
        fields |= {
            f"Segment{number}_ID": identity,
            f"Segment{number}_Name": name,
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_Color": " ".join(f"{c:g}" for c in color),
            f"Segment{number}_ColorAutoGenerated": "0",
            f"Segment{number}_Extent": " ".join(map(str, extent)),
            f"Segment{number}_LabelValue": "1",
            f"Segment{number}_Layer": str(number),
            f"Segment{number}_Tags": tags,
        }
    sizes = layers.shape[3:] + layers.shape[2::-1]  # (layers, i, j, k)
    write_nrrd(path, [layers.tobytes()], layers.dtype, sizes, cropped_matrix(matrix, used), fields)


def _slicer_geometry(ijk_to_lps: np.ndarray, shape: tuple[int, ...]) -> str:
    """The input's grid as 3D Slicer writes it (matrix to RAS by rows, then the extent), so that edits keep to it."""
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(ijk_to_lps, float)
    numbers = [repr(float(v)) for v in ras.ravel()]
    for size in shape[::-1]:
        numbers += ["0", str(size - 1)]
    return "".join(f"{number};" for number in numbers)
