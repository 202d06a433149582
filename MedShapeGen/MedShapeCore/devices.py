"""Which processor the networks run on, and why."""

from __future__ import annotations

import torch

from .errors import RefusedInput

ENOUGH_GB = 4.0  # free memory of a graphics card from which on `auto` takes it


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """The device for auto, cpu or cuda, and the reason in words; RefusedInput where cuda is asked for in vain."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RefusedInput("no-cuda", "No CUDA device is available to PyTorch here.", "Choose auto or cpu.")
    if wanted != "cpu" and torch.cuda.is_available():
        free_gb = torch.cuda.mem_get_info()[0] / 2**30
        if wanted == "cuda" or free_gb > ENOUGH_GB:
            return torch.device("cuda"), f"{torch.cuda.get_device_name()}, {free_gb:.0f} GB free"
        return torch.device("cpu"), f"The graphics card has only {free_gb:.1f} GB free; the processor is used."
    return torch.device("cpu"), "processor" if wanted == "cpu" else "No CUDA device was found; the processor is used."
