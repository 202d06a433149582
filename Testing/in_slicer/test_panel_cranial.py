"""CranialImplant's panel in the host: what a clinician clicks, sees and saves; the worker is the one for rehearsals."""

import json

import numpy as np
import pytest


def finished(host, panel, timeout_s=40):
    host.process_until(lambda: panel.logic.runner.idle, timeout_s)


def names(cls):
    import slicer

    return sorted(node.GetName() for node in slicer.util.getNodesByClass(cls))


def choices(panel):
    import sys

    return sys.modules[type(panel).__module__]


def test_without_a_skull_the_button_says_why_it_is_off(host):
    ui = host.open_panel("CranialImplant").ui
    for button in (ui.applyButton, ui.findButton, ui.boneButton, ui.nextButton, ui.exportButton):
        assert not button.enabled and button.toolTip, button.name
    assert "segmentation" in ui.applyButton.toolTip and "CT" in ui.boneButton.toolTip


def test_the_one_bone_segment_is_chosen_and_the_button_is_on(cranial):
    assert cranial.parameters.inputSegmentation.GetName() == "Sphere with hole" and cranial.parameters.inputSegmentID == "bone"
    assert cranial.ui.applyButton.enabled and cranial.ui.applyButton.text == "Generate implant"


def test_one_click_brings_members_mean_maps_table_and_report(host, cranial_done):
    from MedShapeSlicer import implants

    result = cranial_done.parameters.result
    ids = [row[0] for row in implants.rankedSegments(result)]
    assert ids == [f"Implant_{n}" for n in range(1, 6)] + ["MeanImplant"]
    for role in implants.ROLES:
        assert implants.related(result, role) is not None, role
    assert json.loads(implants.related(result, "Report").GetText())["options"]["seed"] == 0
    table = implants.related(result, "Table")
    assert (table.GetNumberOfRows(), table.GetCellText(0, 1)) == (6, "Implant 1")
    assert cranial_done.ui.memberTable.rowCount == 6 and cranial_done.ui.memberTable.item(0, 1).text().endswith("ml")
    assert "5 of 5" in cranial_done.ui.statusLabel.text and cranial_done.ui.applyButton.text == "Generate implant"


def test_progress_only_goes_forward_and_reaches_the_end(host, cranial):
    told = []
    progress = cranial.onProgress
    cranial.onProgress = lambda stage, fraction: (told.append((fraction, stage)), progress(stage, fraction))
    cranial.logic.rehearse("--seconds", "0.5")
    cranial.ui.applyButton.click()
    finished(host, cranial)
    fractions = [fraction for fraction, stage in told]
    assert fractions == sorted(fractions) and (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert {"rehearsing", "loading the implants"} <= {stage for fraction, stage in told} and cranial.ui.progressBar.value == 100


def test_voxels_and_surfaces_lie_where_the_hole_is(host, cranial_done):
    import slicer
    from vtk.util.numpy_support import vtk_to_numpy

    result, source = cranial_done.parameters.result, cranial_done.parameters.inputSegmentation
    implant = slicer.util.arrayFromSegmentInternalBinaryLabelmap(result, "Implant_1")
    bone = slicer.util.arrayFromSegmentInternalBinaryLabelmap(source, "bone")
    assert implant.shape == bone.shape == (60, 60, 60) and implant.sum() > 500
    assert not (implant & bone).any()
    surface = result.GetClosedSurfaceInternalRepresentation("Implant_1")
    points = vtk_to_numpy(surface.GetPoints().GetData())
    assert points[:, 0].max() < 0 and np.abs(np.linalg.norm(points, axis=1) - 47).max() < 6  # on the left, in RAS
    normals = vtk_to_numpy(surface.GetPointData().GetNormals())
    outer = np.linalg.norm(points, axis=1) > 49
    assert ((normals[outer] * points[outer]).sum(1) > 0).mean() > 0.9


def test_a_second_run_leaves_the_first_alone(host, cranial_done):
    import slicer

    first = cranial_done.parameters.result
    cranial_done.ui.memberTable.setCurrentCell(3, 0)
    cranial_done.ui.overrideEdit.text = "for the old one"
    cranial_done.parameters.seed = 7
    cranial_done.ui.applyButton.click()
    finished(host, cranial_done)
    second = cranial_done.parameters.result
    assert second is not first and slicer.mrmlScene.IsNodePresent(first)
    assert cranial_done.parameters.currentSegmentID == "Implant_1" and cranial_done.parameters.overrideReason == ""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    folders = {hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n))) for n in (first, second)}
    assert folders == {"Sphere with hole implant", "Sphere with hole implant (run 2)"}
    cranial_done.ui.resultSelector.setCurrentNode(first)
    assert cranial_done.parameters.result is first
    cranial_done.ui.resultSelector.setCurrentNode(cranial_done.parameters.inputSegmentation)
    assert cranial_done.ui.resultSelector.currentNode() is not cranial_done.parameters.inputSegmentation  # results only, not the skull
    cranial_done.parameters.result = second
    assert cranial_done.parameters.result.GetAttribute("CranialImplant.seed") == "7"


