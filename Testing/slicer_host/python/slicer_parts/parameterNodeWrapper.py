"""parameterNodeWrapper: typed attributes over a vtkMRMLScriptedModuleNode, and their binding to widgets.

Types: numbers, text, bool, enum, paths, nodes; written as the application writes them. Refused, though the application
has them: collections, unions, parameter packs, annotations other than WithinRange, serializers and connectors of one's own.
"""

import enum
import pathlib
import typing
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any

import ctk
import qt
import slicer
import vtk


class WithinRange:
    def __init__(self, minimum: Any, maximum: Any) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within [{self.minimum}, {self.maximum}], is {value}")


def _is_a(kind: Any, *bases: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, bases)


class _Parameter:
    """One annotated name of a wrapped class: its type, default and range, and how it lies in the node."""

    def __init__(self, owner: type, name: str, annotation: Any) -> None:
        self.name, self.kind, self.range = name, annotation, None
        if typing.get_origin(annotation) is Annotated:
            self.kind, self.range = typing.get_args(annotation)  # more than one annotation is an error
        known = self.kind in (bool, int, float, str) or _is_a(self.kind, enum.Enum, pathlib.PurePath, slicer.vtkMRMLNode)
        if not known or not isinstance(self.range, (WithinRange, type(None))):
            raise TypeError(f"{owner.__name__}.{name}: the host has no parameters like {annotation}")
        self.is_node = issubclass(self.kind, slicer.vtkMRMLNode)
        first = None if self.is_node else next(iter(self.kind)) if _is_a(self.kind, enum.Enum) else self.kind()
        self.default = getattr(owner, name, first)

    def text(self, value: Any) -> str:
        """The value as the node keeps it; TypeError or ValueError for one that the parameter does not take."""
        if not isinstance(value, (float, int) if self.kind is float else self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise TypeError(f"{self.name} takes {self.kind.__name__}, not {value!r}")
        if self.range is not None:
            self.range.validate(value)
        return value.name if isinstance(value, enum.Enum) else str(self.kind(value))

    def write(self, node: Any, value: Any) -> None:
        with slicer.util.NodeModify(node):
            if not self.is_node:
                node.SetParameter(self.name, self.text(value))
                return
            if value is not None and not isinstance(value, self.kind):
                raise TypeError(f"{self.name} takes {self.kind.__name__}, not {type(value).__name__}")
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)

    def read(self, node: Any) -> Any:
        """Raises where the node was emptied, as the application does: closing a scene empties a singleton."""
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.kind is bool:
            return text == "True"
        return self.kind[text] if _is_a(self.kind, enum.Enum) else self.kind(text)

    def __get__(self, own: Any, owner: type) -> Any:
        return self.read(own.parameterNode)

    def __set__(self, own: Any, value: Any) -> None:
        self.write(own.parameterNode, value)


def _binding(widget: Any, parameter: _Parameter) -> tuple[Any, Callable[[], Any], Callable[[Any], None]]:
    """(signal, read, write) of a widget for a parameter: exact classes only; RuntimeError where Slicer binds no such pair."""
    kind, cls = parameter.kind, type(widget)

    def attribute(name: str, signal: str) -> tuple[Any, Callable[[], Any], Callable[[Any], None]]:
        return getattr(widget, signal), lambda: kind(getattr(widget, name)), lambda value: setattr(widget, name, value)

    if kind is bool and cls is qt.QCheckBox:
        return attribute("checked", "stateChanged")
    if (kind is int and cls is qt.QSpinBox) or (kind in (int, float) and cls in (qt.QDoubleSpinBox, ctk.ctkSliderWidget)):
        if parameter.range is not None:
            widget.minimum, widget.maximum = parameter.range.minimum, parameter.range.maximum
        return attribute("value", "valueChanged")
    if kind is str and cls is qt.QLineEdit:
        return attribute("text", "textChanged")
    if _is_a(kind, enum.Enum) and cls is qt.QComboBox:
        members = list(kind)
        widget.clear()
        widget.addItems([member.label() if hasattr(member, "label") else member.name for member in members])
        write = lambda value: setattr(widget, "currentIndex", members.index(value))  # noqa: E731
        return widget.currentIndexChanged, lambda: members[widget.currentIndex], write
    if _is_a(kind, pathlib.PurePath) and cls is ctk.ctkPathLineEdit:
        return widget.currentPathChanged, lambda: kind(widget.currentPath), lambda value: widget.setCurrentPath(str(value))
    if parameter.is_node and cls is slicer.qMRMLNodeComboBox:
        return widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
    raise RuntimeError(f"the host binds no {cls.__name__} to a parameter of type {kind} ('{parameter.name}')")


class _Wrapper:
    """What the decorator adds to a class."""

    allParameters: dict[str, _Parameter]
    StartModify, EndModify = property(attrgetter("parameterNode.StartModify")), property(attrgetter("parameterNode.EndModify"))
    AddObserver, RemoveObserver = property(attrgetter("parameterNode.AddObserver")), property(attrgetter("parameterNode.RemoveObserver"))

    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode, self._bound = parameterNode, {}
        for name, parameter in self.allParameters.items():
            if name not in parameterNode.GetParameterNames():
                parameter.write(parameterNode, parameter.default)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in (*self.allParameters, "parameterNode", "_bound"):
            raise AttributeError(f"{type(self).__name__} has no parameter '{name}'")
        object.__setattr__(self, name, value)

    def connectGui(self, gui: Any) -> int:
        """Binds the widgets whose property SlicerParameterName names a parameter; the tag is for disconnectGui."""
        named = {w.property("SlicerParameterName"): w for w in vars(gui).values() if w.property("SlicerParameterName")}
        bindings = {name: _binding(widget, self.allParameters[name]) for name, widget in named.items()}
        updating = [False]

        def to_gui(*_: Any) -> None:
            if not updating[0]:
                updating[0] = True
                try:
                    for name, (_, _, write) in bindings.items():
                        write(getattr(self, name))
                finally:
                    updating[0] = False

        def to_node(name: str) -> Callable[..., None]:
            return lambda *_: None if updating[0] else setattr(self, name, bindings[name][1]())

        to_gui()
        slots = [(bindings[name][0], to_node(name)) for name in bindings]
        for signal, slot in slots:
            signal.connect(slot)
        tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, to_gui)
        self._bound[tag] = slots
        return tag

    def disconnectGui(self, tag: int) -> None:
        for signal, slot in self._bound.pop(tag, ()):
            signal.disconnect(slot)
        self.parameterNode.RemoveObserver(tag)


def parameterNodeWrapper(cls: type) -> type:
    """Class decorator: each annotated name becomes a property that is kept in the parameter node."""
    parameters = {name: _Parameter(cls, name, kind) for name, kind in typing.get_type_hints(cls, include_extras=True).items()}
    if any(hasattr(_Wrapper, name) for name in parameters):
        raise ValueError(f"a parameter of {cls.__name__} has a reserved name")
    content = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, (_Wrapper,), {**content, **parameters, "allParameters": parameters})
