"""Both panels in the test host with the real engines: seconds from the click, longest blocks of the event loop, ends.

    python Testing/benchmarks/panels.py

The skull is the bundled one on a grid of 512 x 512 x 240. A block is one turn of the event loop; beside its seconds stand
those in which this thread had the processor, for other work on the computer makes blocks of its own. About two minutes.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing")]


def large_skull(path):
    """The bundled skull as a binary mask of 512 x 512 x 240 voxels."""
    import SimpleITK as sitk

    small = sitk.ReadImage(str(ROOT / "CranialImplant" / "CranialImplantLib" / "demo" / "demo_skull.nrrd"))
    soft = sitk.SmoothingRecursiveGaussian(sitk.Cast(small > 0, sitk.sitkFloat32), 0.4)
    large = sitk.Image(512, 512, 240, sitk.sitkUInt8)
    large.SetSpacing((0.45, 0.45, 0.68))
    axes = range(3)
    centre = [small.GetOrigin()[a] + small.GetSpacing()[a] * small.GetSize()[a] / 2 for a in axes]
    large.SetOrigin([centre[a] - large.GetSpacing()[a] * large.GetSize()[a] / 2 for a in axes])
    sitk.WriteImage(sitk.Cast(sitk.Resample(soft, large, sitk.Transform(), sitk.sitkLinear, 0.0) > 0.5, sitk.sitkUInt8), str(path))


def run(host, panel, button, name):
    """Clicks a button and waits for the end; prints what it took."""
    runner, blocks, seen = panel.logic.runner, {}, None
    started = time.perf_counter()
    turn("click", button.click, blocks)
    while not runner.idle:
        state = runner.state
        turn(state, host.process_events, blocks)
        if seen is None and getattr(panel.logic, "_preview", None) is not None:
            seen = time.perf_counter() - started
        time.sleep(0.002)
    words = ", ".join(f"{state} {wall:.3f} ({own:.3f})" for state, (wall, own) in blocks.items())
    first = f", first implant seen after {seen:.1f} s" if seen else ""
    print(f"{name}: {time.perf_counter() - started:.1f} s{first}; longest blocks in s (own time): {words}")
    print(f"    {panel.ui.statusLabel.text}", flush=True)


def turn(state, action, blocks):
    wall, own = time.perf_counter(), time.thread_time()
    action()
    wall, own = time.perf_counter() - wall, time.thread_time() - own
    blocks[state] = max(blocks.get(state, (0.0, 0.0)), (wall, own))


def until_no_child(host, name, action):
    """Prints how long after `action` the last child process is gone."""
    started = time.perf_counter()
    action()
    clicked = time.perf_counter() - started
    host.process_until(lambda: not host.children(), 30)
    print(f"{name}: returned after {clicked:.2f} s, no process left after {time.perf_counter() - started:.2f} s", flush=True)


def cancel(host, panel, stage):
    """Cancels a run when its panel says `stage`; prints how long until it is idle, and until the last process is gone."""
    panel.ui.applyButton.click()
    host.process_until(lambda: stage in panel.ui.statusLabel.text or panel.logic.runner.idle, 120)
    words = panel.ui.statusLabel.text
    asked = time.perf_counter()
    panel.ui.applyButton.click()
    host.process_until(lambda: panel.logic.runner.idle, 10)
    idle = time.perf_counter() - asked
    host.process_until(lambda: not host.children(), 10)
    gone = time.perf_counter() - asked
    print(f'cancelled at "{words}": idle after {idle:.2f} s, no process left after {gone:.2f} s', flush=True)


def main():
    from slicer_host.host import Host

    host = Host([ROOT / "CranialImplant", ROOT / "MedShapeGen"])
    import slicer
    from MedShapeSlicer import dependencies, shapes

    dependencies.licenceAccepted = lambda *_: True  # nobody is here to be asked
    with tempfile.TemporaryDirectory() as folder:
        large_skull(Path(folder) / "skull.nrrd")
        slicer.util.loadSegmentation(str(Path(folder) / "skull.nrrd"))
        panel = host.open_panel("CranialImplant")
        p, ui = panel.parameters, panel.ui
        run(host, panel, ui.findButton, "the hole")
        run(host, panel, ui.applyButton, "five implants")
        p.exportFolder, p.withPiece = Path(folder) / "export", True
        run(host, panel, ui.exportButton, "export")
        for stage in ("starting", "reading", "looking", "pose", "resampling", "guessing", "placing", "making", "comparing", "implants"):
            cancel(host, panel, stage)
        ui.applyButton.click()
        host.process_until(lambda: "pose" in ui.statusLabel.text, 60)
        until_no_child(host, "scene closed during a run", host.close_scene)
    panel = host.open_panel("MedShapeGen")
    panel.parameters.category, panel.parameters.count = "kidney", 3
    run(host, panel, panel.ui.applyButton, "three kidneys")
    blocks = {}
    turn("click", panel.ui.segmentButton.click, blocks)
    names = [model.GetName() for model in shapes.modelsOf(panel.parameters.result)]
    print(f"{', '.join(names)}, as one segmentation: {blocks['click'][0]:.2f} s")
    host.raise_faults()


if __name__ == "__main__":
    main()
