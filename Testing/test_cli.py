"""The command's contract (names, options, exit codes, whole results) and the worker, with a stand-in engine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from CranialImplantLib import cli, worker
from CranialImplantLib.ensemble import MemberReport
from MedShapeCore.errors import Cancelled, FailedResult, OptionError, RefusedInput
from MedShapeCore.jobs import read_messages, write_job
from MedShapeCore.notices import Notice
from MedShapeCore.terminal import ProgressBar

ROOT = Path(__file__).resolve().parents[1]
LIB = ROOT / "CranialImplant" / "CranialImplantLib"
CORE = ROOT / "MedShapeGen" / "MedShapeCore"


def member(*failed):
    return MemberReport(31.5, 80.0, 5.25, 4.0, 0.95, 0, 1, True, not failed, tuple(failed))


class Engine:
    """Stands for skull, pipeline and outputs; remembers how it was called."""

    def __init__(self):
        self.calls = {}
        self.error = None
        self.ensemble = types.SimpleNamespace(
            checks=(member(), member("components")), ranking=(1, 0), mean_report=member(), notices=()
        )

    def load_skull(self, path, segment=None, bone_threshold=None):
        self.calls["load"] = (path, segment, bone_threshold)
        return "a skull"

    def generate_implants(self, skull, options, progress):
        assert skull == "a skull"
        self.calls["options"] = options
        progress("points", 0.5)
        surface = (np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32))
        progress("member 1", 0.75, {"member": 1, "surface": surface, "volume_ml": 31.5})
        if self.error is not None:
            raise self.error
        return self.ensemble

    def write_outputs(self, ensemble, directory, progress):
        assert ensemble is self.ensemble
        progress("outputs", 0.5)
        for name in ("implant_1.nrrd", "report.json", "overview.png"):
            (directory / name).write_text("new")


@pytest.fixture
def engine(monkeypatch):
    engine = Engine()
    for module, name in (("skull", "load_skull"), ("pipeline", "generate_implants"), ("outputs", "write_outputs")):
        stand_in = types.SimpleNamespace(**{name: getattr(engine, name)})
        monkeypatch.setitem(sys.modules, f"CranialImplantLib.{module}", stand_in)
    return engine


def test_every_option_of_generate_reaches_the_engine(engine, tmp_path):
    words = (
        "generate skull.seg.nrrd --segment Bone --bone-threshold -50.5 --members 3 --seed 7 --device cpu "
        "--point -10,20.5,-3e1 --hole 2 --steps 12 --quality fast -o"
    ).split()
    assert cli.main([*words, str(tmp_path / "out")]) == 0
    assert engine.calls["load"] == (Path("skull.seg.nrrd"), "Bone", -50.5)
    options = engine.calls["options"]
    assert (options.members, options.seed, options.device, options.hole, options.steps, options.quality) == (
        3, 7, "cpu", 2, 12, "fast",
    )  # fmt: skip
    assert options.point_lps == (-10.0, 20.5, -30.0) and options.roi_lps is None


def test_defaults_of_generate(engine, tmp_path):
    assert cli.main(["generate", "skull.nii.gz", "-o", str(tmp_path / "out")]) == 0
    assert engine.calls["load"] == (Path("skull.nii.gz"), None, None)
    options = engine.calls["options"]
    assert (options.members, options.seed, options.device, options.quality) == (5, 0, "auto", "best")
    assert (options.steps, options.hole, options.point_lps, options.roi_lps) == (None, None, None, None)


@pytest.mark.parametrize("words", [["--roi", "-1,-2,-3,4,5,6"], ["--roi=-1,-2,-3,4,5,6"]])
def test_a_box_that_begins_with_a_minus_is_understood(engine, tmp_path, words):
    assert cli.main(["generate", "s.nrrd", *words, "-o", str(tmp_path / "out")]) == 0
    assert engine.calls["options"].roi_lps == (-1, -2, -3, 4, 5, 6)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["generate", "s.nrrd"],
        ["generate", "s.nrrd", "-o", "x", "--point", "1,2"],
        ["generate", "s.nrrd", "-o", "x", "--point", "1,2,nan"],
        ["generate", "s.nrrd", "-o", "x", "--point", "1,2,3", "--roi", "1,2,3,4,5,6"],
        ["generate", "s.nrrd", "-o", "x", "--device", "tpu"],
        ["generate", "s.nrrd", "-o", "x", "--member", "3"],
        ["evaluate", "--skull", "a", "--truth", "b"],
        ["improve"],
    ],
)
def test_wrong_usage_leaves_with_2(engine, words, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2 and "usage:" in capsys.readouterr().err
    assert engine.calls == {}


def test_a_wrong_value_is_refused_before_anything_is_read(engine, tmp_path, capsys):
    assert cli.main(["generate", "s.nrrd", "-o", str(tmp_path / "out"), "--members", "0"]) == 2
    assert "[option]" in capsys.readouterr().err
    assert engine.calls == {} and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RefusedInput("no-hole", "No hole.", "Draw a box."), 2, ["No hole. [no-hole]", "hint: Draw a box."]),
        (FailedResult("empty", "The implant is empty."), 3, ["The implant is empty. [empty]"]),
        (Cancelled(), 4, ["[cancelled]"]),
        (KeyboardInterrupt(), 4, ["[cancelled]"]),
        (MemoryError(), 3, ["[memory]"]),
        (ZeroDivisionError("division by zero"), 1, ["Traceback", "division by zero [crash]", "fault of the program"]),
    ],
)
def test_exit_codes_and_messages(engine, tmp_path, capsys, error, code, said):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "implant_1.nrrd").write_text("old")
    engine.error = error
    assert cli.main(["generate", "s.nrrd", "-o", str(tmp_path / "out")]) == code
    told = capsys.readouterr().err
    assert all(words in told for words in said)
    assert ("Traceback" in told) == (code == 1)
    assert [p.read_text() for p in (tmp_path / "out").iterdir()] == ["old"]


def test_success_says_where_the_results_and_the_picture_are(engine, tmp_path, capsys):
    engine.ensemble.notices = (Notice("cut", "The scan cuts the vault.", "Look at the upper rim."),)
    out = tmp_path / "results of today"
    assert cli.main(["generate", "s.nrrd", "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert str(out / "overview.png") in said.out and "not for clinical use" in said.out
    assert said.out.index("implant_2") < said.out.index("implant_1")  # best first
    assert "31.5 ml" in said.out and "5.25 mm" in said.out and "failed: components" in said.out
    assert "warning: The scan cuts the vault. [cut]" in said.err and "Look at the upper rim." in said.err
    assert sorted(p.name for p in out.iterdir()) == ["implant_1.nrrd", "overview.png", "report.json"]


def test_a_mean_implant_that_fails_its_checks_gives_3_and_the_files(engine, tmp_path, capsys):
    engine.ensemble.mean_report = member("watertight", "bone overlap")
    assert cli.main(["generate", "s.nrrd", "-o", str(tmp_path / "out")]) == 3
    assert "watertight, bone overlap" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.json").exists()


def test_results_replace_those_of_a_run_with_more_members_and_nothing_else(engine, tmp_path):
    for name in ("implant_1.nrrd", "implant_9.nrrd", "implant_9.stl", "skull.nrrd"):
        (tmp_path / name).write_text("old")
    assert cli.main(["generate", "s.nrrd", "-o", str(tmp_path)]) == 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "implant_1.nrrd": "new", "report.json": "new", "overview.png": "new", "skull.nrrd": "old",
    }  # fmt: skip


def test_evaluate_prints_json_without_nan(monkeypatch, capsys):
    seen = []

    def evaluate_files(skull, truth, prediction):
        seen.extend([skull, truth, prediction])
        return {"dsc": np.float64(0.5), "gap_mm": float("nan")}

    stand_in = types.SimpleNamespace(evaluate_files=evaluate_files)
    monkeypatch.setitem(sys.modules, "CranialImplantLib.benchmark", stand_in)
    assert cli.main(["evaluate", "--skull", "a", "--truth", "b", "--prediction", "c"]) == 0
    assert seen == [Path("a"), Path("b"), Path("c")]
    assert json.loads(capsys.readouterr().out) == {"dsc": 0.5, "gap_mm": None}


@pytest.mark.parametrize("name", [command[0] for command in cli.COMMANDS])
def test_help_of_every_command_says_what_it_is_for(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0 and f"cranial-implant {name}" in said and "not for clinical use" in said


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out.startswith("cranial-implant 0.")


class Stream:
    def __init__(self, terminal):
        self.terminal = terminal
        self.text = ""

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_progress_is_one_line_on_a_terminal_and_few_lines_elsewhere(monkeypatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((60, 20)))
    terminal, file = Stream(True), Stream(False)
    for stream in (terminal, file):
        bar = ProgressBar(stream)
        for step in range(101):
            bar("points", step / 100)
        bar.close()
    assert "\n" not in terminal.text and "50 %" in terminal.text and terminal.text.endswith(" \r")
    assert all(len(line) < 60 for line in terminal.text.split("\r"))
    assert "\r" not in file.text and len(file.text.splitlines()) == 11  # at 0, 10, ..., 100 %


def test_an_error_on_a_terminal_is_not_written_into_the_bar(engine, tmp_path, monkeypatch):
    stream = Stream(True)
    monkeypatch.setattr(sys, "stderr", stream)
    engine.error = FailedResult("empty", "The implant is empty.")
    assert cli.main(["generate", "s.nrrd", "-o", str(tmp_path / "out")]) == 3
    before, _, _ = stream.text.partition("error:")
    assert before.endswith("\r") and before.split("\r")[-2].strip() == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM between processes")
def test_a_terminate_signal_removes_the_half_written_folder(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time, types\n"
        f"sys.path[:0] = [{str(LIB.parent)!r}, {str(CORE.parent)!r}]\n"
        "def write_outputs(ensemble, directory, progress):\n"
        "    (directory / 'implant_1.nrrd').write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "for module, name, call in (('skull', 'load_skull', lambda *a, **k: 0),\n"
        "                           ('pipeline', 'generate_implants', lambda *a: 0),\n"
        "                           ('outputs', 'write_outputs', write_outputs)):\n"
        "    sys.modules['CranialImplantLib.' + module] = types.SimpleNamespace(**{name: call})\n"
        "from CranialImplantLib.cli import main\n"
        f"sys.exit(main(['generate', 's.nrrd', '-o', {str(tmp_path / 'out')!r}]))\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 4 and b"[cancelled]" in errors
    assert [p.name for p in tmp_path.iterdir()] == ["run.py"]


# ---- the worker


def request_of(**changes):
    return {"task": "generate", "input": "skull.nrrd", "options": {"members": 2}, **changes}


def handle(tmp_path, request):
    """Result and events of the worker's handler for one request."""
    folder = tmp_path / ".partial"
    folder.mkdir()
    events = []
    result = worker.handle(request, folder, lambda stage, fraction, event=None: events.append((stage, fraction, event)))
    return result, events


