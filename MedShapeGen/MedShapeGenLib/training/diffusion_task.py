"""Training of the latent diffusion: latents of corresponding points, the categories' Gaussians, then the denoiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from MedShapeCore.training import Task
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..autoencoder import POINTS, AutoEncoder
from ..categories import CATEGORIES
from ..correspondence import mean_template, on_surface, register_template
from ..diffusion import SIGMA_MAX, SIGMA_MIN, LatentDiffusion
from ..gaussian import fit_gaussians
from ..skeleton import skeletonize
from .shape_pack import PackedCategory

VIEWS = 2  # latents per shape, each of other surface points
LOG_SIGMA = (-1.0, 1.2)  # EDM's distribution of ln sigma in training; the channels have variance 1 here, not 0.25
DROP = 0.1  # share of samples whose category is not told, per sample (the published code drops whole batches)


def save_ordered(categories: list[PackedCategory], folder: Path, seed: int = 0) -> Path:
    """Writes skeletons (n, VIEWS, 256, 4) in u of the n training shapes, point k at corresponding places.

    Beside them the rows of the shapes in the pack and the surface points that were seen. Missing files alone; does not
    need the auto-encoder.
    """
    place = folder / "ordered"
    place.mkdir(parents=True, exist_ok=True)
    for category in categories:
        path = place / f"{category.name}.npz"
        if path.exists():
            continue
        generator = np.random.default_rng([seed, len(category.ids)])
        rows, count = category.of("train"), category.points.shape[1]
        chosen = np.stack([[generator.choice(count, POINTS, replace=False) for _ in range(VIEWS)] for _ in rows])
        template = mean_template([category.surface(row, views[0])[0] for row, views in zip(rows, chosen, strict=True)])
        skeletons = []
        for row, views in zip(rows, chosen, strict=True):
            surfaces = [category.surface(row, view) for view in views]
            places = register_template(template, *surfaces[0])  # one surface, however it was sampled
            seeds = np.stack([on_surface(places, *surface) for surface in surfaces]).astype(np.float32)
            points, normals = (torch.from_numpy(np.stack(parts)) for parts in zip(*surfaces, strict=True))
            skeletons.append(skeletonize(points, seeds=torch.from_numpy(seeds), normals=normals).numpy())
        temporary = path.with_suffix(".part.npz")
        np.savez(temporary, rows=rows, chosen=chosen.astype(np.int32), skeleton=np.stack(skeletons).astype(np.float32))
        temporary.replace(path)
    return place


def save_latents(categories: list[PackedCategory], folder: Path, network: AutoEncoder) -> Path:
    """Writes latents (n, VIEWS, 256, 16) in u of the ordered skeletons, and half longest sides in mm."""
    place = folder / "latents"
    place.mkdir(parents=True, exist_ok=True)
    for category in categories:
        with np.load(folder / "ordered" / f"{category.name}.npz") as file:
            rows, chosen, skeleton = file["rows"], file["chosen"], torch.from_numpy(file["skeleton"])
        latents = torch.stack([encoded(network, category, *one) for one in zip(rows, chosen, skeleton, strict=True)])
        scale_mm = torch.from_numpy(category.scale_mm[rows].astype(np.float32))
        save_file({"latents": latents, "scale_mm": scale_mm}, place / f"{category.name}.safetensors")
    return place


def encoded(network: AutoEncoder, category: PackedCategory, row: int, chosen: np.ndarray, skeleton: Tensor) -> Tensor:
    """(VIEWS, 256, 16) of one shape."""
    surfaces = [category.surface(row, view) for view in chosen]
    points, normals = (torch.from_numpy(np.stack(parts)) for parts in zip(*surfaces, strict=True))
    with torch.inference_mode():
        return network.encode(points, normals, skeleton).clone()


def task(folder: Path) -> Task:
    """The stage `diffusion`; `folder` has the latents. Categories are numbered as in CATEGORIES."""
    files = [load_file(folder / "latents" / f"{category.name}.safetensors") for category in CATEGORIES]
    latents = [file["latents"] for file in files]  # (n, VIEWS, 256, 16)
    sizes = [file["scale_mm"] for file in files]
    network = LatentDiffusion(len(files), latents[0].shape[2])
    gaussians = fit_gaussians(latents, sizes)
    network.gaussians.load_state_dict(gaussians.state_dict())
    share = np.sqrt([len(x) for x in latents])

    def sample(generator: np.random.Generator) -> tuple[Tensor, ...]:
        number = int(generator.choice(len(latents), p=share / share.sum()))
        index = int(generator.integers(len(latents[number])))
        x = gaussians.standardise(latents[number][index, generator.integers(VIEWS)])
        mean, deviation = gaussians.log_size[number]
        size = (sizes[number][index].log() - mean) / deviation
        label = gaussians.unknown if generator.random() < DROP else number
        sigma = float(np.clip(np.exp(generator.normal(*LOG_SIGMA)), SIGMA_MIN, SIGMA_MAX))
        noise = torch.from_numpy(generator.normal(size=x.shape).astype(np.float32))
        return x, noise, torch.tensor(sigma), torch.tensor(label), size

    return Task(network, sample, diffusion_loss, batch=16, rate=1e-3, ema=0.998)


def diffusion_loss(network: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of F, that is EDM's weighted loss lambda |D - x|^2 with lambda = 1 / c_out^2 (EDM, eq. 8)."""
    x, noise, sigma, label, size = batch
    gaussians = network.gaussians
    noisy = x + sigma[:, None, None] * noise
    linear = gaussians.denoised(noisy, sigma, label, size)  # type: ignore[operator,union-attr]
    step = gaussians.error(sigma, label)[:, None, None]  # type: ignore[operator,union-attr]
    target = (x - linear) / step
    answer = network.correction(noisy, linear, sigma, label, size)  # type: ignore[operator]
    loss = (answer - target).square().mean()
    return loss, {"gaussian": float(target.square().mean())}
