"""Training of the shape models: packs, augmentation, tasks and export, on a handful of ellipsoids."""

import json

import numpy as np
import pytest
import torch
import trimesh
from MedShapeCore.errors import MedShapeError, OptionError, RefusedInput
from MedShapeCore.training import Loop, Task, named
from MedShapeCore.weights import open_weights
from MedShapeGenLib.autoencoder import POINTS, AutoEncoder, AutoEncoderOptions
from MedShapeGenLib.models import WEIGHTS
from MedShapeGenLib.training import autoencoder_task, diffusion_task, export, level, train
from MedShapeGenLib.training.shape_pack import QUANTUM, category_path, read_categories, read_category
from safetensors import safe_open
from safetensors.torch import load_file

SHAPES = 4


def write_ellipsoids(folder, name, axes, sources=("A",) * SHAPES):
    """A category file as `prepare` writes it: ellipsoids with the approximate distance of a scaled ball."""
    rng = np.random.default_rng(1)
    ball = trimesh.creation.icosphere(subdivisions=2)
    parts = {key: [] for key in ("points", "normals", "queries", "sdf", "verts", "faces")}
    for number in range(SHAPES):
        half = np.asarray(axes) * [1, 1 - 0.02 * number, 1]
        directions = rng.normal(size=(3000, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        points = directions * half
        normals = directions / half
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        queries = np.round(np.concatenate([points[:2500] + rng.normal(size=(2500, 3)) * 0.03, rng.uniform(-1.1, 1.1, (500, 3))]) / QUANTUM)
        queries = queries.clip(-32767, 32767).astype(np.int16)
        at = queries * QUANTUM
        parts["sdf"].append(((np.linalg.norm(at / half, axis=1) - 1) * half.min()).astype(np.float16))
        parts["points"].append(np.round(points / QUANTUM).astype(np.int16))
        parts["normals"].append(np.round(normals * 127).astype(np.int8))
        parts["queries"].append(queries)
        parts["verts"].append(ball.vertices * half)
        parts["faces"].append(ball.faces)
    (folder / "shapes").mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "shapes" / f"{name}.npz", id=np.array([f"{name}_{n}" for n in range(SHAPES)]),
        split=np.array(["train", "train", "train", "val"]), source=np.array(sources), licence=np.array(["made"] * SHAPES),
        scale_mm=np.array([50, 55, 60, 52], np.float32), mirrored=np.zeros(SHAPES, bool),
        **{key: np.stack(parts[key]) for key in ("points", "normals", "queries", "sdf")},
        verts=np.concatenate(parts["verts"]).astype(np.float32), faces=np.concatenate(parts["faces"]).astype(np.int32),
        voff=np.arange(SHAPES + 1) * len(ball.vertices), foff=np.arange(SHAPES + 1) * len(ball.faces),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    write_ellipsoids(folder, "kidney", (1.0, 0.7, 0.5))
    write_ellipsoids(folder, "spleen", (0.9, 1.0, 0.6), sources=("A", "A", "B", "B"))
    return folder


@pytest.fixture(scope="module")
def trained(pack, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    categories = read_categories(pack)
    autoencoder_task.save_skeletons(categories, out)
    return categories, out


def test_a_pack_gives_back_points_meshes_and_splits(pack):
    category = read_category(pack / "shapes" / "kidney.npz")
    points, normals = category.surface(0, np.arange(100))
    assert np.allclose(np.linalg.norm(points / [1.0, 0.7, 0.5], axis=1), 1, atol=1e-3)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    vertices, triangles = category.mesh(2)
    assert np.abs(vertices).max(0) == pytest.approx([1.0, 0.7 * 0.96, 0.5], abs=0.02)
    assert triangles.max() < len(vertices)
    assert category.of("train").tolist() == [0, 1, 2] and category.of("val").tolist() == [3]


def test_a_source_can_be_left_out(pack):
    kidney, spleen = read_categories(pack, ["kidney", "spleen"], frozenset("B"))
    assert len(kidney.ids) == 4 and spleen.ids.tolist() == ["spleen_0", "spleen_1"]
    whole = read_category(pack / "shapes" / "spleen.npz")
    assert np.array_equal(spleen.mesh(1)[0], whole.mesh(1)[0])
    with pytest.raises(RefusedInput, match="no shapes"):
        read_categories(pack, ["spleen"], frozenset("AB"))


def test_what_is_no_pack_is_refused(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "kidney.npz").write_bytes(b"nonsense")
    with pytest.raises(RefusedInput) as refused:
        read_categories(tmp_path)
    assert refused.value.code == "pack" and "prepare" in refused.value.hint


def test_motions_keep_distances_up_to_their_scale():
    rng = np.random.default_rng(3)
    signs = set()
    for _ in range(20):
        turn, scale = autoencoder_task.random_motion(rng)
        assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-5) and 0.85 <= scale <= 1.05
        signs.add(round(float(np.linalg.det(turn))))
    assert signs == {-1, 1}


def test_a_sample_moves_surface_skeleton_and_queries_together(trained):
    categories, out = trained
    points, normals, skeleton, queries, distance, _ = autoencoder_task.task(categories, out).sample(np.random.default_rng(4))
    assert points.shape == (POINTS, 3)
    near = torch.cdist(queries, points).min(1).values
    assert float((near - distance.abs()).abs().quantile(0.95)) < 0.1  # the ball's distance is approximate
    inside = torch.cdist(skeleton[:, :3], points).min(1).values
    off = (inside - skeleton[:, 3]).abs()  # the skeleton was made of other points of the same surface
    assert float(off.quantile(0.95)) < 0.04 and float(off.max()) < 0.1
    outward = (normals * (points - points.mean(0))).sum(1)
    assert float((outward > 0).float().mean()) > 0.99


def test_the_autoencoder_learns_and_goes_on_exactly(trained, tmp_path):
    categories, out = trained
    small = AutoEncoderOptions(encoder_width=16, decoder_width=16, decoder_blocks=1, hidden=16)

    def loop(name):
        torch.manual_seed(0)
        return Loop(autoencoder_task.task(categories, out, small), tmp_path / name, torch.device("cpu"))

    whole = loop("whole.safetensors")
    losses = [whole.update(whole.batch(), 2e-3)["loss"] for _ in range(8)]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    first = loop("parts.safetensors")
    for _ in range(4):
        first.update(first.batch(), 2e-3)
    first.save()
    second = loop("parts.safetensors")
    for _ in range(4):
        second.update(second.batch(), 2e-3)
    for name, value in whole.average.items():
        assert torch.allclose(value, second.average[name], atol=1e-5), name


def steps_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])["step"]


