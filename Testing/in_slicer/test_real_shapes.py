"""MedShapeGen's button with the real engine and the bundled weights: three shapes as models and as one segmentation."""

from pathlib import Path

import numpy as np
import pytest

WEIGHTS = Path(__file__).resolve().parents[2] / "MedShapeGen" / "MedShapeGenLib" / "weights" / "manifest.json"


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the weights of MedShapeGen are not there yet")
@pytest.mark.timeout(600)
def test_three_shapes_in_mm_with_names_colours_and_terminology(host):
    from MedShapeSlicer import shapes

    panel = host.open_panel("MedShapeGen")
    panel.logic = type(panel.logic)()  # the engine's worker, whatever an earlier test chose
    p = panel.parameters
    p.category, p.count, p.detail = "kidney", 3, type(p.detail).coarse
    host.answer(True)  # the weights' licence
    panel.ui.applyButton.click()
    host.process_until(lambda: panel.logic.runner.idle, 300)
    assert panel.logic.error is None, panel.logic.error
    models = shapes.modelsOf(p.result)
    assert [model.GetName() for model in models] == ["kidney 1", "kidney 2", "kidney 3"]
    for model in models:
        bounds = [0.0] * 6
        model.GetRASBounds(bounds)
        longest_mm = np.ptp(np.reshape(bounds, (3, 2)), axis=1).max()
        assert 60 < longest_mm < 180  # a kidney; the table says 81 to 146 for those it learned from
        assert f"{longest_mm:.0f} mm" == shapes.listRow(model)[2]
    segmentation = shapes.asSegmentation(p.result)
    for number in range(3):
        segment = segmentation.GetSegmentation().GetNthSegment(number)
        assert segment.GetName() == models[number].GetName() and "Kidney" in segment.GetTerminology()
        assert np.allclose(segment.GetColor(), panel.logic.kind("kidney")["colour"], atol=1e-4)