def test_the_result_goes_to_the_study_of_its_input(host, cranial):
    import slicer

    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study 1")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(cranial.parameters.inputSegmentation), study)
    cranial.ui.applyButton.click()
    finished(host, cranial)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(cranial.parameters.result))
    assert hierarchy.GetItemParent(folder) == study


def test_the_hole_is_shown_before_the_run(host, cranial):
    cranial.ui.findButton.click()
    finished(host, cranial)
    assert "left" in cranial.ui.holeLabel.text and "cm\u00b2" in cranial.ui.holeLabel.text
    assert cranial.ui.holeBox.count == 2 and names("vtkMRMLMarkupsClosedCurveNode") == ["Hole 1"]
    cranial.ui.holeBox.currentIndex = 1
    assert cranial.parameters.hole == 1


def test_a_point_and_a_box_are_sent_in_lps(host, cranial):
    import slicer
    from MedShapeSlicer import holes

    point = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    assert holes.pointsOf(None) == {} and holes.pointsOf(point) == {}
    point.AddControlPointWorld(-50.0, 3.0, 4.0)
    assert holes.pointsOf(point) == {"point_lps": [50.0, -3.0, 4.0]}
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    box.SetCenter(1, 2, 3)
    box.SetSize(10, 20, 30)
    assert holes.pointsOf(box) == {"roi_lps": [-6.0, -12.0, -12.0, 4.0, 8.0, 18.0]}


def test_a_place_that_is_no_hole_is_told_before_the_run_and_nothing_is_lost(host, cranial):
    import slicer

    p, ui = cranial.parameters, cranial.ui

    p.place = point = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    assert not ui.applyButton.enabled and "F has no point yet" in ui.holeLabel.text and "or choose None" in ui.statusLabel.text
    point.AddControlPointWorld(-50.0, 3.0, 4.0)  # in the hole
    assert ui.applyButton.enabled and ui.holeLabel.text == "The hole nearest to F is closed." and not ui.holeBox.enabled
    assert ui.statusLabel.text == ""
    point.SetNthControlPointPositionWorld(0, 0.0, 0.0, 120.0)  # 71 mm above the head
    assert not ui.applyButton.enabled and "outside of the skull" in ui.applyButton.toolTip
    point.SetNthControlPointPositionWorld(0, 48.0, 0.0, 0.0)  # on the other side: nobody knows better yet
    assert ui.applyButton.enabled
    ui.findButton.click()
    finished(host, cranial)
    assert not ui.applyButton.enabled and "mm away from the nearest hole" in ui.holeLabel.text
    nodes = names("vtkMRMLNode")
    with pytest.raises(RuntimeError, match="F is 9. mm away"):  # 48 - (-50) = 98 to the centre, less to the outline
        cranial.logic.generate(p, wait=True)
    assert p.result is None and names("vtkMRMLNode") == nodes
    p.place = box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    assert "The box R is empty" in ui.holeLabel.text and not ui.applyButton.enabled
    box.SetCenter(-50, 0, 0)
    box.SetSize(30, 30, 30)
    assert ui.applyButton.enabled and "nearest to R" in ui.holeLabel.text
    p.place = None
    assert ui.holeLabel.text.startswith("Hole 1: left") and ui.holeBox.enabled and ui.applyButton.enabled


