"""Skeleton of a shape from its surface points: n_s points with radius, by plain tensor operations.

PUBLISHED is the differentiable skeletonisation of Zhang et al. 2026 (arXiv 2603.07504, section 3.2.1): farthest points of the
surface are replaced by the mean of their nearest surface points, twice, then thinned out and contracted once more among
themselves. On thick shapes this gives a slightly sunk sample of the surface, not an axis; the means drift along the surface to
where the sample happens to be dense, and leave the shape where it is hollow. The default sinks the points straight down instead,
by half the radius of the inscribed ball up to a limit: as deep as the published points lie, without the drift, so that the same
place of two shapes of a category gives the same skeleton point, always inside. AXIS goes all the way to the medial axis.
Selections (farthest, nearest, cluster) are constants for the gradient; means, balls and radii carry it.

All lengths are u, the shape's own unit (half of the longest side of its bounding box). All functions take batches and work
on any device; the answer does not depend on the order in which the points are stored, nor on the rest of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from MedShapeCore.errors import OptionError, RefusedInput
from torch import Tensor

# Two skeleton points nearer than this, in u, are one: 0.1 mm on an organ of 200 mm.
SMALLEST_GAP = 1e-3
# An inscribed ball must touch the surface again at least 60 degrees away, seen from its centre: |p - q| / 2r = sin(30 deg).
# Facets and noise touch much nearer by and would give balls of their own size.
SINE_OF_HALF_SEPARATION = 0.5
# Surface points whose sphere fit gives the radius: fewer is noise, more flattens bends.
PATCH_POINTS = 12
# Numbers of one block of pairs; 64 Mi float32 are 256 MiB.
PAIRS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class SkeletonOptions:
    """How a skeleton is made; the defaults are ours, PUBLISHED is the arithmetic of the paper's code.

    The published points lie 0.02 u deep on organs and halfway to the axis in tubes of 0.03 u, which the defaults keep;
    Testing/benchmarks/skeletons.py has the figures.
    """

    n_s: int = 256
    neighbours: int = 32  # K; the second stage takes K * candidates / n as the published code does (12 of 32)
    iterations: int = 0  # I contractions in either stage; with 0 there are no stages
    oversampling: int = 4  # candidates per skeleton point in the first stage
    towards_axis: float = 0.5  # share of the inscribed radius by which the surface is moved inwards first; needs normals
    deepest: float | None = 0.025  # but not by more, u
    eps: float | None = None  # neighbours further than chains of this length, u, are left out of the mean
    eps_spacings: float | None = None  # the same in multiples of the spacing of the points (median distance to the nearest)
    radius: str = "surface"  # "surface": distance to the surface; "published": mean distance to the 4 nearest points
    distinct: bool = True  # no two skeleton points nearer than SMALLEST_GAP

    def __post_init__(self) -> None:
        for name in ("n_s", "neighbours", "oversampling"):
            if getattr(self, name) < 1:
                raise OptionError(name, getattr(self, name), "a whole number from 1")
        if not 0 <= self.iterations <= 100:
            raise OptionError("iterations", self.iterations, "a whole number from 0 to 100")
        if not 0 <= self.towards_axis <= 1:
            raise OptionError("towards_axis", self.towards_axis, "a number from 0 (surface) to 1 (axis)")
        for name in ("deepest", "eps", "eps_spacings"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(name, value, "a positive number or None")
        if self.eps is not None and self.eps_spacings is not None:
            raise OptionError("eps_spacings", self.eps_spacings, "None where eps is given")
        if self.radius not in ("surface", "published"):
            raise OptionError("radius", self.radius, "'surface' or 'published'")


# The second stage of the published code has eps 0.75; neither value ever rejects a neighbour.
PUBLISHED = SkeletonOptions(iterations=2, towards_axis=0.0, eps=0.65, radius="published", distinct=False)
AXIS = SkeletonOptions(iterations=2, towards_axis=1.0, deepest=None)


def skeletonize(
    points: Tensor, options: SkeletonOptions | None = None, seeds: Tensor | None = None, normals: Tensor | None = None
) -> Tensor:
    """Skeleton points with radius.

    points  : (B, n, 3) float, u, on the surface; n >= n_s.
    seeds   : where the skeleton points start; skeleton point k belongs to seed k. (B, n_s) int64: distinct surface points.
              (B, n_s, 3) float: places on the surface or near it, which need not be sampled. None: farthest points, in an
              order that does not depend on the storage.
    normals : (B, n, 3) outward unit normals. `towards_axis` needs them, and they take the sampling's bias out of the radius.
    Returns (B, n_s, 4): x, y, z, radius in u, of the type and on the device of `points`; differentiable with respect to
    `points` and `normals`. An empty batch gives an empty result.
    """
    options = options or SkeletonOptions()
    _refuse(points, options, seeds, normals)
    if len(points) == 0:
        return points.new_zeros((0, options.n_s, 4))
    order = canonical_order(points)
    surface = take(points, order)  # (B, n, 3)
    outward = None if normals is None else take(normals, order)
    if seeds is not None and seeds.ndim == 2:
        seeds = torch.argsort(order, 1).gather(1, seeds)  # storage -> canonical
    make = _contracted if options.iterations else _sunk
    skeleton = make(surface, outward, options, seeds)
    if options.radius == "published":
        near = take(surface, nearest(skeleton, surface, min(4, surface.shape[1])))
        radius = length(skeleton[:, :, None] - near).mean(-1)
    else:
        radius = surface_distance(skeleton, surface, outward)
    return torch.cat([skeleton, radius[..., None]], -1)


def _sunk(surface: Tensor, outward: Tensor | None, options: SkeletonOptions, seeds: Tensor | None) -> Tensor:
    """Places on the surface moved inwards along the normal: (B, n_s, 3)."""
    if seeds is None:
        seeds = farthest(surface, options.n_s)
    places = take(surface, seeds) if seeds.ndim == 2 else seeds
    skeleton = places
    if options.towards_axis > 0 and outward is not None:
        _, normals = local_sphere(places, surface, outward)
        skeleton = places - _depth(places, normals, surface, options) * normals
    return _distinct(skeleton, places) if options.distinct else skeleton


def _contracted(surface: Tensor, outward: Tensor | None, options: SkeletonOptions, seeds: Tensor | None) -> Tensor:
    """The two stages of the published skeletonisation on a surface that was moved inwards first: (B, n_s, 3)."""
    count = min(options.n_s * options.oversampling, surface.shape[1])
    body = surface
    if options.towards_axis > 0 and outward is not None:
        body = surface - _depth(surface, outward, surface, options) * outward
    if seeds is None or seeds.ndim == 2:
        candidates = farthest(surface, count, seeds)  # (B, m)
        origins, start = take(surface, candidates), take(body, candidates)
    else:
        others = farthest(surface, count - options.n_s, away_from=seeds)
        at_seeds = take(body - surface, nearest(seeds, surface, 1)[..., 0])  # moved inwards as the nearest point is
        origins = torch.cat([seeds, take(surface, others)], 1)
        start = torch.cat([seeds + at_seeds, take(body, others)], 1)
    centres = contract(start, body, options.neighbours, options)  # (B, m, 3)

    if seeds is None:
        chosen = farthest(centres, options.n_s)
    else:
        chosen = torch.arange(options.n_s, device=surface.device).expand(len(surface), -1)
    spread = take(centres, chosen)  # (B, n_s, 3)
    skeleton = contract(spread, centres, max(1, options.neighbours * count // surface.shape[1]), options)
    return _distinct(skeleton, spread, take(start, chosen), take(origins, chosen)) if options.distinct else skeleton


def _depth(places: Tensor, directions: Tensor, points: Tensor, options: SkeletonOptions) -> Tensor:
    """How far places of the surface are moved inwards: (B, m, 1)."""
    depth = options.towards_axis * inscribed_radius(places, directions, points)[..., None]
    return depth if options.deepest is None else depth.clamp_max(options.deepest)


def fps(points: Tensor, n: int, given: Tensor | None = None) -> Tensor:
    """Farthest point sampling: indices of n points, each the farthest from all before it.

    points : (B, N, 3); given : (B, g) int64, indices that come first. Without them the first is the point farthest from the
    centroid. Ties go to the smaller x, then y, then z, so the storage order does not matter.
    Returns (B, n) int64, no index twice. n > N is refused.
    """
    if not 1 <= n <= points.shape[1]:
        raise RefusedInput("too-few-points", f"{n} points were asked of a surface with {points.shape[1]} points.")
    order = canonical_order(points)
    if given is not None:
        given = torch.argsort(order, 1).gather(1, given)
    return order.gather(1, farthest(take(points, order), n, given))


@torch.no_grad()
def farthest(points: Tensor, n: int, given: Tensor | None = None, away_from: Tensor | None = None) -> Tensor:
    """As `fps`, for points in canonical order (ties go to the first); `away_from` (B, s, 3) are places taken already."""
    axes = points.detach().permute(2, 0, 1).contiguous()  # (3, B, N): sums over axes are then plain additions
    batch = torch.arange(len(points), device=points.device)
    gap = torch.full_like(axes[0], torch.inf)  # (B, N) squared distance to the nearest chosen point
    if away_from is not None:
        gap = length(points - take(away_from, nearest(points, away_from, 1)[..., 0])).square()
    elif given is None:
        middle = axes.mean(2, keepdim=True)
        given = (axes - middle).square_().sum(0).argmax(1)[:, None]  # (B, 1)
    chosen = [] if given is None else list(given.unbind(1))[:n]
    for k in range(n):
        if k >= len(chosen):
            chosen.append(gap.argmax(1))
        last = chosen[k]
        torch.minimum(gap, (axes - axes[:, batch, last][..., None]).square_().sum(0), out=gap)
        gap[batch, last] = -1.0  # never again, even if all that is left repeats a chosen position
    return torch.stack(chosen, 1)


@torch.no_grad()
def canonical_order(points: Tensor) -> Tensor:
    """(B, n) int64: the order by x, then y, then z, which is the same however the points of a shape are stored."""
    order = points[..., 2].argsort(dim=1, stable=True)
    for axis in (1, 0):
        order = order.gather(1, points[..., axis].gather(1, order).argsort(dim=1, stable=True))
    return order


@torch.no_grad()
def nearest(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """Indices of the k nearest points, nearest first: queries (B, m, 3), points (B, n, 3) -> (B, m, k) int64."""
    found = []
    per_shape = queries.shape[1] * points.shape[1]
    step = max(1, PAIRS_AT_ONCE // max(1, per_shape))
    for first in range(0, len(points), step):
        # Exact differences: the product form (a^2 - 2ab + b^2) of cdist loses three digits, enough to swap neighbours.
        gaps = torch.cdist(
            queries[first : first + step].contiguous(),
            points[first : first + step].contiguous(),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        found.append(gaps.topk(k, dim=2, largest=False, sorted=True).indices)
    return torch.cat(found)


def contract(centres: Tensor, points: Tensor, neighbours: int, options: SkeletonOptions) -> Tensor:
    """Each centre becomes the mean of its nearest points, `options.iterations` times.

    centres (B, m, 3), points (B, n, 3) -> (B, m, 3). With eps, only neighbours in the cluster of the centre count.
    """
    neighbours = min(neighbours, points.shape[1])
    reach = _reach(points, options)
    for _ in range(options.iterations):
        near = take(points, nearest(centres, points, neighbours))  # (B, m, K, 3)
        if reach is None:
            centres = near.mean(2)
        else:
            member = linked(centres.detach(), near.detach(), reach).to(points)[..., None]
            centres = (near * member).sum(2) / member.sum(2)
    return centres


@torch.no_grad()
def linked(centres: Tensor, near: Tensor, reach: Tensor) -> Tensor:
    """Which neighbours belong to the cluster of their centre: (B, m, K) bool, at least the nearest.

    DBSCAN with min_samples 1 is single linkage: clusters are the connected parts of the graph of gaps <= reach (B,). The
    centre belongs to it as one more node; a centre sunk deeper than `reach` would be alone, so it is tied to its nearest
    neighbour (near (B, m, K, 3) comes nearest first).
    """
    reach = reach[:, None, None]
    member = length(near - centres[:, :, None]) <= reach  # (B, m, K)
    member[..., 0] = True
    # (B, m, K, K); sums by axis, for a (.., K, K, 3) array is slow to reduce.
    squared = sum((near[..., None, axis] - near[:, :, None, :, axis]).square() for axis in range(3))
    link = (squared <= reach[..., None].square()).to(near.dtype)
    while True:
        grown = torch.einsum("bmk,bmkl->bml", member.to(near.dtype), link) > 0
        if torch.equal(grown, member):  # links are reflexive, so a cluster only grows
            return member
        member = grown


def inscribed_radius(places: Tensor, directions: Tensor, points: Tensor) -> Tensor:
    """Radius of the largest ball inside that touches the surface in each place: (B, m, 3), outward (B, m, 3) -> (B, m), u.

    The ball which touches in p and passes through the surface point q has the radius |p - q|^2 / (2 n.(p - q)) (shrinking
    ball: Ma, Bae and Choi 2012, eq. 2); the smallest over all q of `points` (B, n, 3) on the far side is wanted. 0 where nothing
    lies on the far side.
    """
    with torch.no_grad():
        partner = torch.stack([_partner(p, n, q) for p, n, q in zip(places, directions, points, strict=True)])  # -1: none
    across = places - take(points, partner.clamp_min(0))
    there = partner >= 0
    depth = torch.where(there, (directions * across).sum(-1), 1.0)
    return torch.where(there, across.square().sum(-1) / (2 * depth), 0.0)


def _partner(places: Tensor, directions: Tensor, points: Tensor) -> Tensor:
    """(m,) index of the point which the inscribed ball of each place of one shape touches, -1 if none."""
    found = []
    step = max(1, PAIRS_AT_ONCE // 4 // len(points))
    for p, n in zip(places.split(step), directions.split(step), strict=True):
        gap = torch.cdist(p, points, compute_mode="donot_use_mm_for_euclid_dist").clamp_min_(1e-6)  # (s, n); itself: not 0/0
        sine = torch.addmm((n * p).sum(1, keepdim=True), n, points.T, alpha=-1).div_(gap)  # n.(p - q) / |p - q|
        curvature = (sine / gap).masked_fill_(sine < SINE_OF_HALF_SEPARATION, 0)  # 1 / 2r of each ball
        largest, index = curvature.max(1)
        found.append(torch.where(largest > 0, index, -1))
    return torch.cat(found)


def surface_distance(queries: Tensor, points: Tensor, normals: Tensor | None = None) -> Tensor:
    """Distance to the surface, without sign: queries (B, m, 3), points (B, n, 3) on the surface -> (B, m), u.

    Without normals: to the nearest point, which is too far by up to the spacing. With normals: to the local sphere.
    """
    if normals is not None:
        return local_sphere(queries, points, normals)[0].abs()
    return length(queries - take(points, nearest(queries, points, 1)[..., 0]))


def local_sphere(queries: Tensor, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance (B, m), negative inside, and outward unit normal (B, m, 3) of the surface next to queries (B, m, 3).

    A sphere is fitted to positions and normals of the patch around the nearest point (algebraic point set surfaces: Guennebaud
    and Gross 2007, section 4.3); query - distance * normal lies on it. Points of another wall, whose normals differ by over 60
    degrees, are not of the patch. Where the fit fails the distance is that to the nearest point.
    """
    hit = nearest(queries, points, 1)[..., 0]  # (B, m)
    foot, upright = take(points, hit), take(normals, hit)
    offset = queries - foot
    patch = nearest(foot, points, min(PATCH_POINTS, points.shape[1]))  # (B, m, k)
    p, n = take(points, patch) - foot[:, :, None], take(normals, patch)
    squared = p.square().sum(-1, keepdim=True)
    same_wall = (n * upright[:, :, None]).sum(-1, keepdim=True) >= 0.5
    width = squared.amax(2, keepdim=True).clamp_min(1e-12) / 4  # twice the variance: the last has weight e^-4
    weight = torch.exp(-squared / width) * same_wall
    weight = weight / weight.sum(2, keepdim=True).clamp_min(1e-12)  # 0 only where the foot has no normal
    # Algebraic sphere f(x) = c + l.x + q x.x with |grad f| = 1 on it; x relative to the foot.
    mean_p, mean_n, mean_pp = (weight * p).sum(2), (weight * n).sum(2), (weight * squared).sum((2, 3))
    spread = mean_pp - mean_p.square().sum(-1)
    q = 0.5 * ((weight * p * n).sum((2, 3)) - (mean_p * mean_n).sum(-1)) / spread.clamp_min(1e-12)  # a lone point: plane
    linear = mean_n - 2 * q[..., None] * mean_p
    constant = -(linear * mean_p).sum(-1) - q * mean_pp
    norm = linear.square().sum(-1) - 4 * constant * q
    fitted = norm > 1e-6  # about 1, 0 where the normals cancel or are missing
    norm = torch.where(fitted, norm, 1.0).sqrt()
    f = (constant + (linear * offset).sum(-1) + q * offset.square().sum(-1)) / norm
    bent = (1 + 4 * f * q / norm).clamp_min(1e-6).sqrt()
    distance = 2 * f / (1 + bent)
    gradient = torch.where(fitted[..., None], linear + 2 * q[..., None] * offset, upright)
    straight = length(offset)
    # A fit that puts the surface twice as far away as its own points is wrong there. (Not once: where the fit passes through the
    # nearest point both are equal, and the minimum of the two has a kink.)
    distance = torch.where(fitted & (distance.abs() <= 2 * straight), distance, straight * (2.0 * (f > 0) - 1))
    return distance, gradient / length(gradient)[..., None]


