"""Nodes to files: grids that are oblique, anisotropic, flipped, cropped or under a transform end where they are in space."""

import re

import numpy as np
import pytest


def read(path):
    """(array (k, j, i), ijk_to_lps) of one of our NRRD files, by a reader that did not write it."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
    sizes = [int(v) for v in fields["sizes"].split()]
    vectors = [[float(v) for v in part.split(",")] for part in re.findall(r"\(([^)]*)\)", fields["space directions"])]
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(vectors).T
    matrix[:3, 3] = [float(v) for v in fields["space origin"].strip("()").split(",")]
    kinds = {"uint8": np.uint8, "int16": np.int16}
    return np.frombuffer(body, kinds[fields["type"]]).reshape(sizes[::-1]), matrix


def middle_lps(array, matrix):
    index = np.argwhere(array > 0)[:, ::-1]
    return (index @ matrix[:3, :3].T + matrix[:3, 3]).mean(0)


OBLIQUE = np.array([[0.9, -0.2, 0, 5], [0.2, 0.95, 0.1, -20], [0, -0.1, 2.0, 7], [0, 0, 0, 1]])
FLIPPED = np.diag([-0.8, 0.7, 1.5, 1.0]) + np.array([[0, 0, 0, 30.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.fixture(params=[OBLIQUE, FLIPPED], ids=["oblique", "flipped"])
def case(request, host):
    """(segmentation, volume, to_ras): one block of voxels in a scan of 20 x 30 x 40 (k, j, i)."""
    import slicer

    voxels = np.zeros((20, 30, 40), np.int16)
    voxels[5:9, 10:16, 20:31] = 500
    volume = slicer.util.addVolumeFromArray(voxels, ijkToRAS=request.param, name="ct")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "head")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.GetSegmentation().AddEmptySegment("bone", "Bone")
    slicer.util.updateSegmentBinaryLabelmapFromArray((voxels > 0).astype(np.uint8), segmentation, "bone", volume)
    return segmentation, volume, request.param


def wanted_lps(to_ras):
    return (to_ras @ [25.0, 12.5, 6.5, 1.0])[:3] * [-1, -1, 1]


def test_a_segment_is_written_on_the_whole_scan_where_it_is(case, tmp_path):
    from MedShapeSlicer import geometry

    segmentation, _, to_ras = case
    geometry.writeSegment(segmentation, "bone", tmp_path / "a.nrrd")
    array, matrix = read(tmp_path / "a.nrrd")
    assert array.shape == (20, 30, 40) and array.sum() == 4 * 6 * 11  # room around the bone for an implant
    assert np.allclose(middle_lps(array, matrix), wanted_lps(to_ras), atol=1e-4)


def test_a_segment_that_is_stored_cropped_gets_the_room_of_its_scan(case, tmp_path):
    from MedShapeSlicer import geometry, nodes

    segmentation, _, to_ras = case
    cropped = to_ras.copy()
    cropped[:3, 3] += to_ras[:3, :3] @ [20, 10, 5]
    nodes.addSegment(segmentation, "cropped", "Cropped", (1, 0, 0), np.ones((4, 6, 11), np.uint8), cropped)
    geometry.writeSegment(segmentation, "cropped", tmp_path / "a.nrrd")
    array, matrix = read(tmp_path / "a.nrrd")
    assert array.shape == (20, 30, 40) and array.sum() == 4 * 6 * 11
    assert np.allclose(middle_lps(array, matrix), wanted_lps(to_ras), atol=1e-4)


def test_a_transform_moves_the_file_and_one_that_bends_is_refused(case, tmp_path):
    import slicer
    import vtk
    from MedShapeCore.errors import RefusedInput
    from MedShapeSlicer import geometry

    segmentation, _, to_ras = case
    move = np.array([[0, -1, 0, 3], [1, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(move))
    segmentation.SetAndObserveTransformNodeID(node.GetID())
    geometry.writeSegment(segmentation, "bone", tmp_path / "a.nrrd")
    array, matrix = read(tmp_path / "a.nrrd")
    assert np.allclose(middle_lps(array, matrix), wanted_lps(move @ to_ras), atol=1e-4)
    bending = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    bending.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    segmentation.SetAndObserveTransformNodeID(bending.GetID())
    with pytest.raises(RefusedInput, match="not linear"):
        geometry.writeSegment(segmentation, "bone", tmp_path / "b.nrrd")


def test_a_volume_is_written_where_it_is(case, tmp_path):
    from MedShapeSlicer import geometry

    _, volume, to_ras = case
    geometry.writeVolume(volume, tmp_path / "ct.nrrd")
    array, matrix = read(tmp_path / "ct.nrrd")
    assert array.dtype == np.int16 and array.max() == 500
    assert np.allclose(middle_lps(array, matrix), wanted_lps(to_ras), atol=1e-4)


def test_one_of_several_segments_in_a_shared_layer_is_written_alone(host, case, tmp_path):
    import slicer
    from MedShapeSlicer import geometry

    segmentation, volume, _ = case
    other = np.zeros((20, 30, 40), np.uint8)
    other[15:17, 3:5, 3:5] = 1
    segmentation.GetSegmentation().AddEmptySegment("brain", "Brain")
    slicer.util.updateSegmentBinaryLabelmapFromArray(other, segmentation, "brain", volume)
    segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert segmentation.GetSegmentation().GetNumberOfLayers() == 1
    geometry.writeSegment(segmentation, "brain", tmp_path / "a.nrrd")
    assert read(tmp_path / "a.nrrd")[0].sum() == 8


def test_the_bone_segment_is_found_by_its_name_or_left_to_the_user(host, case):
    from MedShapeSlicer import nodes

    segmentation, _, _ = case
    inside = segmentation.GetSegmentation()
    assert nodes.boneSegmentID(segmentation) == "bone"
    inside.AddEmptySegment("x", "Brain")
    assert nodes.boneSegmentID(segmentation) == "bone"
    inside.AddEmptySegment("y", "Skull base")
    assert nodes.boneSegmentID(segmentation) == ""


def test_a_ct_becomes_a_bone_segment_on_its_own_grid(host):
    import slicer

    ct = slicer.util.addVolumeFromArray(np.zeros((60, 60, 60), np.int16), ijkToRAS=np.diag([2.0, 2.0, 2.0, 1.0]), name="CT")
    panel = host.open_panel("CranialImplant")
    panel.logic.rehearse()
    panel.parameters.ctVolume = ct
    panel.ui.boneButton.click()
    host.process_until(lambda: panel.logic.runner.idle, 40)
    p = panel.parameters
    assert p.inputSegmentation.GetName() == "CT bone" and p.inputSegmentID == "bone" and panel.ui.applyButton.enabled
    assert p.inputSegmentation.GetNodeReference(p.inputSegmentation.GetReferenceImageGeometryReferenceRole()) is ct


def test_a_segmentation_from_a_file_keeps_the_grid_of_its_scan_when_the_scene_is_saved(host, tmp_path):
    """Slicer crops what it saves; on a smaller grid the same seed would give other implants."""
    import SampleData
    import slicer
    from MedShapeSlicer import geometry

    geometry.writeSegment(SampleData.downloadSample("SkullWithHole"), "Skull", tmp_path / "before.nrrd")
    host.save_and_reopen(tmp_path / "case.mrb")
    geometry.writeSegment(slicer.util.getNode("SkullWithHole"), "Skull", tmp_path / "after.nrrd")
    assert b"sizes: 187 254 159" in (tmp_path / "before.nrrd").read_bytes()[:400]
    assert (tmp_path / "after.nrrd").read_bytes() == (tmp_path / "before.nrrd").read_bytes()
