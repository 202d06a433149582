"""The host as a program: module folders on its command line, an exit code for what went wrong."""

from pathlib import Path

import pytest

SAMPLE = Path(__file__).parent / "sample"


def test_a_fresh_host_runs_a_self_test(fresh_host):
    answer = fresh_host([SAMPLE], self_test=["HostSample"], code="import sys; assert 'torch' not in sys.modules; print('fine')")
    assert answer.returncode == 0 and "fine" in answer.stdout, answer.stderr


def test_a_fault_gives_the_exit_code(fresh_host):
    answer = fresh_host([], code="import qt; b = qt.QPushButton(); b.connect('clicked()', lambda: 1 / 0); b.click()")
    assert answer.returncode == 1 and "ZeroDivisionError" in answer.stderr


def test_a_python_file_that_is_no_module_is_refused(host, tmp_path):
    import slicer

    (tmp_path / "helpers.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="helpers"):
        slicer.app.moduleManager()._load_folders([tmp_path])
