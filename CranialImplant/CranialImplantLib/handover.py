"""From an implant as it is now, perhaps edited by hand, to files for a printer: measured, checked, written."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from MedShapeCore.errors import RefusedInput
from MedShapeCore.surfaces import mask_surface, write_stl
from MedShapeCore.volumes import box_of, cropped_matrix, read_volume, spacing_of
from scipy import ndimage

from .ensemble import MemberReport, head_centre, measure_member
from .outputs import plain
from .overview import RESEARCH_NOTICE

CHECKED_MARGIN_MM = 25.0  # of bone around the implant that the checks look at
PIECE_MARGIN_MM = 15.0  # of bone in the piece for a trial fit


def hand_over(
    bone: np.ndarray, implant: np.ndarray, ijk_to_lps: np.ndarray, folder: Path, name: str = "implant",
    override: str | None = None, with_piece: bool = False, provenance: dict[str, Any] | None = None,
    agreement: float | None = None,
) -> dict:
    """Checks an implant against the bone and writes NAME.stl, NAME.json and on request NAME_skull.stl.

    bone, implant : (k, j, i) bool on one grid; override : the user's reason for an implant that fails its checks, without
    which nothing is written then; with_piece : also the bone around the implant, for a trial fit; provenance goes into
    the JSON as it is; agreement : what the run said of this member. Surfaces are in LPS mm.
    Returns passed, failed, checks, written (file names). RefusedInput for an empty implant or a name that is no name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", name):
        raise RefusedInput("name", f"{name!r} cannot be a file name.", "Use letters, digits, - and _.")
    box = box_of(implant, np.ceil(CHECKED_MARGIN_MM / spacing_of(ijk_to_lps)[::-1]).astype(int))
    if box is None:
        raise RefusedInput("empty", "The implant is empty: no voxel is set.", "Choose another implant, or undo the edit.")
    bone, implant, matrix = bone[box], implant[box], cropped_matrix(ijk_to_lps, box)
    surface = mask_surface(implant, matrix)
    checks = measure_member(
        implant, surface, bone, matrix, head_centre(surface[0], bone, matrix) if bone.any() else np.zeros(3),
        float("nan") if agreement is None else agreement,
    )
    answer: dict[str, Any] = {"passed": checks.passed, "failed": checks.failed, "checks": asdict(checks), "written": []}
    if not checks.passed and not override:
        return answer
    files = {f"{name}.stl": surface}
    if with_piece:
        files[f"{name}_skull.stl"] = mask_surface(piece_of(bone, implant, matrix), matrix)
    for file, (vertices, triangles) in files.items():
        write_stl(folder / file, vertices, triangles)
    sidecar = sidecar_of(checks, surface[0], override, provenance or {})
    sidecar["files"] = {
        file: {"triangles": len(part[1]), "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest()}
        for file, part in files.items()
    }
    text = json.dumps(plain(sidecar), indent=1, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return {**answer, "written": [*files, f"{name}.json"]}


def sidecar_of(checks: MemberReport, vertices_lps: np.ndarray, override: str | None, provenance: dict) -> dict:
    """What a printing laboratory must know about an STL that cannot say it itself."""
    return {
        "notice": f"{RESEARCH_NOTICE}.",
        "coordinates": "LPS, millimetres",
        "clearance_mm": 0.0,  # the rim touches the bone; a printed part needs a gap which no step makes yet
        "clearance": "None: the implant's rim touches the bone. Ask for the printer's gap before it is printed.",
        "bounds_lps_mm": {"low": vertices_lps.min(0).round(2), "high": vertices_lps.max(0).round(2)},
        "checks": asdict(checks),
        "override": None if checks.passed else {"failed": checks.failed, "reason": override},
        "provenance": provenance,
    }


def piece_of(bone: np.ndarray, implant: np.ndarray, ijk_to_lps: np.ndarray) -> np.ndarray:
    """(k, j, i) bool: the bone within PIECE_MARGIN_MM of the implant."""
    distance_mm = ndimage.distance_transform_edt(~implant, sampling=spacing_of(ijk_to_lps)[::-1])
    return bone & (distance_mm <= PIECE_MARGIN_MM)


def hand_over_files(bone: Path, implant: Path, folder: Path, **wishes: Any) -> dict:
    """`hand_over` for two volumes of one grid; any value above zero is bone or implant."""
    one, other = read_volume(bone), read_volume(implant)
    if one.array.shape != other.array.shape or not np.allclose(one.ijk_to_lps, other.ijk_to_lps, atol=1e-4):
        raise RefusedInput("geometry", "Bone and implant lie on different grids.", "Export them on one grid.")
    return hand_over(one.array > 0, other.array > 0, one.ijk_to_lps, folder, **wishes)