def test_a_saved_choice_of_a_hole_is_shown_though_its_outline_is_not_known_yet(host, cranial, tmp_path):
    cranial.parameters.hole = 2
    host.save_and_reopen(tmp_path / "case.mrb")
    assert cranial.parameters.hole == 2 and cranial.ui.holeBox.currentText == "Hole 2"


def test_the_holes_are_those_of_the_chosen_segment(host, cranial):
    cranial.ui.findButton.click()
    finished(host, cranial)
    cranial.parameters.inputSegmentation.GetSegmentation().AddEmptySegment("other", "Other")
    cranial.ui.inputSelector.setCurrentSegmentID("other")
    assert cranial.parameters.inputSegmentID == "other" and cranial.ui.holeBox.count == 1 and names("vtkMRMLMarkupsClosedCurveNode") == []
    assert cranial.ui.holeLabel.text == ""


def test_browsing_by_button_and_row_shows_one_implant(host, cranial_done):
    ui, display = cranial_done.ui, cranial_done.parameters.result.GetDisplayNode()

    def visible():
        return [i for i in ("Implant_1", "Implant_2", "Implant_5", "MeanImplant") if display.GetSegmentVisibility(i)]

    assert visible() == ["Implant_1"]
    ui.nextButton.click()
    assert cranial_done.parameters.currentSegmentID == "Implant_2" and visible() == ["Implant_2"] and ui.memberTable.currentRow() == 1
    ui.previousButton.click()
    ui.previousButton.click()
    assert visible() == ["MeanImplant"]
    ui.memberTable.setCurrentCell(4, 0)
    assert visible() == ["Implant_5"]
    cranial_done.parameters.showing = choices(cranial_done).Showing.all
    assert visible() == ["Implant_1", "Implant_2", "Implant_5"]
    cranial_done.parameters.opacity = 0.4
    assert display.GetSegmentOpacity3D("Implant_1") == pytest.approx(0.4)


def test_arrow_keys_in_the_list_step_through_the_implants(host, cranial_done):
    import qt

    table, window = cranial_done.ui.memberTable, cranial_done.parent.window()
    window.show()
    host.process_events()
    window.activateWindow()
    table.setFocus()
    host.process_events()
    keys = (qt.Qt.Key_Right, "Implant_2"), (qt.Qt.Key_Down, "Implant_3"), (qt.Qt.Key_Left, "Implant_2"), (qt.Qt.Key_Up, "Implant_1")
    for key, wanted in keys:
        qt.QTest.keyClick(table, key)
        host.process_events()
        assert cranial_done.parameters.currentSegmentID == wanted
    window.hide()


def test_the_maps_go_over_the_slices_and_away_again(host, cranial_done):
    import slicer
    from MedShapeSlicer import displays, implants

    p, composite = cranial_done.parameters, slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    before = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetForegroundOpacity())
    for choice, low, high in (("Variance", 0.0, 0.25), ("Agreement", 0.0, 5.0)):
        p.onSlices = choices(cranial_done).OnSlices[choice]
        volume = implants.related(p.result, choice)
        display = volume.GetDisplayNode()
        assert composite.GetForegroundVolumeID() == volume.GetID()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (low, high)
        assert display.GetApplyThreshold() and display.GetLowerThreshold() > 0  # zero is transparent
        assert displays.legendOf(volume).GetVisibility()
    assert display.GetColorNode().GetColorName(3) == "3 of 5"
    p.onSlices = choices(cranial_done).OnSlices.nothing
    assert (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetForegroundOpacity()) == before
    assert not displays.legendOf(volume).GetVisibility()


