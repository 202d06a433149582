"""Whole shapes that agree with a given piece of a surface."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from MedShapeCore.errors import RefusedInput
from MedShapeCore.jobs import Progress, no_progress
from MedShapeCore.notices import Notice
from torch import Tensor

from .categories import CATEGORIES, Category, category
from .generate import category_notices
from .models import ShapeModels, field, sample_latents
from .options import CompleteOptions
from .placement import TOLERANCE, Placement, Sizes, Values, first_placement, grid_places_u, improved
from .shape_metrics import distance_mm
from .shapes import Shape, surface_points
from .solid import Solid, mirrored, solid_from_latent

FIT_POINTS = 600  # of the given surface, which guide the sampler and the fit
MEASURED_POINTS = 4000
KEPT_MM = 1.0  # a completion whose median distance to the given surface is larger has not kept it
FREE = 0.05  # of the longest side: what is further from the given surface was not given
SPARE = 0.6  # of the count: so many more samples are drawn, and those that come nearest to the piece are kept
MISFIT_ROOM = 1.0  # a drawn shape may fit this much worse than the mean shape
ROOM = 1.1  # a given piece may be this much larger than any shape of the category
FIT_STEPS = 80  # at most, of L-BFGS
FIT_TOLERANCE_MM = 0.5
FIT_REACH = 0.03  # of the scale
FIT_WEIGHT = 200.0  # of the given surface against the prior: the number of points that are independent


@dataclass(frozen=True)
class Completion:
    """One whole shape, and how it keeps to what was given."""

    solid: Solid
    centre_lps: np.ndarray  # (3,) mm, fitted
    scale_mm: float  # fitted
    given_median_mm: float  # distance of the given surface to the completion
    given_p95_mm: float
    differs_mm: float | None  # mean distance to the other completions where nothing was given; None = nothing to compare

    @property
    def failed(self) -> tuple[str, ...]:
        kept = () if self.given_median_mm <= KEPT_MM else ("given surface",)
        return (*self.solid.figures.failed, *kept)


@dataclass(frozen=True)
class Completions:
    """Whole shapes in the place of the given piece."""

    given: Shape  # an open or closed piece of a surface
    category: Category
    options: CompleteOptions
    members: tuple[Completion, ...]
    notices: tuple[Notice, ...]
    seconds: dict[str, float]

    @property
    def passed(self) -> bool:
        return not any(member.failed for member in self.members)


@dataclass(frozen=True)
class Given:
    """Points of the given surface, on the side which the model knows."""

    points_lps: np.ndarray  # (m, 3) mm
    normals: np.ndarray  # (m, 3) outward, as far as the file says

    def around(self, reach_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """The points, and half as many each `reach_mm` outside and inside of the surface -> places (2 m, 3), distances."""
        ways = reach_mm * self.normals
        places = np.concatenate([self.points_lps, self.points_lps[::2] + ways[::2], self.points_lps[1::2] - ways[1::2]])
        signs = np.repeat([0.0, 1.0, -1.0], [len(ways), len(ways[::2]), len(ways[1::2])])
        return places.astype(np.float32), (reach_mm * signs).astype(np.float32)


def complete(
    given: Shape, models: ShapeModels, options: CompleteOptions, progress: Progress = no_progress
) -> Completions:
    """`options.count` whole shapes around the given piece, in its place; each begins from noise of its own.

    given : a surface that may be open, in LPS mm, and not turned against a scanner's axes. Its place in the shape and
    the shape's size are found with it. Every sample is drawn towards the piece while it is denoised. More are drawn than
    asked for, and the nearest to the piece are changed as little as the category's covariance allows until it lies on them.
    RefusedInput for an unknown category and a piece larger than it.
    """
    kind = category(options.category)
    refuse_too_large(given, kind)
    seconds = {}
    started = time.perf_counter()
    mirror = options.side == "right" and kind.paired
    triangles = given.triangles[:, ::-1] if mirror else given.triangles
    vertices = mirrored(given.vertices_lps) if mirror else given.vertices_lps
    points, normals = surface_points(vertices, triangles, FIT_POINTS, np.random.default_rng(options.seed))
    piece = Given(points, normals)

    drawn = options.count + math.ceil(SPARE * options.count)
    latents, scale_mm = _drawn(models, kind, options, drawn, progress, (0.0, 0.15))
    placement, piece = placed(models, latents, scale_mm, piece, kind)
    seconds["placing"] = round(time.perf_counter() - started, 2)
    progress("sampling", 0.25)
    started = time.perf_counter()
    guide = Guidance(models, kind, piece, placement)
    latents, _ = _drawn(models, kind, options, drawn, progress, (0.25, 0.5), placement.scale_mm, guide)
    latents, placement = nearest_to(piece, models, latents, guide.placement, options.count)
    seconds["sampling"] = round(time.perf_counter() - started, 2)
    started = time.perf_counter()
    latents, placement = fitted(models, kind, latents, placement, piece, progress)
    seconds["fitting"] = round(time.perf_counter() - started, 2)

    started = time.perf_counter()
    solids = []
    for number in range(options.count):
        stage, at = f"completion {number + 1} of {options.count}", 0.7 + 0.25 * number / options.count
        progress(stage, at)
        solid = solid_from_latent(
            models, latents[number], placement.centre_lps[number], float(placement.scale_mm[number]),
            options.resolution, kind.components, kind,
        )  # fmt: skip
        solids.append(solid.mirrored() if mirror else solid)
        progress(stage, at + 0.25 / options.count, {"shape": number + 1, "surface": solids[-1].surface})
    centres = mirrored(placement.centre_lps) if mirror else placement.centre_lps
    members = measured(given, solids, Placement(centres, placement.scale_mm))
    seconds["decoding"] = round(time.perf_counter() - started, 2)
    progress("measuring", 1.0)
    return Completions(given, kind, options, members, category_notices(kind, options), seconds)


def refuse_too_large(given: Shape, kind: Category) -> None:
    """RefusedInput for a piece that is larger than any shape of the category."""
    longest = kind.longest_mm[1]
    if given.longest_mm > ROOM * longest:
        raise RefusedInput(
            "partial-size",
            f"The given surface is {given.longest_mm:.0f} mm long; a whole {kind.label} has at most {longest:.0f} mm.",
            "Check the category, and that the file is in millimetres and holds nothing else.",
        )


def _drawn(
    models: ShapeModels, kind: Category, options: CompleteOptions, count: int, progress: Progress, part: tuple[float, float],
    sizes_mm: np.ndarray | None = None, guide: Guidance | None = None,
) -> tuple[Tensor, np.ndarray]:  # fmt: skip
    return sample_latents(
        models, kind.name, count, options.seed, options.guidance, options.steps,
        progress=lambda fraction: progress("sampling", part[0] + (part[1] - part[0]) * fraction),
        guide=guide, sizes_mm=sizes_mm,
    )  # fmt: skip


def sizes_of(models: ShapeModels, kind: Category, count: int) -> Sizes:
    """The category's distribution of ln(scale in mm), for `count` shapes."""
    mean, deviation = (float(v) for v in models.diffusion.gaussians.log_size[CATEGORIES.index(kind)])
    return Sizes(np.full(count, mean), deviation)


