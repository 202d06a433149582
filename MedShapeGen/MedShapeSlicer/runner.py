"""Runs one worker job at a time: a timer hands the worker's messages to the main thread, results come in step by step."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import qt
import slicer
from MedShapeCore.errors import DISK_FULL, MedShapeError
from slicer.i18n import tr as _

from .process import WorkerProcess, WorkerProgram

POLL_MS = 50
LOADING = 0.03  # of a job, to bring its results into the scene
Steps = Generator[tuple[str, float], None, Any]


class JobRunner:
    """One job at a time for one panel or script.

    `state` is idle, running, cancelling or importing. The callbacks are called from the event loop, never from a thread:
    onProgress(stage, fraction), onEvent(event, job folder), onEnd(error or None). Tests give `makeProcess` a fake.
    """

    def __init__(self, makeProcess: Callable[..., Any] = WorkerProcess) -> None:
        self.state = "idle"
        self.seconds = 0.0
        self._makeProcess = makeProcess
        self._process: Any = None
        self._steps: Steps | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._tick)

    @property
    def idle(self) -> bool:
        return self.state == "idle"

    def start(
        self, program: WorkerProgram, prepare: Callable[[Path], dict], receive: Callable[[dict, Path], Steps],
        onProgress: Callable[[str, float], None] = lambda stage, fraction: None,
        onEvent: Callable[[dict, Path], None] = lambda event, folder: None,
        onEnd: Callable[[dict | None], None] = lambda error: None,
    ) -> None:  # fmt: skip
        """Starts a job.

        prepare(job folder) writes the input and returns the request; receive(result, results folder) is a generator that
        brings the results into the scene, a step of (text, fraction) for each turn of the event loop.
        """
        if not self.idle:
            raise RuntimeError("A job is running already.")
        self._receive, self._onProgress, self._onEvent, self._onEnd = receive, onProgress, onEvent, onEnd
        self._started = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="MedShapeGen-", dir=slicer.app.temporaryPath))
        self.state = "running"
        try:
            request = prepare(self._folder)
            environment = dict(slicer.util.startupEnvironment())
            self._process = self._makeProcess(program, self._folder, request, pythonProgram(), environment)
        except MedShapeError as error:
            self._end({"kind": "refused", "code": error.code, "message": error.message, "hint": error.hint})
            return
        except Exception as error:
            logging.exception("MedShapeGen: the job could not be started")
            full = isinstance(error, OSError) and error.errno in DISK_FULL
            hint = _("Free some space in the temporary folder {folder}.").format(folder=slicer.app.temporaryPath) if full else ""
            words = _("The calculation could not be started: {error}.").format(error=error)
            self._end({"kind": "failed", "code": "start", "message": words, "hint": hint})
            return
        logging.info(f"MedShapeGen: job {request.get('task')} in {self._folder}")
        self._timer.start()

    def cancel(self) -> None:
        """Stops whatever goes on; onEnd hears of it within a second."""
        if self.state == "running" and self._process is not None:
            self.state = "cancelling"
            self._process.cancel()
        elif self.state == "importing":
            self._end(CANCELLED)

    def stop(self) -> None:
        """Ends everything at once and calls nobody: the scene or the module is going."""
        self._onEnd = lambda error: None
        if not self.idle:
            self._end(CANCELLED)

    def wait(self, timeout: float = 3600.0) -> None:
        """For scripts: returns when the job has ended; events are handled meanwhile."""
        end = time.monotonic() + timeout
        while not self.idle and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)

    def _tick(self) -> None:
        if self._steps is not None:
            self._step()
            return
        self.seconds = time.monotonic() - self._started
        for message in self._process.poll():
            kind = message["type"]
            if kind == "progress" and self.state == "running":
                self._onProgress(message["stage"], message["fraction"] * (1.0 - LOADING))
                if "event" in message:
                    self._onEvent(message["event"], self._folder)
            elif kind == "hello":
                logging.info(f"MedShapeGen: worker {message.get('versions')}")
            elif kind == "error":
                self._end(message)
            elif kind == "result":
                self.state = "importing"
                self._process.close()
                self._steps = self._receive(message["result"], self._folder / message.get("folder", "results"))
                self._timer.setInterval(0)  # one step in each turn of the event loop
            if self.idle:
                return

    def _step(self) -> None:
        try:
            stage, fraction = next(self._steps)  # type: ignore[arg-type]
        except StopIteration:
            self._end(None)
        except MedShapeError as error:
            self._end({"kind": "failed", "code": error.code, "message": error.message, "hint": error.hint})
        except Exception as error:
            logging.exception("MedShapeGen: the results could not be loaded")
            words = _("The results could not be loaded: {error}.").format(error=error)
            self._end({"kind": "failed", "code": "import", "message": words, "hint": _("See the application's log.")})
        else:
            self._onProgress(stage, 1.0 - LOADING + LOADING * fraction)

    def _end(self, error: dict | None) -> None:
        self._timer.stop()
        self._timer.setInterval(POLL_MS)
        if self._process is not None:
            self._process.close()
        if self._steps is not None:
            self._steps.close()  # a generator that is closed takes its half-made nodes away
        self._process = self._steps = None
        self.seconds = time.monotonic() - self._started
        if error is None or error["kind"] in ("cancelled", "refused"):
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            logging.info(f"MedShapeGen: {error['code']}: {error['message']} The log is in {self._folder}")
        self.state = "idle"
        self._onEnd(error)


CANCELLED = {"kind": "cancelled", "code": "cancelled", "message": "", "hint": ""}


def pythonProgram() -> str:
    """Slicer's Python; the application itself is not a Python."""
    found = shutil.which("PythonSlicer")
    if found is None and not Path(sys.executable).stem.lower().startswith("python"):
        raise RuntimeError("PythonSlicer was not found beside the application.")
    return found or sys.executable
