"""Takes the mean depth of the decoded surface off: measured on training shapes, folded into one number of the decoder.

A trained decoder's surface lay 0.002 u too deep on organs, at the right depth on tubes. So what is moved is the offset of
every latent point's tangent plane, in spacings of the skeleton; tubes, whose points propose balls instead, move less. One
length for all shapes leaves 1.6 times as much over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..autoencoder import POINTS, AutoEncoder
from ..decoder import PLANE_OFFSET
from ..skeleton import skeletonize
from .shape_pack import PackedCategory

PLACES = 2000  # surface points per shape at which the field is asked; the encoder has not seen them
SHAPES = 12  # of a category
STEP = 0.01  # spacings, of the numerical derivative; the field is linear in the offset
FILE = "level.json"


def save_level(categories: Sequence[PackedCategory], folder: Path, network: AutoEncoder, seed: int = 0) -> Path:
    """Writes the level of a trained auto-encoder, in spacings of the skeleton, for `export`."""
    path = folder / FILE
    path.write_text(json.dumps({"spacings": round(measured_level(categories, network, seed), 5)}) + "\n", encoding="utf-8")
    return path


def read_level(folder: Path) -> float:
    """The level in spacings; 0 where the stage `level` was not run."""
    path = folder / FILE
    return float(json.loads(path.read_text(encoding="utf-8"))["spacings"]) if path.is_file() else 0.0


def measured_level(categories: Sequence[PackedCategory], network: AutoEncoder, seed: int = 0) -> float:
    """By how many spacings the planes have to move out so that the field vanishes on the true surfaces of training shapes.

    Least squares over the categories, each counting alike; 0 where no shape answers to the planes.
    """
    pairs = []
    for category in categories:
        generator = np.random.default_rng(seed)
        shapes = [depth_and_answer(category, int(index), network, generator) for index in category.of("train")[:SHAPES]]
        if shapes:
            pairs.append(np.mean(shapes, axis=0))
    if not pairs:
        return 0.0
    depth, answer = np.array(pairs).T
    return float(depth @ answer / max(answer @ answer, 1e-12))


def depth_and_answer(
    category: PackedCategory, index: int, network: AutoEncoder, generator: np.random.Generator
) -> tuple[float, float]:
    """Mean of the field on the true surface of one shape in u, and by how many u it falls per spacing of the planes."""
    chosen = generator.permutation(category.points.shape[1])
    points, normals = (torch.from_numpy(part)[None] for part in category.surface(index, chosen[:POINTS]))
    places = torch.from_numpy(category.surface(index, chosen[POINTS : POINTS + PLACES])[0])[None]
    with torch.inference_mode():
        tokens = network.decoder.tokens(network.encode(points, normals, skeletonize(points, normals=normals)))
        before = float(network.decoder(tokens, places).mean())
        moved = tokens.plane.clone()
        moved[..., PLANE_OFFSET] -= STEP
        after = float(network.decoder(replace(tokens, plane=moved), places).mean())
    return before, (before - after) / STEP


def levelled(average: dict[str, torch.Tensor], spacings: float) -> dict[str, torch.Tensor]:
    """Weights of an auto-encoder whose planes lie `spacings` further out."""
    bias = average["decoder.plane.bias"].clone()
    bias[PLANE_OFFSET] -= spacings
    return average | {"decoder.plane.bias": bias}
