"""First use: what is missing is found without importing it, asked for, and installed with Slicer's own packages kept."""

import sys

import pytest


@pytest.fixture
def dependencies(host):
    from MedShapeSlicer import dependencies

    return dependencies


def test_torch_is_found_without_being_imported(dependencies):
    assert dependencies.torchState() == "ready" and "torch" not in sys.modules


def test_half_an_installation_is_told_from_none(dependencies, monkeypatch, tmp_path):
    import importlib.util

    real = importlib.util.find_spec
    namespace = type("Spec", (), {"origin": None})()
    cases = ((None, None, "missing"), (None, "2.7", "broken"), (namespace, None, "broken"), (namespace, "2.7", "broken"))
    for spec, version, state in cases:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, s=spec: s if name == "torch" else real(name))
        monkeypatch.setattr(dependencies, "installedVersion", lambda name, v=version: v)
        assert dependencies.torchState() == state


def test_only_what_is_missing_is_installed_and_slicer_s_packages_are_constrained(host, dependencies, monkeypatch):
    real = dependencies.installedVersion
    monkeypatch.setattr(dependencies, "installedVersion", lambda name: None if name == "trimesh" else real(name))
    seen = []
    monkeypatch.setattr("slicer.packaging.pip_install", lambda *a, **k: seen.append((a[0], open(k["constraints"]).read())))
    asked = []
    assert not dependencies.makeReady(lambda text: asked.append(text) or True, asked.append)  # it is still missing here
    assert seen[0][0] == ["trimesh>=4.0"] and "numpy==" in seen[0][1] and "vtk==" in seen[0][1] and "torch" not in seen[0][1]
    assert "trimesh" in asked[0] and "PyTorch" not in asked[0].splitlines()[0]


def test_torch_comes_by_the_extension_after_consent_and_wants_a_restart(host, dependencies, monkeypatch):
    calls, told = [], []

    class Logic:
        def installTorch(self, **options):
            calls.append(("install", options))

        def uninstallTorch(self):
            calls.append(("uninstall", {}))

    monkeypatch.setattr(dependencies, "pytorchLogic", Logic)
    monkeypatch.setattr(dependencies, "torchState", lambda: "broken")
    assert not dependencies.makeReady(lambda text: False, told.append) and calls == []
    assert not dependencies.makeReady(lambda text: True, told.append)
    assert [name for name, _ in calls] == ["uninstall", "install"]
    assert set(calls[1][1]) == {"askConfirmation", "torchVersionRequirement"} and "restart" in told[-1]


def test_without_the_extension_or_a_writable_folder_nothing_is_tried(host, dependencies, monkeypatch):
    told = []
    monkeypatch.setattr(dependencies, "torchState", lambda: "missing")
    monkeypatch.setattr(dependencies, "pytorchLogic", lambda: None)
    assert not dependencies.makeReady(lambda text: pytest.fail("asked"), told.append) and "Extensions Manager" in told[-1]
    monkeypatch.setattr(dependencies, "pytorchLogic", object)
    monkeypatch.setattr(dependencies.os, "access", lambda *_: False)
    assert not dependencies.makeReady(lambda text: pytest.fail("asked"), told.append) and "write-protected" in told[-1]


def test_a_failed_installation_says_what_to_do_offline(host, dependencies, monkeypatch):
    told = []

    def fail(*_, **__):
        raise RuntimeError("no route to host")

    host.expect_error("installing packages failed")
    monkeypatch.setattr(dependencies, "missingPackages", lambda: ["trimesh>=4.0"])
    monkeypatch.setattr("slicer.packaging.pip_install", fail)
    assert not dependencies.makeReady(lambda text: True, told.append)
    assert "no route to host" in told[-1] and "copy its whole folder" in told[-1]
