"""Robustness figures on whole skulls: no hole in complete ones, a turned pose found again, turned copies give one implant.

    python Testing/benchmarks/robustness.py --cases CASES [--challenge PACK] --out OUT

CASES holds the label maps of make_cases.py (1 bone, 2 implant). PACK is a compact 1 mm pack of skulls with unknown holes.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("MedShapeGen", "CranialImplant")]

import torch  # noqa: E402
from CranialImplantLib.ensemble import ImplantEnsemble, placed  # noqa: E402
from CranialImplantLib.models import Models, load_models  # noqa: E402
from CranialImplantLib.options import ImplantOptions  # noqa: E402
from CranialImplantLib.pipeline import generate_implants  # noqa: E402
from CranialImplantLib.preparation import locate  # noqa: E402
from CranialImplantLib.skull import Skull  # noqa: E402
from CranialImplantLib.training import pack as packs  # noqa: E402
from CranialImplantLib.training.pack import find_sources, read_source  # noqa: E402
from MedShapeCore.errors import MedShapeError  # noqa: E402
from MedShapeCore.pictures import body_of, contact_sheet, fitted_view, render_surface  # noqa: E402
from MedShapeCore.surfaces import (  # noqa: E402
    components,
    is_watertight,
    mask_surface,
    surface_centroid_lps,
    surface_volume_ml,
)
from MedShapeCore.volumes import Volume, box_of, crop, lps_from_ijk, read_volume, sample  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

FAST = ImplantOptions(members=1, quality="fast")


def turned_about(centre_lps: np.ndarray, degrees: tuple[float, float, float]) -> np.ndarray:
    """(4, 4) rotation about a point in LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = centre_lps - matrix[:3, :3] @ centre_lps
    return matrix


def resampled(mask: np.ndarray, matrix: np.ndarray, motion: np.ndarray, spacing_mm: tuple[float, float, float]) -> Skull:
    """The skull moved by `motion` and resampled on an axis-aligned grid (a real turned scan, not a changed header)."""
    corners = np.array([[k, j, i] for k in (0, mask.shape[0]) for j in (0, mask.shape[1]) for i in (0, mask.shape[2])])
    points = lps_from_ijk(matrix, corners) @ motion[:3, :3].T + motion[:3, 3]
    low, high = points.min(0), points.max(0)
    size = np.ceil((high - low) / spacing_mm).astype(int)[::-1]
    grid = np.diag([*spacing_mm, 1.0])
    grid[:3, 3] = low
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1).reshape(-1, 3)
    back = np.linalg.inv(motion)
    values = sample(mask.astype(np.float32), matrix, lps_from_ijk(grid, index) @ back[:3, :3].T + back[:3, 3], 0.0)
    whole = values.reshape(size) > 0.5
    box = box_of(whole, 3)
    assert box is not None
    part = crop(Volume(whole, grid), box)
    return Skull(part.array, part.ijk_to_lps, "turned")


def surface_p95_mm(first: ImplantEnsemble, second: ImplantEnsemble, motion: np.ndarray) -> float:
    """95th percentile of the distances between two mean implants, the second moved back; larger of both directions."""
    back = np.linalg.inv(motion)
    a = first.spread.vertices_lps
    b = second.spread.vertices_lps @ back[:3, :3].T + back[:3, 3]
    return max(float(np.percentile(cKDTree(y).query(x)[0], 95)) for x, y in ((a, b), (b, a)))


def check_complete(paths: list[Path], models: Models) -> dict[str, int]:
    """Holes that are reported in the complete skulls."""
    found = {}
    for path in paths:
        volume = read_volume(path)
        skull = Skull(volume.array > 0, volume.ijk_to_lps, path.stem)
        found[path.stem] = len(locate(skull, models).holes)
    return found


def check_pose(path: Path, models: Models) -> list[dict[str, float]]:
    """Errors of the pose of turned copies against the pose of the skull itself."""
    volume = read_volume(path)
    bone = volume.array == 1
    own = locate(Skull(bone, volume.ijk_to_lps), models).pose
    rows = []
    for degrees in ((30.0, 0.0, 0.0), (0.0, 30.0, 0.0), (0.0, 0.0, 30.0), (-20.0, 15.0, 20.0)):
        motion = turned_about(own.to_lps(np.zeros((1, 3)))[0], degrees)
        turned = Skull(bone, motion @ volume.ijk_to_lps)
        difference = locate(turned, models).pose.head_from_lps @ motion @ np.linalg.inv(own.head_from_lps)
        angle = np.degrees(Rotation.from_matrix(difference[:3, :3]).magnitude())
        rows.append({"degrees": list(degrees), "error_deg": round(float(angle), 3),  # type: ignore[dict-item]
                     "error_mm": round(float(np.linalg.norm(difference[:3, 3])), 3)})
    return rows


