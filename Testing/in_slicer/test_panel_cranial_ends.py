"""CranialImplant's panel when a run ends otherwise than the user wished, and at its first use."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def finished(host, panel, timeout_s=40):
    host.process_until(lambda: panel.logic.runner.idle, timeout_s)


def names(cls):
    import slicer

    return sorted(node.GetName() for node in slicer.util.getNodesByClass(cls))


def test_cancel_is_the_same_button_and_quick(host, cranial):
    cranial.logic.rehearse("--seconds", "20")
    cranial.ui.applyButton.click()
    host.process_until(lambda: "rehearsing" in cranial.ui.statusLabel.text)
    assert cranial.ui.applyButton.text == "Cancel" and cranial.ui.applyButton.enabled and not cranial.ui.findButton.enabled
    nodes = slicer_nodes()
    asked = time.monotonic()
    cranial.ui.applyButton.click()
    finished(host, cranial, 2)
    assert time.monotonic() - asked < 1.0
    assert cranial.ui.applyButton.text == "Generate implant" and "Cancelled" in cranial.ui.statusLabel.text
    assert slicer_nodes() == nodes and cranial.parameters.result is None


def slicer_nodes():
    """Names of all nodes but colours, which are shared by all results and stay."""
    import slicer

    scene = slicer.mrmlScene
    every = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
    kept = ("vtkMRMLColorNode", "vtkMRMLColorTableStorageNode")
    return sorted(node.GetName() or "" for node in every if not any(node.IsA(kind) for kind in kept))


def test_cancel_while_results_come_in_takes_them_away_again(host, cranial):
    nodes = slicer_nodes()
    cranial.ui.applyButton.click()
    host.process_until(lambda: cranial.logic.runner.state == "importing" and names("vtkMRMLSegmentationNode")[1:], 30)
    cranial.ui.applyButton.click()
    assert cranial.logic.runner.idle and slicer_nodes() == nodes and cranial.parameters.result is None


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("die", "stopped without a result"),
        ("crash", "ZeroDivisionError"),
        ("memory", "not enough memory"),
        ("disk", "disk is full"),
        ("refuse", "This skull has no hole. Give a point."),
    ],
)
def test_a_bad_end_is_one_sentence_and_the_panel_is_ready_again(host, cranial, end, words):
    nodes = slicer_nodes()
    cranial.logic.rehearse("--end", end)
    cranial.ui.applyButton.click()
    finished(host, cranial)
    assert words in cranial.ui.statusLabel.text and cranial.ui.applyButton.enabled
    assert cranial.ui.applyButton.text == "Generate implant" and slicer_nodes() == nodes


def test_a_killed_worker_is_told(host, cranial):
    cranial.logic.rehearse("--seconds", "20")
    before = set(host.children())
    cranial.ui.applyButton.click()
    host.process_until(lambda: "rehearsing" in cranial.ui.statusLabel.text)
    for pid in set(host.children()) - before:
        os.kill(pid, signal.SIGKILL)
    finished(host, cranial, 5)
    assert "stopped without a result" in cranial.ui.statusLabel.text


def test_no_room_for_the_input_is_told(host, cranial):
    """The system lets no file grow beyond 10 kB while the skull's 216 kB are written."""
    import slicer

    resource = pytest.importorskip("resource")
    host.expect_error("the job could not be started")
    nodes, before = slicer_nodes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        cranial.ui.applyButton.click()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    text = cranial.ui.statusLabel.text
    assert "could not be started" in text and "File too large" in text and slicer.app.temporaryPath in text
    assert cranial.logic.runner.idle and cranial.ui.applyButton.enabled and slicer_nodes() == nodes


def test_a_segment_without_voxels_is_refused_in_words(host, cranial):
    cranial.parameters.inputSegmentation.GetSegmentation().AddEmptySegment("nothing", "Nothing")
    cranial.parameters.inputSegmentID = "nothing"
    cranial.ui.applyButton.click()
    finished(host, cranial)
    assert "empty" in cranial.ui.statusLabel.text


@pytest.mark.parametrize("what", ["close", "reload", "quit"])
def test_scene_closed_module_reloaded_or_application_left_during_a_run(host, cranial, what):
    cranial.logic.rehearse("--seconds", "20")
    before = set(host.children())
    cranial.ui.applyButton.click()
    host.process_until(lambda: "rehearsing" in cranial.ui.statusLabel.text)
    {"close": host.close_scene, "reload": lambda: host.reload("CranialImplant"), "quit": lambda: host.quit_panel("CranialImplant")}[what]()
    assert cranial.logic.runner.idle
    host.process_until(lambda: set(host.children()) <= before, 5)
    again = host.open_panel("CranialImplant")
    assert again.ui.applyButton.text == "Generate implant" and "Implant 1 (preview)" not in names("vtkMRMLModelNode")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at /proc")
