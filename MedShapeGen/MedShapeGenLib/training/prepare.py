"""Makes the pack that the networks are trained on: per category one file of meshes, surface points and exact distances.

PACK/shapes/CATEGORY.npz holds for n shapes
    id, split (train, val or test), source, licence   (n) str
    scale_mm (n) float32, mirrored (n) bool
    verts (sum V, 3) float32 in u, faces (sum F, 3) int32 local to the shape, voff, foff (n + 1) int64
    points (n, P, 3) int16, normals (n, P, 3) int8: on the surface, uniform by area
    queries (n, Q, 3) int16, sdf (n, Q) float16 in u, negative inside, computed at the position as it is stored
with the steps of `queries.POSITION_QUANTUM_U` and `NORMAL_QUANTUM`. PACK/measure/CATEGORY.npz: the same for categories
that are measured on and never bundled. What a shape gets depends on the seed, its category and its id alone.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from MedShapeCore.errors import MedShapeError, OptionError, RefusedInput

from ..categories import CATEGORIES, category
from ..shapes import Shape, normalise, surface_points
from . import cranium, trees
from .anatomy import PreparedShape, available_categories, read_anatomy
from .own_shapes import own_files, own_shape
from .queries import draw_queries, positions_u, quantised_normals, quantised_positions, signed_distance

Progress = Callable[[str], None]
Load = Callable[[Any], PreparedShape]
Packed = tuple[dict[str, Any], dict[str, np.ndarray]]
ROW = ("id", "split", "source", "licence", "mirrored")
TELL_SECONDS = 10.0


@dataclass(frozen=True)
class PrepareOptions:
    """What is stored of each shape."""

    points: int = 8192  # on the surface; a training step takes 2,560 of them
    queries: int = 16384
    seed: int = 0
    processes: int | None = None  # None: one per processor core

    def __post_init__(self) -> None:
        for name, low in (("points", 2560), ("queries", 256)):
            if not low <= getattr(self, name) <= 1_000_000:
                raise OptionError(name, getattr(self, name), f"a whole number from {low} to 1000000")
        if self.processes is not None and self.processes < 1:
            raise OptionError("processes", self.processes, "at least 1")


def prepare(
    source: Path, out: Path, skulls: Path | None = None, measure: bool = False, categories: tuple[str, ...] = (),
    processes: int | None = None, seed: int = 0, progress: Progress = print,
) -> Path:
    """Makes the pack `out` from the folder of anatomical shapes, or from a folder of the user's own shapes; returns it.

    source     : a folder with subjects.csv and meshes/, as `anatomy` reads; else one with a folder of meshes or masks
                 per category, named as in `categories.CATEGORIES`.
    skulls     : folder of the SkullFix skulls, for the calvaria; None leaves that category out.
    measure    : also packs the categories that are not bundled, into out/measure.
    categories : only these; empty = all. A category that is packed already is made anew.
    """
    options = PrepareOptions(seed=seed, processes=processes)
    chosen = tuple(category(name).name for name in categories) or tuple(row.name for row in CATEGORIES)
    if not source.is_dir():
        raise RefusedInput("no-folder", f"There is no folder {source}.", "Check the path.")
    if not (source / "subjects.csv").is_file():
        return _prepare_folder(source, out, chosen, options, progress)
    there = available_categories(source)
    for name in chosen:
        path = out / "shapes" / f"{name}.npz"
        if name == trees.CATEGORY:
            write_category(range(trees.COUNT), path, options, progress, partial(trees.parametric_tree, seed=seed))
        elif name == cranium.CATEGORY and skulls is not None:
            write_category(cranium.training_skulls(skulls), path, options, progress, cranium.prepared_calvaria)
        elif name in there:
            write_category(read_anatomy(source, (name,)), path, options, progress)
        else:
            progress(f"prepare {name} shapes=0: no data given")
    for name in there if measure else ():
        if name not in {row.name for row in CATEGORIES}:
            write_category(read_anatomy(source, (name,)), out / "measure" / f"{name}.npz", options, progress)
    return out


def _prepare_folder(source: Path, out: Path, chosen: tuple[str, ...], options: PrepareOptions, progress: Progress) -> Path:
    """The pack of a folder with one folder of meshes or masks per category."""
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    unknown = [path.name for path in folders if path.name not in {row.name for row in CATEGORIES}]
    if unknown:
        category(unknown[0])  # refuses, with the names that come near
    written = 0
    for folder in folders:
        if folder.name in chosen:
            files = own_files(folder)
            written += write_category(files, out / "shapes" / f"{folder.name}.npz", options, progress, own_shape)
    if not written:
        raise RefusedInput(
            "no-shapes", f"No shape of {source} could be used.",
            "Give a folder with one folder per category (say kidney/), with a mesh or a mask of each organ in it.",
        )
    return out


def write_category(
    items: Iterable[Any], path: Path, options: PrepareOptions, progress: Progress = print, load: Load | None = None
) -> int:
    """Writes the shapes of one category into `path`, in their order; returns how many. The file appears whole or not.

    items : PreparedShape, or whatever `load` makes one from, in the worker process. An item that `load` refuses is left
            out, and the reason told. No file is written where nothing is left.
    """
    start = told = time.monotonic()
    everything = list(items)
    kept, parts = [], []
    for number, answer in enumerate(_packed(everything, load, options), 1):
        if isinstance(answer, str):
            progress(f"prepare {path.stem} left out: {answer}")
        else:
            kept.append(answer[0])
            parts.append(answer[1])
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            progress(f"prepare {path.stem} shapes={number}/{len(everything)} seconds={told - start:.0f}")
    if parts:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_suffix(".partial")  # which no reader takes for a category
        with open(partial_path, "wb") as file:
            np.savez(file, **_columns(kept, parts))  # type: ignore[arg-type]  # a stub that takes the first for a flag
        partial_path.replace(path)
    sizes = [2 * float(part["scale_mm"]) for row, part in zip(kept, parts, strict=True) if row["split"] == "train"]
    size = f" longest_mm={min(sizes):.1f}..{max(sizes):.1f}" if sizes else ""  # what the category's row says
    seconds = f"seconds={time.monotonic() - start:.0f}"
    progress(f"prepare {path.stem} shapes={len(parts)} train={len(sizes)}{size} {seconds} done")
    return len(parts)


def _packed(items: list[Any], load: Load | None, options: PrepareOptions) -> Iterator[Packed | str]:
    """Each item's row and arrays, or why it was left out, in order; several processes unless one is asked for."""
    work = partial(_work, load=load, options=options)
    if options.processes == 1 or len(items) == 1:
        yield from map(work, items)
        return
    # A forked worker starts in no time; elsewhere each has to import its libraries.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        yield from pool.map(work, items, chunksize=2)