def check_copies(path: Path, models: Models) -> dict[str, float]:
    """Distance of the implants of turned, flipped, oblique, cropped and coarse copies to the implant of the skull itself."""
    volume = read_volume(path)
    bone, matrix = volume.array == 1, volume.ijk_to_lps
    first = generate_implants(Skull(bone, matrix, "itself"), FAST, models=models)
    centre = lps_from_ijk(matrix, np.array([np.array(bone.shape) / 2.0]))[0]
    turned = turned_about(centre, (20.0, 10.0, 20.0))
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = bone.shape[2] - 1
    axes = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    box = box_of(bone, 4)
    assert box is not None
    copies = {
        "turned 30 degrees, resampled": (resampled(bone, matrix, turned, (0.5, 0.5, 0.7)), turned),
        "flipped axis": (Skull(bone[:, :, ::-1], matrix @ flip), np.eye(4)),
        "other axis order": (Skull(bone.transpose(2, 0, 1), matrix @ axes), np.eye(4)),
        "oblique directions": (Skull(bone, turned @ matrix), turned),
        "cropped": (Skull(bone[box], crop(Volume(bone, matrix), box).ijk_to_lps), np.eye(4)),
        "2 mm slices": (resampled(bone, matrix, np.eye(4), (0.5, 0.5, 2.0)), np.eye(4)),
    }
    return {name: round(surface_p95_mm(first, generate_implants(skull, FAST, models=models), motion), 3)
            for name, (skull, motion) in copies.items()}


def check_surfaces(path: Path, models: Models) -> dict[str, object]:
    """Closed, one body, outward and in place: the STL surfaces of five implants; and the seed's promise."""
    volume = read_volume(path)
    skull = Skull(volume.array == 1, volume.ijk_to_lps, path.stem)
    five = generate_implants(skull, ImplantOptions(), models=models)
    matrix = crop(Volume(skull.mask, skull.ijk_to_lps), five.box).ijk_to_lps
    rows = []
    for mask in (*five.implants, five.mean):
        vertices, triangles = mask_surface(mask, matrix)
        middle = lps_from_ijk(matrix, np.argwhere(mask)).mean(0)
        rows.append((is_watertight(triangles), components(triangles), surface_volume_ml(vertices, triangles) > 0,
                     float(np.linalg.norm(surface_centroid_lps(vertices, triangles) - middle)) < 1.0))
    again = generate_implants(skull, ImplantOptions(), models=models)
    alone = generate_implants(skull, ImplantOptions(members=2), models=models)
    bone = [int((placed(m, five.box, skull.mask.shape) & skull.mask).sum()) for m in (*five.implants, five.mean)]
    return {
        "surfaces": rows, "voxels on bone": bone,
        "second run, changed share": float((five.implants ^ again.implants).sum() / five.implants.sum()),
        "two of two against two of five": float((five.implants[:2] ^ alone.implants).sum() / alone.implants.sum()),
    }


def check_challenge(pack: Path, models: Models, out: Path) -> dict[str, str]:
    """Runs every skull of a compact pack (one member, fast) and draws a contact sheet; what failed comes with the reason."""
    failed: dict[str, str] = {}
    images, labels = [], []
    packs.read_compact = functools.cache(packs.read_compact)  # all skulls lie in one file
    for source in find_sources([pack])[0]:
        name, start = source.name, time.perf_counter()
        skull = read_source(source)
        try:
            ensemble = generate_implants(Skull(skull.mask, skull.ijk_to_lps, name), FAST, models=models)
        except MedShapeError as error:
            failed[name] = error.message
            continue
        if not ensemble.mean_report.passed:
            failed[name] = "checks: " + ", ".join(ensemble.mean_report.failed)
        images.append(portrait(ensemble))
        labels.append(f"{name} {ensemble.mean_report.volume_ml:.0f} ml")
        print(name, f"{time.perf_counter() - start:.1f} s", failed.get(name, "ok"), flush=True)
        contact_sheet(images, labels, out / "challenge.png", columns=11)  # anew after each: a run may be stopped
    return failed


def portrait(ensemble: ImplantEnsemble, size: int = 220) -> np.ndarray:
    """The skull with its mean implant, seen from outside the hole, (size, size, 3) uint8."""
    skull = ensemble.skull
    coarse = mask_surface(skull.mask[::2, ::2, ::2], skull.ijk_to_lps @ np.diag([2.0, 2.0, 2.0, 1.0]))
    implant = (ensemble.spread.vertices_lps, ensemble.spread.triangles)
    toward = np.array(ensemble.report["hole"]["centre_lps"]) - coarse[0].mean(0)
    view = fitted_view(coarse[0], toward, np.array([0.0, 0.3, 1.0]), size, size)
    return render_surface([body_of(coarse), body_of(implant, (0.95, 0.55, 0.2))], view, size, size, supersample=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--challenge", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    models = load_models(torch.device("cpu"))
    results: dict[str, object] = {}
    if arguments.cases:
        paths = sorted(arguments.cases.glob("skullfix__*.nrrd"))
        results["pose"] = check_pose(paths[0], models)
        results["copies, p95 mm"] = check_copies(paths[0], models)
        results["five implants"] = check_surfaces(paths[1], models)
        results["holes in complete skulls"] = check_complete(paths, models)
    if arguments.challenge:
        results["challenge"] = check_challenge(arguments.challenge, models, arguments.out)
    name = "challenge.json" if arguments.challenge else "robustness.json"
    (arguments.out / name).write_text(json.dumps(results, indent=1, default=str) + "\n")
    print(json.dumps(results, indent=1, default=str))


if __name__ == "__main__":
    main()
