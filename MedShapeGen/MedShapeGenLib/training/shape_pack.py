"""Reads the training format that `prepare` writes: one file per category with points, queries and meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from MedShapeCore.errors import RefusedInput

QUANTUM = 1.2 / 32767  # u per unit of the stored points and queries


@dataclass(frozen=True)
class PackedCategory:
    """All shapes of one category, as stored; lengths in u, see `prepare`."""

    name: str
    ids: np.ndarray  # (n,) str
    split: np.ndarray  # (n,) str: train, val or test
    source: np.ndarray  # (n,) str
    scale_mm: np.ndarray  # (n,) half of the longest side of the box
    points: np.ndarray  # (n, p, 3) int16
    normals: np.ndarray  # (n, p, 3) int8, outward
    queries: np.ndarray  # (n, q, 3) int16
    sdf: np.ndarray  # (n, q) float16, negative inside
    vertices: np.ndarray  # (sum of V, 3)
    triangles: np.ndarray  # (sum of F, 3), local to the shape
    vertex_offset: np.ndarray  # (n + 1,)
    triangle_offset: np.ndarray  # (n + 1,)

    def of(self, *splits: str) -> np.ndarray:
        """Indices of the shapes of some splits."""
        return np.flatnonzero(np.isin(self.split, splits))

    def mesh(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """vertices (V, 3) float64 in u and triangles (F, 3) of one shape."""
        v, f = self.vertex_offset, self.triangle_offset
        return self.vertices[v[index] : v[index + 1]].astype(np.float64), self.triangles[f[index] : f[index + 1]]

    def surface(self, index: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some of the stored surface points (k, 3) in u and their unit normals, float32."""
        normals = self.normals[index, chosen].astype(np.float32)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        return self.points[index, chosen] * np.float32(QUANTUM), normals / np.maximum(length, 1e-6)


def read_category(path: Path) -> PackedCategory:
    """One file of a pack; RefusedInput where it is none."""
    try:
        with np.load(path) as file:
            data = {name: file[name] for name in file.files}
        return PackedCategory(
            path.stem, data["id"], data["split"], data["source"], data["scale_mm"], data["points"], data["normals"],
            data["queries"], data["sdf"], data["verts"], data["faces"], data["voff"], data["foff"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise RefusedInput("pack", f"{path.name} is no file of a shape pack: {error}.",
                           "Make the pack with `medshapegen prepare`.") from error


def read_categories(pack: Path, names: list[str] | None = None, without_sources: frozenset[str] = frozenset()) -> list[PackedCategory]:
    """The categories of a pack by name (None = all that enter the model, by name), less the shapes of some sources.

    Raises RefusedInput where a file is missing or nothing is left.
    """
    paths = sorted((Path(pack) / "shapes").glob("*.npz")) if names is None else [category_path(pack, name) for name in names]
    kept = [less_sources(read_category(path), without_sources) for path in paths]
    kept = [category for category in kept if len(category.ids)]
    if not kept:
        raise RefusedInput("pack", f"There are no shapes to train on in {Path(pack).name}.",
                           "Make the pack with `medshapegen prepare`.")
    return kept


def category_path(pack: Path, name: str) -> Path:
    """File of a category: of those that enter the bundled model, or else of those that serve measurements alone."""
    places = [Path(pack) / folder / f"{name}.npz" for folder in ("shapes", "measure")]
    return next((place for place in places if place.is_file()), places[0])


def less_sources(category: PackedCategory, sources: frozenset[str]) -> PackedCategory:
    """The category without the shapes of some sources."""
    keep = np.flatnonzero(~np.isin(category.source, list(sources)))
    if len(keep) == len(category.ids):
        return category
    meshes = [category.mesh(int(index)) for index in keep]
    empty = [np.zeros((0, 3))]
    return PackedCategory(
        category.name, category.ids[keep], category.split[keep], category.source[keep], category.scale_mm[keep],
        category.points[keep], category.normals[keep], category.queries[keep], category.sdf[keep],
        np.concatenate([v for v, _ in meshes] or empty), np.concatenate([f for _, f in meshes] or empty).astype(np.int32),
        np.cumsum([0, *(len(v) for v, _ in meshes)]), np.cumsum([0, *(len(f) for _, f in meshes)]),
    )  # fmt: skip
