"""CranialImplant in 3D Slicer: proposals for a cranial implant, with a map of where they differ."""

import json
import pathlib
import sys
import tempfile
from typing import Annotated

import ctk
import qt
import slicer
import vtk
from slicer import vtkMRMLMarkupsNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

HERE = pathlib.Path(__file__).resolve().parent
# Slicer merges the extension's modules into one folder; in the source tree the shared packages lie beside this one.
SHARED = HERE if (HERE / "MedShapeSlicer").is_dir() else HERE.parent / "MedShapeGen"
if str(SHARED) not in sys.path:
    sys.path.append(str(SHARED))

from MedShapeSlicer import displays, geometry, holes, implants, nodes, samples  # noqa: E402
from MedShapeSlicer.panel import Choice, JobLogic, JobPanel, enable, fillTable  # noqa: E402


class CranialImplant(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Cranial Implant")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["MedShapeGen maintainers"]
        self.parent.helpText = _(
            "Proposes implants for a skull with a hole, shows where the proposals differ, checks them and exports them for "
            "printing. Choose the segment of the skull's bone and click Generate implant. For research, not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "After Friedrich et al., Point Cloud Diffusion Models for Automatic Implant Generation (MICCAI 2023). The weights were "
            "trained on public skulls and carry the licence CC BY-NC-SA 4.0; the program is Apache-2.0."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    samples.register(HERE, "SkullWithHole", {"SkullWithHole": "SkullWithHole.seg.nrrd"}, "SegmentationFile")


class Quality(Choice):
    best = _("Best")
    fast = _("Fast")


class Device(Choice):
    auto = _("Automatic")
    cpu = _("Processor")
    cuda = _("Graphics card (CUDA)")


class Showing(Choice):
    one = _("The implant selected in the list")
    all = _("All implants")
    mean = _("The mean implant")


class OnSlices(Choice):
    nothing = _("Nothing")
    Variance = _("Variance of the implants")
    Agreement = _("How many implants agree")


@parameterNodeWrapper
class CranialImplantParameterNode:
    """The panel's state; saved with the scene."""

    inputSegmentation: vtkMRMLSegmentationNode
    inputSegmentID: str
    ctVolume: vtkMRMLScalarVolumeNode
    boneThreshold: Annotated[float, WithinRange(-200, 3000)] = 300.0
    place: vtkMRMLMarkupsNode
    hole: int = 0  # 0 = the largest
    members: Annotated[int, WithinRange(1, 20)] = 5
    seed: Annotated[int, WithinRange(0, 2147483647)] = 0
    quality: Quality = Quality.best
    device: Device = Device.auto
    result: vtkMRMLSegmentationNode
    currentSegmentID: str
    showing: Showing = Showing.one
    opacity: Annotated[float, WithinRange(0, 1)] = 1.0
    onSlices: OnSlices = OnSlices.nothing
    spread: bool = False
    exportFolder: pathlib.Path
    withPiece: bool = False
    overrideReason: str


class CranialImplantWidget(JobPanel):
    applyText = _("Generate implant")
    labels = {"holes": "holeLabel", "bone": "boneLabel", "export": "exportResult"}

    def setup(self):
        self.overlay, self._shown, self._ct, self._place, self._placeWords = displays.Overlay(), None, None, None, ""
        self.setUp(CranialImplantLogic(), {
            "applyButton": lambda: self.begin("apply", lambda: self.logic.generate(self.parameters)),
            "findButton": lambda: self.begin("holes", lambda: self.logic.findHoles(self.parameters)),
            "boneButton": lambda: self.begin("bone", lambda: self.logic.makeBone(self.parameters)),
            "exportButton": lambda: self.begin("export", lambda: self.logic.export(self.parameters)),
            "previousButton": lambda: self.step(-1), "nextButton": lambda: self.step(1),
            "chooseButton": self.onChoose, "editButton": self.onEdit, "tableButton": self.onTable,
        })  # fmt: skip
        ui = self.ui
        ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onInputNode)
        ui.inputSelector.connect("currentSegmentChanged(QString)", self.onInputSegment)
        ui.resultSelector.addAttribute("vtkMRMLSegmentationNode", implants.RESULT)
        ui.folderEdit.filters = ctk.ctkPathLineEdit.Dirs | ctk.ctkPathLineEdit.Writable
        ui.holeBox.connect("currentIndexChanged(int)", self.onHole)
        ui.memberTable.connect("currentCellChanged(int,int,int,int)", self.onRow)
        ui.memberTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.memberTable.verticalHeader().setDefaultSectionSize(24)
        for key, by in ((qt.Qt.Key_Left, -1), (qt.Qt.Key_Right, 1)):
            shortcut = qt.QShortcut(qt.QKeySequence(key), ui.memberTable)
            shortcut.setContext(qt.Qt.WidgetShortcut)
            shortcut.connect("activated()", lambda offset=by: self.step(offset))

    def cleanup(self):
        self.overlay.show(None)
        JobPanel.cleanup(self)

    def onSceneStartClose(self, caller=None, event=None):
        self.logic.forgetHoles()
        JobPanel.onSceneStartClose(self, caller, event)
        self.overlay = displays.Overlay()

    def setParameterNode(self, parameters):
        self._shown, self._ct = None, parameters.ctVolume if parameters else None
        JobPanel.setParameterNode(self, parameters)

    def setDefaults(self, p):
        if p.inputSegmentation is None:
            found = [n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if not n.GetAttribute(implants.RESULT)]
            if found:
                p.inputSegmentation, p.inputSegmentID = found[0], nodes.boneSegmentID(found[0])
        if str(p.exportFolder) in ("", "."):
            p.exportFolder = pathlib.Path(slicer.mrmlScene.GetRootDirectory() or pathlib.Path.home())

    def show(self, p):
        ui = self.ui
        if ui.inputSelector.currentNode() is not p.inputSegmentation:
            ui.inputSelector.setCurrentNode(p.inputSegmentation)
        if p.inputSegmentation and p.inputSegmentID and ui.inputSelector.currentSegmentID() != p.inputSegmentID:
            ui.inputSelector.setCurrentSegmentID(p.inputSegmentID)
        noInput = "" if p.inputSegmentation and p.inputSegmentID else _(
            "First choose the segmentation of the skull and in it the segment of the bone. To try it: Sample Data, SkullWithHole."
        )
        noPlace = self.showHoles(p)
        self.showApply(noInput or noPlace, _("Makes the proposals; they come in a new folder of the scene."))
        enable(ui.findButton, noInput or self.busy, _("Shows the holes of this skull before anything is made."))
        if p.ctVolume is not self._ct:
            self._ct = p.ctVolume
            if p.ctVolume:
                slicer.util.setSliceViewerLayers(background=p.ctVolume, fit=True)
        noVolume = "" if p.ctVolume else _("First choose a CT volume.")
        enable(ui.boneButton, noVolume or self.busy, _("Makes a segment of all bone at or above the threshold."))
        rows = implants.rankedSegments(p.result) if p.result else []
        ids = [row[0] for row in rows]
        if ids and p.currentSegmentID not in ids:
            p.currentSegmentID = ids[0]
        none = "" if rows else _("There are no proposals yet.")
        for button, tip in (
            (ui.previousButton, _("The implant above in the list (left arrow).")), (ui.nextButton, _("The implant below (right arrow).")),
            (ui.chooseButton, _("Marks this implant as the one to use.")), (ui.tableButton, _("Shows all figures as a table.")),
            (ui.editButton, _("Opens this implant in the Segment Editor; come back to check and export it.")),
        ):  # fmt: skip
            enable(button, none, tip)
        noFolder = "" if str(p.exportFolder) not in ("", ".", "None") else _("First choose a folder.")
        enable(ui.exportButton, none or noInput or noFolder or self.busy, _("Checks the implant as it is now and writes it."))
        texts = [implants.listRow(p.result, *row) for row in rows]
        fillTable(ui.memberTable, texts, ids.index(p.currentSegmentID) if rows else -1)
        related = implants.related(p.result, p.onSlices.name)
        shown = (p.result and p.result.GetID(), p.currentSegmentID, p.showing, p.opacity, p.spread, related, p.ctVolume)
        if shown != self._shown:
            self._shown = shown
            if p.result:
                implants.showResult(p.result, p.currentSegmentID, p.showing.name, p.opacity, p.spread, related is None)
            self.overlay.show(related, background=p.ctVolume)

    def showPlace(self, caller=None, event=None):
        self.refresh()  # not `refresh` itself, which is an observer of the parameters

    def showHoles(self, p):
        """Returns why no run can start for the user's point or ROI, which is looked at again when it moves."""
        if p.place is not self._place:
            self.removeObservers(self.showPlace)
            self._place = p.place
            for event in (vtk.vtkCommand.ModifiedEvent, p.place.PointModifiedEvent, p.place.PointRemovedEvent) if p.place else ():
                self.addObserver(p.place, event, self.showPlace)
        problem, self._placeWords = holes.showHoles(self.ui, p, self.logic.holes, self._placeWords)
        return problem

    # ---- what the user does

    def onInputNode(self, node):
        if self.parameters and not self._refreshing and node is not self.parameters.inputSegmentation:
            self.forgetHoles()
            self.parameters.inputSegmentID = nodes.boneSegmentID(node) if node else ""
            self.parameters.inputSegmentation = node

    def onInputSegment(self, segmentID):
        if self.parameters and not self._refreshing and segmentID and segmentID != self.parameters.inputSegmentID:
            self.forgetHoles()
            self.parameters.inputSegmentID = segmentID

    def forgetHoles(self):
        self.logic.forgetHoles()
        self.parameters.hole, self.ui.holeLabel.text, self.ui.holeLabel.visible = 0, "", False

    def onHole(self, index):
        if self.parameters and not self._refreshing and index >= 0:
            self.parameters.hole = index
            if 0 < index <= len(self.logic.holes):
                displays.sliceTo(holes.centreOfHole(self.logic.holes[index - 1]))

    def onRow(self, row, column, oldRow, oldColumn):
        if self.parameters and not self._refreshing and row >= 0:
            self.parameters.overrideReason = ""  # it was given for another implant
            self.parameters.currentSegmentID = implants.rankedSegments(self.parameters.result)[row][0]

    def step(self, by):
        count = self.ui.memberTable.rowCount
        if count:
            self.ui.memberTable.setCurrentCell((self.ui.memberTable.currentRow() + by) % count, 0)

    def onChoose(self):
        name = implants.choose(self.parameters.result, self.parameters.currentSegmentID)
        self.ui.exportSection.collapsed = False
        self.say(_("{name} is marked as the one to use. Edit or export it below.").format(name=name))
        self.refresh()

    def onEdit(self):
        p = self.parameters
        p.showing, p.spread = Showing.one, False
        displays.openEditor(p.result, p.currentSegmentID)

    def onTable(self):
        displays.showTable(implants.related(self.parameters.result, "Table"))

    def onEnd(self, error, text):
        made = self.task == "apply" and error is None
        JobPanel.onEnd(self, error, text)
        p = self.parameters  # None when the user went to another module meanwhile
        if made and p is not None and p.result is not None and p.inputSegmentation is not None:
            displays.sliceTo(displays.centreOf(p.result))
            displays.lookAt(displays.centreOf(p.result), displays.centreOf(p.inputSegmentation))


class CranialImplantLogic(JobLogic):
    """Nodes to files and results to nodes; `p` is a CranialImplantParameterNode."""

    module, engine, parameterClass = "CranialImplant", "CranialImplantLib", CranialImplantParameterNode

    def __init__(self):
        JobLogic.__init__(self, HERE)
        self.holes, self._outlines, self._preview = [], [], None

    def writeInput(self, p, folder):
        geometry.writeSegment(p.inputSegmentation, p.inputSegmentID, folder / "skull.nrrd")
        return {"input": "skull.nrrd"}

    def generate(self, p, wait=False):
        """Makes the proposals; `p.result` is the new segmentation afterwards."""
        options = {"members": p.members, "seed": p.seed, "quality": p.quality.name, "device": p.device.name}
        options["hole"] = p.hole or None
        sourceID, name = p.inputSegmentation.GetID(), p.inputSegmentation.GetName()
        attributes = {f"CranialImplant.{key}": str(value) for key, value in options.items()}
        attributes |= {"CranialImplant.InputSegmentationID": sourceID, "CranialImplant.InputSegmentID": p.inputSegmentID}

        def prepare(folder):
            place = holes.placeOptions(p.place, p.inputSegmentation, self.holes)
            return {"task": "generate", "outputs": "scene", "options": options | place, **self.writeInput(p, folder)}

        def receive(result, folder):
            self.notices = result["notices"]
            source = slicer.mrmlScene.GetNodeByID(sourceID)  # it may have been removed meanwhile
            made = yield from implants.receiveImplants(result, folder, name, source, attributes)
            p.showing, p.overrideReason, p.result, p.currentSegmentID = Showing.one, "", made, ""  # the panel takes the best one
            self.words = implants.summary(result)

        def preview(event, folder):
            surface = geometry.readSurface(folder / event["surface"])
            qt.QTimer.singleShot(0, lambda: self.showPreview(surface, sourceID))  # a turn of the event loop of its own

        self.job(prepare, receive, lambda: self.words, preview, wait)

    def showPreview(self, surface, sourceID):
        if self._preview is None and self.runner.state == "running":
            self._preview = implants.preview(surface, slicer.mrmlScene.GetNodeByID(sourceID))

    def jobEnded(self):
        if self._preview is not None:
            nodes.removeWhole(self._preview)
            self._preview = None

    def findHoles(self, p, wait=False):
        """Looks for the holes; `holes` lists them afterwards, and their outlines are in the views."""
        self.forgetHoles()

        def receive(result, folder):
            self.holes = result["holes"]
            self._outlines = [holes.outline(hole) for hole in self.holes]
            if self.holes:
                centre = holes.centreOfHole(self.holes[0])
                displays.sliceTo(centre)
                displays.lookAt(centre, displays.centreOf(p.inputSegmentation))
            yield "", 1.0

        request = {"task": "holes", "device": p.device.name}
        self.job(lambda folder: request | self.writeInput(p, folder), receive, lambda: holes.holesFound(self.holes), wait=wait)

    def forgetHoles(self):
        for node in self._outlines:
            nodes.removeWhole(node)
        self.holes, self._outlines = [], []

    def makeBone(self, p, wait=False):
        """Makes a bone segment of the CT volume, in a new segmentation that becomes the input."""
        volume, threshold = p.ctVolume, p.boneThreshold

        def prepare(folder):
            geometry.writeVolume(volume, folder / "ct.nrrd")
            return {"task": "bone", "input": "ct.nrrd", "bone_threshold": threshold}

        def receive(result, folder):
            made = implants.boneSegmentation(result, folder, volume)
            p.inputSegmentID, p.inputSegmentation = "bone", made
            yield "", 1.0

        self.job(prepare, receive, lambda: _("The bone segment was made. Look at it before you go on."), wait=wait)

    def export(self, p, wait=False):
        """Checks the current implant as it is now and writes STL and JSON; `written` lists the files."""
        segmentation, segmentID, reason = p.result, p.currentSegmentID, p.overrideReason.strip() or None
        target = pathlib.Path(p.exportFolder)
        name = nodes.freeName(target, implants.fileName(segmentation, segmentID), (".stl", ".json", "_skull.stl"))
        generated = implants.checksOf(segmentation, segmentID)

        def prepare(folder):
            geometry.writeTogether(segmentation, segmentID, p.inputSegmentation, p.inputSegmentID, folder)
            return {
                "task": "handover", "bone": "bone.nrrd", "implant": "implant.nrrd", "name": name, "override": reason,
                "with_piece": p.withPiece, "agreement": generated.get("agreement"),
                "provenance": implants.provenance(segmentation, segmentID, generated),
            }  # fmt: skip

        def receive(result, folder):
            self.written = nodes.deliver([folder / file for file in result["written"]], target) if result["written"] else []
            implants.recordExport(segmentation, segmentID, result, reason)
            self.words = implants.exportWords(result, target, generated)
            if self.written:
                p.overrideReason = ""  # it was for this implant as it is now
            yield "", 1.0

        self.job(prepare, receive, lambda: self.words, wait=wait)


class CranialImplantTest(ScriptedLoadableModuleTest):
    """Runs everywhere: its worker needs neither torch nor weights."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_FromSkullToStl()

    def test_FromSkullToStl(self):
        self.delayDisplay("A sphere with a hole")
        logic = CranialImplantLogic()
        logic.rehearse()
        p = logic.getParameterNode()
        p.inputSegmentation, p.inputSegmentID = implants.sphereWithHole(), "bone"
        logic.findHoles(p, wait=True)
        self.assertEqual([hole["side"] for hole in logic.holes], ["left"])
        logic.generate(p, wait=True)
        ranked = implants.rankedSegments(p.result)
        self.assertEqual(len(ranked), p.members + 1)
        self.assertTrue(ranked[0][1]["passed"])
        self.assertEqual(json.loads(implants.related(p.result, "Report").GetText())["options"]["seed"], p.seed)
        p.currentSegmentID = ranked[0][0]
        with tempfile.TemporaryDirectory() as folder:
            p.exportFolder = pathlib.Path(folder)
            logic.export(p, wait=True)
            self.assertEqual([path.suffix for path in logic.written], [".stl", ".json"])
            self.assertIn(b"SPACE=LPS", logic.written[0].read_bytes()[:80])
        self.delayDisplay("Passed")
