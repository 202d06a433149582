"""A given shape through the model and back: its reconstruction, its skeleton, and how far they are apart in mm."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from MedShapeCore.jobs import Progress, no_progress, part_of
from MedShapeCore.surfaces import components
from torch import Tensor

from .models import ShapeModels, encode
from .options import ReconstructOptions
from .shape_metrics import reconstruction_figures, signed_distance_mm
from .shapes import Shape, normalise, surface_points
from .solid import Solid, solid_from_latent

POINTS = 2560  # which the encoder sees (the paper's n)


@dataclass(frozen=True)
class Encoded:
    """A shape as the model sees it, and its place."""

    latent: Tensor  # (n_s, 16): x, y, z, radius in u, 12 features
    centre_lps: np.ndarray  # (3,) mm, of the bounding box
    scale_mm: float  # mm per u: half of the longest side
    bodies: int  # of the given shape


@dataclass(frozen=True)
class Reconstruction:
    """A shape and what the model makes of it, in the same place."""

    shape: Shape
    options: ReconstructOptions
    solid: Solid
    skeleton_lps: np.ndarray  # (n_s, 3) mm
    radii_mm: np.ndarray  # (n_s,) distance to the surface
    error_mm: np.ndarray  # (V,) signed distance of every vertex of the reconstruction to the input, + is outside of it
    figures: dict[str, float]  # of the error, in mm and shares
    seconds: dict[str, float]


def reconstruct(
    shape: Shape, models: ShapeModels, options: ReconstructOptions, progress: Progress = no_progress
) -> Reconstruction:
    """Encodes a closed shape, decodes it again and measures the error; the result has the input's place and size."""
    started = time.perf_counter()
    progress("encoding", 0.0)
    encoded = encoded_shape(shape, models, options.seed)
    seconds = {"encoding": round(time.perf_counter() - started, 2)}
    solid = solid_of(encoded, models, options.resolution, part_of(progress, 0.2, 0.7))
    seconds["decoding"] = solid.figures.seconds
    progress("measuring", 0.7)
    started = time.perf_counter()
    error_mm = signed_distance_mm(solid.vertices_lps, shape.vertices_lps, shape.triangles)
    figures = reconstruction_figures(shape, solid)
    seconds["measuring"] = round(time.perf_counter() - started, 2)
    skeleton = encoded.latent[:, :4].detach().cpu().numpy().astype(float) * encoded.scale_mm  # (n_s, 4) mm
    progress("measuring", 1.0)
    return Reconstruction(
        shape, options, solid, skeleton[:, :3] + encoded.centre_lps, skeleton[:, 3], error_mm, figures, seconds
    )


def encoded_shape(shape: Shape, models: ShapeModels, seed: int) -> Encoded:
    """The latent of a closed shape; the seed draws the surface points."""
    normal = normalise(shape)
    points_u, normals = surface_points(normal.vertices_u, normal.triangles, POINTS, np.random.default_rng(seed))
    latent = encode(models, points_u, normals)
    return Encoded(latent, normal.centre_lps, normal.scale_mm, max(components(shape.triangles), 1))


def solid_of(encoded: Encoded, models: ShapeModels, resolution: int, progress: Progress = no_progress) -> Solid:
    """The surface of an encoded shape, in its place."""
    return solid_from_latent(
        models, encoded.latent, encoded.centre_lps, encoded.scale_mm, resolution, encoded.bodies, progress=progress
    )


def between(a: Encoded, b: Encoded, share: float) -> Encoded:
    """A shape between two whose latent points are matched; share 0 is a, 1 is b. Sizes are mixed in the logarithm."""
    return replace(
        a,
        latent=a.latent + share * (b.latent - a.latent),
        centre_lps=a.centre_lps + share * (b.centre_lps - a.centre_lps),
        scale_mm=float(a.scale_mm * (b.scale_mm / a.scale_mm) ** share),
    )
