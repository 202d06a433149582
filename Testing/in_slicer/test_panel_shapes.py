"""MedShapeGen's panel in the host: shapes as models in mm, browse, one segmentation, export; with the worker for rehearsals."""

import numpy as np
import pytest


@pytest.fixture
def panel(host):
    panel = host.open_panel("MedShapeGen")
    panel.logic.rehearse()
    panel.parameters.category = "kidney"
    return panel


def finished(host, panel):
    host.process_until(lambda: panel.logic.runner.idle, 40)
    assert panel.logic.error is None, panel.logic.error


@pytest.fixture
def done(host, panel):
    panel.ui.applyButton.click()
    finished(host, panel)
    return panel


def ball(name="ball", radius=20.0, centre=(10.0, 0.0, 0.0)):
    import slicer
    import vtk

    source = vtk.vtkSphereSource()
    source.SetRadius(radius)
    source.SetCenter(*centre)
    source.Update()
    node = slicer.modules.models.logic().AddModel(source.GetOutput())
    node.SetName(name)
    return node


def box(node):
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return np.array(bounds).reshape(3, 2)


def test_three_shapes_come_as_models_in_mm_side_by_side(host, done):
    from MedShapeSlicer import shapes

    models = shapes.modelsOf(done.parameters.result)
    assert [model.GetName() for model in models] == ["kidney 1", "kidney 2", "kidney 3"]
    boxes = [box(model) for model in models]
    assert all(np.allclose(np.ptp(b, axis=1), 40, atol=1) for b in boxes)
    assert boxes[1][0, 0] >= boxes[0][0, 1] + 9 and boxes[2][0, 0] >= boxes[1][0, 1] + 9
    kidney = next(kind for kind in done.logic.kinds if kind["name"] == "kidney")
    assert np.allclose(models[0].GetDisplayNode().GetColor(), kidney["colour"])
    assert "3 of 3" in done.ui.statusLabel.text and done.ui.shapeTable.rowCount == 3


def test_one_segmentation_keeps_surfaces_names_colours_and_terminology(host, done):
    from MedShapeSlicer import shapes

    done.ui.segmentButton.click()
    segmentation = shapes.asSegmentation(done.parameters.result)
    assert segmentation.GetName().startswith("kidney segmentation")
    inside = segmentation.GetSegmentation()
    assert [inside.GetNthSegment(n).GetName() for n in range(3)] == ["kidney 1", "kidney 2", "kidney 3"]
    model = shapes.modelsOf(done.parameters.result)[1]
    surface = inside.GetNthSegment(1).GetRepresentation("Closed surface")
    assert surface.GetNumberOfPoints() == model.GetPolyData().GetNumberOfPoints()
    assert np.allclose(surface.GetBounds(), model.GetPolyData().GetBounds())
    assert "SCT^64033007^Kidney" in inside.GetNthSegment(1).GetTerminology()


def test_browsing_shows_one_or_all(host, done):
    from MedShapeSlicer import shapes

    models = shapes.modelsOf(done.parameters.result)
    visible = lambda: [bool(model.GetDisplayNode().GetVisibility()) for model in models]  # noqa: E731
    assert visible() == [True] * 3
    done.ui.shapeTable.setCurrentCell(1, 0)
    assert visible() == [False, True, False]
    done.ui.allButton.click()
    assert visible() == [True] * 3


