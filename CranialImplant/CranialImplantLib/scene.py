"""The files of a result that 3D Slicer's panel loads: arrays of the crop around the hole, surfaces, the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from MedShapeCore.surfaces import mask_surface, vertex_normals, write_vtp
from MedShapeCore.volumes import box_of, cropped_matrix

from .ensemble import ImplantEnsemble
from .outputs import MEAN_COLOR, MEMBER_COLORS, TERM, plain, report_of
from .overview import SPREAD_MAX_MM

MARGIN_VOXELS = 2


def write_scene_files(ensemble: ImplantEnsemble, folder: Path, progress: Callable[..., None] | None = None) -> dict:
    """Writes what a scene needs into `folder` and returns the table of contents.

    implant_K.npy, mean_implant.npy (k, j, i) uint8 and .vtp (LPS mm; the mean's with spread_mm), variance.npy float32,
    agreement.npy uint8, report.json. All arrays have one crop of the input's grid, as small as it can be.
    Returns ijk_to_lps (4, 4) of the crop, members [{id, name, color, array, surface}, ...] (mean first, then in the
    order of the seeds), terminology, spread_max_mm.
    """
    told = progress or (lambda *_: None)
    used = box_of(ensemble.implants.any(0) | ensemble.mean | (ensemble.variance > 0), MARGIN_VOXELS)
    box = used or (slice(0, 2), slice(0, 2), slice(0, 2))  # 3D Slicer takes a single voxel for no image
    matrix = cropped_matrix(cropped_matrix(ensemble.skull.ijk_to_lps, ensemble.box), box)
    np.save(folder / "variance.npy", ensemble.variance[box].astype(np.float32))
    np.save(folder / "agreement.npy", ensemble.agreement[box].astype(np.uint8))
    rows = [("mean_implant", "MeanImplant", "Mean implant", MEAN_COLOR, ensemble.mean)]
    rows += [
        (f"implant_{n}", f"Implant_{n}", f"Implant {n}", MEMBER_COLORS[(n - 1) % len(MEMBER_COLORS)], implant)
        for n, implant in enumerate(ensemble.implants, 1)
    ]
    members = []
    for count, (file, identity, name, color, mask) in enumerate(rows, 1):
        np.save(folder / f"{file}.npy", mask[box].astype(np.uint8))
        if identity == "MeanImplant":
            spread = ensemble.spread
            surface = (spread.vertices_lps, spread.triangles)
            scalars = {"spread_mm": spread.spread_mm, "side": spread.side}
        else:
            surface, scalars = mask_surface(mask[box], matrix), {}
        write_vtp(folder / f"{file}.vtp", *surface, {**scalars, "Normals": vertex_normals(*surface)})
        members.append({
            "id": identity, "name": name, "color": color, "array": f"{file}.npy", "surface": f"{file}.vtp",
            "empty": not bool(mask.any()),
        })
        told("writing the results", count / len(rows))
    report = plain(report_of(ensemble, sorted(path.name for path in folder.iterdir())))
    (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return {"ijk_to_lps": matrix, "members": members, "terminology": TERM, "spread_max_mm": SPREAD_MAX_MM}
