"""The worker for rehearsals answers in the form of the engines: what the panel's tests prove with it holds for them."""

import dataclasses
import json

import numpy as np
import pytest
from CranialImplantLib.ensemble import MemberReport
from CranialImplantLib.holes import HoleView
from CranialImplantLib.scene import write_scene_files
from MedShapeGenLib.outputs import shape_report
from MedShapeGenLib.solid import Solid, SolidFigures
from MedShapeSlicer import rehearsal
from shell_ensemble import shell_ensemble


def test_a_result_for_a_scene_has_the_engine_s_form(tmp_path):
    for name in ("real", "played"):
        (tmp_path / name).mkdir()
    real = write_scene_files(shell_ensemble(members=2), tmp_path / "real")
    played = rehearsal.generate({"options": {"members": 2}}, tmp_path / "played")
    assert set(real) == set(played["scene"])
    assert [set(m) for m in real["members"]] == [set(m) for m in played["scene"]["members"]]
    assert [m["id"] for m in real["members"]] == [m["id"] for m in played["scene"]["members"]]
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("real", "played")]
    assert files[0] == files[1]
    for name in ("variance.npy", "agreement.npy", "implant_1.npy"):
        arrays = [np.load(tmp_path / folder / name) for folder in ("real", "played")]
        assert arrays[0].dtype == arrays[1].dtype and arrays[0].ndim == arrays[1].ndim
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("real", "played")]
    assert set(reports[1]) <= set(reports[0]) | {"versions", "weights"}  # the engine's run adds these two
    for key in ("implants", "mean_implant"):
        rows = [report[key][0] if key == "implants" else report[key] for report in reports]
        assert set(rows[0]) == set(rows[1])


def test_checks_and_holes_have_the_engine_s_form(tmp_path):
    assert set(rehearsal.check(np.ones(3), 1.0)) == {field.name for field in dataclasses.fields(MemberReport)}
    hole = rehearsal.holes({}, tmp_path)["holes"][0]
    assert set(hole) == {field.name for field in dataclasses.fields(HoleView)}


@pytest.mark.parametrize("task", ["generate", "reconstruct", "interpolate", "complete"])
def test_shapes_have_the_engine_s_form(task, tmp_path):
    played = rehearsal.shapes({"task": task, "options": {"count": 2, "steps": 3}}, tmp_path)
    figures = SolidFigures(40.0, (40.0, 40.0, 40.0), 33.5, 50.0, True, 1, 100, 1, 0.1, 1.0)
    real = shape_report("a.stl", Solid(np.zeros((0, 3)), np.zeros((0, 3)), figures))
    assert all(set(shape) <= set(real) for shape in played["shapes"])
    assert len(played["shapes"]) == {"reconstruct": 1, "interpolate": 3}.get(task, 2)
    assert all((tmp_path / shape["file"]).exists() for shape in played["shapes"])
