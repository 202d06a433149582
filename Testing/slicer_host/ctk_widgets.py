"""Stand-ins for the widgets of CTK (module `ctk`)."""

from pathlib import Path
from typing import Any

import qt
from PySide6.QtCore import Signal

from .pythonqt import native
from .standin import Inner, Stored


def arrange(layout: Any, *children: Any) -> None:
    layout.setContentsMargins(0, 0, 0, 0)
    for child in children:
        layout.addWidget(child)


@native
class ctkCollapsibleButton(qt.QAbstractButton):
    """A header that hides or shows what is laid out below it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, *parent: Any) -> None:
        super().__init__(*parent)
        self._hidden: list[Any] = []
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(1, self._header(), 1, 1)
        self.toggled.connect(self._show)

    collapsed = property(lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))

    def _header(self) -> int:
        return self.fontMetrics().height() + 10

    def _show(self, expanded: bool) -> None:
        if not expanded:  # what was hidden before stays so when the section opens again
            self._hidden = [child for child in self.children() if isinstance(child, qt.QWidget) and not child.isHidden()]
        for child in self._hidden:
            child.visible = expanded
        self.setMaximumHeight(16777215 if expanded else self._header())
        self.updateGeometry()
        self.contentsCollapsed.emit(not expanded)

    def sizeHint(self) -> Any:
        return self.layout().totalSizeHint() if self.layout() and self.isChecked() else qt.QSize(100, self._header())

    def minimumSizeHint(self) -> Any:
        return self.layout().totalMinimumSize() if self.layout() and self.isChecked() else qt.QSize(0, self._header())

    def paintEvent(self, event: Any) -> None:
        option = qt.QStyleOptionButton()
        option.initFrom(self)
        option.rect = qt.QRect(0, 0, self.width, self._header())
        painter = qt.QStylePainter(self)
        painter.drawControl(qt.QStyle.CE_PushButtonBevel, option)
        painter.drawText(option.rect.adjusted(26, 0, -4, 0), int(qt.Qt.AlignVCenter), self.text)
        option.rect = qt.QRect(8, (self._header() - 10) // 2, 10, 10)
        painter.drawPrimitive(qt.QStyle.PE_IndicatorArrowDown if self.isChecked() else qt.QStyle.PE_IndicatorArrowRight, option)


@native
class ctkSliderWidget(qt.QWidget):
    """A slider with a spin box; the spin box keeps the value, rounded to its decimals."""

    valueChanged = Signal(float)
    value, minimum, maximum = Inner("_spin", "value"), Inner("_spin", "minimum"), Inner("_spin", "maximum")
    singleStep, decimals = Inner("_spin", "singleStep"), Inner("_spin", "decimals")
    prefix, suffix, spinBoxVisible = Inner("_spin", "prefix"), Inner("_spin", "suffix"), Inner("_spin", "visible")
    pageStep, tickInterval, tracking = Stored(10.0), Stored(0.0), Stored(True)

    def __init__(self, *parent: Any) -> None:
        super().__init__(*parent)
        self._slider, self._spin = qt.QSlider(qt.Qt.Horizontal, self), qt.QDoubleSpinBox(self)
        self._slider.setRange(0, 1000)
        self._spin.setRange(0.0, 100.0)
        arrange(qt.QHBoxLayout(self), self._slider, self._spin)
        self._spin.valueChanged.connect(self._spun)
        self._slider.valueChanged.connect(lambda place: setattr(self, "value", self.minimum + (self.maximum - self.minimum) * place / 1000))

    def _spun(self, value: float) -> None:
        with qt.QSignalBlocker(self._slider):
            self._slider.value = round(1000 * (value - self.minimum) / ((self.maximum - self.minimum) or 1))
        self.valueChanged.emit(value)


@native
class ctkPathLineEdit(qt.QWidget):
    """A line for a path with a button that opens a file dialog; its path is absolute, as the real one's."""

    currentPathChanged = Signal(str)
    Dirs, Files, Drives, Hidden, Readable, Writable, Executable = 0x001, 0x002, 0x004, 0x100, 0x010, 0x020, 0x040
    filters, nameFilters, label, settingKey = Stored(0x001 | 0x002 | 0x010), Stored(()), Stored(""), Stored("")
    showBrowseButton, showHistoryButton = Inner("_button", "visible"), Stored(True)

    def __init__(self, *parent: Any) -> None:
        super().__init__(*parent)
        self._edit, self._button, self._path = qt.QComboBox(self), qt.QToolButton(self), ""
        self._edit.editable = True
        self._edit.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._button.text = "..."
        arrange(qt.QHBoxLayout(self), self._edit, self._button)
        self._edit.currentTextChanged.connect(self._typed)
        self._button.clicked.connect(self.browse)

    def _typed(self, text: str) -> None:
        new = str(Path(text).absolute()) if text else ""
        if new != self._path:
            self._path = new
            self.currentPathChanged.emit(new)

    def setCurrentPath(self, path: str) -> None:
        self._edit.setEditText(path)

    currentPath = property(lambda self: self._path, setCurrentPath)

    def browse(self) -> None:
        ask = qt.QFileDialog.getOpenFileName if self.filters & self.Files else qt.QFileDialog.getExistingDirectory
        self.setCurrentPath(ask(self, self.label or "Select") or self._path)