def _work(item: Any, load: Load | None, options: PrepareOptions) -> Packed | str:
    try:
        shape = item if load is None else load(item)
    except MedShapeError as error:
        return error.message
    return {name: getattr(shape, name) for name in ROW}, pack_shape(shape, options)


def pack_shape(shape: PreparedShape, options: PrepareOptions) -> dict[str, np.ndarray]:
    """scale_mm, verts, faces, points, normals, queries and sdf of one shape."""
    rng = np.random.default_rng([options.seed, zlib.crc32(f"{shape.category}/{shape.id}".encode())])
    normalised = normalise(Shape(shape.vertices_lps, shape.triangles, shape.id))
    vertices = normalised.vertices_u.astype(np.float32)  # the distances belong to the mesh as it is stored
    points, normals = surface_points(vertices, shape.triangles, options.points, rng)
    near, _ = surface_points(vertices, shape.triangles, options.queries, rng)
    queries = quantised_positions(draw_queries(near, options.queries, rng))
    sdf = signed_distance(vertices, shape.triangles, positions_u(queries))
    return {
        "scale_mm": np.array(normalised.scale_mm, np.float32),
        "verts": vertices,
        "faces": shape.triangles.astype(np.int32),
        "points": quantised_positions(points),
        "normals": quantised_normals(normals),
        "queries": queries,
        "sdf": sdf.astype(np.float16),
    }


def _columns(rows: list[dict[str, Any]], parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    columns = {name: np.array([row[name] for row in rows]) for name in ROW}
    columns |= {name: np.stack([p[name] for p in parts]) for name in ("scale_mm", "points", "normals", "queries", "sdf")}
    for name, offsets in (("verts", "voff"), ("faces", "foff")):
        columns[name] = np.concatenate([p[name] for p in parts])
        columns[offsets] = np.cumsum([0] + [len(p[name]) for p in parts], dtype=np.int64)
    return columns
