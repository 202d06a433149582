"""Message boxes, questions and file dialogs: recorded, answered from a queue, never shown."""

import logging
from collections import deque
from typing import Any, NamedTuple

import slicer
from qt import QDialog, QFileDialog, QMenu, QMessageBox

KINDS = {logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
PAIRS = ((QMessageBox.Yes, QMessageBox.No), (QMessageBox.Ok, QMessageBox.Cancel), (QMessageBox.Retry, QMessageBox.Close))


class Message(NamedTuple):
    kind: str  # info, warning, error, question or file
    text: str
    answer: Any


class Dialogs:
    """The user: what was asked, and what will be answered. Stands in front of Slicer's and Qt's dialogs once it is made."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.answers, self.files = deque[Any](), deque[Any]()
        slicer.util._messageDisplay = self._display
        slicer.util.messageBox = lambda text, parent=None, **_: self._record("info", text, QMessageBox.Ok)
        for name, kind in (("information", "info"), ("warning", "warning"), ("critical", "error")):
            tell = lambda parent, title, text, *_, kind=kind: self._record(kind, text, QMessageBox.Ok)  # noqa: E731
            setattr(QMessageBox, name, staticmethod(tell))
        QMessageBox.question = staticmethod(lambda parent, title, text, *_: self._ask(text, *PAIRS[0]))
        for name in ("getExistingDirectory", "getOpenFileName", "getSaveFileName", "getOpenFileNames"):
            setattr(QFileDialog, name, staticmethod(self._file))
        for cls in (QDialog, QMessageBox, QFileDialog, QMenu):
            cls.exec = cls.exec_ = lambda dialog, *_: self._exec(dialog)

    def _record(self, kind: str, text: str, answer: Any) -> Any:
        self.messages.append(Message(kind, text, answer))
        return answer

    def _ask(self, text: str, yes: Any, no: Any, untold: Any = None) -> Any:
        """The scripted answer; without one, in testing mode, `untold`, which is what the application gives then."""
        if self.answers:
            answer = self.answers.popleft()
            return self._record("question", text, {True: yes, False: no}[answer] if isinstance(answer, bool) else answer)
        if untold is None or not slicer.app.testingEnabled():
            raise AssertionError(f"a question without an answer in the test (host.answer): {text}")
        return self._record("question", text, untold)

    def _file(self, parent: Any = None, caption: str = "", *_: Any, **__: Any) -> Any:
        if not self.files:
            raise AssertionError(f"a file dialog without an answer in the test (host.answer_file): {caption}")
        return self._record("file", caption, self.files.popleft())

    def _display(self, level: int, text: str, testing_value: Any, *_: Any, **options: Any) -> Any:
        """In place of slicer.util._messageDisplay, through which all its boxes but `messageBox` go."""
        for yes, no in PAIRS:
            if int(options.get("standardButtons") or 0) == int(yes) | int(no):
                return self._ask(text, yes, no, untold=testing_value)
        logging.log(min(level, logging.WARNING), text)  # an error that the user is told is no fault of the test
        return self._record(KINDS[level], text, QMessageBox.Ok)

    def _exec(self, dialog: Any) -> Any:
        if not isinstance(dialog, QMessageBox):
            raise AssertionError(f"{type(dialog).__name__}.exec_ would wait for a user")
        buttons = [button for button in QMessageBox.StandardButton if int(dialog.standardButtons) & int(button)]
        if len(buttons) < 2:
            return self._record("info", str(dialog.text), QMessageBox.Ok)
        return self._ask(str(dialog.text), buttons[0], buttons[-1])