def test_the_worker_answers_with_checks_ranking_and_files(engine, tmp_path):
    options = {"members": 2, "seed": 3, "point_lps": [1, 2, 3], "roi_lps": None}
    result, events = handle(tmp_path, request_of(segment="Bone", options=options))
    assert engine.calls["load"] == (tmp_path / "skull.nrrd", "Bone", None)
    assert engine.calls["options"].point_lps == (1.0, 2.0, 3.0) and engine.calls["options"].seed == 3
    assert result["passed"] is True and result["ranking"] == (1, 0)
    assert result["files"] == ["implant_1.nrrd", "overview.png", "report.json"]
    fractions = [fraction for _, fraction, _ in events]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1


def test_a_member_s_surface_is_a_file_before_the_end(engine, tmp_path):
    _, events = handle(tmp_path, request_of())
    event = next(event for _, _, event in events if event)
    assert event == {"member": 1, "surface": "previews/member_1.vtp", "volume_ml": 31.5}
    assert (tmp_path / "previews" / "member_1.vtp").stat().st_size > 100


@pytest.mark.parametrize(
    "request_",
    [
        {},
        request_of(task="improve"),
        request_of(input=None),
        request_of(device="cuda"),
        request_of(options={"memebrs": 3}),
    ],
)
def test_an_unknown_request_is_refused(engine, tmp_path, request_):
    with pytest.raises(RefusedInput) as refused:
        handle(tmp_path, request_)
    assert refused.value.code == "request" and engine.calls == {}


def test_a_point_that_is_no_numbers_is_refused(engine, tmp_path):
    with pytest.raises(OptionError, match="point_lps"):
        handle(tmp_path, request_of(options={"point_lps": ["left", 2, 3]}))


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


@pytest.mark.parametrize("name", ["source tree", "merged", "named folders"])
def test_the_worker_starts_by_its_path_without_being_installed(name, tmp_path):
    path, arguments = layout(name, tmp_path)
    write_job(tmp_path / "job", request_of(options={"members": 0}))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-S", str(path), str(tmp_path / "job"), *arguments, "--parent-pid", str(os.getpid())],
        stdout=subprocess.PIPE, cwd=tmp_path, env=environment, timeout=20,
    )  # fmt: skip
    messages = list(read_messages(answer.stdout.splitlines()))
    assert answer.returncode == 2
    assert messages[0]["type"] == "hello"
    assert messages[-1]["code"] == "option" and "members" in messages[-1]["message"]
