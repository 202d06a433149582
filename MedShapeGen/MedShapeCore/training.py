"""The training loop of both engines: resumes exactly, keeps a moving average, writes safetensors and a CSV log."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import FailedResult, RefusedInput

LOG_SECONDS, SAVE_SECONDS = 20.0, 120.0

Sampler = Callable[[np.random.Generator], tuple[Tensor, ...]]
Loss = Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Task:
    """One stage; the loss also returns figures for the log, each averaged over the steps that report it."""

    network: nn.Module
    sample: Sampler  # one sample, tensors without the batch axis
    loss: Loss
    batch: int = 2
    rate: float = 1e-3  # highest learning rate
    ema: float = 0.995  # share of the moving average that a step keeps


def chosen_device(wanted: str) -> torch.device:
    """cpu, cuda, or with auto the better one that is there."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RefusedInput("no-cuda", "No CUDA device is available to PyTorch here.", "Choose auto or cpu.")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def run_loop(loop: Loop, stage: str, minutes: float, log: Path, progress: Callable[[str], None]) -> None:
    """Steps until the time is over; tells and logs the mean figures now and then, and saves."""
    start = saved = shown = time.monotonic()
    means = Means()
    share = 0.0
    while share < 1.0:
        share = min(1.0, (time.monotonic() - start) / (60 * minutes))
        means.add(loop.update(loop.batch(), loop.task.rate * schedule(loop.step, share)))
        now = time.monotonic()
        if now - shown > LOG_SECONDS or share >= 1.0:
            row: dict[str, object] = {"step": loop.step, "seconds": round(now - start, 1), **means.figures()}
            append_row(log, row)
            progress(f"{stage} " + " ".join(f"{k}={v}" for k, v in row.items()))
            means, shown = Means(), now
        if now - saved > SAVE_SECONDS or share >= 1.0:
            loop.save()
            saved = now


def schedule(step: int, share: float) -> float:
    """Part of the highest rate: warm-up over the first 50 steps, then a cosine to 2 % over the given time."""
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * share))))


class Means:
    """Means of named figures, each over the steps that reported it."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._values.setdefault(name, []).append(value)

    def figures(self) -> dict[str, float]:
        return {name: round(math.fsum(values) / len(values), 5) for name, values in self._values.items()}


class Loop:
    """Network, optimiser and moving average, complete from the start and saved as one safetensors file.

    Every sample's generator comes from the seed and the step, so a run that goes on from the file at `path` takes the
    same steps as one that was never interrupted.
    """

    def __init__(self, task: Task, path: Path, device: torch.device, seed: int = 0) -> None:
        self.task, self.path, self.device, self.seed = task, path, device, seed
        self.network = task.network.to(device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=task.rate, weight_decay=1e-4)
        self.average = {n: t.detach().clone() for n, t in self.network.state_dict().items()}
        self.step = 0
        if path.exists():
            self._load()

    def batch(self) -> tuple[Tensor, ...]:
        """The samples of the next step, on the device."""
        generators = [np.random.default_rng([self.seed, self.step, n]) for n in range(self.task.batch)]
        samples = [self.task.sample(generator) for generator in generators]
        return tuple(torch.stack(parts).to(self.device) for parts in zip(*samples, strict=True))

    def update(self, batch: tuple[Tensor, ...], rate: float) -> dict[str, float]:
        """One step of the optimiser and of the average; returns the loss and the task's figures."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        loss, figures = self.task.loss(self.network, batch)
        if not bool(torch.isfinite(loss)):
            raise FailedResult("diverged", f"The loss of step {self.step} is no number.",
                               "Start again: the last checkpoint is whole.")
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
        """Writes everything a later run needs, whole or not at all."""
        tensors = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.items()}
        for name, parameter in self.network.named_parameters():
            state = self.optimiser.state.get(parameter)
            if state:
                tensors |= {f"{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq")}
        temporary = self.path.with_suffix(".part")
        copies = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
        save_file(copies, temporary, metadata={"state": json.dumps({"step": self.step})})
        temporary.replace(self.path)

    def _load(self) -> None:
        from safetensors import safe_open

        tensors = load_file(self.path, device=str(self.device))
        with safe_open(self.path, "pt") as file:
            self.step = int(json.loads(file.metadata()["state"])["step"])
        try:
            self.network.load_state_dict(named(tensors, "network"))
        except RuntimeError as error:
            raise RefusedInput("checkpoint", f"The checkpoint {self.path.name} is of another network.",
                               "Choose another folder, or remove the file.") from error
        self.average = named(tensors, "average")
        for name, parameter in self.network.named_parameters():
            if f"exp_avg.{name}" in tensors:
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"exp_avg.{name}"], "exp_avg_sq": tensors[f"exp_avg_sq.{name}"],
                }  # fmt: skip


def named(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    """One group of a checkpoint's tensors (network, average, exp_avg, exp_avg_sq), under their own names."""
    return {n.removeprefix(group + "."): t for n, t in tensors.items() if n.startswith(group + ".")}


def append_row(path: Path, row: dict[str, object]) -> None:
    """Adds a row to a CSV file by the names of its columns; figures seen for the first time become new columns."""
    rows: list[dict[str, object]] = []
    columns: list[str] = []
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [dict(r) for r in reader]
            columns = list(reader.fieldnames or [])
    new = [name for name in row if name not in columns]
    columns += new
    with path.open("w" if new else "a", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        if new:
            writer.writeheader()
            writer.writerows(rows)
        writer.writerow(row)
