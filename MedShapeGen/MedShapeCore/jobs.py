"""The worker protocol: one job folder in, JSON lines out, results that arrive whole.

A job folder holds

    request.json     what to do; the handler knows its keys
    cancel           stops the job when a file of this name appears
    worker.log       everything the worker and its libraries print, with the traceback of a crash
    results/         appears at the end, complete

and the worker writes one ASCII JSON object a line to its standard output, each with a "type":

    hello      protocol, pid, versions                        first
    progress   stage, fraction (of the whole job, 0 to 1), and perhaps event, a small object such as
               {"member": 1, "surface": "previews/member_1.vtp"}; paths in it are relative to the job folder
    heartbeat  seconds since the start
    result     result (what the handler returned), folder, seconds                                     last, or
    error      kind (refused, failed, crash or cancelled), code, message, hint                         last

The exit code says the same: 0 result, 2 refused, 3 failed, 4 cancelled, 1 crash. Needs the standard library alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn, Protocol

from .delivery import deliver, open_partial
from .errors import DISK_FULL, Cancelled, FailedResult, MedShapeError, RefusedInput

PROTOCOL = 1
KIND_OF_EXIT = {1: "crash", 2: "refused", 3: "failed", 4: "cancelled"}
EXIT_CANCELLED = 4
REPORTED_PACKAGES = ("numpy", "scipy", "torch", "SimpleITK", "vtk", "scikit-image", "trimesh", "safetensors")


class Progress(Protocol):
    """Called as the work goes on; may raise Cancelled, which the work lets through."""

    def __call__(self, stage: str, fraction: float, event: dict | None = None) -> None: ...


Handler = Callable[[dict, Path, Progress], dict]


def no_progress(stage: str, fraction: float, event: dict | None = None) -> None:
    """A progress that tells nobody."""


def part_of(progress: Progress, low: float, high: float) -> Progress:
    """A progress for a part of the work: its 0 to 1 is `low` to `high` of the whole."""

    def report(stage: str, fraction: float, event: dict | None = None) -> None:
        progress(stage, low + (high - low) * min(max(fraction, 0.0), 1.0), event)

    return report


def plain(value: object) -> object:
    """A copy made of what JSON knows: arrays become lists, paths strings, NaN and infinity None.

    TypeError for anything else, so that a forgotten object is found rather than printed as text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def versions() -> dict[str, str]:
    """Versions of Python, of the platform and of the installed packages that decide a result; imports none of them."""
    import importlib.metadata  # not above: 3D Slicer imports this file at its start

    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # absent, or bundled by Slicer without metadata
            continue
    return found


def explain(error: BaseException) -> tuple[int, MedShapeError]:
    """(exit code, error with code, message and hint) for anything that ended the work."""
    if isinstance(error, RefusedInput):
        return 2, error
    if isinstance(error, FailedResult):
        return 3, error
    if isinstance(error, (Cancelled, KeyboardInterrupt)):
        return EXIT_CANCELLED, error if isinstance(error, Cancelled) else Cancelled()
    if isinstance(error, MemoryError):
        return 3, FailedResult("memory", "There was not enough memory.", "Close other programs or ask for less.")
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return 3, FailedResult("disk-full", f"The disk is full ({error}).", "Free some space and run again.")
    if isinstance(error, MedShapeError):
        return 1, error
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return 1, MedShapeError("crash", text, "This is a fault of the program, not of the input; report it with the log.")


# ---- the worker's side of a job


class _Lines:
    """The JSON lines, on a private copy of standard output; whatever else is printed goes to the log."""

    def __init__(self, log: Path) -> None:
        self._stream = os.fdopen(os.dup(1), "wb")
        self._lock = threading.Lock()
        self.broken = False  # nobody reads any more
        self._closed = False
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)  # on the descriptors, so that C libraries and child processes are caught too
            os.dup2(file.fileno(), 2)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def send(self, name: str, /, **content: object) -> None:
        """Writes one message; nothing follows a result or an error."""
        line = json.dumps(plain({"type": name, **content}), ensure_ascii=True, allow_nan=False)
        with self._lock:
            if self._closed:
                return
            self._closed = name in ("result", "error")
            try:
                self._stream.write(line.encode("ascii") + b"\n")
                self._stream.flush()
            except OSError:
                self.broken = True


class _Watched:
    """A process whose end we notice without being its parent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        if sys.platform == "win32":
            import ctypes

            kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            kernel.OpenProcess.restype = ctypes.c_void_p
            kernel.WaitForSingleObject.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
            self._wait = kernel.WaitForSingleObject
            # 0x00100000 is SYNCHRONIZE; an open handle keeps the id from being used again.
            self._handle = kernel.OpenProcess(0x00100000, False, pid)
            self._denied = not self._handle and ctypes.get_last_error() == 5
        else:
            self._start = self._start_time()

    def _start_time(self) -> str | None:
        """When the process was started, as Linux counts it; "" where that is not told, None for a dead process."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None if Path("/proc/self/stat").exists() else ""
        return None if fields[0] in "ZX" else fields[19]

    def ended(self) -> bool:
        if sys.platform == "win32":
            return not self._denied and (not self._handle or self._wait(self._handle, 0) == 0)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it lives and belongs to somebody else
        now = self._start_time()
        return now is None or now != self._start  # the second: its id was given to another process


