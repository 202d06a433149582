"""How the stand-ins for C++ widgets declare their Qt properties; what is not declared raises, as under PythonQt."""

from typing import Any


def getter(name: str) -> Any:
    """A method without arguments that returns the member `name`, such as `mrmlScene()`."""
    return lambda own: getattr(own, name)


class Stored:
    """A property that is kept here, converted to the type of its default; `changed` names a method called afterwards."""

    def __init__(self, default: Any, changed: str = "") -> None:
        self.default, self.changed = default, changed

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = "_" + name
        setattr(owner, "set" + name[0].upper() + name[1:], lambda own, value: setattr(own, name, value))  # the slot that Qt has too

    def __get__(self, own: Any, owner: type) -> Any:
        return own.__dict__.get(self.key, self.default)

    def __set__(self, own: Any, value: Any) -> None:
        own.__dict__[self.key] = type(self.default)(value)
        if self.changed:
            getattr(own, self.changed)()


class Inner(Stored):
    """A property that a child widget keeps: Inner("_spin", "suffix") is self._spin.suffix."""

    def __get__(self, own: Any, owner: type) -> Any:
        return getattr(getattr(own, self.default), self.changed)

    def __set__(self, own: Any, value: Any) -> None:
        setattr(getattr(own, self.default), self.changed, value)
