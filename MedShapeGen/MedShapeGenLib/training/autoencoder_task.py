"""Training of the auto-encoder: distances near the surface of turned, mirrored and scaled shapes, and the skeleton constraint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from MedShapeCore.training import Task
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from ..autoencoder import POINTS, AutoEncoder, AutoEncoderOptions
from ..encoder import FEATURES
from ..skeleton import skeletonize
from .shape_pack import QUANTUM, PackedCategory

QUERIES = 2048
NEAR = 0.04  # u; errors count fully within this distance of the surface, less beyond
FEATURE_NOISE = 0.1  # standard deviations; the diffusion's latents are never exact
PLACE_NOISE = 0.004  # u
VARIANTS = 3  # skeletons per shape


def task(categories: list[PackedCategory], folder: Path, options: AutoEncoderOptions | None = None) -> Task:
    """The stage `autoencoder`; `folder` has the skeletons of the stage `skeletons`."""
    settings = options or AutoEncoderOptions()
    skeletons = [read_skeletons(folder, category) for category in categories]
    training = [category.of("train") for category in categories]
    # The square root of a category's size lies between every shape alike and every category alike.
    share = np.sqrt([len(rows) for rows in training])

    def sample(generator: np.random.Generator) -> tuple[Tensor, ...]:
        number = int(generator.choice(len(categories), p=share / share.sum()))
        category = categories[number]
        index = int(generator.choice(training[number]))
        chosen = generator.choice(category.points.shape[1], POINTS, replace=False)
        points, normals = category.surface(index, chosen)
        if settings.precomputed_skeleton:
            skeleton = skeletons[number][index, generator.integers(VARIANTS)].astype(np.float32)
        else:
            skeleton = skeletonize(torch.from_numpy(points)[None], normals=torch.from_numpy(normals)[None])[0].numpy()
        picked = generator.choice(category.queries.shape[1], QUERIES, replace=False)
        queries = category.queries[index, picked] * np.float32(QUANTUM)
        distance = category.sdf[index, picked].astype(np.float32)
        turn, scale = random_motion(generator)
        moved = np.concatenate([skeleton[:, :3] @ turn.T, skeleton[:, 3:]], 1) * scale
        return tuple(
            torch.from_numpy(np.ascontiguousarray(part, np.float32))
            for part in (points @ turn.T * scale, normals @ turn.T, moved, queries @ turn.T * scale, distance * scale,
                         latent_noise(generator, len(moved)))
        )

    def loss(network: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        return field_loss(network, batch, settings.skeleton_constraint)  # type: ignore[arg-type]

    return Task(AutoEncoder(settings), sample, loss, batch=4, rate=2e-3, ema=0.998)


def latent_noise(generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, 16) what is added to a latent in training, so that inexact ones decode well."""
    noise = generator.normal(size=(count, 4 + FEATURES))
    return noise * np.r_[np.full(4, PLACE_NOISE), np.full(FEATURES, FEATURE_NOISE)]


def random_motion(generator: np.random.Generator) -> tuple[np.ndarray, float]:
    """A rotation, often a small one, with a reflection every other time (3, 3), and a scale."""
    vector = generator.normal(size=3) * 0.15
    turn = Rotation.from_rotvec(vector) if generator.random() < 0.5 else Rotation.random(random_state=generator)
    matrix = turn.as_matrix() * np.array([1.0 if generator.random() < 0.5 else -1.0, 1, 1])
    return matrix.astype(np.float32), float(generator.uniform(0.85, 1.05))


def field_loss(network: AutoEncoder, batch: tuple[Tensor, ...], constraint: bool) -> tuple[Tensor, dict[str, float]]:
    """Mean absolute error of the distance, weighted towards the surface, and |f(p_i) + r_i| at the skeleton points.

    The paper's loss is the squared error with lambda = 1 for the constraint (eq. 6); the absolute error, relative to the
    distance, is that of the surface that is looked at.
    """
    points, normals, skeleton, queries, distance, noise = batch
    tokens = network.decoder.tokens(network.encode(points, normals, skeleton) + noise)
    error = (network.decoder(tokens, queries) - distance).abs()
    weight = NEAR / (NEAR + distance.abs())
    loss = (error * weight).mean() / NEAR
    close = distance.abs() < NEAR
    figures = {"near_u": float((error * close).sum().detach() / close.sum().clamp_min(1))}
    if constraint:
        at_skeleton = (network.decoder(tokens, skeleton[..., :3]) + skeleton[..., 3]).abs().mean()
        loss = loss + 0.15 * at_skeleton / NEAR  # the paper's share of the skeleton's queries: 13 %
        figures["skeleton_u"] = float(at_skeleton.detach())
    return loss, figures


def save_skeletons(categories: list[PackedCategory], folder: Path, seed: int = 0) -> Path:
    """Writes VARIANTS skeletons (n, VARIANTS, 256, 4) of every shape, each of other surface points; missing files alone."""
    place = folder / "skeletons"
    place.mkdir(parents=True, exist_ok=True)
    for category in categories:
        path = place / f"{category.name}.npy"
        if path.exists():
            continue
        generator = np.random.default_rng([seed, len(category.ids)])
        rows = []
        for index in range(len(category.ids)):
            chosen = [generator.choice(category.points.shape[1], POINTS, replace=False) for _ in range(VARIANTS)]
            surfaces = [category.surface(index, some) for some in chosen]
            points, normals = (torch.from_numpy(np.stack(parts)) for parts in zip(*surfaces, strict=True))
            rows.append(skeletonize(points, normals=normals).numpy())
        temporary = path.with_suffix(".part.npy")
        np.save(temporary, np.stack(rows).astype(np.float32))
        temporary.replace(path)
    return place


def read_skeletons(folder: Path, category: PackedCategory) -> np.ndarray:
    """(n, VARIANTS, 256, 4) float32 in u."""
    return np.load(folder / "skeletons" / f"{category.name}.npy")
