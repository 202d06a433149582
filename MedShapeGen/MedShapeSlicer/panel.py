"""What both modules' panels and logics have in common: life with the scene, one job at a time, Apply that becomes Cancel."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from MedShapeCore.errors import MedShapeError
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic, ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from . import dependencies
from .process import WorkerProgram, error_text, remaining_text
from .runner import JobRunner

FAILED = "color: #c00020; font-weight: bold"  # of a label that says what went wrong


class Choice(enum.Enum):
    """An enumeration whose values are what a combo box shows; the scene stores the names."""

    def label(self) -> str:
        return self.value


class JobLogic(ScriptedLoadableModuleLogic):
    """A logic whose work is done by a worker. Needs no panel; with `wait` it returns when the job has ended."""

    module = ""  # the module's name
    engine = ""  # the package that holds worker.py
    parameterClass: Any = None

    def __init__(self, folder: Path, makeProcess: Callable[..., Any] | None = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        shared = Path(__file__).resolve().parents[1]
        self.program = WorkerProgram(folder / self.engine / "worker.py", tuple(dict.fromkeys((folder, shared))))
        self.rehearsal = False  # a worker for tests, which needs no torch
        self.runner = JobRunner(makeProcess) if makeProcess else JobRunner()
        self.onProgress: Callable[[str, float], None] = lambda stage, fraction: None
        self.onEnd: Callable[[dict | None, str], None] = lambda error, text: None
        self.error: dict | None = None

    def rehearse(self, *arguments: str) -> None:
        """Takes the worker for tests instead of the engine's; its arguments are in rehearsal.py."""
        self.program = WorkerProgram(Path(__file__).with_name("rehearsal.py"), self.program.packages, arguments)
        self.rehearsal = True

    def getParameterNode(self) -> Any:
        return self.parameterClass(ScriptedLoadableModuleLogic.getParameterNode(self))

    def job(self, prepare: Any, receive: Any, done: Callable[[], str] = str, onEvent: Any = None, wait: bool = False) -> None:
        """Runs a job, see JobRunner.start; done() gives the sentence for its success. With `wait` an error is raised."""

        def ended(error: dict | None) -> None:
            self.error = error
            self.jobEnded()
            self.onEnd(error, "" if error else done())

        self.error = None
        self.runner.start(self.program, prepare, receive, lambda s, f: self.onProgress(s, f), onEvent or (lambda *_: None), ended)
        if wait:
            self.runner.wait()
            if self.error is not None:
                raise RuntimeError(error_text(self.error))

    def jobEnded(self) -> None:
        """For what a job leaves behind whatever its end."""

    def checkComputer(self, wait: bool = False) -> None:
        """Fills `computer` with a report about this computer."""

        def receive(result: dict, folder: Path) -> Any:
            self.computer = dependencies.computerReport(result["findings"])
            yield "", 1.0

        self.job(lambda folder: {"task": "computer"}, receive, lambda: _("This computer was checked."), wait=wait)

    def stop(self) -> None:
        """Ends the running job at once."""
        self.runner.stop()
        self.jobEnded()


