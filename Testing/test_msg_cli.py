"""The command `medshapegen`: names, options, exit codes, messages, whole results; the model's part is played by ellipsoids."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from ellipsoid_models import ellipsoid_models, ellipsoid_shape, piece_of
from MedShapeCore.errors import Cancelled, FailedResult, OptionError
from MedShapeCore.surfaces import read_stl, write_stl
from MedShapeGenLib import cli, generate, models, options
from MedShapeGenLib.categories import CATEGORIES, SOURCES

MODELS = ellipsoid_models()
FAST = ["--resolution", "32", "--device", "cpu"]


@pytest.fixture
def ellipsoids(monkeypatch):
    monkeypatch.setattr(models, "load_models", lambda device: MODELS)


@pytest.fixture(scope="module")
def shape_file(tmp_path_factory):
    shape = ellipsoid_shape((50, 36, 26), (10, 20, 30))
    path = tmp_path_factory.mktemp("in put") / "my organ.stl"
    write_stl(path, shape.vertices_lps, shape.triangles)
    return path


def test_list_says_sizes_counts_licences_and_few(capsys):
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines()}
    for kind in CATEGORIES:
        line = lines[kind.name]
        assert f"{kind.longest_mm[0]:.0f} to {kind.longest_mm[1]:.0f} mm" in line and f" {kind.training_shapes} " in line
        assert kind.licence in line and ("few training shapes" in line) == kind.few
        assert ("synthetic" in line) == kind.synthetic and ("--side" in line) == kind.paired
    assert "CC BY-NC-SA 4.0" in said.splitlines()[-1] and "not for clinical use" in said


def test_list_names_the_sources_on_request(capsys):
    assert cli.main(["list", "--sources"]) == 0
    said = capsys.readouterr().out
    used = {key for kind in CATEGORIES for key in kind.sources}
    assert all((f"\n{key}: {SOURCES[key].title}" in said) == (key in used) for key in SOURCES)


def test_generate_writes_the_promised_files_and_says_what_they_are(ellipsoids, tmp_path, capsys):
    out = tmp_path / "new shapes"
    assert cli.main(["generate", "--category", "kidney", "--count", "2", "--seed", "3", *FAST, "-o", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "kidney_1.stl", "kidney_1.vtp", "kidney_2.stl", "kidney_2.vtp", "overview.png", "report.json",
    ]  # fmt: skip
    said = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert str(out / "overview.png") in said and "not for clinical use" in said and "passed" in said
    assert f"{report['shapes'][1]['longest_mm']:.1f} mm" in said and report["seed"] == 3


def test_every_option_reaches_the_sampler(ellipsoids, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(generate, "sample_shapes", lambda given, asked, progress: seen.append(asked) or 1 / 0)
    words = (
        "generate --category kidney --count 3 --seed 7 --side right --guidance 1.5 --steps 12 --resolution 64 --device cpu"
    )
    assert cli.main([*words.split(), "-o", str(tmp_path / "out")]) == 1
    assert seen == [options.GenerateOptions(
        category="kidney", count=3, seed=7, side="right", guidance=1.5, steps=12, resolution=64, device="cpu",
    )]  # fmt: skip


def test_reconstruct_writes_place_skeleton_and_error(ellipsoids, shape_file, tmp_path, capsys):
    assert cli.main(["reconstruct", str(shape_file), *FAST, "-o", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "error.vtp", "overview.png", "reconstruction.stl", "report.json", "skeleton.vtp",
    ]  # fmt: skip
    vertices, _ = read_stl(tmp_path / "out" / "reconstruction.stl")
    assert np.allclose((vertices.min(axis=0) + vertices.max(axis=0)) / 2, (10, 20, 30), atol=0.3)
    said = capsys.readouterr().out
    assert "mean distance between the surfaces" in said and " mm" in said
    assert json.loads((tmp_path / "out" / "report.json").read_text())["input"]["name"] == "my organ"


def test_interpolate_and_complete_write_their_files(ellipsoids, shape_file, tmp_path):
    way = tmp_path / "way"
    assert cli.main(["interpolate", str(shape_file), str(shape_file), "--steps", "3", *FAST, "-o", str(way)]) == 0
    assert {p.name for p in way.iterdir()} == {"step_1.stl", "step_2.stl", "step_3.stl", "overview.png", "report.json"}
    piece = piece_of(ellipsoid_shape((50, 36, 26), (10, 20, 30)), lambda v: v[:, 2] < 33)
    write_stl(tmp_path / "piece.stl", piece.vertices_lps, piece.triangles)
    out = tmp_path / "whole"
    words = ["complete", str(tmp_path / "piece.stl"), "--category", "kidney", "--count", "1", *FAST]
    assert cli.main([*words, "-o", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {"completion_1.stl", "completion_1.vtp", "overview.png", "report.json"}


def test_results_replace_those_of_a_run_with_more_shapes_and_nothing_else(ellipsoids, tmp_path):
    for name in ("kidney_1.stl", "kidney_9.stl", "kidney_9.vtp", "liver_9.stl", "kidney_final.stl"):
        (tmp_path / name).write_text("old")
    assert cli.main(["generate", "--category", "kidney", "--count", "1", *FAST, "-o", str(tmp_path)]) == 0
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"kidney_1.stl", "kidney_1.vtp", "overview.png", "report.json", "liver_9.stl", "kidney_final.stl"}


def test_shapes_that_fail_their_checks_give_3_and_the_files(ellipsoids, tmp_path, capsys):
    """The stand-in makes 100 mm of everything: for an eyeball that is too large."""
    assert cli.main(["generate", "--category", "eyeball", "--count", "2", *FAST, "-o", str(tmp_path / "out")]) == 3
    said = capsys.readouterr()
    assert "eyeball_1.stl, eyeball_2.stl of 2 fail" in said.err and "[checks]" in said.err
    assert "failed: size" in said.out and (tmp_path / "out" / "eyeball_2.stl").exists()


def test_warnings_are_told(ellipsoids, tmp_path, capsys):
    cli.main(["generate", "--category", "stomach", "--count", "1", *FAST, "-o", str(tmp_path / "out")])
    assert "warning: The model has seen only 12 shapes of stomach. [few-training-shapes]" in capsys.readouterr().err


def test_evaluate_prints_figures_in_mm(shape_file, tmp_path, capsys):
    other = ellipsoid_shape((50, 36, 26), (10, 20, 31))
    write_stl(tmp_path / "moved.stl", other.vertices_lps, other.triangles)
    assert cli.main(["evaluate", str(tmp_path / "moved.stl"), str(shape_file)]) == 0
    said = capsys.readouterr().out
    mean = float(said.splitlines()[0].split()[-2])
    assert said.splitlines()[0].startswith("mean distance") and 0.4 < mean < 0.8  # 1 mm up: |cos| on average


# ---- bad input: each kind has its code, nothing is written


def broken(kind, path):
    shape = ellipsoid_shape((50, 36, 26), rings=16)
    vertices, triangles = shape.vertices_lps, shape.triangles
    if kind == "open-mesh":
        triangles = triangles[5:]
    if kind == "not-finite":
        vertices = vertices.copy()
        vertices[3] = np.nan
    if kind == "units":
        vertices = vertices / 1000
    if kind == "several-organs":
        vertices = np.concatenate([vertices, vertices + [150, 0, 0]])
        triangles = np.concatenate([triangles, triangles + len(shape.vertices_lps)])
    if kind == "self-intersecting":
        vertices = vertices.copy()
        vertices[:, 0] = np.where(vertices[:, 2] > 10, -1.4 * vertices[:, 0], vertices[:, 0])
    write_stl(path, vertices, triangles)


@pytest.mark.parametrize("kind", ["open-mesh", "not-finite", "units", "several-organs", "self-intersecting"])
def test_a_bad_mesh_is_refused_with_its_sentence(tmp_path, capsys, kind):
    broken(kind, tmp_path / "bad.stl")
    assert cli.main(["reconstruct", str(tmp_path / "bad.stl"), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"[{kind}]" in said and "hint: " in said and "Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["bad.stl"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["generate", "--category", "kidny"], "unknown-category"),
        (["generate", "--category", "kidney", "--count", "0"], "option"),
        (["generate", "--category", "kidney", "--guidance", "nan"], "option"),
        (["reconstruct", "missing.stl"], "no-file"),
        (["interpolate", "missing.stl", "missing.stl"], "no-file"),
        (["complete", "missing.stl", "--category", "kidney"], "no-file"),
        (["complete", "missing.stl", "--category", "kidny"], "unknown-category"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_loaded(monkeypatch, tmp_path, capsys, words, code):
    monkeypatch.setattr(models, "load_models", lambda device: pytest.fail("the model was loaded"))
    assert cli.main([*words, "-o", str(tmp_path / "out")]) == 2
    assert f"[{code}]" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FailedResult("no-surface", "The field has no inside."), 3, "[no-surface]"),
        (Cancelled(), 4, "[cancelled]"),
        (KeyboardInterrupt(), 4, "[cancelled]"),
        (MemoryError(), 3, "[memory]"),
        (ZeroDivisionError("division by zero"), 1, "division by zero [crash]"),
    ],
)
def test_exit_codes(monkeypatch, tmp_path, capsys, error, code, said):
    def fail(device):
        raise error

    monkeypatch.setattr(models, "load_models", fail)
    (tmp_path / "kidney_1.stl").write_text("old")
    assert cli.main(["generate", "--category", "kidney", "-o", str(tmp_path)]) == code
    assert said in capsys.readouterr().err and [p.read_text() for p in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["generate", "-o", "x"],
        ["generate", "--category", "kidney"],
        ["generate", "--cat", "kidney", "-o", "x"],
        ["generate", "--category", "kidney", "-o", "x", "--side", "both"],
        ["reconstruct", "-o", "x"],
        ["interpolate", "a.stl", "-o", "x"],
        ["complete", "a.stl", "-o", "x"],
        ["evaluate", "a.stl"],
        ["improve"],
    ],
)
def test_wrong_usage_leaves_with_2(words, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2 and "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("name", [command[0] for command in cli.COMMANDS])
def test_help_of_every_command_says_what_it_is_for(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0 and f"medshapegen {name}" in said and "not for clinical use" in said


# ---- training and its like: the calls


def stand_in(monkeypatch, module, **functions):
    monkeypatch.setitem(sys.modules, f"MedShapeGenLib.{module}", types.SimpleNamespace(**functions))


def test_train_passes_its_options_and_turns_sources_into_what_is_left_out(monkeypatch, capsys):
    calls = []
    stand_in(monkeypatch, "training.train", train=lambda *given, **named: calls.append((given, named)) or Path("w"))
    words = "train autoencoder --data pack --out run --minutes 5 --seed 2 --threads 1 --device cpu --sources kits23 intra"
    assert cli.main(words.split()) == 0
    (given, named), = calls
    assert given == ("autoencoder", Path("pack"), Path("run"), 5.0)
    assert named["without_sources"] == frozenset(SOURCES) - {"kits23", "intra"}
    assert (named["seed"], named["threads"], named["device"]) == (2, 1, "cpu")
    assert "The result is w." in capsys.readouterr().out
    assert (named["names"], named["start"], named["weights"]) == (None, None, None)
    assert cli.main(["train", "autoencoder", "--out", "run"]) == 0
    assert calls[1][1]["without_sources"] == frozenset()
    words = "train autoencoder --data pack --out run --category distal_femur --start bundled --weights w"
    assert cli.main(words.split()) == 0
    named = calls[2][1]
    assert (named["names"], named["start"], named["weights"]) == (("distal_femur",), models.WEIGHTS, Path("w"))
    assert cli.main(["train", "autoencoder", "--out", "run", "--sources", "kits"]) == 2


def test_an_unknown_stage_is_refused(monkeypatch, capsys):
    def train(*given, **named):
        raise OptionError("stage", given[0], "one of a, b")

    stand_in(monkeypatch, "training.train", train=train)
    assert cli.main(["train", "nothing", "--out", "run"]) == 2
    assert "'nothing'" in capsys.readouterr().err


def test_prepare_and_benchmark_pass_their_options(monkeypatch, capsys):
    calls = []
    stand_in(monkeypatch, "training.prepare", prepare=lambda *given, **named: calls.append((given, named)) or Path("pack"))
    words = "prepare organs -o pack --category kidney liver --skulls skulls --measure --processes 2 --seed 1"
    assert cli.main(words.split()) == 0 and "The pack is pack." in capsys.readouterr().out
    given, named = calls.pop()
    assert given == (Path("organs"), Path("pack"), Path("skulls"), True, ("kidney", "liver"))
    assert (named["processes"], named["seed"]) == (2, 1)

    run = {"run": lambda *given, **named: calls.append((given, named)) or "| table |"}
    stand_in(monkeypatch, "benchmark", **run)
    stand_in(monkeypatch, "benchmark_shapes", BenchmarkOptions=types.SimpleNamespace)
    stand_in(monkeypatch, "models", WEIGHTS=Path("bundled"))
    words = "benchmark pack -o out --category kidney --split test --seed 2 --device cpu"
    words += " --table reconstruction --shapes 3 --no-baseline --weights w"
    assert cli.main(words.split()) == 0
    given, named = calls.pop()
    asked = named["options"]
    assert given == (Path("pack"), Path("out")) and "| table |" in capsys.readouterr().out
    assert (asked.categories, asked.split, asked.seed, asked.device) == (("kidney",), "test", 2, "cpu")
    assert (asked.tables, asked.shapes, asked.baseline, named["weights"]) == (("reconstruction",), 3, False, Path("w"))
    assert cli.main("benchmark pack -o out".split()) == 0
    named = calls.pop()[1]
    assert (named["options"].tables, named["options"].shapes, named["weights"]) == (
        ("reconstruction", "generation"), None, Path("bundled")
    )  # fmt: skip
