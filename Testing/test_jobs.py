"""The worker protocol, with real processes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from MedShapeCore.delivery import delivered_whole
from MedShapeCore.errors import RefusedInput
from MedShapeCore.jobs import explain, part_of, plain, read_messages, write_job

CORE_FOLDER = Path(__file__).resolve().parents[1] / "MedShapeGen"
ENDS_WITHIN_S = 10  # far more than the grace below; a job that hangs is found by this

WORKER = f"""
import ctypes, os, subprocess, sys, time
sys.path.insert(0, {str(CORE_FOLDER)!r})
from MedShapeCore.errors import FailedResult, RefusedInput
from MedShapeCore.jobs import run_job

def handler(request, folder, progress):
    task = request["task"]
    (folder / "half.txt").write_text("half")
    progress("start", 0.1)
    if task == "result":
        progress("points \\u00e9", 0.5, {{"member": 1, "surface": "previews/member_1.vtp", "spread": float("nan")}})
        (folder / "whole.txt").write_text("whole")
        beside_request = (folder.parent / "request.json").exists()
        return {{"passed": True, "folder_was": folder.name, "beside_request": beside_request}}
    if task == "refuse":
        raise RefusedInput("no-hole", "There is no hole.", "Draw a box.")
    if task == "fail":
        raise FailedResult("empty", "The implant is empty.")
    if task == "crash":
        return {{"ratio": 1 / 0}}
    if task == "exit":
        sys.exit(0)
    if task == "odd-result":
        return {{"thing": object()}}
    if task == "noise":
        print("print \\u00e9")
        print("to stderr", file=sys.stderr)
        os.write(1, b"written to the descriptor\\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        return {{}}
    if task == "work":  # asks for progress all the time
        while True:
            progress("work", 0.2)
            time.sleep(0.02)
    if task == "deaf":  # never asks
        time.sleep(60)
    if task == "pause":
        time.sleep(0.6)
        return {{}}
    raise ValueError(task)

parent = int(sys.argv[2]) if len(sys.argv) > 2 else None
sys.exit(run_job(sys.argv[1], handler, parent_pid=parent, heartbeat_s=0.1, grace_s=0.5))
"""


@pytest.fixture
def worker(tmp_path):
    path = tmp_path / "a worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job folder"


def start(worker, job, *arguments):
    return subprocess.Popen([sys.executable, str(worker), str(job), *arguments], stdout=subprocess.PIPE)


def finish(process):
    """(messages, exit code) of a worker that ends by itself."""
    output, _ = process.communicate(timeout=ENDS_WITHIN_S)
    output.decode("ascii")
    return list(read_messages(output.splitlines())), process.returncode


def run(worker, job, task, *arguments):
    write_job(job, {"task": task})
    return finish(start(worker, job, *arguments))


def without_heartbeats(messages):
    return [m for m in messages if m["type"] != "heartbeat"]


def wait_for(process, kind):
    """The first message of a kind, read line by line from a running worker."""
    for message in read_messages(iter(process.stdout.readline, b"")):
        if message["type"] == kind:
            return message
    raise AssertionError(f"the worker ended without a {kind}")


def leftovers(job):
    return sorted(p.name for p in job.iterdir() if p.name not in ("request.json", "worker.log", "cancel"))


def test_results_arrive_whole_and_messages_in_order(worker, job):
    messages, code = run(worker, job, "result")
    hello, first, second, last = without_heartbeats(messages)
    assert code == 0
    assert hello["type"] == "hello" and hello["protocol"] == 1 and hello["versions"]["numpy"] == np.__version__
    assert first == {"type": "progress", "stage": "start", "fraction": 0.1}
    assert second["stage"] == "points \u00e9" and second["fraction"] == 0.5
    assert second["event"] == {"member": 1, "surface": "previews/member_1.vtp", "spread": None}
    assert last["type"] == "result" and last["folder"] == "results" and messages[-1] is last
    assert last["result"]["passed"] is True and last["result"]["beside_request"] is True
    assert last["result"]["folder_was"] != "results"
    assert leftovers(job) == ["results"]
    assert sorted(p.name for p in (job / "results").iterdir()) == ["half.txt", "whole.txt"]


@pytest.mark.parametrize(
    ("task", "kind", "name", "exit_code"),
    [("refuse", "refused", "no-hole", 2), ("fail", "failed", "empty", 3), ("crash", "crash", "crash", 1),
     ("odd-result", "crash", "crash", 1), ("exit", "crash", "crash", 1)],
)
def test_errors_have_kind_code_and_exit_code_and_leave_no_results(worker, job, task, kind, name, exit_code):
    messages, code = run(worker, job, task)
    assert code == exit_code
    assert messages[-1]["type"] == "error"
    assert messages[-1]["kind"] == kind and messages[-1]["code"] == name and messages[-1]["message"]
    assert leftovers(job) == []


def test_a_refusal_carries_its_hint_and_no_traceback(worker, job):
    messages, _ = run(worker, job, "refuse")
    assert messages[-1]["message"] == "There is no hole." and messages[-1]["hint"] == "Draw a box."
    assert "Traceback" not in (job / "worker.log").read_text()


def test_a_crash_leaves_its_traceback_in_the_log(worker, job):
    messages, _ = run(worker, job, "crash")
    assert "division by zero" in messages[-1]["message"]
    assert "Traceback" in (job / "worker.log").read_text()


def test_whatever_is_printed_goes_to_the_log(worker, job):
    write_job(job, {"task": "noise"})
    process = subprocess.Popen([sys.executable, str(worker), str(job)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 0 and errors == b""
    for line in output.splitlines():
        assert "type" in json.loads(line)
    log = (job / "worker.log").read_text(encoding="utf-8")
    for words in ("print \u00e9", "to stderr", "written to the descriptor", "from a child"):
        assert words in log


def test_a_quiet_job_sends_heartbeats(worker, job):
    messages, _ = run(worker, job, "pause")
    beats = [m["seconds"] for m in messages if m["type"] == "heartbeat"]
    assert len(beats) >= 2 and beats == sorted(beats)


@pytest.mark.parametrize("task", ["work", "deaf"])
def test_the_cancel_file_ends_a_job_that_asks_and_one_that_does_not(worker, job, task):
    write_job(job, {"task": task})
    process = start(worker, job)
    wait_for(process, "progress")
    (job / "cancel").touch()
    messages, code = finish(process)
    assert code == 4
    assert messages[-1]["type"] == "error" and messages[-1]["kind"] == "cancelled"
    assert leftovers(job) == []


def test_a_job_cancelled_before_it_starts_does_nothing(worker, job):
    job.mkdir()
    (job / "cancel").touch()
    messages, code = run(worker, job, "result")
    assert code == 4 and leftovers(job) == []
    assert [m["type"] for m in without_heartbeats(messages)] == ["hello", "error"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM between processes")
def test_a_terminate_signal_is_a_cancel(worker, job):
    write_job(job, {"task": "deaf"})
    process = start(worker, job)
    wait_for(process, "progress")
    process.send_signal(signal.SIGTERM)
    messages, code = finish(process)
    assert code == 4 and messages[-1]["kind"] == "cancelled" and leftovers(job) == []


@pytest.mark.parametrize("task", ["work", "deaf"])
def test_the_end_of_the_launcher_ends_the_worker(worker, job, task):
    write_job(job, {"task": task})
    launcher = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", launcher, sys.executable, str(worker), str(job)], stdout=subprocess.PIPE
    )
    wait_for(process, "progress")
    process.kill()
    process.wait()
    process.stdout.read()  # comes to its end only when the worker, which holds the pipe too, is gone
    assert leftovers(job) == []


def test_the_end_of_the_named_process_ends_the_worker(worker, job):
    application = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    write_job(job, {"task": "work"})
    process = start(worker, job, str(application.pid))
    wait_for(process, "progress")
    application.kill()  # not yet waited for: a dead process that still has its id
    time.sleep(0.3)
    messages, code = finish(process)
    application.wait()
    assert code == 4 and messages[-1]["kind"] == "cancelled"


def test_a_named_process_that_is_gone_before_the_start_ends_the_worker(worker, job):
    application = subprocess.Popen([sys.executable, "-c", ""])
    application.wait()
    _, code = run(worker, job, "work", str(application.pid))
    assert code == 4


def test_a_worker_that_nobody_reads_ends(worker, job):
    write_job(job, {"task": "deaf"})
    process = start(worker, job)
    wait_for(process, "progress")
    process.stdout.close()
    assert process.wait(timeout=ENDS_WITHIN_S) == 4
    assert leftovers(job) == []


@pytest.mark.parametrize("content", [None, "no json", "[1, 2]"])
def test_a_request_that_cannot_be_read_is_refused(worker, job, content):
    job.mkdir()
    if content is not None:
        (job / "request.json").write_text(content)
    messages, code = finish(start(worker, job))
    assert code == 2 and messages[-1]["code"] == "request"


def test_a_missing_job_folder_is_refused(worker, job):
    messages, code = finish(start(worker, job))
    assert code == 2 and messages[-1]["code"] == "job" and not job.exists()


def test_a_used_job_folder_is_refused_and_keeps_its_results(worker, job):
    run(worker, job, "result")
    messages, code = run(worker, job, "crash")
    assert code == 2 and messages[-1]["code"] == "job-used"
    assert (job / "results" / "whole.txt").read_text() == "whole"


def test_plain_makes_json_of_arrays_paths_and_odd_numbers():
    value = {"a": np.array([1.0, np.nan]), 2: np.float32(0.5), "p": Path("x"), "t": (np.bool_(True), None), "i": np.inf}
    expected = {"a": [1.0, None], "2": 0.5, "p": "x", "t": [True, None], "i": None}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == expected
    with pytest.raises(TypeError, match="object"):
        plain([object()])


def test_a_part_of_the_progress_is_scaled_and_stays_in_its_part():
    seen = []
    report = part_of(lambda stage, fraction, event=None: seen.append((stage, fraction, event)), 0.2, 0.6)
    report("a", 0.5)
    report("b", 7.0, {"member": 1})
    assert seen == [("a", pytest.approx(0.4), None), ("b", pytest.approx(0.6), {"member": 1})]


def test_a_full_disk_and_missing_memory_are_failed_results_not_crashes():
    assert explain(MemoryError())[0] == 3
    for number in (errno.ENOSPC, errno.EFBIG):
        assert explain(OSError(number, "no room"))[1].code == "disk-full"
    assert explain(OSError(5, "Input/output error"))[0] == 1


def test_delivery_into_a_new_folder_makes_its_parents_only_at_the_end(tmp_path):
    target = tmp_path / "a" / "b"
    with delivered_whole(target) as folder:
        (folder / "x").write_text("new")
        assert not (tmp_path / "a").exists()
    assert (target / "x").read_text() == "new"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "x"]


def test_delivery_replaces_its_own_files_and_keeps_the_others(tmp_path):
    for name in ("implant_1.nrrd", "implant_7.nrrd", "implant_7.nrrd.bak", "notes.txt"):
        (tmp_path / name).write_text("old")
    with delivered_whole(tmp_path, stale=r"implant_\d+\.nrrd") as folder:
        (folder / "implant_1.nrrd").write_text("new")
        (folder / "report.json").write_text("new")
        assert (tmp_path / "implant_1.nrrd").read_text() == "old"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "implant_1.nrrd": "new", "implant_7.nrrd.bak": "old", "notes.txt": "old", "report.json": "new",
    }


def test_an_error_leaves_the_folder_as_it_was(tmp_path):
    (tmp_path / "implant_1.nrrd").write_text("old")
    with pytest.raises(KeyboardInterrupt), delivered_whole(tmp_path, stale=r"implant_\d+\.nrrd") as folder:
        (folder / "implant_2.nrrd").write_text("new")
        raise KeyboardInterrupt
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"implant_1.nrrd": "old"}


def test_a_place_that_is_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedInput, match="cannot be written"), delivered_whole(tmp_path / "file" / "out"):
        raise AssertionError("the work was begun")
