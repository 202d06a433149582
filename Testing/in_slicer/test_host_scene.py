"""Scene, files, subject hierarchy, dialogs, errors and processes as a module meets them in the application."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest


def test_names_of_slicer_util_are_not_in_slicer(host):
    import slicer

    assert not hasattr(slicer, "arrayFromVolume") and hasattr(slicer.util, "arrayFromVolume")


def test_nodes_get_items_in_the_subject_hierarchy(host):
    import slicer

    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "parts")
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Case 1")
    item = hierarchy.GetItemByDataNode(node)
    assert item and hierarchy.GetItemOwnerPluginName(item) == "Segmentations"
    hierarchy.SetItemParent(item, folder)
    assert hierarchy.GetItemName(hierarchy.GetItemParent(item)) == "Case 1"
    slicer.mrmlScene.RemoveNode(node)
    assert not hierarchy.GetItemDataNode(item)


@pytest.mark.parametrize("name", ["head.nii.gz", "head.nrrd"])
def test_a_volume_is_written_and_read(host, tmp_path, name):
    import slicer

    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    to_ras = np.array([[-0.5, 0, 0, 10], [0, -0.6, 0, 20], [0, 0, 0.8, -5], [0, 0, 0, 1.0]])
    volume = slicer.util.addVolumeFromArray(voxels, ijkToRAS=to_ras, name="head")
    assert slicer.util.saveNode(volume, str(tmp_path / name))
    again = slicer.util.loadVolume(str(tmp_path / name), {"name": "again"})
    assert again.GetName() == "again" and np.array_equal(slicer.util.arrayFromVolume(again), voxels)
    matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
    again.GetIJKToRASMatrix(matrix)
    assert np.allclose(slicer.util.arrayFromVTKMatrix(matrix), to_ras)
    with pytest.raises(RuntimeError):
        slicer.util.loadVolume(str(tmp_path / "absent.nrrd"))


def test_a_segmentation_and_a_model_are_written_and_read(host, tmp_path):
    import slicer
    import vtk

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "parts")
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "Ball", (1, 0, 0), "ball")
    node.GetSegmentation().CreateRepresentation("Binary labelmap")
    node.GetSegmentation().SetSourceRepresentationName("Binary labelmap")
    assert slicer.util.saveNode(node, str(tmp_path / "parts.seg.nrrd"))
    again = slicer.util.loadSegmentation(str(tmp_path / "parts.seg.nrrd"))
    assert again.GetSegmentation().GetSegment("ball").GetName() == "Ball"
    model = slicer.modules.models.logic().AddModel(sphere.GetOutput())
    assert slicer.util.saveNode(model, str(tmp_path / "ball.stl"))
    assert b"SPACE=LPS" in (tmp_path / "ball.stl").read_bytes()[:80]
    assert slicer.util.loadModel(str(tmp_path / "ball.stl")).GetPolyData().GetNumberOfPolys() == 96


def test_questions_are_answered_from_the_script_and_recorded(host):
    import qt
    import slicer

    host.testing = False
    host.answer(True, False, True)
    assert slicer.util.confirmYesNoDisplay("Sure?") is True
    assert slicer.util.confirmOkCancelDisplay("Really?") is False
    assert qt.QMessageBox.question(None, "t", "Yes?") == qt.QMessageBox.Yes
    slicer.util.infoDisplay("Done.")
    slicer.util.errorDisplay("Broken.")
    kinds = [(m.kind, m.text) for m in host.messages]
    assert kinds[0] == ("question", "Sure?") and kinds[-2:] == [("info", "Done."), ("error", "Broken.")]
    with pytest.raises(AssertionError, match="without an answer"):
        slicer.util.confirmYesNoDisplay("And now?")


def test_in_testing_mode_an_unanswered_question_is_no_as_in_the_application(host):
    import slicer

    assert slicer.util.confirmYesNoDisplay("Install?") is False  # its help says True, its code compares True with a button
    assert [m.text for m in host.messages] == ["Install?"]


def test_file_dialogs_take_the_scripted_path_or_raise(host, tmp_path):
    import qt

    host.answer_file(tmp_path, "")
    assert qt.QFileDialog.getExistingDirectory(None, "Folder") == str(tmp_path)
    assert qt.QFileDialog.getOpenFileName() == ""
    with pytest.raises(AssertionError):
        qt.QFileDialog.getSaveFileName()
    with pytest.raises(AssertionError):
        qt.QDialog().exec_()


def test_errors_of_vtk_and_of_the_log_are_faults(host):
    import logging

    import slicer

    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLNoSuchNode")
    logging.error("something broke")
    faults = host.take_faults()
    assert any("vtkMRMLNoSuchNode" in f for f in faults) and "logging.error: something broke" in faults
    host.expect_error("never seen")
    assert host.take_faults() == ["announced but not seen: never seen"]


def test_waiting_ends_with_the_condition_or_a_timeout(host):
    import qt

    seen = []
    qt.QTimer.singleShot(30, lambda: seen.append("now"))
    assert host.process_until(lambda: seen) == ["now"]
    with pytest.raises(TimeoutError, match="never"):
        host.process_until(lambda: False or not "never", timeout_s=0.05)


def test_the_longest_block_of_the_event_loop_is_measured(host):
    import time

    import qt

    host.longest_block_s = 0
    qt.QTimer.singleShot(0, lambda: time.sleep(0.2))
    host.process_until(lambda: host.longest_block_s > 0.15)
    assert 0.2 <= host.longest_block_s < 0.5


def test_settings_are_fresh_in_each_test(host):
    import qt
    import slicer

    assert slicer.app.userSettings().value("seen") is None
    qt.QSettings().setValue("seen", True)
    assert slicer.util.toBool(slicer.app.userSettings().value("seen"))


test_settings_are_still_fresh = test_settings_are_fresh_in_each_test


def test_python_slicer_is_a_launcher_whose_child_survives_it(host):
    path = shutil.which("PythonSlicer")
    code = "import json, os, sys; print(json.dumps([os.getpid(), sys.argv[1:], sys.path]), flush=True); sys.stdin.read()"
    process = subprocess.Popen([path, "-c", code, "a b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid, arguments, search = json.loads(process.stdout.readline())
    assert pid != process.pid and arguments == ["a b"]
    assert not any(folder.endswith(("CranialImplant", "MedShapeGen", "Testing")) for folder in search)
    assert {pid, process.pid} <= set(host.children())
    process.kill()
    process.wait()
    os.kill(pid, 0)  # still there
    os.kill(pid, signal.SIGKILL)


def test_python_slicer_passes_output_and_exit_code_on(host):
    import slicer

    lines = []
    command = [shutil.which("PythonSlicer"), "-c", "import sys; print('hello'); sys.exit(3)"]
    codes = []
    slicer.util.launchConsoleProcess(command, blocking=False, logCallback=lines.append, completedCallback=codes.append)
    host.process_until(lambda: codes)
    assert (lines, codes) == (["hello"], [3])


def test_the_projects_engines_are_not_found_without_their_folders(host):
    command = [shutil.which("PythonSlicer"), "-c", "import CranialImplantLib"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=os.path.dirname(sys.executable))
    assert "ModuleNotFoundError" in answer.stderr


def test_nothing_is_installed_and_requests_are_recorded(host):
    import PyTorchUtils
    import slicer.packaging

    for record in (slicer.packaging.requests, PyTorchUtils.requests):
        record.clear()
    slicer.util.pip_install("safetensors>=0.4 trimesh")
    PyTorchUtils.PyTorchUtilsLogic().installTorch(torchVersionRequirement=">=2.4")
    assert slicer.packaging.requests[0]["requirements"] == ["safetensors>=0.4", "trimesh"]
    assert PyTorchUtils.requests == [{"install": ">=2.4", "askConfirmation": False}]
    with pytest.raises(AssertionError):
        PyTorchUtils.PyTorchUtilsLogic().torchInstalled()


@pytest.mark.views
def test_views_show_models_slices_and_legends(host, tmp_path):
    import slicer
    import vtk

    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(30)
    sphere.Update()
    model = slicer.modules.models.logic().AddModel(sphere.GetOutput())
    model.GetDisplayNode().SetColor(1, 0, 0)
    slicer.util.resetThreeDViews()
    pixels = host.view_picture("3D", tmp_path / "view.png", (300, 200)).astype(int)
    assert pixels.shape == (200, 300, 3) and (tmp_path / "view.png").exists()
    red = (pixels[..., 0] > 100) & (pixels[..., 1] < 60)
    assert 0.1 < red.mean() < 0.6 and red[100, 150]

    voxels = np.zeros((20, 20, 20), np.int16)
    voxels[:, :, 10:] = 100
    volume = slicer.util.addVolumeFromArray(voxels, name="half")
    volume.CreateDefaultDisplayNodes()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    pixels = host.view_picture("Red", size=(200, 200)).astype(int)
    left, right = pixels[100, 60].mean(), pixels[100, 140].mean()
    assert {left < 20, right < 20} == {True, False}  # one half is bright
