"""The benchmark: judging files, running cases through a made-up pipeline, tables, cases from compact skull files."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import shell_ensemble
from CranialImplantLib.baselines import HoleCase
from CranialImplantLib.benchmark import (
    Case,
    Settings,
    ensemble_figures,
    evaluate_files,
    list_cases,
    peak_memory_mb,
    run,
)
from CranialImplantLib.benchmark_table import described, summarized, table_text
from CranialImplantLib.ensemble import SpreadSurface, placed
from CranialImplantLib.model_baselines import BASELINES
from CranialImplantLib.reliability import spread_error_correlation
from MedShapeCore.errors import Cancelled, OptionError, RefusedInput
from MedShapeCore.metrics import implant_metrics
from MedShapeCore.volumes import Volume, read_volume, write_volume
from scipy import ndimage


@pytest.fixture(scope="module")
def shell():
    """An ensemble of three caps, 0.6 mm apart in the middle; the truth is the first of them."""
    ensemble = shell_ensemble.shell_ensemble(3)
    return ensemble, placed(ensemble.implants[0], ensemble.box, ensemble.skull.mask.shape)


def write_case(path: Path, shell) -> Path:
    ensemble, truth = shell
    labels = ensemble.skull.mask.astype(np.uint8)
    labels[truth] = 2
    write_volume(path, Volume(labels, ensemble.skull.ijk_to_lps))
    return path


@pytest.fixture
def cases(tmp_path, shell) -> Path:
    folder = tmp_path / "cases"
    folder.mkdir()
    for name in ("vertex__a", "vertex__b", "side__a"):
        write_case(folder / f"{name}.nrrd", shell)
    return folder


@pytest.fixture
def pipeline(monkeypatch, shell):
    """A made-up CranialImplantLib.pipeline; what it was asked is in `pipeline.asked`."""
    ensemble, _ = shell
    module = ModuleType("CranialImplantLib.pipeline")
    module.asked = []

    def generate_implants(skull, options, progress):
        module.asked.append((skull, options))
        few = ensemble.implants[: options.members]
        return replace(ensemble, skull=skull, implants=few, mean=few[0] if options.members == 1 else ensemble.mean)

    def describe_hole(skull, options):
        region = ensemble.implants.any(0)
        return HoleCase(skull, ensemble.box, region, np.array([1.0, 0, 0]), shell_ensemble.CENTRE_LPS, np.eye(4))

    module.generate_implants, module.describe_hole = generate_implants, describe_hole
    monkeypatch.setitem(sys.modules, "CranialImplantLib.pipeline", module)
    for name in list(BASELINES):
        monkeypatch.delitem(BASELINES, name)
    monkeypatch.setitem(BASELINES, "all of the region", lambda hole: hole.region & ~hole.bone)
    return module


def rows_of(out: Path) -> list[dict]:
    return json.loads((out / "benchmark.json").read_text(encoding="utf-8"))["rows"]


# ---- evaluate


def test_files_give_the_figures_of_their_arrays(tmp_path, shell):
    ensemble, truth = shell
    matrix, bone = ensemble.skull.ijk_to_lps, ensemble.skull.mask
    prediction = placed(ensemble.mean, ensemble.box, truth.shape)
    paths = [tmp_path / name for name in ("skull.nrrd", "truth.nii.gz", "prediction.nrrd")]
    for path, mask, value in zip(paths, (bone, truth, prediction), (1, 255, 3), strict=True):
        write_volume(path, Volume(mask.astype(np.uint8) * np.uint8(value), matrix))
    expected = implant_metrics(prediction, truth, bone, Volume(bone, matrix).spacing_mm[::-1])
    assert evaluate_files(*paths) == pytest.approx(expected)
    case = write_case(tmp_path / "case.nrrd", shell)  # one label map in place of skull and truth
    assert evaluate_files(case, case, paths[2]) == pytest.approx(expected)


def test_another_grid_is_refused_even_of_the_same_shape(tmp_path, shell):
    ensemble, truth = shell
    case = write_case(tmp_path / "case.nrrd", shell)
    moved = ensemble.skull.ijk_to_lps.copy()
    moved[0, 3] += 0.5
    flipped = ensemble.skull.ijk_to_lps @ np.diag([1, -1, 1, 1])
    for volume in (Volume(truth, moved), Volume(truth, flipped), Volume(truth[1:], ensemble.skull.ijk_to_lps)):
        write_volume(tmp_path / "other.nrrd", volume)
        with pytest.raises(RefusedInput, match=r"case.nrrd and other.nrrd lie on different grids") as refusal:
            evaluate_files(case, case, tmp_path / "other.nrrd")
        assert refusal.value.code == "grid"


def test_several_labels_are_refused_and_an_empty_prediction_is_judged(tmp_path, shell):
    ensemble, truth = shell
    case = write_case(tmp_path / "case.nrrd", shell)
    with pytest.raises(RefusedInput, match="more than one label") as refusal:
        evaluate_files(tmp_path / "case.nrrd", tmp_path / "case.nrrd", case)
    assert refusal.value.code == "several-labels"
    write_volume(tmp_path / "empty.nrrd", Volume(truth & False, ensemble.skull.ijk_to_lps))
    assert evaluate_files(case, case, tmp_path / "empty.nrrd")["dsc"] == 0.0
    write_volume(tmp_path / "truth.nrrd", Volume(truth, ensemble.skull.ijk_to_lps))
    with pytest.raises(RefusedInput, match="true implant has no voxel"):
        evaluate_files(tmp_path / "truth.nrrd", tmp_path / "empty.nrrd", tmp_path / "truth.nrrd")


# ---- run


def test_methods_get_bone_alone_and_every_case_has_a_row_per_method(tmp_path, cases, pipeline, shell):
    ensemble, truth = shell
    seen = []
    table = run(cases, tmp_path / "out", (1, 3), seed=4, quality="fast", progress=lambda *a: seen.append(a))
    for skull, options in pipeline.asked:
        assert (skull.mask == ensemble.skull.mask).all() and options.seed == 4 and options.quality == "fast"
        assert options.point_lps is None and options.roi_lps is None
    rows = rows_of(tmp_path / "out")
    assert [r["method"] for r in rows[:3]] == ["ensemble n=1", "ensemble n=3", "all of the region"] and len(rows) == 9
    assert [r["file"] for r in rows[::3]] == ["side__a.nrrd", "vertex__a.nrrd", "vertex__b.nrrd"]
    single, several, baseline = rows[:3]
    assert single["dsc"] == 1.0 and single["hd95_mm"] == 0.0 and single["pairwise_dsc"] is None
    assert 0.7 < several["dsc"] < 1.0 and several["spread_rank"] > 0 and several["hole_found"] is True
    assert baseline["region_share"] == 1.0 and baseline["bone_overlap_ml"] == 0.0
    assert not any(r["failed"] for r in rows) and all(r["seconds"] >= 0 and r["peak_mb"] > 0 for r in rows)
    assert [s[1] for s in seen] == pytest.approx([1 / 3, 2 / 3, 1]) and "No failures" in table
    with open(tmp_path / "out" / "cases.csv", newline="", encoding="utf-8") as file:
        assert [float(r["dsc"]) for r in csv.DictReader(file)] == [r["dsc"] for r in rows]
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8").strip() == table


def test_a_failure_counts_as_an_empty_implant_and_stops_nothing(tmp_path, cases, pipeline, shell):
    ensemble, _ = shell
    working = pipeline.generate_implants

    def failing(skull, options, progress):
        if skull.name == "b":
            raise RefusedInput("no-hole", "This skull has no hole.")
        if options.members == 3:
            raise IndexError("list index out of range")
        return working(skull, options, progress)

    def no_hole(skull, options):
        raise RefusedInput("no-hole", "This skull has no hole.")

    pipeline.generate_implants, pipeline.describe_hole = failing, no_hole
    (cases / "side__c.nrrd").write_bytes((cases / "side__a.nrrd").read_bytes()[:200])  # not even a case
    table = run(cases, tmp_path / "out", (1, 3))
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 12
    reasons = {(r["file"], r["method"]): r["failed"] for r in rows}
    assert reasons["vertex__b.nrrd", "ensemble n=1"] == "no-hole: This skull has no hole."
    assert reasons["vertex__a.nrrd", "ensemble n=3"] == "IndexError: list index out of range"
    assert reasons["vertex__a.nrrd", "all of the region"] == "no-hole-case: no-hole: This skull has no hole."
    assert reasons["side__c.nrrd", "ensemble n=1"].startswith("unreadable")
    assert reasons["side__a.nrrd", "ensemble n=1"] == ""
    failed = [r for r in rows if r["failed"]]
    assert len(failed) == 10 and all(r["dsc"] == 0.0 for r in failed)
    assert all(r["hd95_mm"] > 50 for r in failed if r["skull"] != "c")  # the diagonal of the truth's box
    everywhere = [s for s in summarized(rows) if s["place"] == "all"]
    assert [(s["cases"], len(s["failures"]), s["dsc"]["mean"]) for s in everywhere[:2]] == [(4, 2, 0.5), (4, 4, 0.0)]
    assert "- vertex__b.nrrd, ensemble n=1: no-hole" in table


def test_an_implant_at_another_place_or_none_is_a_failure(tmp_path, cases, pipeline, shell):
    ensemble, _ = shell
    elsewhere = tuple(slice(0, s.stop - s.start) for s in ensemble.box)
    misplaced = replace(ensemble, box=elsewhere)
    nothing = replace(ensemble, mean=ensemble.mean & False)
    pipeline.generate_implants = lambda skull, options, progress: misplaced if skull.name == "a" else nothing
    run(cases, tmp_path / "out", (3,), baselines=False)
    assert [r["failed"] for r in rows_of(tmp_path / "out")] == ["another hole", "another hole", "no implant"]


def test_cancelling_stops_and_wrong_options_and_folders_are_refused_at_once(tmp_path, cases, pipeline):
    def cancel(*_):
        raise Cancelled

    with pytest.raises(Cancelled):
        run(cases, tmp_path / "out", (1,), progress=cancel)
    assert len(pipeline.asked) == 1
    with pytest.raises(OptionError):
        run(cases, tmp_path / "out", (1, 0))
    with pytest.raises(RefusedInput, match="no case"):
        run(tmp_path, tmp_path / "out")
    assert len(pipeline.asked) == 1
    pipeline.generate_implants = cancel  # a pipeline that was cancelled inside is no failed case
    with pytest.raises(Cancelled):
        run(cases, tmp_path / "out", (1,))


def test_what_a_process_of_its_own_finds_comes_back_as_rows(tmp_path, cases):
    # The spawned process has no made-up pipeline, so this file is no case.
    (cases / "side__a.nrrd").write_bytes((cases / "side__a.nrrd").read_bytes()[:200])
    table = run(cases, tmp_path / "out", (1, 3), cases=1, baselines=False, jobs=2)
    rows = rows_of(tmp_path / "out")
    assert [(r["skull"], r["method"]) for r in rows] == [("a", "ensemble n=1"), ("a", "ensemble n=3")]
    assert all(r["failed"].startswith("unreadable") and r["dsc"] == 0.0 for r in rows) and "unknown" in table


def test_a_killed_process_costs_one_case(tmp_path, cases, monkeypatch):
    class Killed:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            raise BrokenProcessPool("out of memory")

        def __exit__(self, *_):
            return False

    monkeypatch.setattr("CranialImplantLib.benchmark.ProcessPoolExecutor", Killed)
    run(cases, tmp_path / "out", (1,), baselines=False, jobs=2)
    rows = rows_of(tmp_path / "out")
    assert [r["failed"] for r in rows] == ["the process ended"] * 3
    assert all(r["dsc"] == 0.0 and r["hd95_mm"] > 50 for r in rows)  # the diagonal of the truth's box


def test_cases_come_from_the_table_or_from_their_names(cases):
    assert [(c.skull, c.place) for c in list_cases(cases)] == [("a", "side"), ("a", "vertex"), ("b", "vertex")]
    (cases / "cases.csv").write_text("file,skull,place,implant_ml\nvertex__b.nrrd,077,bilateral,3\n", encoding="utf-8")
    assert list_cases(cases) == [Case(cases / "vertex__b.nrrd", "077", "bilateral")]
    (cases / "cases.csv").write_text("file,skull,place\ngone.nrrd,077,bilateral\n", encoding="utf-8")
    with pytest.raises(RefusedInput, match="no file gone.nrrd"):
        list_cases(cases)


def test_the_limits_of_the_settings_are_those_of_the_options():
    assert Settings(seed=3, quality="fast").options(5).members == 5


# ---- figures of an ensemble


def test_members_are_compared_with_the_whole_truth_and_with_each_other(shell):
    ensemble, truth = shell
    figures = ensemble_figures(ensemble, truth)
    # Caps of 8 mm, 0.6 mm apart in the middle and together at the rim: neighbours differ by less than 0.6 / 8.
    assert 1 - 1.2 / 8 < figures["pairwise_dsc"] < 1.0 and figures["member_dsc"] > figures["pairwise_dsc"]
    assert figures["hole_found"] is True and figures["hole_iou"] > 0.8
    more = truth.copy()
    more[0, 0, :] = True  # truth outside the ensemble's box counts
    assert ensemble_figures(ensemble, more)["member_dsc"] < figures["member_dsc"]


def test_a_spread_which_grows_with_the_error_has_rank_correlation_one():
    # A plate whose upper face lies at 10 mm between two voxel rows of 0.5 mm; vertices over it, 0 to 3 mm too high.
    truth, bone = np.zeros((40, 60, 120), bool), np.zeros((40, 60, 120), bool)
    truth[8:20, 5:55, 5:115] = True
    matrix = np.diag([0.5, 0.5, 0.5, 1.0])
    matrix[2, 3] = 0.25  # the first row reaches from 0 to 0.5 mm
    x = np.linspace(5.0, 52.0, 400)
    error_mm = 3.0 * (x - 5.0) / 47.0
    vertices = np.stack([x, np.full(400, 15.0), 10.0 + error_mm], 1).astype(np.float32)
    side = np.full(400, 1, np.int8)
    spread = SpreadSurface(vertices, np.zeros((0, 3), np.int32), (0.1 + error_mm**2).astype(np.float32), side)
    found = spread_error_correlation(spread, truth, bone, matrix)
    assert found.rank_correlation > 0.99 and found.vertices == 400
    assert found.error_mm == pytest.approx(1.5, abs=0.05) and found.spread_mm == pytest.approx(0.1 + 1.5**2, abs=0.01)
    upside_down = replace(spread, spread_mm=10 - spread.spread_mm)
    assert spread_error_correlation(upside_down, truth, bone, matrix).rank_correlation < -0.99
    bone[20:, :, :11] = True  # reaches to x = 5.25 mm: what is within 5 mm of its last voxels, at 5 mm, does not count
    assert spread_error_correlation(spread, truth, bone, matrix).vertices == (x > 10.0).sum()


def test_vertices_at_the_rim_or_near_bone_do_not_count(shell):
    ensemble, truth = shell
    matrix, mask = ensemble.skull.ijk_to_lps, ensemble.skull.mask
    rim = replace(ensemble.spread, side=np.zeros_like(ensemble.spread.side))
    assert spread_error_correlation(rim, truth, mask, matrix).vertices == 0
    assert spread_error_correlation(ensemble.spread, truth, ~truth, matrix).vertices == 0  # bone everywhere else
    alone = spread_error_correlation(ensemble.spread, truth, mask & False, matrix)
    assert alone.vertices == (ensemble.spread.side != 0).sum()
    constant = replace(ensemble.spread, spread_mm=np.ones_like(ensemble.spread.spread_mm))
    assert spread_error_correlation(constant, truth, mask, matrix).rank_correlation is None


def test_the_peak_of_memory_is_that_of_this_process():
    peak = peak_memory_mb()
    assert peak is None or 20 < peak < 100_000


# ---- tables


def made_up_rows() -> list[dict]:
    values = {"a": (0.9, 0.8), "b": (0.6, 0.7), "c": (0.0, 0.3)}
    return [
        {"file": f"{place}__{skull}.nrrd", "skull": skull, "place": place, "method": "ensemble n=5", "dsc": dsc,
         "bdsc": dsc, "hd95_mm": 10 * (1 - dsc), "failed": "no implant" if dsc == 0 else "", "seconds": 2.0}
        for skull, pair in values.items() for place, dsc in zip(("top", "side"), pair, strict=True)
    ]  # fmt: skip


def test_a_summary_has_every_place_and_all_together_and_keeps_failures_in_the_mean():
    summary = summarized(made_up_rows())
    counts = [(s["place"], s["cases"], len(s["failures"])) for s in summary]
    assert counts == [("top", 3, 1), ("side", 3, 0), ("all", 6, 1)]
    top = summary[0]["dsc"]
    assert (top["mean"], top["median"], top["min"], top["max"]) == pytest.approx((0.5, 0.6, 0.0, 0.9))
    assert top["sd"] == pytest.approx(np.std([0.9, 0.6, 0.0], ddof=1))
    assert top["worst"] == ["top__c.nrrd", "top__b.nrrd", "top__a.nrrd"] == summary[0]["hd95_mm"]["worst"]


def test_the_interval_draws_skulls_not_holes():
    rows = [{"file": f"{n}", "skull": str(n % 2), "dsc": float(n % 2)} for n in range(20)]  # two skulls, ten holes each
    score = described("dsc", rows)
    # Of two skulls both draws are the same one in half of all resamples; twenty holes would give 0.3 to 0.7.
    assert (score["mean"], score["mean_low95"], score["mean_high95"]) == (0.5, 0.0, 1.0)
    assert described("dsc", [{"file": "x", "skull": "x", "dsc": None}]) is None


def test_the_table_can_be_read():
    rows = made_up_rows()
    text = table_text(summarized(rows), rows)
    assert "| top   | ensemble n=5 | 3     | 1        | 0.500 (0.000 to 0.900)" in text
    assert "- top__c.nrrd, ensemble n=5: no implant" in text
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()}) == 1


# ---- cases from compact skull files


@pytest.fixture
def make_cases():
    script = Path(__file__).parent / "benchmarks" / "make_cases.py"
    spec = importlib.util.spec_from_file_location("make_cases", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_noise_roughens_bone_where_its_surface_is_and_tells_nothing_of_the_implant(make_cases):
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[8:16, :12], labels[8:16, 12:] = 1, 2
    noisy = make_cases.roughened(Volume(labels, np.eye(4)), 0.1, 0).array
    changed = np.argwhere((noisy == 1) != (labels == 1))
    assert 0 < len(changed) < 0.1 * (labels == 1).sum()
    near = ndimage.distance_transform_edt(labels == 1) + ndimage.distance_transform_edt(labels != 1)
    assert np.mean(near[tuple(changed.T)] <= 2.0) > 0.9  # and a speck or two
    beside = (noisy == 1)[:, 14:]  # around the implant, away from bone, there is none
    assert beside.mean() < 0.001 and ((noisy == 2)[8:16, 14:]).mean() > 0.999


def test_label_maps_are_made_with_the_places_in_turn(make_cases, tmp_path):
    tools, skulls = tmp_path / "tools", tmp_path / "skulls" / "skullfix"
    tools.mkdir(), skulls.mkdir(parents=True)
    (tools / "skull_pack.py").write_text(
        "import numpy as np\n"
        "def read_case(path):\n"
        "    labels = np.zeros((3, 4, 5), np.uint8); labels[1] = 1; labels[1, 1, 1] = 2\n"
        "    return labels, dict(spacing=[0.5, 0.5, 2], origin=[1, 2, 3], direction=[1, 0, 0, 0, 0, -1, 0, 1, 0])\n"
    )
    (tools / "validation_holes.py").write_text(
        "PLACES = {'top': 1, 'side': 2}\n"
        "def cut(complete, geometry, case, place):\n"
        "    labels = complete.astype('uint8'); labels[1, 2, :PLACES[place]] = 2; return labels\n"
    )
    table = "id,split\n009,validation\n001,train\n002,validation\n003,validation\n"
    (tmp_path / "skulls" / "skullfix.csv").write_text(table)
    assert make_cases.main(["--tools", str(tools), "--skulls", str(skulls), "--out", str(tmp_path / "out")]) == 0
    found = [(c.skull, c.place) for c in list_cases(tmp_path / "out")]
    assert found == [("002", "skullfix"), ("002", "top"), ("003", "skullfix"), ("003", "side"), ("009", "skullfix"),
                     ("009", "top")]  # fmt: skip
    volume = read_volume(tmp_path / "out" / "side__003.nrrd")
    assert (volume.array == 2).sum() == 2 and volume.array[1, 1, 1] == 1  # the real hole is closed, then another cut
    expected = [[0.5, 0, 0, 1], [0, 0, -2, 2], [0, 0.5, 0, 3], [0, 0, 0, 1]]
    assert np.allclose(volume.ijk_to_lps, expected)
    given = ["--tools", str(tools), "--skulls", str(skulls)]
    assert make_cases.main([*given, "--kind", "every", "--slices", "4", "--out", str(tmp_path / "every")]) == 0
    every = list_cases(tmp_path / "every")
    assert [c.place for c in every] == ["top", "side"] * 3
    coarse = read_volume(every[0].path)  # of three slices 2 mm apart the first and the last
    assert coarse.array.shape == (2, 4, 5) and np.allclose(coarse.ijk_to_lps[:3, 2], [0, -4, 0])
    with pytest.raises(SystemExit, match="There is no skull_pack.py"):
        make_cases.load_tool(tmp_path, "skull_pack")
