"""The Slicer host for the tests of this folder, which run in a pytest process of their own:

    python -m pytest Testing/in_slicer

In Slicer's process there is no torch; in that of the other tests there is, and VTK is set up for them.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import slicer_host

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULES = [ROOT / name for name in ("CranialImplant", "MedShapeGen") if (ROOT / name / f"{name}.py").exists()]


def pytest_configure(config):
    config.addinivalue_line("markers", "views: draws a 3-D or slice view, which needs software rendering")


@pytest.fixture(scope="session")
def running_host():
    if slicer_host.missing():
        pytest.skip(slicer_host.missing())
    from slicer_host.host import Host

    return Host([*MODULES, HERE / "sample"])


@pytest.fixture
def host(running_host, request):
    """The host with an empty scene; the test fails on every fault that it did not announce (host.expect_error)."""
    if request.node.get_closest_marker("views"):
        from slicer_host import views

        if views.missing():
            pytest.skip(views.missing())
    running_host.reset()
    running_host.take_faults()
    before = set(running_host.children())
    yield running_host
    running_host.process_events()
    faults = running_host.take_faults()
    running_host.reset()
    try:
        running_host.process_until(lambda: set(running_host.children()) <= before, timeout_s=5)
    except TimeoutError:
        faults.append(f"the test left processes running: {sorted(set(running_host.children()) - before)}")
    running_host.take_faults()
    assert not faults, "\n\n".join(faults)


@pytest.fixture
def fresh_host():
    """Runs a host in a process of its own: fresh_host(folders, code="", self_test=()) -> CompletedProcess."""
    if slicer_host.missing():
        pytest.skip(slicer_host.missing())

    def run(folders, code="", self_test=(), timeout_s=60):
        command = [sys.executable, "-m", "slicer_host", "--module-paths", *map(str, folders), "--python-code", code]
        command += ["--self-test", *self_test] if self_test else []
        return subprocess.run(command, cwd=ROOT / "Testing", capture_output=True, text=True, timeout=timeout_s)

    return run


@pytest.fixture
def cranial(host):
    """CranialImplant's panel with the worker for rehearsals and a sphere that has a hole as its input."""
    from MedShapeSlicer import implants

    implants.sphereWithHole()
    panel = host.open_panel("CranialImplant")
    panel.logic.rehearse()
    panel.logic.forgetHoles()
    return panel


@pytest.fixture
def cranial_done(host, cranial):
    """The same after one run."""
    cranial.ui.applyButton.click()
    host.process_until(lambda: cranial.logic.runner.idle, 40)
    assert cranial.logic.error is None, cranial.logic.error
    return cranial
