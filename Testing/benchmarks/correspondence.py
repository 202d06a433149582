"""How well corresponding places describe the shapes of a category: PCA of their positions, ours beside plain farthest points.

    python Testing/benchmarks/correspondence.py PACK [--categories kidney,hippocampus] [--shapes 80]

PACK is the folder that `medshapegen prepare` writes. Prints Markdown; lengths are u. Modes are fitted to training shapes;
the residual is what 24 modes leave of unseen shapes (validation and test), root mean square over the points.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("MedShapeGen", "Testing")]

import torch  # noqa: E402
from MedShapeGenLib.correspondence import TEMPLATE_POINTS, mean_template, medoid, register_template  # noqa: E402
from MedShapeGenLib.skeleton import SkeletonOptions, fps, skeletonize  # noqa: E402
from MedShapeGenLib.training.shape_pack import read_category  # noqa: E402
from scipy.optimize import linear_sum_assignment  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402
from scipy.spatial.distance import cdist  # noqa: E402

POINTS, MODES = 2560, 24
MEANS = SkeletonOptions(iterations=2, towards_axis=0.0)  # the published contraction with our radius


def farthest(points: np.ndarray) -> np.ndarray:
    return points[fps(torch.from_numpy(points)[None], TEMPLATE_POINTS)[0].numpy()]


def residual(train: np.ndarray, unseen: np.ndarray) -> tuple[float, float, float]:
    """Spread of unseen shapes about the mean, what MODES modes leave of it (both rms per point), share of training variance."""
    a, b = train.reshape(len(train), -1), unseen.reshape(len(unseen), -1)
    mean = a.mean(0)
    _, size, basis = np.linalg.svd(a - mean, full_matrices=False)
    basis = basis[: min(MODES, len(a) - 1)]
    rest = b - mean - (b - mean) @ basis.T @ basis
    channels = train.shape[2]
    return (
        float(np.sqrt(channels * ((b - mean) ** 2).mean())),
        float(np.sqrt(channels * (rest**2).mean())),
        float((size[: len(basis)] ** 2).sum() / (size**2).sum()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--categories", default="hippocampus,kidney,mandible,lung_lobe_left_upper,pancreas,artery_tree")
    parser.add_argument("--shapes", type=int, default=80, help="training shapes at most")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| category | shapes | places | spread | residual | variance in 24 modes % | to the nearest place | farthest | seconds |")
    print("|" + " --- |" * 9)
    for name in args.categories.split(","):
        category = read_category(args.pack / "shapes" / f"{name}.npz")
        rng = np.random.default_rng(0)
        parts = [
            [category.surface(k, rng.choice(category.points.shape[1], POINTS, replace=False)) for k in rows]
            for rows in (category.of("train")[: args.shapes], category.of("val", "test"))
        ]
        template = mean_template([points for points, _ in parts[0]])
        reference = farthest(parts[0][medoid([points for points, _ in parts[0]])][0])

        def plain(points: np.ndarray, normals: np.ndarray, reference: np.ndarray = reference) -> np.ndarray:
            spread = farthest(points)
            return spread[linear_sum_assignment(cdist(reference, spread) ** 2)[1]]

        start = time.perf_counter()
        ours = [[register_template(template, *surface) for surface in part] for part in parts]
        seconds = (time.perf_counter() - start) / sum(map(len, parts))
        theirs = [[plain(*surface) for surface in part] for part in parts]

        def skeletons(seeds: list, options: SkeletonOptions, parts: list = parts) -> list:
            return [
                [skeletonize(*(torch.from_numpy(x)[None] for x in (p,)), options, torch.from_numpy(s)[None], torch.from_numpy(n)[None])[
                    0, :, :3
                ].numpy() for s, (p, n) in zip(places, part, strict=True)]
                for places, part in zip(seeds, parts, strict=True)
            ]  # fmt: skip

        for label, places in (
            ("farthest points, assigned", theirs),
            ("registered", ours),
            ("skeleton of these", skeletons(ours, SkeletonOptions())),
            ("skeleton by means", skeletons(ours, MEANS)),
        ):
            train, unseen = (np.array(p) for p in places)
            spread, rest, share = residual(train, unseen)
            gaps = [cKDTree(p).query(s[0])[0] for p, s in zip(unseen, parts[1], strict=True)]
            print(
                f"| {name} | {len(train)}+{len(unseen)} | {label} | {spread:.3f} | {rest:.3f} | {100 * share:.1f} "
                f"| {np.mean(gaps):.3f} | {np.mean([g.max() for g in gaps]):.3f} | {seconds if label == 'registered' else 0:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