def placed(
    models: ShapeModels, latents: Tensor, scale_mm: np.ndarray, piece: Given, kind: Category
) -> tuple[Placement, Given]:
    """Where the piece lies in each of the latents (n, n_s, 16), and the piece with outward normals.

    scale_mm (n,) are the sizes with which the latents were drawn. The category's mean shape comes first: a piece may be
    inside out in its file, and the better fit of both ways says which is right; and where a drawn shape fits much worse
    than the mean shape does, its place was not found and the mean shape's is taken.
    """
    gaussians, row = models.diffusion.gaussians, CATEGORIES.index(kind)
    mean, deviation = (float(v) for v in gaussians.log_size[row])
    points = torch.from_numpy(grid_places_u().astype(np.float32))
    side = round(len(points) ** (1 / 3))

    def tried(latent: Tensor, log_scale: float, normals: np.ndarray) -> tuple[Placement, float]:
        grid = field(models, latent)(points).cpu().numpy().reshape(side, side, side)
        return first_placement(grid, piece.points_lps, normals, log_scale, deviation)

    mean_shape = gaussians.restore(gaussians.mean[row])
    ways = [tried(mean_shape, mean, sign * piece.normals) for sign in (1, -1)]
    usual, usual_misfit = min(ways, key=lambda way: way[1])
    outward = Given(piece.points_lps, piece.normals * (1 if usual is ways[0][0] else -1))
    found = []
    for latent, scale in zip(latents, scale_mm, strict=True):
        place, misfit = tried(latent, float(np.log(scale)), outward.normals)
        found.append(place if misfit <= usual_misfit + MISFIT_ROOM else usual)
    return Placement(np.concatenate([p.centre_lps for p in found]), np.concatenate([p.scale_mm for p in found])), outward


