"""Writes label maps (1 bone, 2 true implant) for `cranial-implant benchmark` from compact skull files.

    python make_cases.py --tools TOOLS --skulls SKULLS --out CASES                    the 15 validation skulls, 30 cases
    python make_cases.py ... --ids 004 009 --kind real                                their real holes only
    python make_cases.py ... --kind every                                             all five frozen holes of each, 75 cases
    python make_cases.py ... --kind real --slices 2.5                                 as if scanned with slices 2.5 mm apart
    python make_cases.py ... --kind real --noise 0.2                                  bone with a noisy threshold

TOOLS holds skull_pack.py (read_case) and validation_holes.py (PLACES, cut); SKULLS holds NNN.npz.xz, and its parent
skullfix.csv with the columns id and split. Each skull gives its real hole (place "skullfix") and one frozen hole:
places in turn over the sorted ids, so that 15 skulls make three a place. Needs MedShapeCore on the path.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from MedShapeCore.volumes import Volume, write_volume
from scipy import ndimage

KINDS = ("both", "real", "frozen", "every")
REAL_PLACE = "skullfix"


def load_tool(folder: Path, name: str) -> ModuleType:
    """The module NAME.py of a folder, without touching sys.path."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    if spec is None or spec.loader is None or not (folder / f"{name}.py").is_file():
        raise SystemExit(f"There is no {name}.py in {folder}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ids_of_split(table: Path, split: str) -> list[str]:
    """Sorted ids of one split in skullfix.csv."""
    with open(table, newline="", encoding="utf-8") as file:
        return sorted(row["id"] for row in csv.DictReader(file) if row["split"] == split)


def matrix_of(geometry: dict) -> np.ndarray:
    """ijk_to_lps (4, 4) from spacing, origin and direction as SimpleITK has them."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(geometry["direction"], float).reshape(3, 3) * np.asarray(geometry["spacing"], float)
    matrix[:3, 3] = geometry["origin"]
    return matrix


def cases_of(tools: Path, skulls: Path, ids: Sequence[str], kind: str) -> Iterator[tuple[str, str, Volume]]:
    """(skull, place, label map) of every case: uint8 (K, J, I), whole native grid."""
    pack, holes = load_tool(tools, "skull_pack"), load_tool(tools, "validation_holes")
    places = list(holes.PLACES)
    for number, skull in enumerate(sorted(ids)):
        labels, geometry = pack.read_case(str(skulls / f"{skull}.npz.xz"))
        matrix = matrix_of(geometry)
        if kind in ("both", "real"):
            yield skull, REAL_PLACE, Volume(labels, matrix)
        chosen = {"real": [], "every": places}.get(kind, [places[number % len(places)]])
        for place in chosen:
            yield skull, place, Volume(holes.cut(labels > 0, geometry, skull, place), matrix)


def thinned(volume: Volume, slices_mm: float) -> Volume:
    """The volume's slices nearest to every `slices_mm` along k, bone and truth alike: what a coarse scan would hold."""
    step_mm = float(volume.spacing_mm[2])
    places = np.arange(0, volume.array.shape[0] - 0.5, slices_mm / step_mm)
    matrix = volume.ijk_to_lps.copy()
    matrix[:3, 2] *= slices_mm / step_mm
    return Volume(volume.array[np.round(places).astype(int)], matrix)


def roughened(volume: Volume, noise: float, seed: int) -> Volume:
    """The volume with bone as a noisy scan's threshold would give it; the truth stays where no bone appears.

    Bone's occupancy, blurred by 0.7 voxel as a scanner does, plus noise of that standard deviation (1 = the contrast of bone)
    with the same grain, is cut at one half.
    """
    grain = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(volume.array.shape, np.float32), 0.7)
    occupancy = ndimage.gaussian_filter((volume.array == 1).astype(np.float32), 0.7)
    bone = occupancy + grain * np.float32(noise / grain.std()) > 0.5
    return Volume(np.where(bone, np.uint8(1), np.where(volume.array == 2, np.uint8(2), np.uint8(0))), volume.ijk_to_lps)


def write_cases(
    tools: Path, skulls: Path, ids: Sequence[str], kind: str, out: Path, slices_mm: float | None = None,
    noise: float | None = None,
) -> list[dict[str, str]]:
    """Writes PLACE__SKULL.nrrd for every case and cases.csv; returns its rows."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for skull, place, volume in cases_of(tools, skulls, ids, kind):
        if slices_mm:
            volume = thinned(volume, slices_mm)
        if noise:
            volume = roughened(volume, noise, len(rows))
        row = {"file": f"{place}__{skull}.nrrd", "skull": skull, "place": place}
        write_volume(out / row["file"], volume)
        rows.append(row | {"implant_ml": f"{(volume.array == 2).sum() * volume.voxel_ml:.2f}"})
        print(f"{row['file']}: {volume}, implant {rows[-1]['implant_ml']} ml", flush=True)
    with open(out / "cases.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "skull", "place", "implant_ml"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, required=True, help="folder with skull_pack.py and validation_holes.py")
    parser.add_argument("--skulls", type=Path, required=True, help="folder with the compact skull files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the label maps")
    parser.add_argument("--split", default="validation", help="which ids of skullfix.csv (default: %(default)s)")
    parser.add_argument("--ids", nargs="+", metavar="ID", help="these skulls, in place of a split")
    parser.add_argument("--kind", choices=KINDS, default="both", help="which holes (default: %(default)s)")
    parser.add_argument("--slices", type=float, metavar="MM", help="keep slices so far apart (default: all)")
    parser.add_argument("--noise", type=float, metavar="SD", help="noise of the scan, 1 = the contrast of bone")
    args = parser.parse_args(argv)
    ids = args.ids or ids_of_split(args.skulls.parent / "skullfix.csv", args.split)
    rows = write_cases(args.tools, args.skulls, ids, args.kind, args.out, args.slices, args.noise)
    print(f"{len(rows)} cases of {len(ids)} skulls in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
