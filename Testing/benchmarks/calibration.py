"""Whether the members' spread tells the error: the reliability curve over a folder of cases, as a table and a picture.

    python Testing/benchmarks/calibration.py CASES --out OUT [--place skullfix]

At the vertices of the mean implant's outer and inner surface, beyond 5 mm from bone, the spread of five members (a standard
deviation in mm) is put beside the distance to the true surface; vertices of all cases are sorted by spread into ten parts.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("MedShapeGen", "CranialImplant")]

import torch  # noqa: E402
from CranialImplantLib.benchmark import list_cases, read_case  # noqa: E402
from CranialImplantLib.models import load_models  # noqa: E402
from CranialImplantLib.options import ImplantOptions  # noqa: E402
from CranialImplantLib.pipeline import generate_implants  # noqa: E402
from CranialImplantLib.reliability import spread_and_error  # noqa: E402
from CranialImplantLib.skull import Skull  # noqa: E402
from MedShapeCore.pictures import as_bytes, blank, draw_text_inplace, write_png  # noqa: E402

PARTS = 10
SIDE_PX, MARGIN_PX, DOT_PX = 520, 80, 6
DEEP, LIGHT = (0.10, 0.35, 0.60), (0.75, 0.75, 0.75)
PER_CASE = 2000  # vertices of a case, so that large implants do not count more


def pairs_of(cases: Path, place: str | None) -> np.ndarray:
    """(n, 2): spread and error in mm, the same number of vertices from every case."""
    models = load_models(torch.device("cpu"))
    rows = []
    for case in list_cases(cases):
        if place and case.place != place:
            continue
        volume, bone, truth = read_case(case.path)
        ensemble = generate_implants(Skull(bone, volume.ijk_to_lps, case.skull), ImplantOptions(members=5), models=models)
        pairs = np.stack(spread_and_error(ensemble.spread, truth, bone, volume.ijk_to_lps), 1)
        rows.append(pairs[np.random.default_rng(0).integers(len(pairs), size=PER_CASE)])
        print(f"{case.path.name}: median spread {np.median(pairs[:, 0]):.2f}, error {np.median(pairs[:, 1]):.2f} mm", flush=True)
    return np.concatenate(rows)


def reliability(pairs: np.ndarray) -> np.ndarray:
    """(PARTS, 2): root mean square of spread and error, from the smallest spreads to the largest."""
    parts = np.array_split(pairs[np.argsort(pairs[:, 0])], PARTS)
    return np.array([np.sqrt((part**2).mean(0)) for part in parts])


def drawn(curve: np.ndarray) -> np.ndarray:
    """The curve as a picture, with the line on which spread and error are one."""
    limit = 1.1 * float(curve.max())
    picture = blank(SIDE_PX + 2 * MARGIN_PX, SIDE_PX + 2 * MARGIN_PX)

    def dot(x: float, y: float, size: int, color: tuple[float, float, float]) -> None:
        column, row = MARGIN_PX + int(x / limit * SIDE_PX), MARGIN_PX + int((1 - y / limit) * SIDE_PX)
        picture[row - size : row + size, column - size : column + size] = as_bytes(np.array(color))

    for at in np.linspace(0, limit, 800):
        dot(at, at, 1, LIGHT)
        dot(at, 0, 1, LIGHT)
        dot(0, at, 1, LIGHT)
    for before, after in zip(curve[:-1], curve[1:], strict=True):
        for share in np.linspace(0, 1, 60):
            dot(*(before + share * (after - before)), 1, DEEP)
    for spread, error in curve:
        dot(spread, error, DOT_PX, DEEP)
    for at in np.arange(0.2, limit, 0.2):
        draw_text_inplace(picture, f"{at:.1f}", MARGIN_PX + int(at / limit * SIDE_PX) - 10, MARGIN_PX + SIDE_PX + 8, 15)
        draw_text_inplace(picture, f"{at:.1f}", MARGIN_PX - 40, MARGIN_PX + int((1 - at / limit) * SIDE_PX) - 8, 15)
    draw_text_inplace(picture, "spread of the implants, mm (root mean square)", MARGIN_PX, MARGIN_PX + SIDE_PX + 36, 17)
    draw_text_inplace(picture, "distance to the true surface, mm (root mean square)", MARGIN_PX, MARGIN_PX // 2, 17)
    return picture


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--place", help="only the cases of this place")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    curve = reliability(pairs_of(args.cases, args.place))
    with open(args.out / "reliability.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("spread_mm", "error_mm"), *curve.round(3).tolist()])
    write_png(args.out / "reliability.png", drawn(curve))
    print(curve.round(2).tolist())
    return 0


if __name__ == "__main__":
    sys.exit(main())
