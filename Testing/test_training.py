"""Training: the loop, the stages on an analytic case, the log, the command's refusals."""

import ast
import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from cmake_lists import ROOT
from CranialImplantLib import cli, completion
from CranialImplantLib.completion import Source, flow
from CranialImplantLib.models import dome_of
from CranialImplantLib.training import case_source, prepare, train
from CranialImplantLib.training.kernel import Kernel
from CranialImplantLib.training.pack import PackedSkull
from CranialImplantLib.vault import VAULT_MAP
from MedShapeCore import training
from MedShapeCore.errors import FailedResult, OptionError, RefusedInput
from MedShapeCore.training import Task
from MedShapeCore.weights import open_weights, write_manifest
from torch import nn
from training_case import small_case

LIBRARY = ROOT / "CranialImplant" / "CranialImplantLib"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def case_folder(tmp_path):
    folder = tmp_path / case_source.CASES
    folder.mkdir()
    small_case().save(folder / "case_0_0.npz")
    return folder


# ---- the loop


def tiny_task(seed=0):
    """Smooths noise: a convolution in two layers with a norm between them, samples from the given generator."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv3d(8, 1, 1))

    def sample(generator):
        x = torch.from_numpy(generator.normal(size=(1, 6, 6, 6)).astype(np.float32))
        return x, 0.5 * x

    def loss(net, batch):
        error = ((net(batch[0]) - batch[1]) ** 2).mean()
        return error, {"error": float(error.detach())}

    return Task(network, sample, loss, batch=2, rate=1e-2)


def steps(loop, count):
    return [loop.update(loop.batch(), 1e-2)["loss"] for _ in range(count)]


def test_a_run_that_goes_on_takes_the_steps_of_one_that_was_not_interrupted(tmp_path):
    whole = training.Loop(tiny_task(), tmp_path / "whole.safetensors", torch.device("cpu"), seed=3)
    expected = steps(whole, 12)
    first = training.Loop(tiny_task(), tmp_path / "parts.safetensors", torch.device("cpu"), seed=3)
    losses = steps(first, 5)
    first.save()
    second = training.Loop(tiny_task(seed=99), tmp_path / "parts.safetensors", torch.device("cpu"), seed=3)
    assert second.step == 5
    losses += steps(second, 7)
    assert losses == expected  # to the last bit
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name])
        assert torch.equal(whole.average[name], second.average[name])


def test_the_average_follows_the_network_at_first_closely_then_slowly(tmp_path):
    task = tiny_task()
    loop = training.Loop(task, tmp_path / "a.safetensors", torch.device("cpu"))
    before = {n: t.clone() for n, t in loop.average.items()}
    steps(loop, 1)
    keep = 2 / 11  # (1 + step) / (10 + step) at step 1
    for name, value in loop.network.state_dict().items():
        assert torch.allclose(loop.average[name], keep * before[name] + (1 - keep) * value, atol=1e-6)


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_network(tmp_path):
    task = tiny_task()
    broken = Task(task.network, task.sample, lambda net, batch: (net(batch[0]).sum() * float("nan"), {}))
    loop = training.Loop(broken, tmp_path / "a.safetensors", torch.device("cpu"))
    with pytest.raises(FailedResult, match="no number"):
        loop.update(loop.batch(), 1e-2)
    assert loop.step == 0 and all(torch.isfinite(p).all() for p in loop.network.parameters())


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    loop = training.Loop(tiny_task(), tmp_path / "a.safetensors", torch.device("cpu"))
    loop.save()
    other = Task(nn.Linear(2, 2), loop.task.sample, loop.task.loss)
    with pytest.raises(RefusedInput, match="another network"):
        training.Loop(other, tmp_path / "a.safetensors", torch.device("cpu"))


def test_the_rate_warms_up_and_falls_to_two_percent():
    assert training.schedule(0, 0.0) == pytest.approx(1 / 50)
    assert training.schedule(49, 0.0) == pytest.approx(1.0)
    assert training.schedule(1000, 0.5) == pytest.approx(0.51)
    assert training.schedule(1000, 1.0) == pytest.approx(0.02)


# ---- the log


def test_a_figure_is_the_mean_of_the_steps_that_report_it():
    means = training.Means()
    for figures in ({"loss": 1.0, "free": 4.0}, {"loss": 3.0, "member": 5.0}, {"loss": 5.0, "free": 2.0}):
        means.add(figures)
    assert means.figures() == {"loss": 3.0, "free": 3.0, "member": 5.0}


def test_rows_of_the_log_go_by_name_and_new_figures_become_columns(tmp_path):
    path = tmp_path / "a.csv"
    training.append_row(path, {"step": 1, "free": 0.5})
    training.append_row(path, {"step": 2, "member": 0.25, "free": 0.75})
    training.append_row(path, {"member": 0.1, "step": 3})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(r["step"], r["free"], r["member"]) for r in rows]
    assert found == [("1", "0.5", ""), ("2", "0.75", "0.25"), ("3", "", "0.1")]


# ---- the stages


def loss_falls(task, count, tmp_path, rate):
    """Loss on one fixed batch after some steps on it, as a share of what it was before."""
    loop = training.Loop(task, tmp_path / "none.safetensors", torch.device("cpu"))
    batch = loop.batch()
    losses = [loop.update(batch, rate)["loss"] for _ in range(count)]
    assert np.isfinite(losses).all()
    return min(losses[-2:]) / losses[0]


@pytest.mark.parametrize("stage, share", [("completion", 0.9), ("voxelization", 0.9), ("refinement", 0.97)])
def test_a_stage_learns_one_small_case(stage, share, case_folder, tmp_path):
    torch.manual_seed(0)
    task = train.stages()[stage]([], case_folder)
    assert loss_falls(task, 8, tmp_path, 3e-3) < share


def test_a_share_of_the_flows_starts_from_the_domes_mean(case_folder):
    task = train.stages()["completion"]([], case_folder)
    case, generator = small_case(), np.random.default_rng(0)
    means = 0
    for _ in range(60):
        _, true, good, start, *_ = (t.numpy() for t in task.sample(generator))
        off = np.median(np.linalg.norm(start - true, axis=1)[good > 0])
        gaps = [np.median(np.linalg.norm(g - case.true_points, axis=1)) for g in case.guess_points[:2]]  # 1.5 and 1 mm
        means += abs(off - gaps[0]) < abs(off - gaps[1])
    assert 5 <= means <= 25  # a quarter of 60, within three deviations


def test_the_look_learns_one_sample(tmp_path):
    torch.manual_seed(0)
    task = replace(train.stages()["look"]([ball_skull()], tmp_path), batch=1)
    assert loss_falls(task, 3, tmp_path, 3e-3) < 0.95


def ball_skull(name="ball", complete=True):
    """A spherical shell of 70 mm in the head frame."""
    from CranialImplantLib.head import FIELD_LIMIT_MM, HEAD_GRID
    from CranialImplantLib.training.pack import QUANTUM_MM

    radius = np.linalg.norm(HEAD_GRID.points(), axis=-1)
    field = np.clip(np.abs(radius - 67.0) - 3.0, -FIELD_LIMIT_MM, FIELD_LIMIT_MM)
    return PackedSkull(name, np.round(field / QUANTUM_MM).astype(np.int8), np.ones(HEAD_GRID.shape, bool), complete)


def test_the_flow_of_a_perfect_velocity_field_ends_at_the_target(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 50, 3, generator=rng) * 20, torch.randn(2, 50, 3, generator=rng) * 20
    noise = torch.randn(2, 50, 3, generator=rng)
    kind = torch.zeros(50, dtype=torch.int64)
    source = Source(start, torch.ones(2, 50, 3), kind, start, torch.zeros(3), 2.0)

    class Straight:
        """x_1 - x_0 for every point, which moves straight on, scaled by a power of time whose mean is 1."""

        def __init__(self, power):
            self.power = power

        def encoder(self, channels):
            return channels

        def velocity(self, encoded, channels, points, t, source):
            return (self.power + 1) * t[:, None, None] ** self.power * (target - source.points - noise)

    channels = torch.zeros(1, 6, 4, 4, 4)
    held_back = flow(Straight(0), channels, source, noise, 4)
    assert torch.allclose(held_back, start + completion.TRUST * (target - start), atol=1e-3)
    monkeypatch.setattr(completion, "TRUST", 1.0)
    for count in (1, 2, 5, 8):  # odd numbers end with an Euler step
        assert torch.allclose(flow(Straight(0), channels, source, noise, count), target, atol=1e-3)
    for count in (2, 8):  # Heun's rule is exact for what is linear in time
        assert torch.allclose(flow(Straight(1), channels, source, noise, count), target, atol=1e-3)


def test_training_gives_weights_a_log_and_a_checkpoint_that_goes_on(case_folder, tmp_path):
    told = []
    options = {"pack": None, "out": tmp_path, "minutes": 0.001, "device": "cpu", "threads": 1, "progress": told.append}
    weights = train.train("completion", **options)
    with (tmp_path / "completion.csv").open(newline="") as file:
        first = list(csv.DictReader(file))
    assert weights == tmp_path / "completion.safetensors" and weights.is_file() and told
    assert {"step", "seconds", "loss", "miss_mm"} <= set(first[0])
    train.train("completion", **options)
    with (tmp_path / "completion.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(first) + 1 and int(rows[-1]["step"]) > int(first[-1]["step"])


def test_training_leaves_the_callers_random_numbers_alone(case_folder, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train.train("completion", None, tmp_path, 0.001, "cpu", threads=1, progress=lambda line: None)
    assert torch.equal(torch.rand(1), expected)


# ---- what is refused


@pytest.mark.parametrize(
    "change, said",
    [
        ({"stage": "nose"}, "kernel, dome, cases, look, completion, voxelization, refinement"),
        ({"minutes": 0.0}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"threads": 0}, "threads"),
        ({"stage": "look"}, "pack for the stage look"),
        ({"stage": "cases"}, "pack for the stage cases"),
    ],
)
def test_wrong_options_are_refused(change, said, tmp_path):
    options = {"stage": "completion", "pack": None, "out": tmp_path, "minutes": 1.0} | change
    with pytest.raises(OptionError, match=said):
        train.train(**options)


def test_a_folder_without_cases_names_the_stage_that_makes_them(tmp_path):
    with pytest.raises(RefusedInput, match="no training cases") as caught:
        train.train("refinement", None, tmp_path, 1.0)
    assert "cases" in caught.value.hint


def test_the_command_refuses_with_code_2(tmp_path, capsys):
    nothing = tmp_path / "no.npz.xz"
    assert cli.main(["train", "dome", "--data", str(nothing), "--out", str(tmp_path)]) == 2
    assert "no-file" in capsys.readouterr().err
    nothing.write_bytes(b"no pack")
    assert cli.main(["train", "dome", "--data", str(nothing), "--out", str(tmp_path)]) == 2
    assert cli.main(["train", "export", "--out", str(tmp_path)]) == 2
    assert "unreadable" in capsys.readouterr().err


# ---- which skulls


def test_validation_and_development_skulls_are_kept_out():
    empty = np.zeros((1, 1, 1))
    skulls = [PackedSkull(n, empty, empty, True) for n in ("000", "004", "008", "t001", "t003")]
    assert [s.name for s in train.training_skulls(skulls, False)] == ["000", "t001"]
    assert [s.name for s in train.training_skulls(skulls, True)] == ["000", "004", "t001"]
    assert len(train.VALIDATION) == 15 and len(train.DEVELOPMENT) == 10
    assert not set(train.VALIDATION) & set(train.DEVELOPMENT)


# ---- the stages before the networks


def many_skulls(count):
    empty = np.zeros((1, 1, 1), np.int8)
    return [PackedSkull(f"{n:03d}", empty, empty.astype(bool), True) for n in range(count)]


def test_the_shape_model_learns_from_all_skulls_and_fills_their_holes(tmp_path, monkeypatch):
    from CranialImplantLib.training import cases

    rng = np.random.default_rng(0)

    def maps(skulls, expected_mm=None):
        inner = 74.0 + rng.normal(0, 2, (len(skulls), 1, 1)) + rng.normal(0, 0.1, (len(skulls), *VAULT_MAP.shape))
        outer = inner + 6.0
        for skull, o, i in zip(skulls, outer, inner, strict=True):
            if not skull.complete:
                o[60:70, 60:70] = i[60:70, 60:70] = np.nan
        return outer, inner

    monkeypatch.setattr(cases, "vault_maps", maps)
    own_hole = [replace(skull, complete=False) for skull in many_skulls(3)]
    prepare.save_dome([*many_skulls(30), *own_hole], Kernel(), tmp_path / "out" / "dome.safetensors")
    write_manifest(tmp_path / "out", {})
    dome = dome_of(open_weights(tmp_path / "out"))
    assert dome.domain[64, 64] and np.isfinite(dome.mean).all() and np.isfinite(dome.modes).all()
    assert np.abs(dome.mean[0] - dome.mean[1] - 6.0).max() < 0.3 and np.abs(dome.mean[1] - 74.0).max() < 2.0


def test_too_few_complete_skulls_are_refused(tmp_path):
    for make in (lambda s: prepare.save_dome(s, None, tmp_path / "d"), lambda s: prepare.spread_cases(s, None, tmp_path, 1.0)):
        with pytest.raises(RefusedInput, match="29 complete skulls"):
            make(many_skulls(29))


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-ins reach the processes by a fork")
def test_cases_come_from_several_processes_and_only_the_missing_ones_are_made(tmp_path, monkeypatch):
    from CranialImplantLib.training import cases

    monkeypatch.setattr(prepare, "folded_models", lambda skulls, kernel: ([None], np.zeros(len(skulls), int)))
    monkeypatch.setattr(cases, "make_case", lambda skull, model, generator: small_case(int(generator.integers(99)), 20))
    small_case(1, 20).save(tmp_path / "case_7_1.npz")
    stamp = (tmp_path / "case_7_1.npz").stat().st_mtime_ns
    told = []
    prepare.spread_cases(many_skulls(30), None, tmp_path, 0.02, 7, 2, told.append)
    numbers = sorted(int(p.stem.split("_")[2]) for p in tmp_path.glob("case_7_*.npz"))
    assert {0, 1, 2, 3} <= set(numbers) and told
    assert (tmp_path / "case_7_1.npz").stat().st_mtime_ns == stamp
    one = cases.Case.load(tmp_path / "case_7_2.npz")
    (tmp_path / "case_7_2.npz").unlink()
    cases.write_numbered_cases(many_skulls(30), [None], np.zeros(30, int), tmp_path, 7, [2])
    assert np.array_equal(one.true_points, cases.Case.load(tmp_path / "case_7_2.npz").true_points)


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-ins reach the processes by a fork")
def test_a_process_that_fails_is_not_passed_over(tmp_path, monkeypatch):
    from CranialImplantLib.training import cases

    def fails(skull, model, generator):
        raise SystemExit(1)

    monkeypatch.setattr(prepare, "folded_models", lambda skulls, kernel: ([None], np.zeros(len(skulls), int)))
    monkeypatch.setattr(cases, "make_case", fails)
    with pytest.raises(FailedResult):
        prepare.spread_cases(many_skulls(30), None, tmp_path, 0.02, 0, 2, lambda line: None)


# ---- what a training machine has


def closure():
    """Training modules and all modules of the library which they import, with their syntax trees."""
    waiting = sorted((LIBRARY / "training").glob("*.py"))
    trees = {}
    while waiting:
        path = waiting.pop()
        if path in trees or not path.is_file():
            continue
        trees[path] = ast.parse(path.read_text(encoding="utf-8"))
        for node in trees[path].body:
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = path.parents[node.level - 1]
                waiting += [folder / f"{name}.py" for name in [node.module, *(a.name for a in node.names)] if name]
    return trees


def absolute_imports(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_training_and_what_it_uses_import_torch_numpy_and_scipy_alone():
    allowed = {"torch", "numpy", "scipy", "safetensors", "MedShapeCore"} | set(sys.stdlib_module_names)
    trees = closure()
    assert {"train", "cases", "roi", "dome", "pose", "contours"} <= {path.stem for path in trees}
    for path, tree in trees.items():
        foreign = set(absolute_imports(ast.walk(tree))) - allowed  # inside functions, too
        assert not foreign, f"{path.name} imports {foreign}"