class Guidance:
    """Draws a sampler towards shapes with the piece on their surface; the placement follows as they take form."""

    def __init__(self, models: ShapeModels, kind: Category, piece: Given, placement: Placement) -> None:
        self.placement = placement
        self._models, self._piece = models, piece
        self._sizes = sizes_of(models, kind, len(placement))
        self._label = torch.full((len(placement),), CATEGORIES.index(kind), device=models.device)

    def __call__(self, latents: Tensor, sigma: float) -> Tensor:
        """Loss (n,) of denoised latents (n, n_s, 16) at noise level sigma: a times the mean squared distance L.

        The sampler steps by -C grad(a L) with C the covariance that is left at sigma. The factor a makes that step the
        best one along d = C grad L: with J d the change of the distances f along d, it minimises
        w mean((f - a J d)^2) / 2 + a^2 grad L . d / 2, which uses mean(f J d) = grad L . d / 2.
        """
        values = network_values(self._models, latents.detach())
        self.placement = improved(self.placement, self._piece.points_lps, values, self._sizes, 1)
        places = torch.from_numpy(self.placement.places_u(self._piece.points_lps).astype(np.float32)).to(latents.device)
        autoencoder, gaussians = self._models.autoencoder, self._models.diffusion.gaussians
        mean_square = autoencoder.field(latents, places).square().mean(1)  # (n,) u2
        (slope,) = torch.autograd.grad(mean_square.sum(), latents, retain_graph=True)
        with torch.no_grad():
            slope = slope * gaussians.scale  # by standardised channels
            way = gaussians.uncertain(slope, latents.new_full((len(latents),), sigma), self._label)
            drop = (slope * way).sum((1, 2))
            small = 0.01 / way.flatten(1).norm(dim=1).clamp_min(1e-12)
            ahead = autoencoder.field(latents - small[:, None, None] * way * gaussians.scale, places)
            change = (autoencoder.field(latents, places) - ahead) / small[:, None]  # J d
            tolerance_u = FIT_TOLERANCE_MM / torch.from_numpy(self.placement.scale_mm).to(change)
            weight = FIT_WEIGHT / tolerance_u**2
            factor = weight * drop / 2 / (weight * change.square().mean(1) + drop).clamp_min(1e-12)
        return factor * mean_square


def nearest_to(
    piece: Given, models: ShapeModels, latents: Tensor, placement: Placement, count: int
) -> tuple[Tensor, Placement]:
    """The `count` of the latents (n, n_s, 16) on whose surface the piece lies best, in the order of drawing, and their places.

    A sample that is still far from the piece after guidance is of another form; the fit would bend it with lobes that no
    organ has.
    """
    distance = network_values(models, latents)(placement.places_u(piece.points_lps))[0]  # (n, m) u
    away_mm = np.sqrt((distance**2).mean(axis=1)) * placement.scale_mm
    kept = np.sort(np.argsort(away_mm, kind="stable")[:count])
    return latents[kept], Placement(placement.centre_lps[kept], placement.scale_mm[kept])


