"""An implant as it is now, perhaps edited, becomes files for a printer, or is held back with its failed checks."""

import json

import numpy as np
import pytest
from CranialImplantLib.handover import hand_over, hand_over_files
from CranialImplantLib.outputs import write_padded_nrrd
from MedShapeCore.errors import RefusedInput
from MedShapeCore.surfaces import is_watertight, mask_surface, read_stl, surface_volume_ml
from MedShapeCore.volumes import lps_from_ijk
from scipy.spatial import cKDTree
from shell_ensemble import shell_ensemble


@pytest.fixture(scope="module")
def case():
    """(bone, implant, ijk_to_lps): a shell of 8 mm, and what closes its hole."""
    ensemble = shell_ensemble(members=1)
    whole = np.zeros(ensemble.skull.mask.shape, bool)
    whole[ensemble.box] = ensemble.implants[0]
    return ensemble.skull.mask, whole & ~ensemble.skull.mask, ensemble.skull.ijk_to_lps


def test_a_good_implant_is_written_in_lps_with_its_checks(case, tmp_path):
    bone, implant, matrix = case
    answer = hand_over(bone, implant, matrix, tmp_path, "implant_2", provenance={"seed": "3"}, agreement=0.9)
    assert answer["passed"] and answer["written"] == ["implant_2.stl", "implant_2.json"]
    vertices, triangles = read_stl(tmp_path / "implant_2.stl")
    assert is_watertight(triangles)
    voxel_ml = abs(np.linalg.det(matrix[:3, :3])) / 1000
    assert surface_volume_ml(vertices, triangles) == pytest.approx(implant.sum() * voxel_ml, rel=0.03)
    inside = lps_from_ijk(matrix, np.argwhere(implant))
    assert cKDTree(inside).query(vertices)[0].max() < 2.1  # no farther than a voxel's longest side
    sidecar = json.loads((tmp_path / "implant_2.json").read_text())
    assert sidecar["coordinates"] == "LPS, millimetres" and sidecar["clearance_mm"] == 0.0
    assert sidecar["override"] is None and sidecar["provenance"] == {"seed": "3"} and sidecar["checks"]["agreement"] == 0.9
    assert "research" in sidecar["notice"]


def test_an_edited_implant_on_bone_is_held_back_until_overridden_and_the_override_is_recorded(case, tmp_path):
    bone, implant, matrix = case
    edited = implant | (bone & (np.cumsum(bone.ravel()).reshape(bone.shape) < 50))
    held = hand_over(bone, edited, matrix, tmp_path)
    assert not held["passed"] and "bone" in held["failed"] and held["written"] == [] and not list(tmp_path.iterdir())
    written = hand_over(bone, edited, matrix, tmp_path, override="meant so")
    assert written["written"] == ["implant.stl", "implant.json"]
    override = json.loads((tmp_path / "implant.json").read_text())["override"]
    assert override["reason"] == "meant so" and "bone" in override["failed"]


def test_the_piece_for_a_trial_fit_is_the_bone_around_the_hole(case, tmp_path):
    bone, implant, matrix = case
    hand_over(bone, implant, matrix, tmp_path, "a", with_piece=True)
    vertices, triangles = read_stl(tmp_path / "a_skull.stl")
    assert is_watertight(triangles)
    implant_vertices = mask_surface(implant, matrix)[0]
    near = cKDTree(implant_vertices).query(vertices)[0]
    assert near.min() < 1.5 and near.max() < 15 + 3.2  # and a voxel's diagonal


@pytest.mark.parametrize("name", ["../implant", "Jane Doe", "", "a" * 80])
def test_a_name_that_is_no_file_name_is_refused(case, tmp_path, name):
    with pytest.raises(RefusedInput) as refused:
        hand_over(*case, tmp_path, name)
    assert refused.value.code == "name"


def test_an_empty_implant_and_two_grids_are_refused(case, tmp_path):
    bone, implant, matrix = case
    with pytest.raises(RefusedInput, match="empty"):
        hand_over(bone, np.zeros_like(implant), matrix, tmp_path)
    everything = tuple(slice(0, size) for size in bone.shape)
    moved = matrix.copy()
    moved[0, 3] += 1.0
    for name, mask, place in (("bone.nrrd", bone, matrix), ("implant.nrrd", implant, moved)):
        write_padded_nrrd(tmp_path / name, mask, everything, bone.shape, place, {})
    with pytest.raises(RefusedInput, match="different grids"):
        hand_over_files(tmp_path / "bone.nrrd", tmp_path / "implant.nrrd", tmp_path)