class JobPanel(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Needs in its .ui: applyButton, progressBar, statusLabel, computerButton, computerText, copyButton."""

    applyText = ""
    labels: dict[str, str] = {}  # a task's own label, beside the button that started it

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self.parameters: Any = None
        self.task = ""  # what runs now
        self._why = ""  # the reason that the panel shows for a disabled Apply button
        self._guiTag: Any = None
        self._refreshing = False

    def setUp(self, logic: Any, actions: dict[str, Callable[[], None]]) -> None:
        """Loads the .ui, connects the buttons by name and takes the scene's parameters."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = logic
        actions = {"computerButton": lambda: self.begin("computer", self.logic.checkComputer), "copyButton": self.copyReport, **actions}
        for name in self.labels.values():
            getattr(self.ui, name).visible = False  # until there is something to say
        for name, action in actions.items():
            getattr(self.ui, name).connect("clicked()", action)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self.onSceneReplaced)

    # ---- life

    def enter(self) -> None:
        self.setParameterNode(self.logic.getParameterNode())

    def exit(self) -> None:
        self.setParameterNode(None)

    def cleanup(self) -> None:
        self.logic.stop()
        self.setParameterNode(None)
        self.removeObservers()

    def onReload(self) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "MedShapeSlicer"]:
            del sys.modules[name]  # Slicer reloads the module's file alone
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any = None, event: Any = None) -> None:
        self.logic.stop()
        self.task = ""
        self.setParameterNode(None)
        self.say("")

    def onSceneReplaced(self, caller: Any = None, event: Any = None) -> None:
        if self.parent.isEntered:
            self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameters: Any) -> None:
        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
            self.removeObserver(self.parameters, vtk.vtkCommand.ModifiedEvent, self.refresh)
        self.parameters = parameters
        if parameters is not None:
            self.setDefaults(parameters)
            self._guiTag = parameters.connectGui(self.ui)
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.refresh)
            self.refresh()

    def setDefaults(self, parameters: Any) -> None:
        """Sensible values for what is empty yet."""

    def refresh(self, caller: Any = None, event: Any = None) -> None:
        """Brings the panel in line with the parameters; what it changes in them does not call it again."""
        if self.parameters is None or self._refreshing or slicer.mrmlScene.IsBatchProcessing():
            return  # while a scene is loaded, its nodes come one by one
        self._refreshing = True
        try:
            self.show(self.parameters)
        finally:
            self._refreshing = False

    def show(self, parameters: Any) -> None:
        """The panel's own part of `refresh`."""

    # ---- one job at a time

    @property
    def busy(self) -> str:
        """Why no other job can start now; empty when one can."""
        return "" if self.logic.runner.idle else _("Wait until the present calculation has ended.")

    def showApply(self, why: str, tip: str) -> None:
        """The Apply button: disabled with a reason, ready, or Cancel while anything runs."""
        running = not self.logic.runner.idle
        if self.ui.statusLabel.text in ("", self._why):  # until there is something else to say
            self._why = "" if running else why
            self.ui.statusLabel.text = self._why
        self.ui.applyButton.text = _("Cancel") if running else self.applyText
        enable(self.ui.applyButton, "" if running else why, _("Stops the calculation; nothing is changed.") if running else tip)
        enable(self.ui.computerButton, self.busy, _("Looks at packages, graphics card, memory and weights, and makes a test run."))

    def begin(self, task: str, start: Callable[[], None]) -> None:
        """Starts one of the logic's jobs, set up first; a click on the running Apply button cancels."""
        if not self.logic.runner.idle:
            self.say(_("Stopping..."))
            self.logic.runner.cancel()
            return
        ask = slicer.util.confirmYesNoDisplay
        if not self.logic.rehearsal:
            if not dependencies.licenceAccepted(self.moduleName, ask):
                return
            if task != "computer" and not dependencies.makeReady(ask, slicer.util.infoDisplay):
                return
        self.task = task
        self.onProgress(_("starting"), 0.0)
        self.logic.onProgress, self.logic.onEnd = self.onProgress, self.onEnd
        start()
        self.refresh()

    def onProgress(self, stage: str, fraction: float) -> None:
        self.ui.progressBar.setValue(int(100 * fraction))
        self.say(", ".join(part for part in (stage, remaining_text(self.logic.runner.seconds, fraction)) if part))

    def onEnd(self, error: dict | None, text: str) -> None:
        task = self.task
        self.ui.progressBar.setValue(0 if error else 100)
        if error is None:
            self.say(text)
        elif error["kind"] == "cancelled":
            self.say(_("Cancelled; nothing was changed."))
        else:
            self.say(error_text(error), failed=True)
        if error is None and task == "computer":
            self.ui.computerText.setPlainText(self.logic.computer)
        self.task = ""
        self.refresh()

    def say(self, text: str, failed: bool = False) -> None:
        for name in {"statusLabel", self.labels.get(self.task, "statusLabel")}:
            label = getattr(self.ui, name)
            label.text = text
            label.visible = bool(text) or name == "statusLabel"
            label.setStyleSheet(FAILED if failed else "")

    def attempt(self, action: Callable[[], str]) -> None:
        """Does at once what needs no worker, and says the sentence it returns or why it could not be done."""
        try:
            self.say(action())
        except MedShapeError as error:
            self.say(f"{error.message} {error.hint}", failed=True)

    def copyReport(self) -> None:
        qt.QApplication.clipboard().setText(self.ui.computerText.plainText)


def enable(button: Any, why: str, tip: str) -> None:
    """Enables a button, or disables it and lets its tooltip say why."""
    button.enabled = not why
    button.toolTip = why or tip


def fillTable(table: Any, rows: Sequence[Sequence[str]], current: int) -> None:
    """Texts and the current row of a QTableWidget; touches only what differs, so that a selection is no storm."""
    if table.rowCount != len(rows):
        table.setRowCount(len(rows))
    for number, row in enumerate(rows):
        for column, text in enumerate(row):
            item = table.item(number, column)
            if item is None:
                item = qt.QTableWidgetItem()
                table.setItem(number, column, item)
            if item.text() != text:
                item.setText(text)
                item.setToolTip(text)
    if 0 <= current < len(rows) and table.currentRow() != current:
        table.setCurrentCell(current, 0)
