"""Corresponding places on all shapes of a category, so that token k of every latent belongs to the same spot of the organ.

A template of m points is bent onto a shape: an optimal transport plan to evenly spread points of the shape says where each
point should go, and the displacements are smoothed over the template, first to an affine map, then to ever finer bends. What is
left is carried onto the surface. The plan is blurred (Cuturi 2013, entropic transport): a sharp one-to-one assignment follows
the accidents of the sample, and two samples of one ellipsoid then put a place a third of a spacing apart. Without
correspondence the latents are sets in arbitrary order, and a distribution learned from tens of shapes would have to learn the
order as well.

All lengths are u; arrays are numpy; nothing depends on the order in which surface points are stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from MedShapeCore.errors import RefusedInput
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from .skeleton import fps, local_sphere

TEMPLATE_POINTS = 256
# Rounds of bending: blur of the transport, u; range of the Gaussian kernel over the template, u (None: an affine map); share of
# the displacement taken for noise (ridge). Finer rounds cover bumps better and follow the sample's accidents more; this is the
# middle, see Testing/benchmarks/correspondence.py.
ROUNDS = ((0.2, None, 0.0),) * 3 + ((0.2, 0.8, 1.0), (0.15, 0.5, 0.5), (0.1, 0.3, 0.5), (0.07, 0.2, 0.5))
LAST_BEND = (0.2, 0.1)  # range and ridge of the displacements onto the surface
TRANSPORT_STEPS = 25
EVENING_ROUNDS = 3  # of Lloyd's relaxation
TEMPLATE_ROUNDS = 2
TEMPLATE_SHAPES = 40  # more change the mean by less than the spacing of its points
PROBES = 6  # per axis: distances from a lattice to the surface describe a shape for the choice of the medoid


def register_template(template: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Places on a shape's surface which correspond to the points of a template.

    template : (m, 3), from `mean_template`; points (n, 3) on the surface and outward unit normals (n, 3), n >= m.
    Returns (m, 3) float32, on the surface between the sampled points; `skeletonize` takes them as seeds. Index k is the same
    spot for every shape that is registered to this template.
    """
    template, points = _checked(template, points)
    if normals.shape != points.shape:
        raise RefusedInput("normals", f"Normals need the shape {points.shape}, not {normals.shape}.")
    bent = _bent(template, _smoothers(template), even_points(points, len(template)))
    step = on_surface(bent, points, normals) - bent
    bent = bent + _smoother(template, *LAST_BEND) @ step
    return on_surface(bent, points, normals).astype(np.float32)


def mean_template(shapes: Sequence[np.ndarray], m: int = TEMPLATE_POINTS) -> np.ndarray:
    """Mean places (m, 3) float64 of the shapes of one category.

    shapes : surface points (n, 3) of each, in one frame and pose; n >= m. At most TEMPLATE_SHAPES, evenly chosen, are used.
    Starts from evenly spread points of the shape nearest to the average; an empty sequence is refused.
    """
    if not len(shapes):
        raise RefusedInput("no-shapes", "A template needs at least one shape.")
    used = [shapes[k] for k in np.linspace(0, len(shapes) - 1, min(len(shapes), TEMPLATE_SHAPES)).round().astype(int)]
    spread = [even_points(_checked(np.zeros((m, 3)), points)[1], m) for points in used]
    template = spread[medoid(used)]
    for _ in range(TEMPLATE_ROUNDS):
        smoothers = _smoothers(template)
        template = np.mean([_bent(template, smoothers, points) for points in spread], axis=0)
    return template


def medoid(shapes: Sequence[np.ndarray]) -> int:
    """The number of the shape that is nearest to the average of all, by distances from a lattice of probes to the surface."""
    line = np.linspace(-1, 1, PROBES)
    probes = np.stack(np.meshgrid(line, line, line), -1).reshape(-1, 3)
    seen = np.array([cKDTree(points).query(probes)[0] for points in shapes])  # (shapes, probes)
    return int(((seen - seen.mean(0)) ** 2).sum(1).argmin())


