"""The module `qt` with PythonQt's semantics on top of PySide6.

PythonQt (inside Slicer) makes Qt's properties attributes, takes signals by signature, knows enums as integers, and refuses
an attribute that the C++ class does not have. PySide6 accepts `button.enabled = False` in silence: its classes are patched.
"""

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

sys.pyside6_option_python_enum = 0x07  # type: ignore[attr-defined]  # enums as integers; read when PySide6 is first imported

from PySide6 import QtCore  # noqa: E402
from PySide6.QtCore import QMetaObject, QObject, Signal, SignalInstance  # noqa: E402
from shiboken6 import Shiboken  # noqa: E402

MODULES = ("QtCore", "QtGui", "QtWidgets", "QtUiTools", "QtNetwork", "QtTest")
NOT_IN_PYTHONQT = ("Signal", "Slot", "Property", "SignalInstance")  # PySide6's own; a custom signal makes PythonQt crash
CONVERSIONS: dict[str, Callable[[Any], Any]] = {"bool": bool, "int": int, "double": float, "float": float, "QString": str}


class QtProperty:
    """A Qt property as an attribute; on the class it stays the method it hides (`QTimer.singleShot`)."""

    def __init__(self, cls: type, name: str, kind: str, writable: bool) -> None:
        capital = name[0].upper() + name[1:]
        self.name, self.kind, self.hidden = name, kind, getattr(cls, name, None)
        methods = (getattr(cls, n, None) for n in (name, "is" + capital, "has" + capital))
        # type() and not isinstance(): in PySide6 6.12, isinstance(x, Signal) takes a reference from False each time.
        self.getter = next((m for m in methods if callable(m) and type(m) is not Signal and not isinstance(m, type)), None)
        self.setter = getattr(cls, "set" + capital, None) if writable else None

    def __get__(self, own: Any, owner: type) -> Any:
        if own is None:
            return self.hidden
        try:
            return self.getter(own)  # type: ignore[misc]
        except TypeError:  # there is none, or one of the same name with other arguments
            return QObject.property(own, self.name)

    def __set__(self, own: Any, value: Any) -> None:
        if self.setter is None:
            raise AttributeError(f"Property '{self.name}' of {type(own).__name__} cannot be written")
        self.setter(own, CONVERSIONS.get(self.kind, lambda same: same)(value))


def native(cls: type) -> type:
    """Marks a Python class as a stand-in for a C++ class: its instances take no new attributes but private ones."""
    cls._native = True  # type: ignore[attr-defined]
    return cls


def _dynamic(own: Any, name: str) -> bool:
    return isinstance(own, QObject) and name.encode() in [bytes(n) for n in own.dynamicPropertyNames()]


def _set_attribute(own: Any, name: str, value: Any) -> None:
    is_native = type(own).__module__.startswith("PySide6") or "_native" in type(own).__dict__
    passed = name.startswith("_") or type(value) is SignalInstance or not is_native
    holder = next((cls for cls in type(own).__mro__ if name in cls.__dict__), None)
    if holder is not None and hasattr(type(holder.__dict__[name]), "__set__"):
        holder.__dict__[name].__set__(own, value)
    elif holder is not None and not passed:
        raise AttributeError(f"'{name}' of {type(own).__name__} is a method or signal and cannot be replaced")
    elif passed or (isinstance(value, QObject) and QObject.objectName(value) == name):  # how QUiLoader names children
        own.__dict__[name] = value
    elif _dynamic(own, name):
        own.setProperty(name, value)
    else:
        raise AttributeError(f"{type(own).__name__} has no attribute named '{name}'")


def _missing_attribute(own: QObject, name: str) -> Any:
    """Dynamic properties, then children by name, are attributes too."""
    if not name.startswith("_"):
        if _dynamic(own, name):
            return own.property(name)
        for child in own.children():
            if QObject.objectName(child) == name:
                return child
    raise AttributeError(f"{type(own).__name__} has no attribute named '{name}'")


# ---- signals by signature


def _signal(sender: QObject, signature: str) -> Any:
    """The signal of a signature such as "clicked(bool)"; AttributeError where PythonQt would only return False."""
    plain = bytes(QMetaObject.normalizedSignature(signature)).decode()
    for cls in type(sender).__mro__:  # signals of stand-ins whose arguments Qt does not know
        if plain in cls.__dict__.get("SIGNALS", {}):
            return getattr(sender, cls.__dict__["SIGNALS"][plain])
    if sender.metaObject().indexOfSignal(plain) < 0:
        raise AttributeError(f"{type(sender).__name__} has no signal '{signature}'")
    name, _, arguments = plain.partition("(")
    try:
        return getattr(sender, name)[arguments.rstrip(")")] if arguments != ")" else getattr(sender, name)
    except (IndexError, TypeError, KeyError):  # a signal that is not overloaded
        return getattr(sender, name)


