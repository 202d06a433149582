"""Qt speaks PythonQt: properties are attributes, signals go by signature, and what C++ lacks raises."""

import pytest


@pytest.fixture
def qt(host):
    import qt

    return qt


def test_properties_are_attributes_and_convert_what_they_are_given(qt):
    button = qt.QPushButton("Apply")
    assert (button.text, button.enabled, button.isEnabled()) == ("Apply", True, True)
    button.enabled, button.text = [], 5
    assert (button.enabled, button.text) == (False, "5")
    combo = qt.QComboBox()
    combo.addItems(["a", "b"])
    combo.currentIndex = 1
    assert (combo.count, combo.currentText) == (2, "b")
    edit = qt.QTextEdit()
    edit.plainText = "x"
    assert edit.plainText == "x"


@pytest.mark.parametrize(
    "code",
    [
        "button.foo = 1",
        "button.foo",
        "button.text()",
        "button.setText = 2",
        "button.clicked = 3",
        "button.rect = 4",
        "qt.QTableWidgetItem('a').text = 'b'",
        "qt.QVBoxLayout().margins = 3",
        "button.connect('pressed(int)', print)",
        "button.connect('clicked()', None)",
        "qt.Signal",
    ],
)
def test_what_the_class_does_not_have_raises(qt, code):
    button = qt.QPushButton()
    with pytest.raises((AttributeError, TypeError)):
        exec(code, {"button": button, "qt": qt})


def test_a_python_subclass_may_have_attributes_of_its_own(qt):
    class Panel(qt.QWidget):
        def __init__(self):
            super().__init__()
            self.anything = 3

    panel = Panel()
    panel.windowTitle = "t"
    assert (panel.anything, panel.windowTitle) == (3, "t")


def test_enums_are_integers_and_static_methods_survive(qt, host):
    assert int(qt.Qt.Checked) == 2 and qt.QMessageBox.Yes == 16384
    called = []
    qt.QTimer.singleShot(1, lambda: called.append(1))
    host.process_until(lambda: called)


def test_a_slot_gets_as_many_arguments_as_it_declares(qt):
    got = []

    class Receiver:
        def none(self):
            got.append(())

        def one(self, value):
            got.append((value,))

        def many(self, *values):
            got.append(values)

    receiver, button = Receiver(), qt.QPushButton()
    for slot in (receiver.none, receiver.one, receiver.many, lambda value="default": got.append((value,))):
        assert button.connect("clicked(bool)", slot) is True
    button.click()
    assert got == [(), (False,), (False,), (False,)]


def test_disconnect_takes_the_same_function_only(qt):
    got, button = [], qt.QPushButton()
    first, second = (lambda: got.append(1)), (lambda: got.append(2))
    button.connect("clicked()", first)
    button.connect("clicked()", second)
    assert button.disconnect("clicked()", first) is True
    assert button.disconnect("clicked()", first) is False
    button.click()
    assert got == [2]


def test_dynamic_properties_and_children_are_attributes(qt):
    widget = qt.QWidget()
    child = qt.QLabel(widget)
    child.name = "answer"
    widget.setProperty("SlicerParameterName", "x")
    assert widget.SlicerParameterName == "x" and widget.answer is child
    widget.SlicerParameterName = "y"
    assert widget.property("SlicerParameterName") == "y"


def test_many_calls_cost_no_references(qt):
    import sys

    button, before = qt.QPushButton(), sys.getrefcount(None)
    for _ in range(500):
        button.enabled = True
    assert sys.getrefcount(None) > before - 100  # PySide6 6.12 on Python 3.11 lost one a call, and crashed in the end


def test_an_exception_in_a_slot_fails_the_test(qt, running_host):
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.clicked.connect(lambda: [][1])
    button.click()
    qt.QTimer.singleShot(0, lambda: {}["key"])
    running_host.process_until(lambda: len(running_host.faults) > 2)
    faults = running_host.take_faults()
    assert len(faults) == 3
    assert all(name in "".join(faults) for name in ("ZeroDivisionError", "IndexError", "KeyError"))
