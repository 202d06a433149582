"""What the worker hands to 3D Slicer: small arrays and surfaces in the right place, and a table of contents."""

import json

import numpy as np
import pytest
from CranialImplantLib.outputs import TERM
from CranialImplantLib.scene import write_scene_files
from MedShapeCore.surfaces import is_watertight
from MedShapeCore.volumes import lps_from_ijk
from shell_ensemble import shell_ensemble
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOXML import vtkXMLPolyDataReader


@pytest.fixture(scope="module")
def ensemble():
    return shell_ensemble(members=3)


@pytest.fixture(scope="module")
def written(ensemble, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    return folder, write_scene_files(ensemble, folder)


def read_vtp(path):
    reader = vtkXMLPolyDataReader()
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()


def test_a_member_s_array_holds_its_voxels_where_they_are(ensemble, written):
    folder, scene = written
    entry = next(member for member in scene["members"] if member["id"] == "Implant_2")
    array = np.load(folder / entry["array"])
    assert array.dtype == np.uint8 and array.sum() == ensemble.implants[1].sum()
    whole = np.zeros(ensemble.skull.mask.shape, bool)
    whole[ensemble.box] = ensemble.implants[1]
    there = lps_from_ijk(scene["ijk_to_lps"], np.argwhere(array))
    wanted = lps_from_ijk(ensemble.skull.ijk_to_lps, np.argwhere(whole))
    assert np.abs(there - wanted).max() < 1e-9


def test_all_arrays_have_one_small_crop(ensemble, written):
    folder, scene = written
    names = ["variance.npy", "agreement.npy", *(member["array"] for member in scene["members"])]
    shapes = {np.load(folder / name).shape for name in names}
    assert len(shapes) == 1
    used = np.argwhere(ensemble.implants.any(0))
    assert all(size <= extent + 5 for size, extent in zip(shapes.pop(), np.ptp(used, axis=0) + 1, strict=True))
    assert np.load(folder / "variance.npy").dtype == np.float32
    assert np.isclose(np.load(folder / "variance.npy").sum(), ensemble.variance.sum())


def test_surfaces_are_closed_and_the_mean_s_carries_the_spread(ensemble, written):
    folder, scene = written
    for member in scene["members"]:
        surface = read_vtp(folder / member["surface"])
        triangles = vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).reshape(-1, 3)
        assert is_watertight(triangles)
        assert surface.GetFieldData().GetAbstractArray("SPACE").GetValue(0) == "LPS"
    spread = vtk_to_numpy(read_vtp(folder / "mean_implant.vtp").GetPointData().GetArray("spread_mm"))
    assert np.allclose(spread, ensemble.spread.spread_mm)


def test_the_table_of_contents_starts_with_the_mean_and_names_all(written):
    folder, scene = written
    assert [member["id"] for member in scene["members"]] == ["MeanImplant", "Implant_1", "Implant_2", "Implant_3"]
    assert scene["terminology"] == TERM and "|" not in TERM  # a bar ends a tag in a .seg.nrrd
    report = json.loads((folder / "report.json").read_text())
    assert [row["implant"] for row in report["implants"]] == [1, 2, 3]