def test_training_can_start_from_weights_with_a_category_that_is_only_measured(tmp_path):
    pack, out = tmp_path / "pack", tmp_path / "out"
    write_ellipsoids(pack, "distal_femur", (1.0, 0.7, 0.5))
    (pack / "shapes").rename(pack / "measure")
    assert category_path(pack, "distal_femur").parent.name == "measure"
    given = {"names": ("distal_femur",), "start": WEIGHTS, "threads": 1, "progress": lambda line: None}
    train.train("skeletons", pack, out, **given)
    train.train("autoencoder", pack, out, minutes=1e-4, **given)
    path = out / "autoencoder.checkpoint.safetensors"
    bundled, near, steps = open_weights(WEIGHTS).tensors("autoencoder"), named(load_file(path), "network"), steps_of(path)
    # A few steps of the optimiser, at a fiftieth of the highest rate.
    assert max(float((near[n] - t).abs().max()) for n, t in bundled.items() if "standardised" not in n) < 1e-3
    train.train("autoencoder", pack, out, minutes=1e-4, **given)
    assert steps_of(path) > steps  # goes on from the checkpoint
    with pytest.raises(RefusedInput, match="do not fit"):
        train.load_start(torch.nn.Linear(2, 2), "autoencoder", WEIGHTS)


