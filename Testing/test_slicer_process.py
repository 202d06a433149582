"""The process client of the Slicer side: real processes behind a launcher, as PythonSlicer is one; no Slicer needed."""

import io
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from cmake_lists import ROOT
from MedShapeSlicer.process import WorkerProcess, WorkerProgram, error_text, remaining_text

WORKER = """
import sys, time, os
sys.path[:0] = sys.argv[sys.argv.index("--packages") + 1:sys.argv.index("--parent-pid")]
from MedShapeCore.jobs import run_job
from MedShapeCore.errors import RefusedInput
def handle(request, folder, progress):
    progress("working", 0.5, {"member": 1})
    what = request["task"]
    if what == "refuse": raise RefusedInput("no-hole", "There is no hole.", "Give a point.")
    if what == "crash": raise ZeroDivisionError("oh")
    if what == "die": os._exit(11)
    if what == "memory":
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
        return {"size": len(bytearray(2**31))}
    if what == "disk":
        raise OSError(28, "No space left on device")
    if what == "loop":
        while True: sum(range(10**6))
    if what == "ask":
        while True: progress("asking", 0.6); time.sleep(0.05)
    (folder / "a.txt").write_text("whole")
    return {"answer": 42}
sys.exit(run_job(sys.argv[1], handle, grace_s=2.0))
"""
LAUNCHER = """#!/bin/sh
''''exec {quoted} "$0" "$@" # '''
import subprocess, sys
print("launcher noise")
sys.exit(abs(subprocess.Popen([{python!r}, *sys.argv[1:]]).wait()))
"""


@pytest.fixture
def start(tmp_path):
    """start(task) -> a WorkerProcess behind a launcher; all are ended after the test."""
    worker, launcher = tmp_path / "worker.py", tmp_path / "PythonSlicer"
    worker.write_text(WORKER)
    launcher.write_text(LAUNCHER.format(quoted=shlex.quote(sys.executable), python=sys.executable))
    launcher.chmod(0o755)
    program = WorkerProgram(worker, (ROOT / "MedShapeGen",))
    started = []

    def begin(task):
        job = tmp_path / f"job {len(started)}"
        started.append(WorkerProcess(program, job, {"task": task}, str(launcher)))
        return started[-1]

    yield begin
    for process in started:
        process.close()


def run(process, until=lambda message: False, timeout_s=10.0):
    """Messages until the end, or until one for which `until` is true."""
    messages, end = [], time.monotonic() + timeout_s
    while not process.ended and time.monotonic() < end:
        for message in process.poll():
            messages.append(message)
            if until(message):
                return messages
        time.sleep(0.01)
    assert process.ended, messages
    return messages


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pid, within_s):
    end = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at /proc")


def test_a_result_and_its_messages_arrive_in_order(start):
    process = start("result")
    messages = run(process)
    assert [message["type"] for message in messages] == ["hello", "progress", "result"]
    assert messages[1]["event"] == {"member": 1} and messages[2]["result"] == {"answer": 42}
    assert (process.job_dir / "results" / "a.txt").read_text() == "whole"
    assert process.poll() == []


@pytest.mark.parametrize(
    ("task", "kind", "words"),
    [
        ("refuse", "refused", "There is no hole. Give a point."),
        ("crash", "crash", "ZeroDivisionError"),
        ("memory", "failed", "not enough memory"),
        ("disk", "failed", "disk is full"),
        ("die", "crash", "stopped without a result (exit code 11)"),
    ],
)
def test_every_end_is_one_message_for_a_person(start, task, kind, words):
    messages = run(start(task))
    ends = [message for message in messages if message["type"] in ("result", "error")]
    assert len(ends) == 1 and ends[0] is messages[-1]
    assert ends[0]["kind"] == kind and words in error_text(ends[0])


@needs_proc
@pytest.mark.parametrize("task", ["ask", "loop"])
def test_cancel_ends_everything_within_a_second(start, task):
    process = start(task)
    pid = run(process, lambda m: m["type"] == "progress")[0]["pid"]
    asked = time.monotonic()
    process.cancel()
    messages = run(process)
    assert time.monotonic() - asked < 1.0
    assert messages[-1]["kind"] == "cancelled" and gone(pid, 0.5)
    assert not (process.job_dir / "results").exists()


