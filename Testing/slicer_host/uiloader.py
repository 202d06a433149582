"""QUiLoader for files that name widgets of CTK and Slicer.

Qt's loader knows neither these classes nor the types in their signals, so the properties of custom widgets and the
connections are taken out first and made in Python afterwards; dynamic properties (stdset="0", SlicerParameterName) stay.
"""

import xml.etree.ElementTree as ElementTree
from typing import Any

import qt

CONVERT = {"bool": lambda text: text == "true", "number": int, "double": float, "string": str}
# What QWidget itself has is left to Qt's loader, in a custom widget too.
LEFT_TO_QT = "enabled geometry sizePolicy minimumSize maximumSize toolTip styleSheet font palette focusPolicy layoutDirection".split()


def _value(element: ElementTree.Element, cls: Any) -> Any:
    content, text = element[0], element[0].text or ""
    if content.tag == "stringlist":
        return [item.text or "" for item in content]
    if content.tag in ("enum", "set"):
        names = [part.split("::")[-1] for part in text.split("|") if part]
        return sum(int(getattr(cls if hasattr(cls, name) else qt.Qt, name)) for name in names)
    if content.tag not in CONVERT:
        raise RuntimeError(f"property '{element.get('name')}': the host cannot read a <{content.tag}> of a custom widget")
    return CONVERT[content.tag](text)


class QUiLoader(qt.QUiLoader):
    classes: dict[str, type] = {}  # the stand-ins by name
    _native = True

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        if class_name not in self.classes:
            return super().createWidget(class_name, parent, name)
        widget = self.classes[class_name](*[parent] * (parent is not None))
        widget.name = name
        self._made.append(widget)
        return widget

    def load(self, file: Any, parent: Any = None) -> Any:
        root = ElementTree.fromstring(bytes(file.readAll()))
        later: list[tuple[str | None, str, Any]] = []
        for widget in root.iter("widget"):
            cls = self.classes.get(widget.get("class", ""))
            if cls is None and widget.get("class", "").startswith(("qMRML", "qSlicer", "ctk")):
                raise RuntimeError(f"{widget.get('class')} ('{widget.get('name')}') has no stand-in in the Slicer host")
            for element in widget.findall("property") if cls is not None else ():
                if element.get("stdset") != "0" and element.get("name") not in LEFT_TO_QT:
                    later.append((widget.get("name"), element.get("name", ""), _value(element, cls)))
                    widget.remove(element)
        connections = list(root.iter("connection"))
        for element in [e for tag in ("connections", "customwidgets", "slots") for e in root.findall(tag)]:
            root.remove(element)
        self._made: list[Any] = []
        buffer = qt.QBuffer()
        buffer.setData(ElementTree.tostring(root))  # copied: a QByteArray of ours would have to outlive the buffer
        buffer.open(qt.QBuffer.ReadOnly)
        top = super().load(buffer, parent)
        top._children = self._made  # a Python object that nobody keeps would lose what it remembers
        named = {child.objectName: child for child in [top, *top.findChildren(qt.QWidget)]}
        for owner, name, value in later:
            setattr(named[owner], name, value)
        for connection in connections:
            sender, signal, receiver, slot = (connection.findtext(t, "") for t in ("sender", "signal", "receiver", "slot"))
            named[sender].connect(signal, named[receiver], slot)
        return top