def even_points(points: np.ndarray, m: int) -> np.ndarray:
    """(m, 3) points spread evenly over a surface, from (n, 3): farthest points, then centres of their cells."""
    centres = points[fps(torch.from_numpy(points)[None], m)[0].numpy()]
    for _ in range(EVENING_ROUNDS):
        cell = cKDTree(centres).query(points)[1]
        count = np.bincount(cell, minlength=m)[:, None]
        total = np.stack([np.bincount(cell, points[:, axis], m) for axis in range(3)], 1)
        centres = np.where(count > 0, total / np.maximum(count, 1), centres)
    return centres


def on_surface(places: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Carries places (m, 3) near a surface onto it; points and outward normals (n, 3)."""
    at, p, n = (torch.from_numpy(np.ascontiguousarray(x, np.float64))[None] for x in (places, points, normals))
    for _ in range(2):  # a sphere fitted from further away is a rougher one
        distance, outward = local_sphere(at, p, n)
        at = at - distance[..., None] * outward
    return at[0].numpy()


def transported(places: np.ndarray, target: np.ndarray, blur: float) -> np.ndarray:
    """Where entropic optimal transport carries places (m, 3), all of equal mass, among target points (k, 3) of equal mass.

    The blur shrinks a shape towards its middle; the transport of the places to themselves shows by how much, and is subtracted
    (as in Sinkhorn divergences: Feydy et al. 2019).
    """
    return places + _barycentres(places, target, blur) - _barycentres(places, places, blur)


def _barycentres(places: np.ndarray, target: np.ndarray, blur: float) -> np.ndarray:
    """Mean target of each place under the plan of Sinkhorn's iteration: (m, 3)."""
    kernel = np.exp(-_squared(places, target) / (2 * blur**2)) + 1e-30  # far points keep a trace of mass, so no sum is 0
    rows = np.ones(len(places))
    for _ in range(TRANSPORT_STEPS):
        columns = 1 / (rows @ kernel)
        rows = 1 / (kernel @ columns)
    plan = rows[:, None] * kernel * columns
    return plan @ target / plan.sum(1, keepdims=True)


def _bent(template: np.ndarray, smoothers: Sequence[np.ndarray | None], target: np.ndarray) -> np.ndarray:
    """The template (m, 3) bent towards evenly spread points (m, 3) of a shape."""
    bent = template
    corners = np.column_stack([template, np.ones(len(template))])
    for (blur, _, _), smoother in zip(ROUNDS, smoothers, strict=True):
        wanted = transported(bent, target, blur) - template
        moved = corners @ np.linalg.lstsq(corners, wanted, rcond=None)[0]  # the affine part
        if smoother is not None:
            moved = moved + smoother @ (wanted - moved)
        bent = template + moved
    return bent


def _smoothers(template: np.ndarray) -> list[np.ndarray | None]:
    """Per round the matrix of `_smoother`, None for the affine ones."""
    return [None if width is None else _smoother(template, width, ridge) for _, width, ridge in ROUNDS]


def _smoother(template: np.ndarray, width: float, ridge: float) -> np.ndarray:
    """(m, m) matrix K (K + ridge)^-1: kernel ridge regression of displacements over the template."""
    kernel = np.exp(-_squared(template, template) / (2 * width**2))
    return np.linalg.solve(kernel + ridge * np.eye(len(kernel)), kernel).T


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(m, n) squared distances."""
    return cdist(a, b, "sqeuclidean")


def _checked(template: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for name, array in (("The template", template), ("The surface points", points)):
        if array.ndim != 2 or array.shape[1] != 3 or not np.isfinite(array).all():
            raise RefusedInput("points", f"{name} must be finite numbers of the shape (n, 3), not {array.shape}.")
    if len(points) < len(template):
        raise RefusedInput("too-few-points", f"A template of {len(template)} points needs as many surface points, not {len(points)}.")
    return np.asarray(template, np.float64), np.ascontiguousarray(points, np.float64)