def test_results_in_one_place_are_shown_one_at_a_time(host, panel):
    """Of a new result in the place of a given shape one shape is seen, the given one and older results are hidden."""
    from MedShapeSlicer import displays, shapes

    given = ball()
    panel.parameters.task, panel.parameters.first = 1, given
    panel.ui.applyButton.click()
    finished(host, panel)
    old = panel.parameters.result
    assert panel.parameters.row == 0
    (reconstruction,) = shapes.modelsOf(old)
    assert reconstruction.GetDisplayNode().GetVisibility() and not given.GetDisplayNode().GetVisibility()
    assert "given shape is hidden" in panel.ui.statusLabel.text
    panel.parameters.task, panel.parameters.second = 2, ball("other")
    panel.ui.applyButton.click()
    finished(host, panel)
    steps = [bool(model.GetDisplayNode().GetVisibility()) for model in shapes.modelsOf(panel.parameters.result)]
    assert steps == [True] + [False] * 6 and panel.ui.shapeTable.currentRow() == 0
    assert not reconstruction.GetDisplayNode().GetVisibility() and not displays.legendOf(reconstruction).GetVisibility()
    panel.ui.resultSelector.setCurrentNode(old)
    assert reconstruction.GetDisplayNode().GetVisibility()
    assert not any(model.GetDisplayNode().GetVisibility() for model in shapes.modelsOf(panel.ui.resultSelector.currentNode())[1:])
    panel.ui.segmentButton.click()
    assert not reconstruction.GetDisplayNode().GetVisibility() and "models are hidden" in panel.ui.statusLabel.text


def test_controls_follow_tab_and_kind(host, panel):
    ui = panel.ui
    shown = lambda widget: not widget.isHidden()  # noqa: E731 (visible is False while the panel is)
    assert shown(ui.categoryBox) and shown(ui.sideBox) and not shown(ui.firstSelector) and not shown(ui.stepsSpin)
    panel.parameters.category = "liver"
    assert not shown(ui.sideBox)
    ui.tabs.currentIndex = 2
    assert shown(ui.firstSelector) and shown(ui.secondSelector) and shown(ui.stepsSpin) and not shown(ui.categoryBox)
    assert not ui.applyButton.enabled and "given shapes" in ui.applyButton.toolTip and ui.statusLabel.text == ui.applyButton.toolTip
    panel.parameters.first, panel.parameters.second = ball("a"), ball("b")
    assert ui.applyButton.enabled and ui.statusLabel.text == ""
    panel.parameters.task = 3
    assert ui.tabs.currentIndex == 3 and shown(ui.categoryBox) and shown(ui.firstSelector) and not shown(ui.secondSelector)


def test_a_given_model_is_sent_in_lps_under_its_transform(host, panel, tmp_path):
    import slicer
    from MedShapeSlicer import shapes

    node = ball(centre=(10, 20, 30))
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[0, 3] = 5.0
    shift.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(shift.GetID())
    assert shapes.writeInput(node, "", tmp_path, "first") == "first.stl"
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners = np.frombuffer((tmp_path / "first.stl").read_bytes()[84:], record)["corners"].reshape(-1, 3)
    assert np.allclose((corners.min(0) + corners.max(0)) / 2, (-15, -20, 30), atol=0.7)


def test_a_segment_that_is_a_surface_is_given_as_it_is(host, done, tmp_path):
    """What this panel made of its shapes can be given to it again."""
    from MedShapeSlicer import geometry, shapes

    segmentation = shapes.asSegmentation(done.parameters.result)
    segmentID = segmentation.GetSegmentation().GetNthSegmentID(1)
    assert shapes.writeInput(segmentation, segmentID, tmp_path, "first") == "first.stl"
    again = geometry.readSurface(tmp_path / "first.stl")
    assert np.allclose(again.GetBounds(), shapes.modelsOf(done.parameters.result)[1].GetPolyData().GetBounds(), atol=1e-4)
    mask, _, to_ras = geometry.segmentGrid(segmentation, segmentID)  # the other panel needs voxels
    assert mask.sum() * abs(np.linalg.det(to_ras[:3, :3])) / 1000 == pytest.approx(33.5, rel=0.05)