def test_the_skeleton_constraint_is_an_option(trained):
    categories, out = trained
    for constraint in (True, False):
        task = autoencoder_task.task(categories, out, AutoEncoderOptions(skeleton_constraint=constraint, decoder_blocks=1))
        batch = tuple(part[None] for part in task.sample(np.random.default_rng(5)))
        assert ("skeleton_u" in task.loss(task.network, batch)[1]) == constraint


def test_a_levelled_decoder_is_nought_on_the_surface_on_average(trained):
    categories, _ = trained
    torch.manual_seed(2)
    network = AutoEncoder(AutoEncoderOptions(encoder_width=16, decoder_width=16, decoder_blocks=1, hidden=16)).eval()
    spacings = level.measured_level(categories[:1], network)

    def depth():
        generator = np.random.default_rng(0)
        return np.mean([level.depth_and_answer(categories[0], i, network, generator)[0] for i in categories[0].of("train")])

    assert abs(depth()) > 0.01  # an untrained field is off
    weights = network.state_dict()
    changed = level.levelled(weights, spacings)
    assert [name for name in weights if not torch.equal(weights[name], changed[name])] == ["decoder.plane.bias"]
    network.load_state_dict(changed)
    assert abs(depth()) < 1e-4  # the field is linear in the planes' offset
    assert level.measured_level([], network) == 0.0


def test_the_level_of_a_folder_is_kept_for_the_export(tmp_path, trained):
    categories, _ = trained
    assert level.read_level(tmp_path) == 0.0
    network = AutoEncoder(AutoEncoderOptions(decoder_blocks=1)).eval()
    level.save_level(categories, tmp_path, network)
    assert level.read_level(tmp_path) == pytest.approx(level.measured_level(categories, network), abs=1e-5)


def test_an_export_levels_the_autoencoder_and_keeps_the_bundled_rest(tmp_path):
    torch.manual_seed(3)
    loop = Loop(Task(AutoEncoder(), lambda generator: (), lambda network, batch: (torch.zeros(()), {})),
                tmp_path / "autoencoder.checkpoint.safetensors", torch.device("cpu"))  # fmt: skip
    loop.save()
    (tmp_path / "level.json").write_text('{"spacings": 0.25}')
    written = open_weights(export.export_weights(tmp_path, tmp_path / "weights"))
    tensors = written.tensors("autoencoder")
    off = {n: float((t.half().float() - tensors[n]).abs().max()) for n, t in loop.average.items()}
    assert {n for n, o in off.items() if o} == {"decoder.plane.bias"} and off["decoder.plane.bias"] == pytest.approx(0.25, abs=1e-3)
    assert written.manifest["level_spacings"] == 0.25
    bundled = open_weights(WEIGHTS).manifest["files"]
    assert written.manifest["files"]["diffusion.safetensors"] == bundled["diffusion.safetensors"]


def test_an_untrained_diffusion_explains_what_the_gaussian_leaves():
    torch.manual_seed(1)
    network = diffusion_task.LatentDiffusion(1, 8, width=16, blocks=1, heads=2)
    x = torch.randn(64, 8, 16)
    batch = (x, torch.randn(64, 8, 16), torch.full((64,), 0.5), torch.zeros(64, dtype=torch.long), torch.zeros(64))
    loss, figures = diffusion_task.diffusion_loss(network, batch)
    assert float(loss.detach()) == pytest.approx(figures["gaussian"], rel=1e-5)  # its own answer starts at nothing
    assert float(loss.detach()) == pytest.approx(1.2, abs=0.1)  # 24 modes without variance in 128 numbers: 128 / 104


def test_wrong_stages_and_missing_data_are_refused(tmp_path):
    with pytest.raises(OptionError, match="stage"):
        train.train("everything", None, tmp_path)
    with pytest.raises(OptionError, match="minutes"):
        train.train("autoencoder", tmp_path, tmp_path, minutes=0)
    with pytest.raises(OptionError, match="data"):
        train.train("skeletons", None, tmp_path)
    with pytest.raises(MedShapeError):
        train.train("skeletons", tmp_path, tmp_path)
