"""Whether decoding loses surface: signs of a coarse-to-fine decoding against those of every point of the 129^3 grid.

    python Testing/benchmarks/decoding_cells.py PACK [--shapes 20] [--weights] [--everywhere] [--margin U]

One shape of each category, those of the validation split first. Without --weights the field is the exact signed distance
of the mesh, and the truth its winding number at every grid point; with --weights it is the field of the bundled
auto-encoder, and the truth the same field, asked at every point within 0.12 u of the surface found and at every other one along
each axis beyond, so that no body of two cells escapes; with --everywhere at all points (40 s a shape). `farthest` is the
distance in cells of the farthest wrong sign from the surface found.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "MedShapeGen")]

from MedShapeCore.surfaces import is_watertight  # noqa: E402
from MedShapeGenLib.decoding import DecodeOptions, decode_surface  # noqa: E402
from MedShapeGenLib.shapes import surface_points  # noqa: E402
from MedShapeGenLib.training.queries import signed_distance, winding_number  # noqa: E402
from MedShapeGenLib.training.shape_pack import read_category  # noqa: E402

LOW, HIGH = -1.1, 1.1
BAND_U = 0.12


def grid_points(count: int) -> np.ndarray:
    axis = (LOW + (HIGH - LOW) / (count - 1) * np.arange(count)).astype(np.float32)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([x, y, z], axis=-1).reshape(-1, 3)


def lost_cells(found: np.ndarray, true: np.ndarray) -> tuple[int, int]:
    """Cells that the true surface crosses, and those of them which the decoded one does not."""
    def crossed(inside: np.ndarray) -> np.ndarray:
        corners = [inside[k : k + inside.shape[0] - 1, j : j + inside.shape[1] - 1, i : i + inside.shape[2] - 1]
                   for k in (0, 1) for j in (0, 1) for i in (0, 1)]  # fmt: skip
        return np.any(corners, axis=0) & ~np.all(corners, axis=0)

    truly = crossed(true)
    return int(truly.sum()), int((truly & ~crossed(found)).sum())


def places_that_count(signs: np.ndarray, step: float) -> np.ndarray:
    """(n, n, n) bool: all points within BAND_U of the change of sign, and beyond it every other one along each axis."""
    return (cells_away(signs) * step < BAND_U) | every_other(signs.shape)


def every_other(shape: tuple[int, ...]) -> np.ndarray:
    chosen = np.zeros(shape, bool)
    chosen[::2, ::2, ::2] = True
    return chosen


def cells_away(signs: np.ndarray) -> np.ndarray:
    """Distance in cells of every point to the nearest one of the other sign; infinite where there is none."""
    if signs.all() or not signs.any():
        return np.full(signs.shape, np.inf)
    return np.where(signs, ndimage.distance_transform_edt(signs), ndimage.distance_transform_edt(~signs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--shapes", type=int, default=20)
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--everywhere", action="store_true")
    parser.add_argument("--margin", type=float, default=DecodeOptions.margin_u, help="u; DecodeOptions.margin_u")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.weights:
        from MedShapeGenLib.models import encode, field, load_models

        models = load_models(torch.device("cpu"))
    options = DecodeOptions(components=None, margin_u=args.margin)
    every = grid_points(options.resolution + 1)
    print("| category | cells | lost | wrong signs | farthest | asked % | closed | bodies | s |\n|---|---|---|---|---|---|---|---|---|")
    for path in sorted((args.pack / "shapes").glob("*.npz"))[: args.shapes]:
        category = read_category(path)
        index = int((*category.of("val"), *category.of("train"))[0])
        vertices, triangles = category.mesh(index)
        if args.weights:
            points, normals = surface_points(vertices, triangles, 2560, np.random.default_rng(0))
            asked = field(models, encode(models, points, normals))
        else:
            def asked(places, mesh=(vertices, triangles)):
                return torch.from_numpy(signed_distance(*mesh, places.numpy())).float()

        started = time.perf_counter()
        surface = decode_surface(asked, options)
        seconds = time.perf_counter() - started
        true = surface.signs.copy()
        if args.weights:
            chosen = np.ones(true.shape, bool) if args.everywhere else places_that_count(true, (HIGH - LOW) / options.resolution)
            parts = np.array_split(every[chosen.ravel()], 64)
            true[chosen] = np.concatenate([asked(torch.from_numpy(part)).numpy() < 0 for part in parts])
        else:
            true = (winding_number(vertices, triangles, every) > 0).reshape(true.shape)
        cells, lost = lost_cells(surface.signs, true)
        wrong = surface.signs != true
        farthest = float(cells_away(surface.signs)[wrong].max()) if wrong.any() else 0.0
        print(f"| {category.name} | {cells} | {lost} | {int(wrong.sum())} | {farthest:.1f} | {100 * surface.evaluated_fraction:.1f} | "
              f"{is_watertight(surface.triangles)} | {surface.bodies_found} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
