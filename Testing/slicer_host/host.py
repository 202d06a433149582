"""The running host as a test sees it: modules, panels, the event loop, a scripted user, and everything that went wrong."""

import inspect
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import boot, launcher

NEVER_IN_SLICER = ("torch", "CranialImplantLib", "MedShapeGenLib")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended
        return ""


class Host:
    """Slicer without its window. One per process: VTK, Qt and the package `slicer` have global state."""

    def __init__(self, module_folders: Iterable[Path | str] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="slicer_host_")
        self.faults: list[str] = []
        self._expected: list[str] = []
        launcher.install(Path(self._folder.name) / "bin")
        self._kept = boot.start(Path(self._folder.name))
        import slicer

        from .dialogs import Dialogs

        self.slicer, self.dialogs = slicer, Dialogs()
        self._watch_errors()
        self.messages = self.dialogs.messages
        self.longest_block_s = 0.0
        self.slicer.app.moduleManager()._load_folders([Path(f).absolute() for f in module_folders])
        self.slicer.app.startupCompleted.emit()
        self.reset()
        self.raise_faults()

    # ---- what went wrong

    def _watch_errors(self) -> None:
        """Slots, timers and observers have nobody to raise to: Qt and VTK hand their exceptions to sys.excepthook."""
        import vtk
        from PySide6.QtCore import qInstallMessageHandler

        def hook(kind: Any, value: Any, trace: Any) -> None:
            self.faults.append("".join(traceback.format_exception(kind, value, trace)))
            sys.__excepthook__(kind, value, trace)

        sys.excepthook = hook
        sys.unraisablehook = threading.excepthook = lambda found: hook(found.exc_type, found.exc_value, found.exc_traceback)
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: self.faults.append(f"logging.error: {record.getMessage()}")  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)

        def vtk_error(caller: Any, event: str, text: str = "") -> None:
            self.faults.append(f"VTK: {text.strip()}")

        def qt_message(level: Any, context: Any, text: str) -> None:
            if int(level) and "propagateSizeHints" not in text:  # 0 is debugging output; the other a known gap of "offscreen"
                self.faults.append(f"Qt: {text}")

        vtk_error.CallDataType = "string0"  # type: ignore[attr-defined]
        vtk.vtkOutputWindow.GetInstance().AddObserver("ErrorEvent", vtk_error)
        qInstallMessageHandler(qt_message)

    def expect_error(self, text: str) -> None:
        """Announces a fault whose text contains `text`; its absence is a fault."""
        self._expected.append(text)

    def take_faults(self) -> list[str]:
        """The faults since the last call that were not announced, and the announced ones that did not come."""
        faults, self.faults[:] = list(self.faults), []
        expected, self._expected = self._expected, []
        absent = [f"announced but not seen: {text}" for text in expected if not any(text in f for f in faults)]
        loaded = [f"{name} was imported into Slicer's process" for name in NEVER_IN_SLICER if name in sys.modules]
        return [f for f in faults if not any(text in f for text in expected)] + absent + loaded

    def raise_faults(self) -> None:
        faults = self.take_faults()
        if faults:
            raise AssertionError("\n\n".join(faults))

    # ---- the event loop

    def process_events(self) -> None:
        """One turn of the event loop; its duration counts for `longest_block_s`."""
        from PySide6.QtCore import QCoreApplication, QEvent

        started = time.perf_counter()
        QCoreApplication.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.DeferredDelete)
        self.longest_block_s = max(self.longest_block_s, time.perf_counter() - started)

    def process_until(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """Runs the event loop until the condition holds and returns its value; TimeoutError after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > end:
                faults = "\n".join(self.faults)
                raise TimeoutError(f"not within {timeout_s} s: {inspect.getsource(condition).strip()}\n{faults}")
            self.process_events()
            time.sleep(0.001)
        return value

    # ---- the user

    def answer(self, *answers: Any) -> None:
        """What the next questions get, in turn: True, False, or a button."""
        self.dialogs.answers.extend(answers)

    def answer_file(self, *paths: Any) -> None:
        """What the next file dialogs get, in turn; "" is cancelled."""
        self.dialogs.files.extend(map(str, paths))

    # Whether the application says that it runs tests; then it shows no boxes.
    testing = property(lambda self: self.slicer.app._testing, lambda self, value: setattr(self.slicer.app, "_testing", value))

    # ---- modules

    def open_panel(self, name: str) -> Any:
        """Shows a module as its entry in the module menu does; returns its widget class's object."""
        self.slicer.util.selectModule(name)
        self.process_events()
        return self.slicer.util.getModuleWidget(name)

    def close_panel(self) -> None:
        """Leaves the module that is shown, as choosing another one does."""
        self.slicer.util.selectModule("")
        self.process_events()

    def reload(self, name: str) -> Any:
        """The button Reload; returns the new widget object."""
        self.slicer.util.reloadScriptedModule(name)
        self.process_events()
        return self.slicer.util.getModuleWidget(name)

    def quit_panel(self, name: str) -> None:
        """What happens to a panel when the application ends; a later open_panel makes a new one."""
        module = self.slicer.util.getModule(name)
        self.close_panel()
        self.slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(name)
        module._widget.deleteLater()
        module._widget = None
        delattr(self.slicer.modules, name + "Widget")
        self.process_events()

    def run_self_test(self, name: str) -> None:
        """The module's own tests, as Reload and Test and the application's test driver run them."""
        self.slicer.selfTests[name](msec=0)

    # ---- the scene

    def close_scene(self) -> None:
        """As the menu's Close Scene does."""
        self.slicer.mrmlScene.Clear(0)
        self.process_events()

    def save_and_reopen(self, path: Path | str) -> None:
        """Saves the scene as a bundle (.mrb), closes it and opens the file."""
        self.slicer.util.saveScene(str(path))  # logs an error where it fails, which is a fault
        self.close_scene()
        self.slicer.util.loadScene(str(path))
        self.process_events()

    def reset(self) -> None:
        """The state in which a test finds the host: no panel shown, an empty scene, nobody answers, testing mode."""
        self.close_panel()
        self.close_scene()
        self.slicer.app.settings().clear()
        for queue in (self.dialogs.messages, self.dialogs.answers, self.dialogs.files):
            queue.clear()
        self.slicer.app._testing, self.slicer.app._paused = True, 0
        self.longest_block_s = 0.0

    # ---- pictures

    def picture(self, panel: Any, path: Path | str | None = None, width: int = 520) -> Any:
        """A module's panel, or a widget, at its full height as a QImage, written as PNG where a path is given."""
        from PySide6.QtWidgets import QWidget

        widget = panel if isinstance(panel, QWidget) else panel.parent
        widget.setParent(None)
        layout = widget.layout()
        widget.resize(width, max(layout.totalHeightForWidth(width), layout.totalSizeHint().height()))
        widget.show()
        self.process_events()
        image = widget.grab().toImage()
        if path is not None and not image.save(str(path)):
            raise OSError(f"cannot write {path}")
        return image

    def view_picture(self, view: str, path: Path | str | None = None, size: tuple[int, int] = (500, 500)) -> Any:
        """The view "3D", "Red", "Green" or "Yellow" as (height, width, 3) uint8, written as PNG where a path is given."""
        from PIL import Image

        layouts = self.slicer.app.layoutManager()
        shown = layouts.threeDWidget(0).threeDView() if view == "3D" else layouts.sliceWidget(view).sliceView()
        pixels = shown._pixels(size)
        if path is not None:
            Image.fromarray(pixels).save(path)
        return pixels

    # ---- processes

    def children(self) -> list[int]:
        """Process ids of all living descendants of this process; Linux only."""
        found = [os.getpid()]
        for pid in found:
            for listed in Path(f"/proc/{pid}/task").glob("*/children"):
                states = {child: _read(Path(f"/proc/{child}/stat")).rpartition(")")[2][1:2] for child in _read(listed).split()}
                found += [int(child) for child, state in states.items() if state not in ("", "Z", "X")]
        return sorted(found[1:])