def test_an_application_that_is_killed_leaves_no_process(tmp_path):
    """The host is ended by SIGKILL in the middle of a run; its launcher and worker end by themselves."""
    code = """
from MedShapeSlicer import implants
implants.sphereWithHole()
panel = host.open_panel("CranialImplant")
panel.logic.rehearse("--seconds", "60")
panel.ui.applyButton.click()
host.process_until(lambda: "rehearsing" in panel.ui.statusLabel.text, 30)
print("children", *host.children(), flush=True)
host.process_until(lambda: False, 60)
"""
    folders = [str(ROOT / name) for name in ("CranialImplant", "MedShapeGen")]
    command = [sys.executable, "-m", "slicer_host", "--module-paths", *folders, "--python-code", code]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # what it leaves behind goes with the test
    with subprocess.Popen(command, cwd=ROOT / "Testing", env=environment, **streams) as application:
        line = next(line for line in application.stdout if line.startswith("children"))
        children = [Path("/proc") / pid for pid in line.split()[1:]]
        assert len(children) == 2 and all(child.exists() for child in children)
        application.kill()
    killed = time.monotonic()
    while any(child.exists() for child in children) and time.monotonic() - killed < 10:
        time.sleep(0.05)
    assert time.monotonic() - killed < 5.0


def test_a_run_goes_on_when_the_user_goes_to_another_module(host, cranial):
    cranial.logic.rehearse("--seconds", "1")
    cranial.ui.applyButton.click()
    host.close_panel()
    finished(host, cranial)
    assert cranial.logic.error is None
    again = host.open_panel("CranialImplant")
    assert again.parameters.result is not None and again.ui.memberTable.rowCount == 6


def test_the_first_implant_is_seen_before_the_end_and_only_until_then(host, cranial):
    import slicer

    cranial.logic.rehearse("--seconds", "2")
    cranial.ui.applyButton.click()
    host.process_until(lambda: "Implant 1 (preview)" in names("vtkMRMLModelNode"), 20)
    node = slicer.util.getNode("Implant 1 (preview)")
    assert not cranial.logic.runner.idle and node.GetPolyData().GetBounds()[1] < 0 and not node.GetSaveWithScene()
    finished(host, cranial)
    assert "Implant 1 (preview)" not in names("vtkMRMLModelNode")


def test_an_input_that_is_removed_during_a_run_costs_nothing(host, cranial):
    import slicer

    cranial.logic.rehearse("--seconds", "0.5")
    cranial.ui.applyButton.click()
    slicer.mrmlScene.RemoveNode(cranial.parameters.inputSegmentation)
    finished(host, cranial)
    assert cranial.logic.error is None and cranial.parameters.result.GetSegmentation().GetNumberOfSegments() == 6


# ---- first use


def test_the_licence_is_asked_once_and_nothing_is_installed_unasked(host, cranial, monkeypatch):
    from MedShapeSlicer import dependencies

    monkeypatch.setattr(dependencies, "torchState", lambda: "missing")
    monkeypatch.setattr(dependencies, "missingPackages", lambda: ["trimesh>=4.0"])
    cranial.logic.rehearsal = False
    host.answer(False)
    cranial.ui.applyButton.click()
    assert "CC BY-NC-SA 4.0" in host.messages[-1].text and cranial.logic.runner.idle
    host.answer(True, False)
    cranial.ui.applyButton.click()
    assert "trimesh" in host.messages[-1].text and "PyTorch" in host.messages[-1].text and cranial.logic.runner.idle
    host.answer(False)
    cranial.ui.applyButton.click()
    assert "trimesh" in host.messages[-1].text  # the licence is not asked again


def test_check_my_computer_fills_the_report_and_it_can_be_copied(host, cranial):
    import qt

    cranial.ui.computerButton.click()
    finished(host, cranial)
    text = cranial.ui.computerText.plainText
    assert "3D Slicer" in text and "ok" in text
    cranial.ui.copyButton.click()
    assert qt.QApplication.clipboard().text() == text


def test_the_self_test_passes_as_slicer_runs_it(host):
    host.run_self_test("CranialImplant")


def test_sample_data_is_registered_and_loads(host):
    import SampleData
    import slicer

    SampleData.downloadSample("SkullWithHole")
    node = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
    segment = node.GetSegmentation().GetSegment("Skull")
    assert node.GetName() == "SkullWithHole" and segment.GetName() == "Skull" and "SCT^89546000^Skull" in segment.GetTerminology()
    panel = host.open_panel("CranialImplant")
    assert panel.parameters.inputSegmentation is node and panel.ui.applyButton.enabled


def test_the_sample_is_the_demo_skull_with_a_name():
    """One skull for Slicer and the command line: the voxels are the same bytes, on the same grid."""
    module = ROOT / "CranialImplant"
    files = module / "Resources" / "Samples" / "SkullWithHole.seg.nrrd", module / "CranialImplantLib" / "demo" / "demo_skull.nrrd"
    (named, voxels), (header, body) = (path.read_bytes().split(b"\n\n", 1) for path in files)
    assert voxels == body and named.startswith(header + b"\nSegment0_")