@needs_proc
def test_a_job_cancelled_while_python_starts_ends_within_a_second(start):
    process = start("loop")
    asked = time.monotonic()
    process.cancel()
    assert run(process)[-1]["kind"] == "cancelled" and time.monotonic() - asked < 1.0


@needs_proc
def test_a_killed_worker_is_told_and_leaves_nothing(start):
    process = start("loop")
    pid = run(process, lambda m: m["type"] == "progress")[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    message = run(process)[-1]
    assert message["code"] == "worker-ended" and "memory" in message["hint"]


@needs_proc
def test_a_killed_launcher_takes_the_worker_with_it(start):
    process = start("loop")
    pid = run(process, lambda m: m["type"] == "progress")[0]["pid"]
    os.kill(process._process.pid, signal.SIGKILL)
    assert run(process)[-1]["code"] == "worker-ended"
    assert gone(pid, 5.0)


@needs_proc
def test_close_leaves_no_process(start):
    process = start("loop")
    pid = run(process, lambda m: m["type"] == "progress")[0]["pid"]
    process.close()
    assert gone(pid, 0.5) and process.poll() == []


@needs_proc
def test_a_killed_application_leaves_no_worker(tmp_path, start):
    """The client's own process vanishes without a word: the worker ends by itself."""
    worker = tmp_path / "worker.py"
    application = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(ROOT / "MedShapeGen")!r})
        from MedShapeSlicer.process import WorkerProcess, WorkerProgram
        program = WorkerProgram(Path({str(worker)!r}), (Path({str(ROOT / "MedShapeGen")!r}),))
        process = WorkerProcess(program, Path({str(tmp_path / "job")!r}), {{"task": "loop"}}, {str(tmp_path / "PythonSlicer")!r})
        while True:
            for message in process.poll():
                if message["type"] == "hello":
                    print(message["pid"], flush=True)
            time.sleep(0.02)
    """)
    process = subprocess.Popen([sys.executable, "-c", application], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert gone(pid, 5.0)


class FakePopen:
    """A process whose output is given, and which says what it was started with."""

    def __init__(self, command, stdout=b"", code=0, **more):
        self.command, self.more, self.pid, self.code = command, more, 2**22 + 1, code
        self.stdout = io.BytesIO(stdout)

    def poll(self):
        return self.code

    def wait(self, timeout=None):
        return self.code


def test_packages_and_parent_are_named_and_the_environment_is_the_given_one(tmp_path):
    made = []

    def popen(command, **more):
        made.append(FakePopen(command, b'{"type": "result", "result": {}}\n', **{k: v for k, v in more.items() if k != "stdout"}))
        return made[-1]

    program = WorkerProgram(tmp_path / "w.py", (tmp_path / "a b", tmp_path / "c"))
    process = WorkerProcess(program, tmp_path / "job", {"task": "x"}, "python", {"A": "1"}, popen=popen)
    run(process)
    script, job, folders = str(tmp_path / "w.py"), str(tmp_path / "job"), [str(tmp_path / "a b"), str(tmp_path / "c")]
    assert made[0].command == ["python", script, job, "--packages", *folders, "--parent-pid", str(os.getpid())]
    assert made[0].more["env"] == {"A": "1"} and made[0].more["stdin"] == subprocess.DEVNULL


def test_a_result_that_comes_after_cancel_is_not_wanted(tmp_path):
    lines = b'{"type": "progress", "stage": "a", "fraction": 1}\n{"type": "result", "result": {}}\n'
    program = WorkerProgram(tmp_path / "w.py", ())
    process = WorkerProcess(program, tmp_path / "job", {}, "python", popen=lambda c, **m: FakePopen(c, lines))
    process.cancel()
    assert run(process)[-1]["kind"] == "cancelled"


def test_remaining_time_is_said_in_round_words():
    assert remaining_text(0.5, 0.5) == "" and remaining_text(10, 0.01) == ""
    assert remaining_text(10, 0.5) == "about 10 s left"
    assert remaining_text(10, 0.9) == "a few seconds left"
    assert remaining_text(60, 0.25) == "about 3 min left"
