"""slicer.app: the application object, with the main window, the settings and the environment that belong to it."""

import os

import qt
import slicer
from PySide6.QtCore import Signal

from .io_manager import qSlicerCoreIOManager
from .modules import qSlicerModuleManager
from .pythonqt import native
from .standin import getter


@native
class qSlicerModuleSelector(qt.QObject):
    """Which module's panel is shown in the main window."""

    def __init__(self, panels: qt.QStackedWidget) -> None:
        super().__init__()
        self._panels, self._name = panels, ""

    selectedModule = property(lambda self: self._name)

    def selectModule(self, name: str) -> None:
        if name == self._name:
            return
        if self._name:
            slicer.app.moduleManager().module(self._name).widgetRepresentation().exit()
        self._name = name
        if name:
            widget = slicer.app.moduleManager().module(name).widgetRepresentation()
            self._panels.addWidget(widget)
            self._panels.setCurrentWidget(widget)
            widget.enter()


@native
class qSlicerMainWindow(qt.QMainWindow):
    def __init__(self) -> None:
        super().__init__()
        self.name = "qSlicerMainWindow"
        self._selector = qSlicerModuleSelector(qt.QStackedWidget(self))

    moduleSelector = getter("_selector")


@native
class qSlicerApplication(qt.QApplication):
    startupCompleted = Signal()
    majorVersion, minorVersion, revision, repositoryRevision = 5, 12, "34045", "34045"

    def __init__(self, folder: str) -> None:
        super().__init__(["Slicer"])
        self.setApplicationName("Slicer")
        self.setOrganizationName("slicer.org")
        self.setApplicationVersion("5.12.4")
        qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
        qt.QSettings.setPath(qt.QSettings.IniFormat, qt.QSettings.UserScope, os.path.join(folder, "settings"))
        self._folder, self._testing, self._paused = folder, True, 0
        self._environment = qt.QProcessEnvironment.systemEnvironment()
        self._io, self._modules = qSlicerCoreIOManager(), qSlicerModuleManager()
        self._logic = self._layouts = None
        self._window = qSlicerMainWindow()

    temporaryPath = property(lambda self: os.path.join(self._folder, "temporary"))
    applicationLogic, moduleManager, layoutManager = getter("_logic"), getter("_modules"), getter("_layouts")
    coreIOManager, startupEnvironment, testingEnabled = getter("_io"), getter("_environment"), getter("_testing")

    def userSettings(self) -> qt.QSettings:
        return qt.QSettings()

    settings = revisionUserSettings = userSettings

    def pauseRender(self) -> None:
        self._paused += 1

    def resumeRender(self) -> None:
        self._paused -= 1
