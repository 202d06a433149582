"""A module written after Slicer's template runs in the host: panel, parameters, widgets, scene events."""

import numpy as np
import pytest


@pytest.fixture
def head(host):
    import slicer

    return slicer.util.addVolumeFromArray(np.arange(1000, dtype=np.int16).reshape(10, 10, 10) - 100, name="head")


def test_the_module_is_loaded_as_the_application_does(host):
    import slicer

    module = slicer.util.getModule("HostSample")
    assert (module.name, module.title) == ("HostSample", "Host sample")
    assert slicer.util.modulePath("HostSample").endswith("sample/HostSample.py")
    assert slicer.modules.HostSampleInstance.started == 1
    with pytest.raises(AttributeError):
        module.titel = "misspelt"


def test_apply_follows_the_inputs_and_makes_the_result(host, head):
    import slicer

    panel = host.open_panel("HostSample")
    ui = panel.ui
    assert panel.parent.isEntered and ui.inputSelector.currentNode() is head
    assert ui.applyButton.enabled
    ui.thresholdSlider.value = 50
    assert panel._parameterNode.threshold == 50
    ui.applyButton.click()
    result = ui.outputSelector.currentNode()
    assert result.GetName() == "thresholded"
    assert slicer.util.arrayFromVolume(result).sum() == 849  # -100..899: 51..899 are above
    slicer.mrmlScene.RemoveNode(head)
    slicer.mrmlScene.RemoveNode(result)
    assert not ui.applyButton.enabled and ui.applyButton.toolTip == "Select an input volume"


def test_widgets_take_limits_choices_and_values_from_the_parameters(host):
    ui = host.open_panel("HostSample").ui
    assert (ui.thresholdSlider.minimum, ui.thresholdSlider.maximum, ui.thresholdSlider.value) == (-100, 200, 100)
    assert (ui.membersSpinBox.maximum, ui.membersSpinBox.value) == (9, 5)
    assert [ui.sideBox.itemText(i) for i in range(ui.sideBox.count)] == ["above", "below"]


def test_widget_and_parameter_follow_each_other(host):
    panel = host.open_panel("HostSample")
    ui, p = panel.ui, panel._parameterNode
    ui.sideBox.currentText, ui.invertCheckBox.checked, ui.titleEdit.text = "below", True, "two"
    ui.folderEdit.currentPath = "/tmp"
    assert (p.side.name, p.invert, p.title, str(p.folder)) == ("BELOW", True, "two", "/tmp")
    p.members, p.title = 3, "three"
    assert (ui.membersSpinBox.value, ui.titleEdit.text) == (3, "three")


def test_parameters_refuse_wrong_values_and_unknown_names(host):
    p = host.open_panel("HostSample")._parameterNode
    for name, value in (("members", 10), ("threshold", "5"), ("side", "above"), ("inputVolume", 3), ("title", None)):
        with pytest.raises((TypeError, ValueError)):
            setattr(p, name, value)
    with pytest.raises(AttributeError):
        p.treshold = 3
    assert p.members == 5


def test_a_saved_scene_reopens_in_the_same_state(host, head, tmp_path):
    panel = host.open_panel("HostSample")
    p = panel._parameterNode
    p.threshold, p.side = 42.5, type(p.side)["BELOW"]
    host.save_and_reopen(tmp_path / "case.mrb")
    p = panel._parameterNode
    assert (p.threshold, p.side.name, p.inputVolume.GetName()) == (42.5, "BELOW", "head")
    assert panel.ui.thresholdSlider.value == 42.5


def test_an_error_in_apply_is_a_fault_and_a_message(host, head):
    panel = host.open_panel("HostSample")
    head.GetImageData().GetPointData().GetScalars().Fill(0)
    host.testing = False
    host.expect_error("Nothing is above the threshold")  # tryWithErrorDisplay shows it, then raises again
    panel.ui.applyButton.click()
    assert [(m.kind, "Nothing is above" in m.text) for m in host.messages] == [("error", True)]


def test_reload_makes_a_new_panel_after_cleaning_up_the_old(host):
    old = host.open_panel("HostSample")
    new = host.reload("HostSample")
    assert new is not old and old.cleaned and not new.cleaned
    assert new.ui.applyButton.text == "Apply"


def test_a_panel_that_is_gone_follows_the_scene_no_more(host):
    import slicer

    panel = host.open_panel("HostSample")
    host.quit_panel("HostSample")
    assert panel.cleaned
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "late")
    assert host.take_faults() == []
    assert host.open_panel("HostSample") is not panel


def test_collapsed_sections_hide_their_content(host):
    ui = host.open_panel("HostSample").ui
    section = ui.advancedCollapsibleButton
    assert section.collapsed and ui.invertCheckBox.isHidden()
    got = []
    section.connect("contentsCollapsed(bool)", got.append)
    section.collapsed = False
    assert not ui.invertCheckBox.isHidden() and got == [False]


def test_a_panel_has_a_picture(host, tmp_path):
    image = host.picture(host.open_panel("HostSample"), tmp_path / "panel.png", width=400)
    assert (tmp_path / "panel.png").stat().st_size > 5000
    colors = {image.pixel(x, y) for x in range(0, image.width(), 3) for y in range(0, image.height(), 3)}
    assert image.width() == 400 and image.height() > 250 and len(colors) > 20


def test_a_ui_file_with_an_unknown_widget_is_refused(host, tmp_path):
    import slicer

    path = tmp_path / "bad.ui"
    path.write_text('<ui version="4.0"><widget class="ctkNowhereToBeSeen" name="w"/></ui>', encoding="utf-8")
    with pytest.raises(RuntimeError, match="ctkNowhereToBeSeen"):
        slicer.util.loadUI(str(path))


def test_the_segment_selector_follows_the_segmentation(host):
    import slicer

    selector = slicer.qMRMLSegmentSelectorWidget()
    selector.setMRMLScene(slicer.mrmlScene)
    got = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: got.append(node and node.GetName()))
    selector.connect("currentSegmentChanged(QString)", got.append)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "parts")
    node.GetSegmentation().AddEmptySegment("bone", "Bone")
    node.GetSegmentation().AddEmptySegment("skin", "Skin")
    selector.setCurrentSegmentID("skin")
    assert got == ["parts", "bone", "skin"] and selector.currentNode() is node
    node.GetSegmentation().RemoveSegment("skin")
    assert selector.currentSegmentID() == "bone"
    slicer.mrmlScene.RemoveNode(node)
    assert selector.currentNode() is None and selector.currentSegmentID() == ""


def test_the_module_runs_its_own_tests(host):
    host.run_self_test("HostSample")