class _Control:
    """Whether the job has to stop, and the one moment at which it no longer can."""

    def __init__(self, cancel_file: Path, lines: _Lines, parent_pid: int | None) -> None:
        self.cancel_file = cancel_file
        self.lines = lines
        self.started = time.monotonic()
        self.asked = False
        self.delivering = threading.Lock()
        self.finished = False
        self.partial: Path | None = None
        # The starting process may be a launcher (PythonSlicer is one) that outlives the application: watch both.
        # On Windows getppid does not change when the parent ends, hence the handle.
        self._first_parent = os.getppid()
        watched = {parent_pid, self._first_parent if sys.platform == "win32" else None}
        self._others = [_Watched(pid) for pid in watched if pid]

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 2)

    def must_stop(self) -> bool:
        if not self.asked:
            self.asked = (
                self.cancel_file.exists()
                or self.lines.broken
                or os.getppid() != self._first_parent
                or any(process.ended() for process in self._others)
            )
        return self.asked

    def progress(self, stage: str, fraction: float, event: dict | None = None) -> None:
        if self.must_stop():
            raise Cancelled()
        content: dict[str, object] = {"stage": stage, "fraction": round(min(max(float(fraction), 0.0), 1.0), 4)}
        if event is not None:
            content["event"] = event
        self.lines.send("progress", **content)

    def beat(self, every_s: float) -> None:
        while not self.finished:
            time.sleep(every_s)
            self.lines.send("heartbeat", seconds=self.seconds)

    def watch(self, every_s: float, grace_s: float) -> None:
        """Ends the process `grace_s` after it had to stop: the work may be in a long call that asks no one."""
        while not self.must_stop():
            time.sleep(every_s)
            if self.finished:
                return
        time.sleep(grace_s)
        with self.delivering:
            if self.finished:
                return
            if self.partial is not None:
                shutil.rmtree(self.partial, ignore_errors=True)
            # In a thread of its own, for writing into a pipe that nobody reads never returns.
            last = threading.Thread(target=_send_error, args=(self.lines, Cancelled()), daemon=True)
            last.start()
            last.join(1.0)
            os._exit(EXIT_CANCELLED)


def _send_error(lines: _Lines, error: BaseException) -> int:
    code, shown = explain(error)
    lines.send("error", kind=KIND_OF_EXIT[code], code=shown.code, message=shown.message, hint=shown.hint)
    return code


def _read_request(job_dir: Path) -> dict:
    try:
        request = json.loads((job_dir / "request.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedInput("request", f"The file request.json of this job cannot be read ({error}).") from error
    if not isinstance(request, dict):
        raise RefusedInput("request", "The file request.json of this job does not hold an object.")
    if (job_dir / "results").exists():
        raise RefusedInput("job-used", "This job folder has results already.", "Use a new job folder for each run.")
    return request


def run_job(
    job_dir: str | Path,
    handler: Handler,
    parent_pid: int | None = None,
    heartbeat_s: float = 2.0,
    grace_s: float = 5.0,
) -> int:
    """Runs one job and returns the exit code; takes the process's standard output over for good.

    job_dir    : the folder described above; serves one run.
    handler    : handler(request, result_dir, progress) -> result. What it writes into result_dir becomes results/;
                 result_dir's parent is the job folder, for files that must be there before the end (previews/).
    parent_pid : a process whose end ends the job, besides the one that started this process.
    grace_s    : how long the work has, once it must stop, to notice that by a call of progress.
    """
    job_dir = Path(job_dir).absolute()
    is_folder = job_dir.is_dir()
    lines = _Lines(job_dir / "worker.log" if is_folder else Path(os.devnull))
    lines.send("hello", protocol=PROTOCOL, pid=os.getpid(), versions=versions())
    if not is_folder:
        return _send_error(lines, RefusedInput("job", f"There is no job folder {job_dir}."))
    control = _Control(job_dir / "cancel", lines, parent_pid)
    signal.signal(signal.SIGTERM, _interrupt)
    for target, arguments in ((control.beat, (heartbeat_s,)), (control.watch, (0.1, grace_s))):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    try:
        request = _read_request(job_dir)
        control.partial = open_partial(job_dir / "results")
        result = plain(handler(request, control.partial, control.progress))
        for number in (signal.SIGTERM, signal.SIGINT):  # from here on the results either arrive or do not
            signal.signal(number, signal.SIG_IGN)
        with control.delivering:
            if control.must_stop():
                raise Cancelled()
            deliver(control.partial, job_dir / "results")
            control.finished = True
        lines.send("result", result=result, folder="results", seconds=control.seconds)
        return 0
    except BaseException as error:  # every end must be told to the reader, Ctrl-C and a handler's sys.exit included
        with control.delivering:
            control.finished = True
        if explain(error)[0] == 1:
            traceback.print_exc()
        if control.partial is not None:
            shutil.rmtree(control.partial, ignore_errors=True)
        return _send_error(lines, error)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def write_job(job_dir: Path, request: Mapping) -> None:
    """Writes a request into a job folder, which is made where it does not exist."""
    job_dir.mkdir(parents=True, exist_ok=True)
    (job_dir / "request.json").write_text(json.dumps(plain(request), indent=2), encoding="utf-8")


def read_messages(lines: Iterable[bytes | str]) -> Iterator[dict]:
    """The messages among a worker's output lines; a line that is none (a launcher's own words) is left out."""
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and "type" in message:
            yield message
