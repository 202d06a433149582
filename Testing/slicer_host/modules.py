"""Finding, loading and showing modules, as the application's module manager does it."""

import importlib.util
import re
import sys
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

import qt
import slicer
from PySide6.QtCore import Signal

from .mrml_widgets import qMRMLWidget
from .pythonqt import native
from .standin import getter


@native
class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The panel's outer widget: makes the module's widget class and passes setup, enter and exit on."""

    def __init__(self, module: "qSlicerScriptedLoadableModule") -> None:
        super().__init__()
        qt.QVBoxLayout(self)
        self._module, self._entered, self._self = module, False, None

    isEntered, self = property(lambda self: self._entered), getter("_self")

    def reload(self) -> None:
        name = self._module.name + "Widget"
        self._self = getattr(sys.modules[self._module.name], name)(self)
        setattr(slicer.modules, name, self._self)
        self._self.setup()

    def enter(self) -> None:
        self._entered = True
        getattr(self._self, "enter", lambda: None)()

    def exit(self) -> None:
        self._entered = False
        getattr(self._self, "exit", lambda: None)()


class qSlicerScriptedLoadableModule:
    """What a module's constructor gets as `parent`; it may set these attributes and no others."""

    __slots__ = (
        *("name", "path", "title", "categories", "dependencies", "contributors", "helpText", "acknowledgementText", "icon"),
        *("hidden", "index", "associatedNodeTypes", "widgetRepresentationCreationEnabled", "_widget"),
    )

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path, self.title = name, str(path.absolute()), ""
        self.dependencies: list[str] = []
        self._widget: Any = None

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        if self._widget is None:
            self._widget = qSlicerScriptedLoadableModuleWidget(self)
            self._widget.setMRMLScene(slicer.mrmlScene)
            self._widget.reload()
        return self._widget


@native
class qSlicerModuleManager(qt.QObject):
    moduleAboutToBeUnloaded = Signal(str)
    module = property(attrgetter("_loaded.get"))

    def __init__(self) -> None:
        super().__init__()
        self._loaded: dict[str, Any] = {}

    def _add(self, module: Any) -> None:
        self._loaded[module.name] = module
        setattr(slicer.modules, module.name.lower(), module)

    def _load_folders(self, folders: Iterable[Path]) -> None:
        """Loads every module of the folders: a file X.py directly in one of them, with a class X."""
        parents: dict[str, qSlicerScriptedLoadableModule] = {}
        for folder in folders:
            sys.path.insert(0, str(folder))
            for path in sorted(folder.glob("*.py")):
                if not re.search(rf"^class {path.stem}\b", path.read_text(encoding="utf-8"), re.MULTILINE):
                    raise RuntimeError(f"{path}: every Python file in a module folder is a module; here is no class {path.stem}")
                if path.stem not in parents:
                    parents[path.stem] = self._instantiate(path)
        while parents:
            ready = [name for name, parent in parents.items() if all(d in self._loaded for d in parent.dependencies)]
            if not ready:
                raise RuntimeError(f"modules with dependencies that are not there: { {n: p.dependencies for n, p in parents.items()} }")
            for name in ready:
                self._add(parents.pop(name))

    def _instantiate(self, path: Path) -> qSlicerScriptedLoadableModule:
        spec: Any = importlib.util.spec_from_file_location(path.stem, path)
        sys.modules[path.stem] = code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(code)
        parent = qSlicerScriptedLoadableModule(path.stem, path)
        setattr(slicer.modules, path.stem + "Instance", getattr(code, path.stem)(parent))
        return parent