def test_a_chosen_ct_is_shown_behind_the_maps_and_without_them(host, cranial_done):
    import slicer

    p, composite = cranial_done.parameters, slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    ct = slicer.util.addVolumeFromArray(np.zeros((4, 4, 4), np.int16), name="CT")
    p.onSlices = choices(cranial_done).OnSlices.Variance
    assert not composite.GetBackgroundVolumeID()
    p.ctVolume = ct
    assert composite.GetBackgroundVolumeID() == ct.GetID() and composite.GetForegroundVolumeID()
    p.onSlices = choices(cranial_done).OnSlices.nothing
    assert composite.GetBackgroundVolumeID() == ct.GetID() and not composite.GetForegroundVolumeID()


def test_spread_colours_the_mean_with_a_fixed_range_and_a_legend(host, cranial_done):
    from MedShapeSlicer import displays, implants

    cranial_done.ui.spreadBox.checked = True
    model = implants.related(cranial_done.parameters.result, "Spread")
    display = model.GetDisplayNode()
    assert display.GetVisibility() and display.GetActiveScalarName() == "spread_mm" and list(display.GetScalarRange()) == [0.0, 2.0]
    assert "mm" in displays.legendOf(model).GetTitleText() and displays.legendOf(model).GetVisibility()
    cranial_done.ui.spreadBox.checked = False
    assert not display.GetVisibility()


def test_a_saved_scene_opens_in_the_same_state(host, cranial_done, tmp_path):
    from MedShapeSlicer import implants

    cranial_done.parameters.seed, cranial_done.parameters.opacity = 11, 0.5
    cranial_done.parameters.onSlices = choices(cranial_done).OnSlices.Variance
    cranial_done.step(1)
    cranial_done.onChoose()
    rows = [[cranial_done.ui.memberTable.item(r, c).text() for c in range(5)] for r in range(6)]
    host.save_and_reopen(tmp_path / "case.mrb")
    p, ui = cranial_done.parameters, cranial_done.ui
    assert p.result.GetName() == "Sphere with hole implant" and p.inputSegmentID == "bone"
    assert (ui.seedSpin.value, ui.opacitySlider.value, p.currentSegmentID) == (11, 0.5, "Implant_2")
    assert [[ui.memberTable.item(r, c).text() for c in range(5)] for r in range(6)] == rows and "\u2713" in rows[1][0]
    assert p.onSlices.name == "Variance" and implants.related(p.result, "Variance") is not None
    assert p.result.GetDisplayNode().GetSegmentVisibility("Implant_2")


def test_export_writes_checked_files_and_never_over_others(host, cranial_done, tmp_path):
    cranial_done.parameters.exportFolder = tmp_path
    for name in ("implant_1", "implant_1_2"):
        cranial_done.ui.exportButton.click()
        finished(host, cranial_done)
        assert b"SPACE=LPS" in (tmp_path / f"{name}.stl").read_bytes()[:80] and (tmp_path / f"{name}.json").exists()
    assert "Clearance to bone: 0 mm" in cranial_done.ui.exportResult.text


def test_an_export_that_cannot_be_written_says_so_and_leaves_nothing(host, cranial_done, tmp_path, monkeypatch):
    import shutil

    (tmp_path / "file").write_text("no folder")
    cranial_done.parameters.exportFolder = tmp_path / "file" / "below"
    cranial_done.ui.exportButton.click()
    finished(host, cranial_done)
    assert "Nothing was written to" in cranial_done.ui.exportResult.text and "another folder" in cranial_done.ui.exportResult.text

    def full(source, target):  # the second file finds no room any more
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        target.write_bytes(b"")

    monkeypatch.setattr(shutil, "copyfile", full)
    cranial_done.parameters.exportFolder = tmp_path / "new"
    cranial_done.ui.exportButton.click()
    finished(host, cranial_done)
    assert "No space left" in cranial_done.ui.exportResult.text and list((tmp_path / "new").iterdir()) == []
    assert cranial_done.ui.exportButton.enabled


