"""MedShapeGen in 3D Slicer: makes anatomical shapes, reconstructs them from few points, interpolates, completes."""

import pathlib
import sys
from typing import Annotated

import ctk
import slicer
from slicer import vtkMRMLDisplayableNode, vtkMRMLTextNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

HERE = pathlib.Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.append(str(HERE))

from MedShapeSlicer import displays, samples, shapes  # noqa: E402
from MedShapeSlicer.panel import Choice, JobLogic, JobPanel, enable, fillTable  # noqa: E402

TASKS = ("generate", "reconstruct", "interpolate", "complete")  # in the order of the tabs


class MedShapeGen(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Anatomical Shape Generator")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Surface Models")]
        self.parent.dependencies = []
        self.parent.contributors = ["MedShapeGen maintainers"]
        self.parent.helpText = _(
            "Makes shapes of organs and vessels in millimetres: new ones, reconstructions of given ones with a map of the error, shapes "
            "between two given ones, and completions of a part. For research, not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "After Zhang et al. (2026), generation of medical shapes by skeletal latents. The weights carry the licence of their data "
            "(CC BY-NC-SA 4.0); the program is Apache-2.0."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    files = {name: f"{name}.ply" for name in ("KidneyA", "KidneyB", "KidneyPart")}  # two to interpolate, one to complete
    samples.register(HERE, "Kidneys", files, "ModelFile")


class Side(Choice):
    left = _("Left")
    right = _("Right")


class Detail(Choice):
    fine = _("Fine (128)")
    coarse = _("Coarse (64)")


class Device(Choice):
    auto = _("Automatic")
    cpu = _("Processor")
    cuda = _("Graphics card (CUDA)")


@parameterNodeWrapper
class MedShapeGenParameterNode:
    """The panel's state; saved with the scene."""

    task: int = 0  # the tab
    category: str
    side: Side = Side.left
    count: Annotated[int, WithinRange(1, 50)] = 3
    guidance: Annotated[float, WithinRange(0, 10)] = 0.0
    steps: Annotated[int, WithinRange(2, 50)] = 7
    first: vtkMRMLDisplayableNode
    firstSegmentID: str
    second: vtkMRMLDisplayableNode
    secondSegmentID: str
    seed: Annotated[int, WithinRange(0, 2147483647)] = 0
    detail: Detail = Detail.fine
    device: Device = Device.auto
    result: vtkMRMLTextNode
    row: int = -1  # -1 shows all
    skeleton: bool = False
    exportFolder: pathlib.Path


class MedShapeGenWidget(JobPanel):
    applyText = _("Make shapes")

    def setup(self):
        self._shown = None
        self.setUp(MedShapeGenLogic(), {
            "applyButton": lambda: self.begin("apply", lambda: self.logic.make(self.parameters)),
            "allButton": lambda: self.choose(-1), "segmentButton": self.onSegment, "exportButton": self.onExport,
        })  # fmt: skip
        ui = self.ui
        few = _("{label}, few examples")
        ui.categoryBox.addItems([few.format(**kind) if kind["few"] else kind["label"] for kind in self.logic.kinds])
        ui.categoryBox.connect("currentIndexChanged(int)", self.onCategory)
        ui.tabs.connect("currentChanged(int)", self.onTab)
        for name in ("first", "second"):
            getattr(ui, f"{name}SegmentBox").connect("currentIndexChanged(int)", lambda index, which=name: self.onSegmentID(which, index))
        ui.shapeTable.connect("currentCellChanged(int,int,int,int)", lambda row, column, oldRow, oldColumn: self.choose(row))
        ui.resultSelector.addAttribute("vtkMRMLTextNode", shapes.RESULT)
        ui.folderEdit.filters = ctk.ctkPathLineEdit.Dirs | ctk.ctkPathLineEdit.Writable

    def setParameterNode(self, parameters):
        self._shown = None
        JobPanel.setParameterNode(self, parameters)

    def setDefaults(self, p):
        p.category = p.category or self.logic.kind("kidney")["name"]
        if str(p.exportFolder) in ("", "."):
            p.exportFolder = pathlib.Path(slicer.mrmlScene.GetRootDirectory() or pathlib.Path.home())

    def show(self, p):
        ui, task = self.ui, TASKS[p.task]
        ui.tabs.currentIndex = p.task
        kind = self.logic.kind(p.category)
        ui.categoryBox.currentIndex = self.logic.kinds.index(kind)
        drawn = task in ("generate", "complete")
        for widgets, visible in (
            ((ui.categoryLabel, ui.categoryBox, ui.countLabel, ui.countSpin, ui.guidanceLabel, ui.guidanceSpin), drawn),
            ((ui.sideLabel, ui.sideBox), drawn and kind["paired"]), ((ui.stepsLabel, ui.stepsSpin), task == "interpolate"),
            ((ui.firstLabel, ui.firstSelector), task != "generate"), ((ui.secondLabel, ui.secondSelector), task == "interpolate"),
        ):  # fmt: skip
            for widget in widgets:
                widget.visible = visible
        missing = ""
        for name, needed in (("first", task != "generate"), ("second", task == "interpolate")):
            why = self.showSegments(p, name, needed)
            missing = missing or why
        self.showApply(missing, _("Makes the shapes; they come in a new folder of the scene."))
        models = shapes.modelsOf(p.result)
        none = "" if models else _("There are no shapes yet.")
        for button, tip in (
            (ui.allButton, _("Shows all shapes of this result.")),
            (ui.segmentButton, _("Makes one segmentation of all shapes of this result.")),
            (ui.exportButton, _("Writes all shapes of this result as STL files (LPS, mm).")),
        ):  # fmt: skip
            enable(button, none, tip)
        p.row = p.row if p.row < len(models) else -1
        fillTable(ui.shapeTable, [shapes.listRow(model) for model in models], p.row)
        ui.skeletonBox.enabled = p.result is not None and p.result.GetNodeReference(shapes.SKELETON) is not None
        shown = (p.result and p.result.GetID(), p.row, p.skeleton)
        if p.result and shown != self._shown:
            self._shown = shown
            shapes.showOne(p.result, p.row, p.skeleton)

    def showSegments(self, p, name, needed):
        """Fills the box of a given shape's segments; returns what is missing."""
        node, box = getattr(p, name), getattr(self.ui, f"{name}SegmentBox")
        inside = node.GetSegmentation() if node is not None and node.IsA("vtkMRMLSegmentationNode") else None
        ids = [inside.GetNthSegmentID(n) for n in range(inside.GetNumberOfSegments())] if inside else []
        words = [inside.GetSegment(segmentID).GetName() for segmentID in ids]
        if [box.itemText(n) for n in range(box.count)] != words:
            box.clear()
            box.addItems(words)
        if getattr(p, f"{name}SegmentID") not in ids:
            setattr(p, f"{name}SegmentID", ids[0] if ids else "")
        if ids:
            box.currentIndex = ids.index(getattr(p, f"{name}SegmentID"))
        box.visible = needed and bool(ids)
        if not needed:
            return ""
        if node is None:
            return _("First choose the given shapes: a model or a segment each. To try it: Sample Data, Kidneys.")
        return _("The chosen segmentation has no segment.") if inside and not ids else ""

    # ---- what the user does

    def onTab(self, index):
        if self.parameters and not self._refreshing:
            self.parameters.task = index

    def onCategory(self, index):
        if self.parameters and not self._refreshing and index >= 0:
            self.parameters.category = self.logic.kinds[index]["name"]

    def onSegmentID(self, name, index):
        node = getattr(self.parameters, name) if self.parameters and not self._refreshing else None
        if node is not None and index >= 0:
            setattr(self.parameters, f"{name}SegmentID", node.GetSegmentation().GetNthSegmentID(index))

    def choose(self, row):
        if self.parameters and not self._refreshing:
            self.parameters.row = row

    def onSegment(self):
        made = shapes.asSegmentation(self.parameters.result)
        self.say(_("{name} was made; the models are hidden.").format(name=made.GetName()))

    def onExport(self):
        folder, words = self.parameters.exportFolder, _("{count} STL files were written to {folder}.")
        self.attempt(lambda: words.format(count=len(shapes.exportStl(self.parameters.result, folder)), folder=folder))

    def onEnd(self, error, text):
        made = self.task == "apply" and error is None
        JobPanel.onEnd(self, error, text)
        if made and slicer.app.layoutManager() is not None:
            slicer.util.resetThreeDViews()


class MedShapeGenLogic(JobLogic):
    """Nodes to files and results to nodes; `p` is a MedShapeGenParameterNode."""

    module, engine, parameterClass = "MedShapeGen", "MedShapeGenLib", MedShapeGenParameterNode

    def __init__(self):
        JobLogic.__init__(self, HERE)
        self.kinds = shapes.categories(HERE)

    def kind(self, name):
        return next((kind for kind in self.kinds if kind["name"] == name), self.kinds[0])

    def optionsOf(self, p):
        """The fields of the task's options, by the engine's names."""
        options = {"seed": p.seed, "resolution": {"fine": 128, "coarse": 64}[p.detail.name], "device": p.device.name}
        if TASKS[p.task] in ("generate", "complete"):
            kind = self.kind(p.category)
            options |= {"category": kind["name"], "count": p.count, "guidance": p.guidance}
            options |= {"side": p.side.name} if kind["paired"] else {}
        elif TASKS[p.task] == "interpolate":
            options |= {"steps": p.steps}
        return options

    def make(self, p, wait=False):
        """Runs the task of the parameters; `p.result` is the new report afterwards."""
        task, options = TASKS[p.task], self.optionsOf(p)
        given = [] if task == "generate" else [("first", p.first, p.firstSegmentID)]
        given += [("second", p.second, p.secondSegmentID)] if task == "interpolate" else []
        kind = self.kind(p.category) if task in ("generate", "complete") else None
        beside = given[0][1].GetID() if given else ""
        what = {"reconstruct": _("reconstruction"), "interpolate": _("interpolation"), "complete": _("completions")}
        name = f"{given[0][1].GetName()} {what[task]}" if given else kind["label"]

        def prepare(folder):
            return {"task": task, "inputs": [shapes.writeInput(n, s, folder, f) for f, n, s in given], "options": options}

        def receive(result, folder):
            attributes = {f"MedShapeGen.{key}": str(value) for key, value in {"task": task, **options}.items()}
            made = yield from shapes.receiveShapes(task, result, folder, name, slicer.mrmlScene.GetNodeByID(beside), kind, attributes)
            p.result, p.row = made, -1 if task == "generate" else 0  # those of the other tasks lie in one place
            good = sum(shape["passed"] for shape in result["shapes"])
            said = [_("Done: {good} of {count} pass all checks.").format(count=len(result["shapes"]), good=good)]
            if task in ("reconstruct", "interpolate"):
                for _name, node, segmentID in given:
                    shapes.hideGiven(node, segmentID)
                said.append(_("The given shape is hidden, so that the result can be seen."))
            self.words = " ".join([*said, *(f"{warning['message']} {warning['hint']}" for warning in result["warnings"])])

        self.job(prepare, receive, lambda: self.words, wait=wait)


class MedShapeGenTest(ScriptedLoadableModuleTest):
    """Runs everywhere: its worker needs neither torch nor weights."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_ThreeShapes()

    def test_ThreeShapes(self):
        self.delayDisplay("Three spheres")
        logic = MedShapeGenLogic()
        logic.rehearse()
        p = logic.getParameterNode()
        p.category = "kidney"
        logic.make(p, wait=True)
        models = shapes.modelsOf(p.result)
        self.assertEqual([model.GetName() for model in models], ["kidney 1", "kidney 2", "kidney 3"])
        bounds = [0.0] * 6
        models[0].GetRASBounds(bounds)
        self.assertAlmostEqual(bounds[1] - bounds[0], 40.0, delta=1.0)
        segmentation = shapes.asSegmentation(p.result)
        self.assertEqual(segmentation.GetSegmentation().GetNumberOfSegments(), 3)
        self.assertIn("Kidney", segmentation.GetSegmentation().GetNthSegment(0).GetTerminology())
        self.assertIsNone(displays.legendOf(models[0]))
        self.delayDisplay("Passed")
