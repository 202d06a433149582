"""One training loop for all networks: resumes exactly, keeps an exponential moving average, writes safetensors and a CSV log."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .pack import PackedSkull, read_pack

DEVELOPMENT = ("004", "009", "013", "019", "029", "054", "060", "068", "073", "083")
VALIDATION = ("008", "018", "020", "022", "031", "032", "039", "047", "056", "058", "062", "072", "074", "077", "089")

Sampler = Callable[[np.random.Generator], tuple[Tensor, ...]]
Loss = Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Task:
    """What a stage trains: a network, where its samples come from, what is minimised."""

    network: nn.Module
    sample: Sampler  # one sample, tensors without the batch axis
    loss: Loss
    batch: int = 2
    rate: float = 1e-3
    ema: float = 0.995


def stages() -> dict[str, Callable[[list[PackedSkull], Path], Task]]:
    """Names of the trainable stages and what builds their tasks from the skulls and the folder of earlier weights."""
    from . import completion_task, look_task, refinement_task, voxelization_task

    return {
        "look": look_task.task,
        "completion": completion_task.task,
        "voxelization": voxelization_task.task,
        "refinement": refinement_task.task,
    }


def training_skulls(skulls: list[PackedSkull], with_development: bool) -> list[PackedSkull]:
    kept_out = VALIDATION if with_development else VALIDATION + DEVELOPMENT
    return [s for s in skulls if s.name not in kept_out]


def train(
    stage: str, pack: str | Path, out: str | Path, minutes: float, device: str = "cpu", seed: int = 0,
    with_development: bool = False, threads: int | None = None, progress: Callable[[str], None] = print,
) -> Path:
    """Trains one stage for `minutes`, resuming from `out` where a checkpoint lies; returns the path of the averaged weights."""
    if threads:
        torch.set_num_threads(threads)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    skulls = training_skulls(read_pack(Path(pack)), with_development)
    torch.manual_seed(seed)
    task = stages()[stage](skulls, folder)
    loop = _Loop(task, folder / f"{stage}.checkpoint.safetensors", torch.device(device))
    log = folder / f"{stage}.csv"
    start = saved = shown = time.monotonic()
    sums: dict[str, float] = {}
    count = 0
    while True:
        elapsed = time.monotonic() - start
        share = min(1.0, elapsed / (60 * minutes))
        generators = [np.random.default_rng([seed, loop.step, n]) for n in range(task.batch)]
        batch = tuple(torch.stack(parts).to(device) for parts in zip(*[task.sample(g) for g in generators], strict=True))
        figures = loop.update(batch, rate=task.rate * _schedule(loop.step, share))
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value
        count += 1
        now = time.monotonic()
        if now - shown > 20 or share >= 1.0:
            row: dict[str, object] = {"step": loop.step, "seconds": round(now - start, 1)}
            row |= {n: round(v / count, 5) for n, v in sums.items()}
            _append(log, row)
            progress(f"{stage} " + " ".join(f"{k}={v}" for k, v in row.items()))
            sums, count, shown = {}, 0, now
        if now - saved > 120 or share >= 1.0:
            loop.save()
            saved = now
        if share >= 1.0:
            break
    weights = folder / f"{stage}.safetensors"
    save_file({n: t.to(torch.float16).contiguous() for n, t in loop.average.items()}, weights)
    return weights


def _schedule(step: int, share: float) -> float:
    """Warm-up over 50 steps, then a cosine to 2 % over the given time."""
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * share))))


class _Loop:
    """Network, optimiser and moving average, complete from the start and saved as one safetensors file."""

    def __init__(self, task: Task, path: Path, device: torch.device) -> None:
        self.task, self.path = task, path
        self.network = task.network.to(device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=task.rate, weight_decay=1e-4)
        self.average = {n: t.detach().clone() for n, t in self.network.state_dict().items()}
        self.step = 0
        if path.exists():
            self._load(device)

    def update(self, batch: tuple[Tensor, ...], rate: float) -> dict[str, float]:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        loss, figures = self.task.loss(self.network, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        keep = min(self.task.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)
        return {"loss": float(loss.detach()), **figures}

    def save(self) -> None:
        tensors = {f"network.{n}": t.contiguous() for n, t in self.network.state_dict().items()}
        tensors |= {f"average.{n}": t.contiguous() for n, t in self.average.items()}
        for name, parameter in self.network.named_parameters():
            state = self.optimiser.state.get(parameter)
            if state:
                tensors |= {f"{key}.{name}": state[key].contiguous() for key in ("exp_avg", "exp_avg_sq")}
        temporary = self.path.with_suffix(".part")
        save_file({n: t.clone() for n, t in tensors.items()}, temporary, metadata={"state": json.dumps({"step": self.step})})
        temporary.replace(self.path)

    def _load(self, device: torch.device) -> None:
        from safetensors import safe_open

        tensors = load_file(self.path, device=str(device))
        with safe_open(self.path, "pt") as file:
            self.step = int(json.loads(file.metadata()["state"])["step"])
        self.network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
        self.average = {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}
        for name, parameter in self.network.named_parameters():
            if f"exp_avg.{name}" in tensors:
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"exp_avg.{name}"], "exp_avg_sq": tensors[f"exp_avg_sq.{name}"],
                }


def _append(path: Path, row: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(row)
        writer.writerow(row.values())
