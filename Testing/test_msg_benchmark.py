"""The benchmark on a small pack, with a model that knows the truth in place of the networks."""

import json
from types import SimpleNamespace

import MedShapeGenLib.benchmark_generation as generation
import MedShapeGenLib.benchmark_reconstruction as reconstruction
import numpy as np
import pytest
import torch
from MedShapeCore.errors import FailedResult, OptionError, RefusedInput
from MedShapeGenLib import pca_baseline, set_metrics, shape_metrics
from MedShapeGenLib.benchmark import run
from MedShapeGenLib.benchmark_shapes import BenchmarkOptions
from MedShapeGenLib.benchmark_table import bars_text, markdown, over_categories, summarized
from MedShapeGenLib.decoding import DecodeOptions, decode_surface
from MedShapeGenLib.shapes import surface_points
from MedShapeGenLib.solid import Solid, figures_of

KIDNEY, BRAIN = "kidney", "brain"


def ellipsoid(axes):
    """vertices (V, 3) u with the longest side 2, and triangles."""
    longest = max(axes)
    scale = torch.tensor([longest / a for a in axes], dtype=torch.float32)
    made = decode_surface(lambda q: (q * scale).norm(dim=1) - 1.0, DecodeOptions(resolution=32, safety=5.0))
    return made.vertices_u.astype(float), made.triangles


def write_pack(folder, name, axes, splits):
    rng = np.random.default_rng(0)
    meshes = [ellipsoid(a) for a in axes]
    surfaces = [surface_points(*mesh, 4096, rng) for mesh in meshes]
    quantum = 1.2 / 32767
    (folder / "shapes").mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "shapes" / f"{name}.npz", id=np.array([f"{name}_{n}" for n in range(len(axes))]), split=np.array(splits),
        source=np.array(["S"] * len(axes)), licence=np.array(["none"] * len(axes)), mirrored=np.zeros(len(axes), bool),
        scale_mm=np.array([max(a) for a in axes], np.float32), verts=np.concatenate([v for v, _ in meshes]).astype(np.float32),
        faces=np.concatenate([f for _, f in meshes]), voff=np.cumsum([0, *(len(v) for v, _ in meshes)]),
        foff=np.cumsum([0, *(len(f) for _, f in meshes)]), points=np.stack([np.round(p / quantum) for p, _ in surfaces]).astype(np.int16),
        normals=np.stack([np.round(n * 127) for _, n in surfaces]).astype(np.int8), queries=np.zeros((len(axes), 4, 3), np.int16),
        sdf=np.zeros((len(axes), 4), np.float16),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    sizes = np.random.default_rng(1).uniform(0.8, 1.2, (10, 3)) * [35.0, 37.0, 55.0]
    write_pack(folder, KIDNEY, sizes, ["train"] * 5 + ["val"] * 3 + ["test"] * 2)
    write_pack(folder, BRAIN, [(70, 80, 75), (72, 85, 73), (71, 83, 77)], ["train", "train", "val"])
    return folder


def solid_of_mesh(vertices_lps, triangles):
    return Solid(vertices_lps, triangles, figures_of(vertices_lps, triangles))


@pytest.fixture
def knows_all(monkeypatch):
    """Reconstruction returns the shape itself, 1 % larger; generation gives ellipsoids of its own; few points are compared."""
    for module, name, few in ((shape_metrics, "CLOUD", 400), (shape_metrics, "EMD_POINTS", 100), (shape_metrics, "SAMPLES", 500),
                              (reconstruction, "CLOUD", 400), (generation, "CLOUD", 200), (generation, "COARSE", 100),
                              (set_metrics, "RESAMPLES", 100), (pca_baseline, "CELLS", 20)):  # fmt: skip
        monkeypatch.setattr(module, name, few)
    fake = SimpleNamespace(digest="none", device=torch.device("cpu"))
    monkeypatch.setattr("MedShapeGenLib.benchmark.load_models", lambda device, folder: fake)
    monkeypatch.setattr(reconstruction, "encoded_shape", lambda shape, models, seed: shape)
    monkeypatch.setattr(
        reconstruction, "solid_of", lambda shape, models, resolution: solid_of_mesh(1.01 * shape.vertices_lps, shape.triangles)
    )

    def shapes(models, options):
        rng = np.random.default_rng(options.seed)
        made = [ellipsoid(rng.uniform(0.8, 1.2, 3) * [35, 37, 55]) for _ in range(options.count)]
        return SimpleNamespace(solids=[solid_of_mesh(55.0 * v, t) for v, t in made])

    monkeypatch.setattr(generation, "sample_shapes", shapes)


