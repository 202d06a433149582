"""Skeletons against the known medial axes of balls, ellipsoids and tubes: the paper's settings and ours.

    python Testing/benchmarks/skeletons.py [--pack PACK] [--out OUT.json]

Prints Markdown. All lengths are u, half of the longest side of a shape. PACK, the folder that `medshapegen prepare` writes,
adds the radius on real shapes: against exact distances from the skeleton points to the meshes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("MedShapeGen", "Testing")]

import torch  # noqa: E402
from MedShapeGenLib.skeleton import (  # noqa: E402
    AXIS,
    PUBLISHED,
    SkeletonOptions,
    contract,
    farthest,
    linked,
    nearest,
    skeletonize,
    take,
)
from solids import Solid, parallel, solids, tubes  # noqa: E402

MEANS = SkeletonOptions(iterations=2, towards_axis=0.0)
SETTINGS = {
    "paper (K 32, I 2, eps 0.65)": PUBLISHED,
    "default (half, at most 0.025 u)": SkeletonOptions(),
    "half": SkeletonOptions(deepest=None),
    "means, true radius": MEANS,
    "means, K 128": replace(MEANS, neighbours=128),
    "means, I 8": replace(MEANS, iterations=8),
    "axis (means, all the way)": AXIS,
}


def measured(solid: Solid, options: SkeletonOptions) -> dict[str, float]:
    """Means over the skeleton points of one solid."""
    points, normals = (torch.from_numpy(x.astype(np.float32))[None] for x in (solid.points, solid.normals))
    start = time.perf_counter()
    skeleton = skeletonize(points, options, normals=normals)[0]
    seconds = time.perf_counter() - start
    x, radius = skeleton[:, :3].double().numpy(), skeleton[:, 3].double().numpy()
    depth = -solid.signed_distance(x)
    gaps = torch.cdist(skeleton[:, :3], skeleton[:, :3]) + 9 * torch.eye(len(skeleton))
    error = np.abs(radius - np.abs(depth)) / np.abs(depth).clip(1e-3)
    return {
        "to the axis": float(solid.axis_distance(x).mean()),
        "depth": float(depth.mean()),
        "outside %": float(100 * (depth < -1e-4).mean()),
        "radius": float(radius.mean()),
        "radius error %": float(100 * error.mean()),
        "repeats": int((gaps.min(1).values < 1e-6).sum()),
        "seconds": seconds,
    }


def rejected(solid: Solid, options: SkeletonOptions, reach: float) -> tuple[int, int]:
    """Neighbours which the clustering of the first stage leaves out, and all neighbours, over both iterations."""
    surface = torch.from_numpy(solid.points)[None]
    centres = take(surface, farthest(surface, options.n_s * options.oversampling))
    out = total = 0
    for _ in range(options.iterations):
        near = take(surface, nearest(centres, surface, options.neighbours))
        member = linked(centres, near, surface.new_full((1,), reach))
        out, total = out + int((~member).sum()), total + member.numel()
        centres = contract(centres, surface, options.neighbours, SkeletonOptions(iterations=1, eps=reach))
    return out, total


def table(rows: list[dict]) -> str:
    """Rows of equal keys as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    for row in rows:
        lines.append("| " + " | ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    axes = [{"solid": s.name, "settings": name, **measured(s, o)} for s in solids() for name, o in SETTINGS.items()]
    print(table(axes))
    print()
    rng = np.random.default_rng(1)
    clusters = []
    for radius in (0.03, 0.06, 0.12):
        pair = tubes(f"two tubes r {radius}, gap 0.03", parallel(radius, 0.03), radius, rng, 4096)
        for eps, options in (
            ("none", replace(MEANS, n_s=400)),
            ("0.65 u (paper)", replace(MEANS, n_s=400, eps=0.65)),
            *((f"{f} spacings", replace(MEANS, n_s=400, eps_spacings=f)) for f in (1.5, 2, 3)),
            ("none, default", SkeletonOptions(n_s=400)),
        ):
            row = {"solid": pair.name, "eps": eps, **measured(pair, options)}
            if options.eps:
                row["eps"] += " rejects {} of {}".format(*rejected(pair, options, options.eps))
            clusters.append(row)
    print(table(clusters))
    if args.out:
        args.out.write_text(json.dumps({"axes": axes, "clusters": clusters}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
