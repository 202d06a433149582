"""Pictures of the panels and views for the README, drawn in the test host with the real engines and the sample data.

    python Testing/in_slicer/pictures.py Resources/Screenshots

Each carries a line that says so: the application's widgets look a little different. About a minute without other work.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing")]
VIEW = (640, 520)
WORDS = "Drawn by the test host (Testing/slicer_host), not by the application. Research use only."


def image_of(array):
    import numpy as np
    from PySide6.QtGui import QImage

    array = np.ascontiguousarray(array[..., :3])
    return QImage(array.data, array.shape[1], array.shape[0], 3 * array.shape[1], QImage.Format_RGB888).copy()


def composed(path, panel, views):
    """One picture: the panel on the left, the views below each other on the right, and where it was drawn."""
    from PySide6.QtCore import Qt
    from PySide6.QtGui import QColor, QImage, QPainter

    foot = 24 if views else 40  # two lines under a panel alone
    height = max(panel.height(), sum(view.height() for view in views)) + foot + 2
    picture = QImage(panel.width() + max((view.width() for view in views), default=0), height, QImage.Format_RGB888)
    picture.fill(QColor(239, 239, 239))
    painter = QPainter(picture)
    painter.drawImage(0, 0, panel)
    top = 0
    for view in views:
        painter.drawImage(panel.width(), top, view)
        top += view.height()
    painter.drawText(8, height - foot, picture.width() - 16, foot - 2, Qt.AlignLeft | Qt.AlignVCenter | Qt.TextWordWrap, WORDS)
    painter.end()
    picture.save(str(path))


def finish(host, panel):
    host.process_until(lambda: panel.logic.runner.idle, 600)
    if panel.logic.error is not None:
        raise RuntimeError(panel.logic.error)


def views(host, *names):
    return [image_of(host.view_picture(name, None, VIEW)) for name in names]


def made_up_ct(skull):
    """A volume with bright bone on dark ground: the sample data has no CT."""
    import numpy as np
    import slicer
    from MedShapeSlicer import geometry

    bone, extent, to_ras = geometry.segmentGrid(skull, skull.GetSegmentation().GetNthSegmentID(0))
    grey = np.where(bone, 900, -100) + np.random.default_rng(0).normal(0, 40, bone.shape)
    to_ras[:3, 3] += to_ras[:3, :3] @ extent[0::2]
    volume = slicer.util.addVolumeFromArray(grey.astype(np.int16), ijkToRAS=to_ras, name="made-up CT")
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevelMinMax(-300, 1300)
    return volume


def cranial(host, folder, exported):
    """The tutorial of CranialImplant: empty, hole, running, done with the maps, exported, an error."""
    import SampleData
    import slicer

    panel = host.open_panel("CranialImplant")
    ui = panel.ui
    composed(folder / "CranialImplant-1-empty.png", host.picture(panel), [])
    SampleData.downloadSample("SkullWithHole")
    skull = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
    skull.CreateClosedSurfaceRepresentation()
    host.close_panel()
    host.open_panel("CranialImplant")
    p, choices = panel.parameters, sys.modules["CranialImplant"]
    p.ctVolume = made_up_ct(skull)
    slicer.util.setSliceViewerLayers(background=p.ctVolume, fit=True)
    ui.findButton.click()
    finish(host, panel)
    composed(folder / "CranialImplant-2-hole.png", host.picture(panel), views(host, "3D"))
    ui.applyButton.click()
    host.process_until(lambda: ui.progressBar.value > 40, 600)
    composed(folder / "CranialImplant-3-running.png", host.picture(panel), [])
    finish(host, panel)
    composed(folder / "CranialImplant-4-implants.png", host.picture(panel), views(host, "3D", "Red"))
    p.onSlices, p.spread = choices.OnSlices.Variance, True
    composed(folder / "CranialImplant.png", host.picture(panel), views(host, "3D", "Red"))
    p.onSlices, p.spread, p.withPiece, p.exportFolder = choices.OnSlices.Agreement, False, True, exported
    ui.chooseButton.click()
    ui.exportButton.click()
    finish(host, panel)
    composed(folder / "CranialImplant-5-export.png", host.picture(panel), views(host, "Green"))
    ui.exportSection.collapsed = True
    skull.GetSegmentation().AddEmptySegment("nothing", "Nothing")
    ui.inputSelector.setCurrentSegmentID("nothing")
    ui.applyButton.click()
    composed(folder / "CranialImplant-6-error.png", host.picture(panel), [])


def shapes(host, folder, exported, category):
    """The tutorial of MedShapeGen: empty, running, generated shapes, a reconstruction, steps, completions, an error."""
    import SampleData

    panel = host.open_panel("MedShapeGen")
    p, ui = panel.parameters, panel.ui
    p.exportFolder = exported
    composed(folder / "MedShapeGen-1-empty.png", host.picture(panel), [])
    p.category = category
    ui.applyButton.click()
    host.process_until(lambda: ui.progressBar.value > 30, 600)
    composed(folder / "MedShapeGen-2-running.png", host.picture(panel), [])
    finish(host, panel)
    composed(folder / "MedShapeGen.png", host.picture(panel), views(host, "3D"))
    whole, other, part = SampleData.SampleDataLogic().downloadSamples("Kidneys")
    other.GetDisplayNode().SetVisibility(False)
    part.GetDisplayNode().SetVisibility(False)
    p.second = other
    for task, given in ((1, whole), (2, whole), (3, part)):
        p.task, p.first = task, given
        ui.applyButton.click()
        finish(host, panel)
        given.GetDisplayNode().SetVisibility(False)
        name = ("reconstruct", "interpolate", "complete")[task - 1]
        p.row = 2 if name == "interpolate" else 0
        composed(folder / f"MedShapeGen-{task + 2}-{name}.png", host.picture(panel), views(host, "3D"))
    p.category = "hippocampus"  # which no kidney fits
    ui.applyButton.click()
    host.process_until(lambda: panel.logic.runner.idle, 600)
    composed(folder / "MedShapeGen-6-error.png", host.picture(panel), [])


def main(folder):
    from slicer_host.host import Host

    host = Host([ROOT / "CranialImplant", ROOT / "MedShapeGen"])
    from MedShapeSlicer import dependencies

    dependencies.licenceAccepted = lambda *_: True  # nobody is here to be asked
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as exported:
        cranial(host, folder, Path(exported) / "implants")
        host.close_scene()
        shapes(host, folder, Path(exported) / "shapes", "kidney")
    faults = host.take_faults()
    print("\n\n".join(faults) or f"The pictures are in {folder}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
