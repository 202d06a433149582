"""A worker process and what it says, without Qt: who owns it calls `poll` from the main thread."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MedShapeCore.jobs import KIND_OF_EXIT, read_messages, write_job

PATIENCE_S = 0.5  # for a worker that was asked to stop, before it is killed
ORPHAN_S = 1.0  # between the end of the output and of the launcher, whichever is first


@dataclass(frozen=True)
class WorkerProgram:
    """A worker's script and the folders that hold its packages: a PythonSlicer knows no additional module paths."""

    script: Path
    packages: tuple[Path, ...]
    arguments: tuple[str, ...] = ()

    def command(self, python: str, job_dir: Path) -> list[str]:
        packages = [str(folder) for folder in self.packages]
        start = [python, str(self.script), str(job_dir), "--packages", *packages, "--parent-pid", str(os.getpid())]
        return [*start, *self.arguments]


class WorkerProcess:
    """One job. A thread reads the output and only queues lines; messages are handed out by `poll`.

    Whatever happens to the process, the last message is exactly one of type result or error.
    """

    def __init__(
        self, program: WorkerProgram, job_dir: Path, request: Mapping[str, Any], python: str,
        environment: Mapping[str, str] | None = None, popen: Callable[..., Any] = subprocess.Popen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        write_job(job_dir, request)
        self.job_dir = job_dir
        self.ended = False  # the last message was handed out
        self._clock = clock
        self._cancelled_at: float | None = None
        self._halved_at: float | None = None  # when either the output or the launcher ended, without the other
        self._silent = False  # the output has ended
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # A group of its own: PythonSlicer is a launcher, and killing it alone would leave the real process.
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NO_WINDOW}
        with open(job_dir / "launcher.log", "wb") as errors:
            self._process = popen(
                program.command(python, job_dir), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                env=None if environment is None else dict(environment), **apart,
            )  # fmt: skip
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def poll(self) -> list[dict]:
        """Messages since the last call; after the last one `ended` is true and the process is gone."""
        messages: list[dict] = []
        while not self.ended and not self._silent:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                break
            self._silent = line is None
            messages.extend(read_messages([] if line is None else [line]))
        for number, message in enumerate(messages):
            if message["type"] in ("result", "error"):
                return [*messages[:number], self._last(message)]
        if self.ended:
            return []
        code = self._process.poll()
        if (code is not None or self._silent) and self._halved_at is None:
            self._halved_at = self._clock()
        overdue = self._cancelled_at is not None and self._clock() - self._cancelled_at > PATIENCE_S
        halved = self._halved_at is not None and self._clock() - self._halved_at > ORPHAN_S
        if (code is not None and self._silent) or overdue or halved:
            self.kill()
            messages.append(self._last(self._without_a_word(code)))
        return messages

    def _last(self, message: dict) -> dict:
        self.ended = True
        if self._cancelled_at is not None:  # a result that came at the same moment is no longer wanted
            message = {"type": "error", "kind": "cancelled", "code": "cancelled", "message": "", "hint": ""}
        return message

    def _without_a_word(self, code: int | None) -> dict:
        """The error of a process that ended without one."""
        said = (self.job_dir / "launcher.log").read_text("utf-8", "replace").strip().splitlines()
        # A launcher reports a killed child as -9, as 137 or as 1, depending on the system.
        why = f"exit code {code}" + (f", {said[-1]}" if said else "") if code is not None else "no exit code"
        return {
            "type": "error", "kind": KIND_OF_EXIT.get(code or 1, "crash"), "code": "worker-ended",
            "message": f"The calculation stopped without a result ({why}).",
            "hint": "The computer may have run out of memory: close other programs and try again, "
            "or use Check my computer.",
        }  # fmt: skip

    def cancel(self) -> None:
        """Asks the worker to stop; `poll` kills it if it does not within PATIENCE_S."""
        if not self.ended and self._cancelled_at is None:
            self._cancelled_at = self._clock()
            try:
                (self.job_dir / "cancel").touch()
            except OSError:  # the folder is gone or the disk full: killing does not need it
                self._cancelled_at -= PATIENCE_S

    def kill(self) -> None:
        """Ends the process and its children at once, and waits for the launcher's end."""
        if sys.platform == "win32":
            words = ["taskkill", "/F", "/T", "/PID", str(self._process.pid)]
            subprocess.run(words, capture_output=True, creationflags=subprocess.CREATE_NO_WINDOW, timeout=10)
        else:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            pass  # a process that sleeps in the kernel ends when it wakes

    def close(self) -> None:
        """No process is left after this call."""
        self.ended = True
        if self._process.poll() is None:
            self.kill()


def error_text(message: Mapping[str, Any]) -> str:
    """One sentence and what to do about it."""
    return " ".join(part for part in (message.get("message", ""), message.get("hint", "")) if part)


def remaining_text(seconds: float, fraction: float) -> str:
    """How long it will take, in words that do not pretend to be exact; empty while nobody can say."""
    if fraction < 0.05 or seconds < 1.0:
        return ""
    left = seconds * (1.0 - fraction) / fraction
    if left < 5:
        return "a few seconds left"
    return f"about {5 * round(left / 5)} s left" if left < 90 else f"about {round(left / 60)} min left"


def read_report(folder: Path) -> dict:
    """report.json of a result folder."""
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))