def test_the_list_says_what_is_known_of_an_edited_implant(host, cranial_done, tmp_path):
    import slicer

    p, ui = cranial_done.parameters, cranial_done.ui
    row = lambda: [ui.memberTable.item(0, column).text() for column in range(5)]  # noqa: E731
    before = row()
    labels = slicer.util.arrayFromSegmentInternalBinaryLabelmap(p.result, "Implant_1")
    kept = labels.copy()
    labels[:, :, :8] = 0  # as if erased by hand
    cranial_done.enter()  # back from the Segment Editor
    assert row()[4] == "edited, not checked" and row()[2] == "" and float(row()[1].split()[0]) < float(before[1].split()[0])
    labels[:] = kept
    cranial_done.enter()
    assert row() == before and before[4] == "passed"


def test_choosing_marks_one_implant_and_leads_to_the_export(host, cranial_done):
    ui = cranial_done.ui
    ui.nextButton.click()
    ui.chooseButton.click()
    ui.nextButton.click()
    ui.chooseButton.click()
    marked = [ui.memberTable.item(row, 0).text() for row in range(6) if "\u2713" in ui.memberTable.item(row, 0).text()]
    assert marked == ["Implant 3 \u2713"] and not ui.exportSection.collapsed and "Implant 3 is marked" in ui.statusLabel.text


def test_a_reason_for_an_override_holds_for_one_implant_and_one_export(host, cranial_done, tmp_path):
    p, ui = cranial_done.parameters, cranial_done.ui
    ui.overrideEdit.text = "a flange is wanted"
    ui.nextButton.click()
    assert p.overrideReason == ""
    ui.overrideEdit.text, p.exportFolder = "a flange is wanted", tmp_path
    ui.exportButton.click()
    finished(host, cranial_done)
    assert p.overrideReason == "" and ui.overrideEdit.text == ""


def test_the_files_for_the_export_lie_on_one_grid_around_the_edited_implant(host, cranial_done, tmp_path):
    """Hand edits, an input under a transform and another grid all end in two masks that overlap as they do in space."""
    import slicer
    from MedShapeSlicer import geometry

    p = cranial_done.parameters
    before = int(slicer.util.arrayFromSegmentInternalBinaryLabelmap(p.result, "Implant_1").sum())
    geometry.writeTogether(p.result, "Implant_1", p.inputSegmentation, "bone", tmp_path, 10.0)
    header, body = (tmp_path / "bone.nrrd").read_bytes().split(b"\n\n", 1)
    assert header.split(b"\n", 3)[3] == (tmp_path / "implant.nrrd").read_bytes().split(b"\n\n", 1)[0].split(b"\n", 3)[3]
    implant = np.frombuffer((tmp_path / "implant.nrrd").read_bytes().split(b"\n\n", 1)[1], np.uint8)
    bone = np.frombuffer(body, np.uint8)
    assert implant.sum() == before and not (implant & bone).any() and bone.sum() > 1000
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.array([[1, 0, 0, 0], [0, 1, 0, 20.0], [0, 0, 1, 0], [0, 0, 0, 1]])))
    p.inputSegmentation.SetAndObserveTransformNodeID(shift.GetID())
    geometry.writeTogether(p.result, "Implant_1", p.inputSegmentation, "bone", tmp_path, 10.0)
    moved = np.frombuffer((tmp_path / "bone.nrrd").read_bytes().split(b"\n\n", 1)[1], np.uint8)
    assert (implant & moved).any()  # the bone was moved into the implant, 20 mm to the front