def test_a_reconstruction_has_an_error_map_and_a_skeleton_with_legends(host, panel):
    import slicer
    from MedShapeSlicer import displays, shapes

    panel.parameters.task, panel.parameters.first = 1, ball()
    panel.ui.applyButton.click()
    finished(host, panel)
    model = shapes.modelsOf(panel.parameters.result)[0]
    display = model.GetDisplayNode()
    assert model.GetName() == "reconstruction" and display.GetActiveScalarName() == "error_mm"
    assert list(display.GetScalarRange()) == [-2.0, 2.0] and "mm" in displays.legendOf(model).GetTitleText()
    points = slicer.util.arrayFromModelPoints(model)
    error = slicer.util.arrayFromModelPointData(model, "error_mm")
    assert np.allclose(error, -points[:, 0] / 20, atol=1e-4)  # the error grows with L, the model is in RAS
    skeleton = slicer.util.getNode("skeleton")
    assert not skeleton.GetDisplayNode().GetVisibility() and displays.legendOf(model).GetVisibility()
    panel.ui.skeletonBox.checked = True
    assert skeleton.GetDisplayNode().GetVisibility() and display.GetOpacity() < 0.5
    assert displays.legendOf(skeleton).GetVisibility() and not displays.legendOf(model).GetVisibility()  # one at a time
    assert np.ptp(box(skeleton)[0]) == pytest.approx(9 + 6, abs=0.5)  # from L 9 (4 mm around 5) to R 6


def test_export_writes_each_shape_once(host, done, tmp_path):
    done.parameters.exportFolder = tmp_path
    done.ui.exportButton.click()
    done.ui.exportButton.click()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([f"kidney_{n}.stl" for n in (1, 2, 3)] + [f"kidney_{n}_2.stl" for n in (1, 2, 3)])
    assert b"SPACE=LPS" in (tmp_path / "kidney_1.stl").read_bytes()[:80]


def test_an_export_that_cannot_be_written_says_so(host, done, tmp_path):
    (tmp_path / "file").write_text("no folder")
    done.parameters.exportFolder = tmp_path / "file"
    done.ui.exportButton.click()
    assert "Nothing was written to" in done.ui.statusLabel.text and "another folder" in done.ui.statusLabel.text


def test_a_saved_scene_opens_in_the_same_state(host, done, tmp_path):
    done.parameters.seed, done.parameters.row = 5, 1
    host.save_and_reopen(tmp_path / "case.mrb")
    assert done.ui.seedSpin.value == 5 and done.parameters.category == "kidney"
    assert done.ui.shapeTable.rowCount == 3 and done.ui.shapeTable.currentRow() == 1


def test_sample_data_gives_two_closed_kidneys_and_an_open_part(host):
    import SampleData
    import vtk

    models = SampleData.SampleDataLogic().downloadSamples("Kidneys")
    assert [model.GetName() for model in models] == ["KidneyA", "KidneyB", "KidneyPart"]
    for model, side_mm, open_edges in zip(models, (119, 96, None), (False, False, True), strict=True):
        edges = vtk.vtkFeatureEdges()
        edges.SetInputData(model.GetPolyData())
        edges.FeatureEdgesOff()
        edges.ManifoldEdgesOff()
        edges.Update()
        assert bool(edges.GetOutput().GetNumberOfCells()) is open_edges
        assert side_mm is None or np.ptp(box(model), axis=1).max() == pytest.approx(side_mm, abs=0.5)
    assert box(models[0])[0, 0] > box(models[1])[0, 1] and box(models[2])[0, 1] < box(models[1])[0, 0]  # side by side


def test_cancel_leaves_nothing(host, panel):
    panel.logic.rehearse("--seconds", "20")
    panel.ui.applyButton.click()
    host.process_until(lambda: "rehearsing" in panel.ui.statusLabel.text)
    panel.ui.applyButton.click()
    host.process_until(lambda: panel.logic.runner.idle, 2)
    assert panel.parameters.result is None and "Cancelled" in panel.ui.statusLabel.text


@pytest.mark.parametrize(
    ("end", "words"),
    [("die", "stopped without a result"), ("memory", "not enough memory"), ("disk", "disk is full"), ("refuse", "Give a point.")],
)
def test_a_bad_end_is_one_sentence_and_leaves_nothing(host, panel, end, words):
    import slicer

    nodes = slicer.mrmlScene.GetNumberOfNodes()
    panel.logic.rehearse("--end", end)
    panel.ui.applyButton.click()
    host.process_until(lambda: panel.logic.runner.idle, 40)
    assert words in panel.ui.statusLabel.text and panel.ui.applyButton.enabled and panel.ui.applyButton.text == "Make shapes"
    assert panel.parameters.result is None and slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_the_self_test_passes_as_slicer_runs_it(host):
    host.run_self_test("MedShapeGen")
