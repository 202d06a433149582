"""A scripted module for the host's own tests, written as Slicer's template is: threshold of a volume."""

import enum
import pathlib
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class Side(enum.Enum):
    ABOVE = "above"
    BELOW = "below"

    def label(self):
        return self.value


class HostSample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Host sample")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Examples")]
        parent.helpText = "Help."
        self.started = 0
        slicer.app.connect("startupCompleted()", self.onStart)

    def onStart(self):
        self.started += 1


@parameterNodeWrapper
class HostSampleParameterNode:
    inputVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode
    threshold: Annotated[float, WithinRange(-100, 200)] = 100
    members: Annotated[int, WithinRange(1, 9)] = 5
    invert: bool = False
    side: Side = Side.ABOVE
    folder: pathlib.Path
    title: str = "one"


class HostSampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self.cleaned = False

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HostSample.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HostSampleLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.initializeParameterNode()

    def cleanup(self):
        self.setParameterNode(None)  # a bound widget would follow the node that the next scene empties
        self.removeObservers()
        self.cleaned = True

    def enter(self):
        self.initializeParameterNode()

    def exit(self):
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        self.setParameterNode(HostSampleParameterNode(self.logic.getParameterNode()))
        if not self._parameterNode.inputVolume:
            first = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if first:
                self._parameterNode.inputVolume = first

    def setParameterNode(self, parameterNode):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.checkCanApply)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._guiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.checkCanApply)
            self.checkCanApply()

    def checkCanApply(self, caller=None, event=None):
        ready = bool(self._parameterNode and self._parameterNode.inputVolume and self._parameterNode.threshold)
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = _("Compute output volume") if ready else _("Select an input volume")

    def onApply(self):
        with slicer.util.tryWithErrorDisplay(_("Failed to compute results."), waitCursor=True):
            if not self.ui.outputSelector.currentNode():
                self._parameterNode.outputVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "thresholded")
            self.logic.process(self.ui.inputSelector.currentNode(), self.ui.outputSelector.currentNode(), self.ui.thresholdSlider.value)


class HostSampleLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return super().getParameterNode()

    def process(self, inputVolume, outputVolume, threshold):
        if not inputVolume or not outputVolume:
            raise ValueError("Input or output volume is invalid")
        array = slicer.util.arrayFromVolume(inputVolume)
        if array.max() <= threshold:
            raise ValueError("Nothing is above the threshold")
        slicer.util.updateVolumeFromArray(outputVolume, (array > threshold).astype("uint8"))


class HostSampleTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_Threshold(self):
        import numpy as np

        self.delayDisplay("Starting the test")
        volume = slicer.util.addVolumeFromArray(np.arange(8, dtype=np.int16).reshape(2, 2, 2), name="head")
        result = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        HostSampleLogic().process(volume, result, 3)
        self.assertEqual(slicer.util.arrayFromVolume(result).sum(), 4)
        self.assertTrue(qt.Qt.Checked == 2)