def _declared_arguments(target: Callable) -> int | None:
    """How many arguments PythonQt passes to a function or bound method: those it declares; None is as many as come."""
    function = getattr(target, "__func__", target)
    if not isinstance(function, types.FunctionType) or function.__code__.co_flags & 0x04:  # *args
        return None
    return function.__code__.co_argcount - isinstance(target, types.MethodType)


def _function(target: tuple) -> Any:
    """connect takes a callable, or a receiver and its slot's signature."""
    return getattr(target[0], target[1].partition("(")[0]) if len(target) == 2 else target[0]


def _connect(sender: QObject, signature: str, *target: Any) -> bool:
    signal, function = _signal(sender, signature), _function(target)
    if not callable(function):
        raise TypeError(f"{function!r} cannot be called")
    count = _declared_arguments(function)

    def adapter(*arguments: Any) -> None:
        function(*arguments[:count])

    signal.connect(adapter)
    sender.__dict__.setdefault("_connections", []).append((str(signal).split(" at ")[0], function, signal, adapter))
    return True


def _disconnect(sender: QObject, signature: str, *target: Any) -> bool:
    name, connections = str(_signal(sender, signature)).split(" at ")[0], sender.__dict__.get("_connections", [])
    found = [c for c in connections if c[0] == name and (not target or c[1] == _function(target))]
    for connection in found:
        connection[2].disconnect(connection[3])
        connections.remove(connection)
    return bool(found)


def _watch_connect(cls: type) -> None:
    """PySide6 looks `connect` up in its own way, in each class that has its own __getattribute__ separately."""
    original = cls.__getattribute__

    def lookup(own: Any, name: str) -> Any:
        if name not in ("connect", "disconnect"):
            return original(own, name)

        def ours_or_theirs(*arguments: Any) -> Any:
            if arguments and isinstance(arguments[0], str) and not arguments[0].startswith("2"):
                return (_connect if name == "connect" else _disconnect)(own, *arguments)
            return original(own, name)(*arguments)  # PySide6 calls connect for QTimer.singleShot, with Qt's "2signal()"

        return ours_or_theirs

    cls.__getattribute__ = lookup  # type: ignore[method-assign, assignment]


# ---- the module


def _process_events(*arguments: Any) -> None:
    """PySide6 raises a slot's exception here; PythonQt, where nobody waits for it, prints it."""
    try:
        _own_process_events(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())


_own_process_events = QtCore.QCoreApplication.processEvents


def _properties(cls: Any) -> dict[str, QtProperty]:
    """The properties that this class adds to its base."""
    meta = cls.staticMetaObject
    found = (meta.property(i) for i in range(meta.propertyOffset(), meta.propertyCount()))
    return {p.name(): QtProperty(cls, p.name(), str(p.typeName()), p.isWritable()) for p in found}


def build() -> types.ModuleType:
    """The module `qt`; patches PySide6's classes, so it is called once per process."""
    qt = types.ModuleType("qt", "Qt with PythonQt's semantics")
    for name in MODULES:
        module = importlib.import_module("PySide6." + name)
        vars(qt).update((key, getattr(module, key)) for key in dir(module) if not key.startswith("_"))
    for name in NOT_IN_PYTHONQT:
        delattr(qt, name)
    classes = {c: None for c in vars(qt).values() if isinstance(c, type) and issubclass(c, Shiboken.Object)}
    properties = {cls: _properties(cls) for cls in classes if issubclass(cls, QObject)}  # all before the first is patched
    for cls in classes:
        if "__setattr__" in cls.__dict__:
            cls.__setattr__ = _set_attribute
    for cls, own in properties.items():
        if "__getattribute__" in cls.__dict__:
            _watch_connect(cls)
        for name, value in own.items():
            setattr(cls, name, value)
    QtCore.QCoreApplication.processEvents = staticmethod(_process_events)
    QObject.__getattr__ = _missing_attribute
    QObject.className = lambda own: own.metaObject().className()
    QObject.delete = lambda own: Shiboken.delete(own)
    QObject.name = QObject.__dict__["objectName"]
    return qt
