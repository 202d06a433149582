"""Everything that was learned from data, loaded once per run from the bundled weights, and what one asks of it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from MedShapeCore import __version__
from MedShapeCore.errors import FailedResult
from MedShapeCore.weights import WeightsFolder, open_weights
from torch import Tensor, nn

from .autoencoder import AutoEncoder
from .categories import CATEGORIES
from .diffusion import Guide, LatentDiffusion, sample
from .skeleton import skeletonize

WEIGHTS = Path(__file__).parent / "weights"
SIZE_LIMIT = 2.5  # standard deviations of ln(mm): sizes beyond are not drawn
CHUNK = 32768  # queries that are decoded at once
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class ShapeModels:
    """Auto-encoder and diffusion on one device, ready for inference."""

    autoencoder: AutoEncoder
    diffusion: LatentDiffusion
    device: torch.device
    weights: dict[str, str]  # file name -> SHA-256, for reports
    digest: str  # of all weights together
    versions: dict[str, str]


def load_models(device: torch.device, folder: Path = WEIGHTS) -> ShapeModels:
    """Loads and checks the bundled weights; raises FailedResult where they are missing or changed."""
    weights = open_weights(folder)
    return ShapeModels(
        autoencoder=_ready(AutoEncoder(), "autoencoder", weights, device),
        diffusion=_ready(LatentDiffusion(len(CATEGORIES)), "diffusion", weights, device),
        device=device,
        weights={name: entry["sha256"] for name, entry in weights.manifest["files"].items()},
        digest=weights.digest,
        versions={"MedShapeGen": __version__, "torch": torch.__version__, "numpy": np.__version__,
                  "python": platform.python_version()},
    )  # fmt: skip


def encode(models: ShapeModels, points: np.ndarray, normals: np.ndarray, seeds: np.ndarray | None = None) -> Tensor:
    """Latent (256, 16) of surface points (2560, 3) in u with outward normals; seeds = their indices, or places (256, 3), to start from."""
    surface, outward = (torch.from_numpy(np.asarray(part, np.float32))[None].to(models.device) for part in (points, normals))
    start = None if seeds is None else torch.from_numpy(np.asarray(seeds))[None].to(models.device)
    with torch.inference_mode():
        skeleton = skeletonize(surface, seeds=start, normals=outward)
        return models.autoencoder.encode(surface, outward, skeleton)[0].clone()


def field(models: ShapeModels, latent: Tensor) -> Callable[[Tensor], Tensor]:
    """The signed distance of a latent (256, 16) as a function of places (n, 3) -> (n,), u, negative inside."""
    with torch.inference_mode():
        tokens = models.autoencoder.decoder.tokens(latent[None].to(models.device))

    def distance(places: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [models.autoencoder.decoder(tokens, part[None])[0] for part in places.to(models.device).split(CHUNK)]
            return torch.cat(parts) if parts else places.new_zeros(0)

    return distance


def sample_latents(
    models: ShapeModels, category: str, count: int, seed: int, guidance: float = 0.0, steps: int = 8,
    progress: Callable[[float], None] | None = None, guide: Guide | None = None, sizes_mm: np.ndarray | None = None,
) -> tuple[Tensor, np.ndarray]:  # fmt: skip
    """Latents (count, 256, 16) and half longest sides in mm (count,); shape i depends on (seed, i) alone.

    Sizes are drawn first, from the category, unless `sizes_mm` (count,) gives them; the latents are drawn given the size.
    """
    row = next(number for number, entry in enumerate(CATEGORIES) if entry.name == category)
    gaussians = models.diffusion.gaussians
    draws = [np.random.default_rng([seed, index]) for index in range(count)]
    z = np.array([draw.normal() for draw in draws]).clip(-SIZE_LIMIT, SIZE_LIMIT)
    noise = np.stack([draw.normal(size=tuple(gaussians.mean.shape[1:])) for draw in draws])
    mean, deviation = (float(value) for value in gaussians.log_size[row])
    if sizes_mm is not None:
        z = (np.log(sizes_mm) - mean) / deviation
    label = torch.full((count,), row, device=models.device)
    size = torch.from_numpy(z.clip(-SIZE_LIMIT, SIZE_LIMIT).astype(np.float32)).to(models.device)
    start = torch.from_numpy(noise.astype(np.float32)).to(models.device)
    latents = sample(models.diffusion, start, label, size, steps, guidance, guide=guide, progress=progress)
    return latents, np.exp(mean + deviation * z)


def _ready(network: N, name: str, weights: WeightsFolder, device: torch.device) -> N:
    """The network with its weights, for inference on a device; FailedResult where they are not its own."""
    try:
        network.load_state_dict(weights.tensors(name))
    except RuntimeError as error:
        raise FailedResult("weights-architecture", f"The weights of {name} do not fit the network.", str(error)[:200]) from error
    return network.to(device).eval().requires_grad_(False)
