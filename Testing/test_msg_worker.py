"""The worker of MedShapeGen: requests, answers, previews, refusals, and the protocol in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ellipsoid_models import ellipsoid_models, ellipsoid_shape, piece_of
from MedShapeCore.errors import OptionError, RefusedInput
from MedShapeCore.jobs import read_messages, write_job
from MedShapeCore.surfaces import write_stl
from MedShapeGenLib import models, options, worker

ROOT = Path(__file__).resolve().parents[1]
LIB = ROOT / "MedShapeGen" / "MedShapeGenLib"
CORE = ROOT / "MedShapeGen" / "MedShapeCore"
MODELS = ellipsoid_models()


@pytest.fixture(autouse=True)
def ellipsoids(monkeypatch):
    monkeypatch.setattr(models, "load_models", lambda device: MODELS)


def handle(tmp_path, request):
    """Result and progress of the worker's handler for one request."""
    folder = tmp_path / ".partial"
    folder.mkdir()
    events = []
    result = worker.handle(request, folder, lambda stage, fraction, event=None: events.append((stage, fraction, event)))
    return result, events


def request_of(**changes):
    chosen = {"category": "kidney", "count": 2, "resolution": 32, "device": "cpu"}
    return {"task": "generate", "options": chosen, **changes}


def write_shape(path, keep=None):
    shape = ellipsoid_shape((50, 36, 26), (10, 20, 30))
    shape = piece_of(shape, keep) if keep else shape
    write_stl(path, shape.vertices_lps, shape.triangles)


def test_generate_answers_with_sizes_checks_and_files(tmp_path):
    result, events = handle(tmp_path, request_of())
    assert result["passed"] is True and result["warnings"] == []
    assert [shape["file"] for shape in result["shapes"]] == ["kidney_1.stl", "kidney_2.stl"]
    assert 60 < result["shapes"][0]["longest_mm"] < 150 and result["shapes"][0]["watertight"] is True
    assert set(result["files"]) == {
        "kidney_1.stl", "kidney_1.vtp", "kidney_2.stl", "kidney_2.vtp", "overview.png", "report.json",
    }  # fmt: skip
    fractions = [fraction for _, fraction, _ in events]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    json.dumps(result)


def test_a_shape_is_a_file_before_the_end(tmp_path):
    _, events = handle(tmp_path, request_of())
    sent = [event for _, _, event in events if event]
    assert sent == [{"shape": n, "surface": f"previews/shape_{n}.vtp"} for n in (1, 2)]
    assert all((tmp_path / event["surface"]).stat().st_size > 1000 for event in sent)


@pytest.mark.parametrize(
    ("task", "inputs", "chosen", "files"),
    [
        ("reconstruct", 1, {}, {"reconstruction.stl", "skeleton.vtp", "error.vtp"}),
        ("interpolate", 2, {"steps": 2}, {"step_1.stl", "step_2.stl"}),
        ("complete", 1, {"category": "kidney", "count": 1}, {"completion_1.stl", "completion_1.vtp"}),
    ],
)
def test_the_other_tasks_take_files_beside_the_job(tmp_path, task, inputs, chosen, files):
    write_shape(tmp_path / "input.stl", (lambda v: v[:, 2] < 33) if task == "complete" else None)
    request = {"task": task, "inputs": ["input.stl"] * inputs, "options": {"resolution": 32, **chosen}}
    result, _ = handle(tmp_path, request)
    assert result["passed"] and set(result["files"]) == files | {"overview.png", "report.json"}
    assert ("mean_mm" in result["figures"]) == (task == "reconstruct")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        request_of(task="improve"),
        request_of(task=["generate"]),
        request_of(inputs=["a.stl"]),
        request_of(task="interpolate", inputs=["a.stl"]),
        request_of(task="reconstruct", inputs=[3]),
        request_of(device="cuda"),
        request_of(options={"category": "kidney", "cuont": 3}),
        request_of(options={"count": 3}),
    ],
)
def test_an_unknown_request_is_refused(tmp_path, request_):
    with pytest.raises(RefusedInput) as refused:
        handle(tmp_path, request_)
    assert refused.value.code == "request"


def test_options_have_the_task_s_defaults_and_checks():
    assert worker.options_from("complete", {"category": "liver"}) == options.CompleteOptions(category="liver")
    assert worker.options_from("reconstruct", {}) == options.ReconstructOptions()
    with pytest.raises(RefusedInput, match="missing category"):
        worker.options_from("generate", {})
    with pytest.raises(OptionError, match="steps"):
        worker.options_from("interpolate", {"steps": "7"})


def test_an_unknown_category_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load_models", lambda device: pytest.fail("the model was loaded"))
    with pytest.raises(RefusedInput, match="kidny"):
        handle(tmp_path, request_of(options={"category": "kidny"}))


# ---- in a process of its own


def layout(name, tmp_path):
    """(worker's path, arguments) in one of the layouts in which it must start without being installed."""
    without = shutil.ignore_patterns("__pycache__", "weights", "demo")
    if name == "source tree":
        return LIB / "worker.py", []
    folder = tmp_path / "merged modules"
    shutil.copytree(LIB, folder / LIB.name, ignore=without)
    core = folder if name == "merged" else tmp_path / "elsewhere"
    shutil.copytree(CORE, core / CORE.name, ignore=without)
    # A module of ours whose name the standard library has too must not be found as a top-level module.
    (folder / LIB.name / "secrets.py").write_text("raise ImportError('the wrong module')")
    return folder / LIB.name / "worker.py", [] if name == "merged" else ["--packages", str(folder), str(core)]


@pytest.mark.parametrize("name", ["source tree", "merged", "apart"])
def test_the_worker_starts_in_every_layout_and_speaks_the_protocol(tmp_path, name):
    script, arguments = layout(name, tmp_path)
    write_job(tmp_path / "job", {"task": "generate", "options": {"category": "kidny"}})
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    isolated = ["-I"] if name == "apart" else []  # without it the script's own folder comes first on the path
    answer = subprocess.run(
        [sys.executable, *isolated, str(script), str(tmp_path / "job"), *arguments, "--parent-pid", str(os.getpid())],
        capture_output=True, timeout=60, env=environment, cwd=tmp_path,
    )  # fmt: skip
    messages = list(read_messages(answer.stdout.splitlines()))
    assert [message["type"] for message in messages if message["type"] != "heartbeat"] == ["hello", "error"], answer
    last = messages[-1]
    assert answer.returncode == 2 and (last["kind"], last["code"]) == ("refused", "unknown-category")
    assert "kidney" in last["hint"] and not (tmp_path / "job" / "results").exists()