def test_both_tables_are_written(pack, knows_all, tmp_path):
    seen = []
    text = run(pack, tmp_path / "out", progress=lambda stage, fraction: seen.append((stage, fraction)))
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert (tmp_path / "out" / "table.md").read_text() == text + "\n"
    assert [s for s, _ in seen] == [BRAIN, KIDNEY, "written"] and seen[-1][1] == 1.0
    rows = content["rows"]["reconstruction"]
    assert [r["shape"] for r in rows] == ["brain_2", "kidney_5", "kidney_6", "kidney_7"]  # the validation split alone
    for row in rows:
        # 1 % larger about its centre: between 0 and 0.5 % of the longest side off
        assert 0.1 < row["mean_percent"] < 0.5 and row["surface_dice_1pct"] == 1.0
        assert row["volume_error_percent"] == pytest.approx(3.03, abs=0.05)
        assert 0 < row["pca_mean_mm"] < 2.0
    generated = content["rows"]["generation"]
    assert [r["category"] for r in generated] == [KIDNEY]  # one held-out brain is too few
    assert generated[0]["real"] == generated[0]["made"] == 5
    assert np.shape(generated[0]["distances"]) == (10, 10) and np.shape(generated[0]["pca_distances"]) == (10, 10)
    assert generated[0]["watertight"] == 1.0 and generated[0]["training_copies"] == 0.0
    assert "1-NNA-CD" in text and "chance 42.9" in text  # 4 of each kind: 3 / 7


def test_a_shape_that_cannot_be_decoded_is_told(pack, knows_all, monkeypatch, tmp_path):
    def failing(shape, models, resolution):
        raise FailedResult("no-surface", "None.", "None.")

    monkeypatch.setattr(reconstruction, "solid_of", failing)
    options = BenchmarkOptions(tables=("reconstruction",), categories=(BRAIN,), baseline=False)
    text = run(pack, tmp_path, options=options)
    assert "Failed: brain brain_2: no-surface" in text
    assert "NOT met" in text


def test_a_missing_category_is_refused(pack, knows_all, tmp_path):
    for names, folder in (((BRAIN, "unicorn"), pack), (None, tmp_path)):
        with pytest.raises(RefusedInput) as caught:
            run(folder, tmp_path / "out", options=BenchmarkOptions(categories=names))
        assert caught.value.code == "no-shapes"


@pytest.mark.parametrize("wrong", [{"tables": ("speed",)}, {"split": "all"}, {"shapes": 1}, {"generated": 0}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(OptionError):
        BenchmarkOptions(**wrong)


def test_categories_count_alike_and_failures_enter_no_mean():
    def row(category, mean, failed=""):
        same = {"components": 1, "true_components": 1, "ends": 2, "true_ends": 3, "genus": 0, "true_genus": 0}
        return {"category": category, "shape": "x", "failed": failed} | ({} if failed else {"mean_percent": mean, **same})

    summary = summarized([row("a", 1.0), row("a", 3.0), row("a", 0.0, "no-surface"), row("b", 4.0)])
    assert [s["mean_percent"] for s in summary] == [2.0, 4.0]
    assert [s["failed"] for s in summary] == [1, 0]
    assert summary[0]["same_ends"] == 0.0 and summary[0]["same_genus"] == 1.0
    everything = over_categories(summary)
    assert everything["mean_percent"] == 3.0 and everything["shapes"] == 4 and everything["failed"] == 1


def test_bars_say_whether_they_are_met():
    good = {"mean_percent": 0.5, "cd_over_floor": 1.15, "f1_percent": 99.0, "surface_dice_1pct": 0.95}
    assert all(": met)" in line for line in bars_text(good))
    assert all("NOT met" in line for line in bars_text({}))
    bad = {"mean_percent": 0.51, "cd_over_floor": 1.16, "f1_percent": 98.9, "surface_dice_1pct": 0.94}
    assert all("NOT met" in line for line in bars_text(bad))


def test_missing_figures_are_dashes():
    table = markdown([("name", "name", None), ("mm", "mm", 2)], [{"name": "a", "mm": 1.234}, {"name": "b"}])
    assert table.splitlines()[2:] == ["| a | 1.23 |", "| b | - |"]
