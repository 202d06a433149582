"""Weights are checked before use: every kind of damage has its own refusal."""

import json

import numpy as np
import pytest
import torch
from CranialImplantLib.models import WEIGHTS, load_models
from MedShapeCore.devices import choose_device
from MedShapeCore.errors import FailedResult, RefusedInput
from MedShapeCore.weights import MANIFEST, open_weights, write_manifest
from safetensors.torch import save_file


@pytest.fixture
def folder(tmp_path):
    save_file({"a": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2).half(), "n": torch.tensor([7])},
              tmp_path / "small.safetensors")
    write_manifest(tmp_path, {"name": "Test", "licence": "none"})
    return tmp_path


def failure(call, *arguments):
    with pytest.raises(FailedResult) as caught:
        call(*arguments)
    assert caught.value.hint
    return caught.value


def test_weights_come_as_they_were_saved(folder):
    weights = open_weights(folder)
    assert weights.manifest["licence"] == "none"
    tensors = weights.tensors("small")
    assert torch.equal(tensors["a"], torch.arange(6.0).reshape(2, 3)) and tensors["n"].dtype == torch.int64
    assert tensors["half"].dtype == torch.float32


def test_a_changed_byte_is_noticed(folder):
    path = folder / "small.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    error = failure(open_weights(folder).tensors, "small")
    assert error.code == "weights-changed" and "small.safetensors" in error.message


def test_a_missing_file_or_manifest_is_noticed(folder):
    weights = open_weights(folder)
    assert failure(weights.tensors, "other").code == "weights-missing"
    (folder / "small.safetensors").unlink()
    assert failure(weights.tensors, "small").code == "weights-missing"
    for text in ("{", "[]", "{}", '{"files": []}', '{"files": {"a": {}}}'):
        (folder / MANIFEST).write_text(text)
        assert failure(open_weights, folder).code == "weights-missing"
    (folder / MANIFEST).unlink()
    assert failure(open_weights, folder).code == "weights-missing"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(folder, value):
    save_file({"a": torch.tensor([1.0, value])}, folder / "small.safetensors")
    write_manifest(folder, {})
    assert failure(open_weights(folder).tensors, "small").code == "weights-values"


def test_the_digest_changes_with_any_file(folder):
    before = open_weights(folder).digest
    save_file({"b": torch.zeros(1)}, folder / "more.safetensors")
    write_manifest(folder, {"name": "another name is no other weights"})
    after = open_weights(folder).digest
    assert before != after and len(after) == 16
    write_manifest(folder, {})
    assert open_weights(folder).digest == after


def test_the_bundled_weights_load_and_say_their_licence():
    models = load_models(torch.device("cpu"))
    assert models.atlas.shape == (54, 63, 51) and models.dome.mean.shape[0] == 2
    assert models.digest == open_weights(WEIGHTS).digest
    assert all(not p.requires_grad for p in models.completion.parameters()) and not models.look.training
    assert open_weights(WEIGHTS).manifest["licence"] == "CC BY-NC-SA 4.0"
    domain = models.dome.domain
    assert np.array_equal(domain, domain[:, ::-1])  # a head has two sides


def test_weights_of_another_network_are_refused(tmp_path):
    for path in WEIGHTS.glob("*.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "look.safetensors").write_bytes((WEIGHTS / "refinement.safetensors").read_bytes())
    write_manifest(tmp_path, json.loads((WEIGHTS / MANIFEST).read_text()))
    error = failure(load_models, torch.device("cpu"), tmp_path)
    assert error.code == "weights-architecture" and error.message == "The weights of look do not fit the network."


def test_the_device_is_chosen_and_explained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu")[0].type == choose_device("auto")[0].type == "cpu"
    assert "No CUDA device" in choose_device("auto")[1]
    with pytest.raises(RefusedInput) as caught:
        choose_device("cuda")
    assert caught.value.code == "no-cuda" and caught.value.hint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    for free_gb, used in ((8, "cuda"), (1, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gb=free_gb: (gb * 2**30, 16 * 2**30))
        assert choose_device("auto")[0].type == used and f"{free_gb}" in choose_device("auto")[1]
        assert choose_device("cuda")[0].type == "cuda" and choose_device("cpu")[0].type == "cpu"
