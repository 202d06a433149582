"""Stand-ins for the learned parts of MedShapeGen whose answers are known: every shape is an ellipsoid.

A latent's channels 4 to 6 hold the ellipsoid's half axes in u. Sampler, prior, decoding and everything else are the real ones;
the diffusion's network answers 0, so that what is sampled is exactly the Gaussian given here.
"""

import math

import numpy as np
import torch
from MedShapeGenLib.categories import CATEGORIES
from MedShapeGenLib.diffusion import LatentDiffusion
from MedShapeGenLib.models import ShapeModels
from MedShapeGenLib.shapes import Shape

TOKENS = 256
MEAN_AXES_U = (1.0, 0.7, 0.5)
SPREAD_U = (0.08, 0.06)  # standard deviations of the second and the third half axis
SIZE_MM = 50.0  # mean of the largest half axis
SIZE_DEVIATION = 0.12


class EllipsoidDecoder:
    def tokens(self, latents):
        return latents[..., 4:7].mean(1).clamp_min(0.05)  # (B, 3)

    def __call__(self, axes, queries):
        """Close to the distance near the surface, with the exact zero set."""
        inner = (queries / axes[:, None]).norm(dim=-1).clamp_min(1e-3)  # (B, Q)
        steep = (queries / axes[:, None] ** 2).norm(dim=-1).clamp_min(1e-3)
        return inner * (inner - 1) / steep


class EllipsoidAutoEncoder:
    def __init__(self):
        self.decoder = EllipsoidDecoder()

    def encode(self, points, normals, skeleton):
        features = torch.zeros(*skeleton.shape[:2], 12)
        features[..., :3] = points.abs().amax(1, keepdim=True)
        return torch.cat([skeleton, features], -1)

    def field(self, latents, queries):
        return self.decoder(self.decoder.tokens(latents), queries)


def ellipsoid_models():
    torch.manual_seed(0)
    diffusion = LatentDiffusion(len(CATEGORIES), TOKENS, width=16, blocks=1, heads=2)
    gaussians = diffusion.gaussians
    places = ball_points(TOKENS) * torch.tensor(MEAN_AXES_U)
    gaussians.mean[:, :, :3] = places
    gaussians.mean[:, :, 3] = 0.03
    gaussians.mean[:, :, 4:7] = torch.tensor(MEAN_AXES_U)
    basis = torch.zeros(2, TOKENS, 16)
    basis[0, :, 5] = basis[1, :, 6] = 1 / math.sqrt(TOKENS)
    gaussians.basis[:, :2] = basis.flatten(1)
    gaussians.variance[:, :2] = torch.tensor(SPREAD_U) ** 2 * TOKENS
    gaussians.rest[:] = 1e-6
    gaussians.log_size[:] = torch.tensor([math.log(SIZE_MM), SIZE_DEVIATION])
    return ShapeModels(
        autoencoder=EllipsoidAutoEncoder(),
        diffusion=diffusion.eval().requires_grad_(False),
        device=torch.device("cpu"),
        weights={"autoencoder.safetensors": "0" * 64},
        digest="0123456789abcdef",
        versions={"MedShapeGen": "0"},
    )


def ball_points(count):
    """Evenly spread unit vectors (count, 3): a spiral."""
    height = 1 - (2 * torch.arange(count) + 1) / count
    turn = torch.arange(count) * math.pi * (3 - math.sqrt(5))
    ring = (1 - height**2).sqrt()
    return torch.stack([ring * turn.cos(), ring * turn.sin(), height], -1)


def ellipsoid_shape(axes_mm, centre_lps=(0.0, 0.0, 0.0), name="ellipsoid", rings=40):
    """A closed mesh (a latitude-longitude grid) whose vertices lie on the ellipsoid."""
    polar = np.linspace(0, np.pi, rings + 1)[1:-1]
    around = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    ring = np.stack(np.broadcast_arrays(
        np.sin(polar)[:, None] * np.cos(around), np.sin(polar)[:, None] * np.sin(around), np.cos(polar)[:, None]
    ), -1)  # fmt: skip
    points = np.concatenate([ring.reshape(-1, 3), [[0, 0, 1], [0, 0, -1]]])
    n, m = ring.shape[:2]
    index = np.arange(n * m).reshape(n, m)
    turned = np.roll(index, -1, axis=1)
    faces = [np.stack([index[:-1], index[1:], turned[1:]], -1), np.stack([index[:-1], turned[1:], turned[:-1]], -1)]
    top = np.stack([np.full(m, n * m), index[0], turned[0]], -1)
    bottom = np.stack([np.full(m, n * m + 1), turned[-1], index[-1]], -1)
    triangles = np.concatenate([*(f.reshape(-1, 3) for f in faces), top, bottom]).astype(np.int32)
    return Shape(points * np.array(axes_mm, float) + np.array(centre_lps, float), triangles, name)


def piece_of(shape, keep):
    """The triangles of a shape whose corners all satisfy keep(vertices (V, 3)) -> (V,)."""
    kept = shape.triangles[keep(shape.vertices_lps)[shape.triangles].all(axis=1)]
    used, index = np.unique(kept, return_inverse=True)
    return Shape(shape.vertices_lps[used], index.reshape(-1, 3).astype(np.int32), f"piece of {shape.name}")
