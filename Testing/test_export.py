import json
import shutil

import numpy as np
import pytest
import torch
from CranialImplantLib import cli
from CranialImplantLib.models import WEIGHTS, dome_of, load_models
from CranialImplantLib.refinement import RefinementNetwork
from CranialImplantLib.training import export
from CranialImplantLib.training.prepare import dome_tensors
from MedShapeCore.errors import FailedResult, RefusedInput
from MedShapeCore.training import Loop, Task
from MedShapeCore.weights import open_weights
from safetensors.torch import save_file

CPU = torch.device("cpu")


def checkpoint(folder, network, name="refinement", change=None):
    """A checkpoint whose averaged weights are one percent off the network's."""
    task = Task(network, lambda generator: (torch.zeros(1),), lambda net, batch: (batch[0].sum(), {}))
    loop = Loop(task, folder / f"{name}.checkpoint.safetensors", CPU)
    for value in loop.average.values():
        value.mul_(1.01)
    if change is not None:
        change(loop.average)
    loop.save()
    return loop.average


def test_the_averaged_weights_are_bundled_and_the_rest_stays(tmp_path):
    average = checkpoint(tmp_path, RefinementNetwork())
    out = tmp_path / "weights"
    export.export_weights(tmp_path, out, {"name": "test"})
    models = load_models(CPU, out)
    for name, value in models.refinement.state_dict().items():
        assert torch.equal(value, average[name].half().float())
    bundled = open_weights(WEIGHTS)
    written = open_weights(out)
    assert written.manifest["name"] == "test" and written.digest != bundled.digest
    for name in ("atlas", "dome", "look", "completion", "voxelization"):
        key = f"{name}.safetensors"
        assert written.manifest["files"][key] == bundled.manifest["files"][key]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in out.glob("*.safetensors"))  # any user may read them


def test_a_second_export_keeps_what_the_first_made(tmp_path):
    checkpoint(tmp_path, RefinementNetwork())
    out = tmp_path / "weights"
    export.export_weights(tmp_path, out, {})
    first = json.loads((out / "manifest.json").read_text())["files"]
    (tmp_path / "refinement.checkpoint.safetensors").unlink()
    export.export_weights(tmp_path, out, {})
    assert json.loads((out / "manifest.json").read_text())["files"] == first


def test_a_fitted_dome_replaces_the_bundled_one_and_reads_back(tmp_path):
    dome = dome_of(open_weights(WEIGHTS))
    dome.mean[:] += 1.0
    save_file(dome_tensors(dome), tmp_path / "dome.safetensors")
    out = tmp_path / "weights"
    export.export_weights(tmp_path, out, {})
    again = dome_of(open_weights(out))
    assert np.array_equal(again.domain, dome.domain) and np.array_equal(again.mean, dome.mean)
    assert np.abs(again.modes - dome.modes).max() < 0.02


@pytest.mark.parametrize(
    "network, change, error, said",
    [
        (torch.nn.Linear(3, 3), None, RefusedInput, "does not fit"),
        (RefinementNetwork(), lambda average: average["head.weight"].fill_(1e6), FailedResult, "half precision"),
    ],
)
def test_a_wrong_checkpoint_is_refused_and_nothing_is_written(network, change, error, said, tmp_path):
    checkpoint(tmp_path, network, change=change)
    with pytest.raises(error, match=said):
        export.export_weights(tmp_path, tmp_path / "weights", {})
    assert not (tmp_path / "weights").exists()


def test_a_part_that_is_nowhere_names_its_stage(tmp_path, monkeypatch):
    empty = tmp_path / "bundled"
    shutil.copytree(WEIGHTS, empty)
    (empty / "dome.safetensors").unlink()
    monkeypatch.setattr(export, "WEIGHTS", empty)
    with pytest.raises(RefusedInput, match="dome") as caught:
        export.export_weights(tmp_path, tmp_path / "weights", {})
    assert "`dome`" in caught.value.hint


def test_the_command_exports(tmp_path):
    assert cli.main(["train", "export", "--out", str(tmp_path), "--weights", str(tmp_path / "weights")]) == 0
    assert open_weights(tmp_path / "weights").manifest["licence"] == "CC BY-NC-SA 4.0"
