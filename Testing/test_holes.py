"""The holes as a person sees them before a run, and the worker's tasks around a run, on the bundled skull."""

from pathlib import Path

import numpy as np
import pytest
from CranialImplantLib import worker
from CranialImplantLib.holes import extents_mm
from MedShapeCore.jobs import no_progress
from scipy.spatial import cKDTree

DEMO = Path(worker.__file__).parent / "demo" / "demo_skull.nrrd"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "results"
    folder.mkdir()
    return worker.handle({"task": "holes", "input": str(DEMO)}, folder, no_progress)


def test_the_hole_is_described_with_side_size_and_place(found):
    assert [hole.number for hole in found["holes"]] == [1]
    hole = found["holes"][0]
    assert hole.side == "left" and 55 < hole.area_cm2 < 95 and 60 < hole.width_mm <= hole.length_mm < 130
    # The circle of an ellipse with these axes has the hole's area within a fifth.
    assert np.pi / 4 * hole.length_mm * hole.width_mm / 100 == pytest.approx(hole.area_cm2, rel=0.25)


def test_the_outline_runs_along_the_bone_s_edge(found):
    from CranialImplantLib.skull import load_skull
    from MedShapeCore.volumes import lps_from_ijk

    skull = load_skull(DEMO)
    bone = lps_from_ijk(skull.ijk_to_lps, np.argwhere(skull.mask)[::7])
    distance = cKDTree(bone).query(found["holes"][0].outline_lps)[0]
    assert len(distance) > 40 and np.median(distance) < 1.8 and distance.max() < 4.0  # half the map's pixel
    assert cKDTree(bone).query(found["holes"][0].centre_lps)[0] > 20.0  # and around nothing


def test_extents_are_those_of_a_tilted_rectangle():
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1.0]])
    square = np.array([[-30, -10, 0], [30, -10, 0], [30, 10, 0], [-30, 10, 0.0]]) @ turn.T + 5.0
    assert extents_mm(square) == pytest.approx((60.0, 20.0))
    assert extents_mm(np.zeros((0, 3))) == (0.0, 0.0)


def test_a_ct_becomes_bone_on_its_grid(tmp_path):
    import SimpleITK as sitk

    image = sitk.ReadImage(str(DEMO))
    ct = sitk.Cast(image > 0, sitk.sitkInt16) * 1800 - 800
    ct.CopyInformation(image)
    sitk.WriteImage(ct, str(tmp_path / "ct.nrrd"))
    (tmp_path / "results").mkdir()
    result = worker.handle({"task": "bone", "input": "ct.nrrd", "bone_threshold": 300.0}, tmp_path / "results", no_progress)
    bone = np.load(tmp_path / "results" / result["array"])
    assert bone.sum() == pytest.approx(sitk.GetArrayFromImage(image).sum(), rel=0.02)
