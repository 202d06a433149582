"""What a training stage is: a network, where its samples come from, and what is minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

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
