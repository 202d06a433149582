"""Check my computer: what is found is said, nothing raises, and a missing torch is found too."""

import sys

import pytest
from CranialImplantLib import worker
from MedShapeCore import computer
from MedShapeCore.computer import check_computer, memory_gb, timed
from MedShapeCore.errors import Cancelled, FailedResult
from MedShapeCore.jobs import no_progress


def test_the_computer_is_described_without_a_run(tmp_path):
    (tmp_path / "results").mkdir()
    answer = worker.handle({"task": "computer", "with_run": False}, tmp_path / "results", no_progress)
    findings = {finding.item: finding for finding in answer["findings"]}
    assert all(finding.good for finding in findings.values())
    assert {"torch", "graphics card", "free disk space", "weights"} <= set(findings)
    assert "as published" in findings["weights"].value and memory_gb() > 1


def test_a_missing_torch_and_changed_weights_are_found_and_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(computer, "versions", lambda: {"python": "3.12", "numpy": "2", "scipy": "1", "safetensors": "0.5"})
    run = []
    findings = {f.item: f for f in check_computer(tmp_path, tmp_path / "no weights", no_progress, lambda: run.append(1))}
    assert not findings["torch"].good and not findings["PyTorch"].good and not findings["weights"].good
    assert "test run" not in findings and run == []


def test_a_short_run_is_timed_its_refusal_said_and_its_cancel_passed_on():
    assert timed(lambda: ("a shape", True)).value == "a shape in 0 s"

    def refuse():
        raise FailedResult("no-room", "There is no room.")

    def stop():
        raise Cancelled

    finding = timed(refuse)
    assert finding.value == "There is no room." and not finding.good
    with pytest.raises(Cancelled):
        timed(stop)