def network_values(models: ShapeModels, latents: Tensor) -> Values:
    """Field and gradient at places, from the decoder, for `improved`."""

    def values(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.enable_grad():
            at = torch.from_numpy(places.astype(np.float32)).to(latents.device).requires_grad_(True)
            distances = models.autoencoder.field(latents, at)
            (gradient,) = torch.autograd.grad(distances.sum(), at)
        return distances.detach().cpu().numpy().astype(float), gradient.cpu().numpy().astype(float)

    return values


def fitted(
    models: ShapeModels, kind: Category, latents: Tensor, placement: Placement, piece: Given, progress: Progress
) -> tuple[Tensor, Placement]:
    """Latents (n, n_s, 16) and their placement, changed as little as need be until the piece lies on the shapes.

    The change is C^(1/2) w with the covariance C of the category: it follows what varies between shapes. Minimises
    FIT_WEIGHT mean huber(distance error / FIT_TOLERANCE_MM) + |w|^2 / 2 + z^2 / 2 with z the size in the category's standard
    deviations (L-BFGS, each shape by itself).
    """
    found = []
    for number in range(len(latents)):
        progress("fitting", 0.5 + 0.2 * number / len(latents))
        centre, scale = placement.centre_lps[number], float(placement.scale_mm[number])
        found.append(fitted_one(models, kind, latents[number], centre, scale, piece))
    return torch.stack([f[0] for f in found]), Placement(np.stack([f[1] for f in found]), np.array([f[2] for f in found]))


def fitted_one(
    models: ShapeModels, kind: Category, latent: Tensor, centre_lps: np.ndarray, scale_mm: float, piece: Given
) -> tuple[Tensor, np.ndarray, float]:
    """`fitted` for one latent (n_s, 16)."""
    gaussians = models.diffusion.gaussians
    row = CATEGORIES.index(kind)
    label = torch.tensor([row], device=latent.device)
    mean, deviation = (float(v) for v in gaussians.log_size[row])
    modes, rest = gaussians.variance[label].sqrt(), gaussians.rest[label].sqrt()
    start = latent.detach().clone()[None]
    # Points a little off the surface say which side is which: nothing else may run close to it.
    places, wanted_mm = (torch.from_numpy(part).to(latent.device) for part in piece.around(FIT_REACH * scale_mm))
    centre = torch.from_numpy(centre_lps.astype(np.float32)).to(latent.device)
    change = torch.zeros_like(start, requires_grad=True)
    move = torch.zeros(4, device=latent.device, requires_grad=True)  # of centre and size, in likely steps

    def state() -> tuple[Tensor, Tensor, Tensor]:
        moved = start + gaussians.filtered(change, label, modes, rest) * gaussians.scale
        return moved, centre + move[:3] * (TOLERANCE * scale_mm), scale_mm * (deviation * move[3]).exp()

    def loss() -> Tensor:
        optimiser.zero_grad()
        moved, middle, scale = state()
        found_mm = models.autoencoder.field(moved, ((places - middle) / scale)[None])[0] * scale  # (2 m,)
        huber = torch.nn.functional.smooth_l1_loss(found_mm / FIT_TOLERANCE_MM, wanted_mm / FIT_TOLERANCE_MM)
        off_size = (scale.log() - mean) / deviation
        value = FIT_WEIGHT * huber + change.square().sum() / 2 + off_size.square() / 2
        value.backward()
        return value

    optimiser = torch.optim.LBFGS([change, move], max_iter=FIT_STEPS, history_size=20, line_search_fn="strong_wolfe")
    with torch.enable_grad():
        optimiser.step(loss)
    with torch.no_grad():
        moved, middle, scale = state()
    return moved[0], middle.cpu().numpy().astype(float), float(scale)


def measured(given: Shape, solids: list[Solid], placement: Placement) -> tuple[Completion, ...]:
    """Distances of the given surface to each completion, and of the completions to each other where it is not."""
    points, _ = surface_points(given.vertices_lps, given.triangles, MEASURED_POINTS, np.random.default_rng(0))
    members = []
    for number, solid in enumerate(solids):
        to_given = distance_mm(points, *solid.surface)
        members.append(Completion(
            solid, placement.centre_lps[number], float(placement.scale_mm[number]),
            float(np.median(to_given)), float(np.percentile(to_given, 95)), None,
        ))  # fmt: skip
    return tuple(
        replace(member, differs_mm=difference_mm(given, solids, number)) for number, member in enumerate(members)
    )


def difference_mm(given: Shape, solids: list[Solid], number: int) -> float | None:
    """Mean distance in mm of one completion to the others, over its surface far from the given one; None without."""
    own = solids[number]
    points, _ = surface_points(own.vertices_lps, own.triangles, MEASURED_POINTS, np.random.default_rng(0))
    far = distance_mm(points, given.vertices_lps, given.triangles) > FREE * own.figures.longest_mm
    others = [solid for other, solid in enumerate(solids) if other != number]
    if not far.any() or not others:
        return None
    return float(np.mean([distance_mm(points[far], *other.surface).mean() for other in others]))
