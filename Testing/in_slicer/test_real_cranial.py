"""CranialImplant's button with the real engine and the bundled weights, from the sample skull to the STL."""

import json

import numpy as np
import pytest
from scipy.spatial import cKDTree

try:
    import resource
except ImportError:  # Windows
    resource = None

def finished(host, panel):
    host.process_until(lambda: panel.logic.runner.idle, 240)
    assert panel.logic.error is None, panel.logic.error


def stl_corners(path):
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    return np.frombuffer(path.read_bytes()[84:], record)["corners"].reshape(-1, 3)


@pytest.mark.timeout(600)
def test_from_the_sample_skull_to_the_stl(host, tmp_path):
    import SampleData
    import slicer
    from MedShapeSlicer import geometry, implants
    from vtk.util.numpy_support import vtk_to_numpy

    SampleData.downloadSample("SkullWithHole")
    panel = host.open_panel("CranialImplant")
    panel.logic = type(panel.logic)()  # the engine's worker, whatever an earlier test chose
    p, ui = panel.parameters, panel.ui
    p.members, p.quality = 2, type(p.quality).fast
    host.answer(True)  # the weights' licence
    ui.applyButton.click()
    finished(host, panel)
    assert "2 of 2" in ui.statusLabel.text
    mask, extent, to_ras = geometry.segmentGrid(p.result, "Implant_1")
    bone, bone_extent, bone_to_ras = geometry.segmentGrid(p.inputSegmentation, p.inputSegmentID)
    check = dict(implants.rankedSegments(p.result))["Implant_1"]
    voxel_ml = abs(np.linalg.det(to_ras[:3, :3])) / 1000
    assert mask.sum() * voxel_ml == pytest.approx(check["volume_ml"], rel=1e-6) and 30 < check["volume_ml"] < 60

    p.currentSegmentID, p.exportFolder = "Implant_1", tmp_path
    ui.exportButton.click()
    finished(host, panel)
    corners = stl_corners(tmp_path / "implant_1.stl") * [-1, -1, 1]  # LPS to RAS
    surface = p.result.GetClosedSurfaceInternalRepresentation("Implant_1")
    shown = vtk_to_numpy(surface.GetPoints().GetData())
    assert cKDTree(shown).query(corners)[0].mean() <= 0.2  # the worker's surface
    index = np.argwhere(mask)[:, ::-1] + extent[0::2]
    centres = index @ to_ras[:3, :3].T + to_ras[:3, 3]
    half_diagonal = np.linalg.norm(np.linalg.norm(to_ras[:3, :3], axis=0)) / 2
    assert np.percentile(cKDTree(centres).query(corners)[0], 95) <= half_diagonal * 1.05
    bone_index = np.argwhere(bone)[:, ::-1] + bone_extent[0::2]
    bone_ras = bone_index @ bone_to_ras[:3, :3].T + bone_to_ras[:3, 3]
    assert cKDTree(bone_ras).query(centres)[0].min() > 0.5  # no voxel of it is bone
    sidecar = json.loads((tmp_path / "implant_1.json").read_text())
    assert sidecar["provenance"]["generated"]["volume_ml"] == pytest.approx(check["volume_ml"])
    assert slicer.util.getNode("SkullWithHole implant") is p.result


@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process's memory, which Linux alone can")
def test_an_engine_without_memory_says_so_and_leaves_nothing(host):
    """The real worker, to which the system gives no more memory from the middle of the run on."""
    import SampleData
    import slicer

    SampleData.downloadSample("SkullWithHole")
    panel = host.open_panel("CranialImplant")
    panel.logic = type(panel.logic)()
    host.answer(True)  # the weights' licence
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    panel.ui.applyButton.click()
    host.process_until(lambda: "pose" in panel.ui.statusLabel.text, 120)
    for pid in host.children():
        size_kb = next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmSize")).split()[1]
        limit = int(size_kb) * 1024 + 2**25
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
    host.process_until(lambda: panel.logic.runner.idle, 120)
    assert "not enough memory" in panel.ui.statusLabel.text and "Close other programs" in panel.ui.statusLabel.text
    assert panel.ui.applyButton.enabled and slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_an_edited_implant_on_bone_is_held_back_and_the_override_is_recorded(host, tmp_path):
    """The run is a rehearsal; the checks are the engine's."""
    import slicer
    from MedShapeSlicer import geometry, implants, nodes

    implants.sphereWithHole()
    panel = host.open_panel("CranialImplant")
    panel.logic = type(panel.logic)()  # the engine's worker, whatever an earlier test chose
    engine = panel.logic.program
    panel.logic.rehearse()
    panel.ui.applyButton.click()
    finished(host, panel)
    panel.logic.program = engine
    p, ui = panel.parameters, panel.ui
    p.currentSegmentID, p.exportFolder = "Implant_1", tmp_path
    segment = p.result.GetSegmentation().GetSegment("Implant_1")
    labels = slicer.util.arrayFromSegmentInternalBinaryLabelmap(p.result, "Implant_1")
    bone = geometry.segmentGrid(p.inputSegmentation, "bone")[0]
    before = labels.sum()
    labels[:] = labels | (bone & (np.indices(bone.shape)[2] < 8))  # as if drawn by hand: beyond the rim, on bone
    segment.Modified()
    ui.exportButton.click()
    finished(host, panel)
    assert labels.sum() > before and list(tmp_path.iterdir()) == []
    assert "Not exported" in ui.exportResult.text and "overlaps bone" in ui.exportResult.text and "edited" in ui.exportResult.text
    ui.overrideEdit.text = "wanted: an onlay | flange"
    ui.exportButton.click()
    finished(host, panel)
    sidecar = json.loads((tmp_path / "implant_1.json").read_text())
    assert sidecar["override"]["reason"] == "wanted: an onlay | flange" and "bone" in sidecar["override"]["failed"]
    assert (tmp_path / "implant_1.stl").exists() and "against failed checks" in ui.exportResult.text
    assert "onlay" in nodes.segmentTag(segment, "CranialImplant.Override")