def take(values: Tensor, index: Tensor) -> Tensor:
    """values (B, n, c), index (B, ...) int64 -> (B, ..., c): rows by index, shape by shape."""
    flat = index.reshape(len(index), -1, 1).expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).view(*index.shape, values.shape[-1])


def length(vectors: Tensor) -> Tensor:
    """(..., 3) -> (...): norms with a finite gradient at 0."""
    return vectors.square().sum(-1).clamp_min(1e-20).sqrt()


def _reach(points: Tensor, options: SkeletonOptions) -> Tensor | None:
    """(B,) the linkage distance in u, or None where no neighbour is to be left out."""
    if options.eps is not None:
        return points.new_full((len(points),), options.eps)
    if options.eps_spacings is None:
        return None
    near = take(points.detach(), nearest(points.detach(), points.detach(), min(2, points.shape[1]))[..., -1])
    return options.eps_spacings * length(points.detach() - near).median(1).values


def _distinct(skeleton: Tensor, *earlier: Tensor) -> Tensor:
    """Moves each point that repeats an earlier one of its shape back towards where it came from, until none does.

    Two centres with the same nearest neighbours have the same mean. `earlier` are the points before each contraction, last
    stage first; the last are distinct points of the surface.
    """
    for origin in earlier:
        for share in (0.5, 0.75, 1.0):
            gaps = torch.cdist(skeleton.detach(), skeleton.detach(), compute_mode="donot_use_mm_for_euclid_dist")
            repeats = (gaps < SMALLEST_GAP).tril(-1).any(2, keepdim=True)  # (B, n_s, 1)
            if not repeats.any():
                return skeleton
            skeleton = torch.where(repeats, torch.lerp(skeleton, origin, share), skeleton)
    gaps = torch.cdist(skeleton.detach(), skeleton.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    if (gaps.tril(-1) + torch.ones_like(gaps).triu()).min() <= 0:
        raise RefusedInput(
            "repeated-points",
            f"The surface has fewer than {skeleton.shape[1]} distinct points, so its skeleton would repeat points.",
            "Sample the surface more densely, or ask for fewer skeleton points.",
        )
    return skeleton


def _refuse(points: Tensor, options: SkeletonOptions, seeds: Tensor | None, normals: Tensor | None) -> None:
    if points.ndim != 3 or points.shape[-1] != 3:
        raise RefusedInput("points", f"Surface points need the shape (B, n, 3), not {tuple(points.shape)}.")
    if points.shape[1] < options.n_s:
        raise RefusedInput("too-few-points", f"A skeleton of {options.n_s} points needs as many surface points, not {points.shape[1]}.")
    if not points.isfinite().all():
        raise RefusedInput("not-finite", "The surface points hold values that are not finite.")
    if seeds is not None and (seeds.shape[:2] != (len(points), options.n_s) or seeds.shape[2:] not in ((), (3,))):
        raise RefusedInput("seeds", f"Seeds need the shape ({len(points)}, {options.n_s}) or that and 3, not {tuple(seeds.shape)}.")
    if normals is not None and normals.shape != points.shape:
        raise RefusedInput("normals", f"Normals need the shape {tuple(points.shape)}, not {tuple(normals.shape)}.")
    if options.towards_axis > 0 and normals is None:
        raise RefusedInput("normals", "Moving towards the axis needs the normals of the surface.")
