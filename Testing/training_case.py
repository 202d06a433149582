"""A small analytic training case: a spherical vault with a round hole, in the patch frame."""

import numpy as np
from CranialImplantLib.head import FIELD_LIMIT_MM
from CranialImplantLib.roi import RIM_REACH_MM, ROI_STEP_MM
from CranialImplantLib.training.cases import SAMPLES, Case

OUTER_MM, INNER_MM, HOLE_MM = 80.0, 74.0, 16.0
SHAPE = (16, 32, 32)
GUESS_MM = 1.5  # the first guess lies this far outside the truth
CENTRE = np.array([0.0, 0.0, -OUTER_MM])


def small_case(seed=0, points=600):
    """The hole's axis is z; bone is the shell between two spheres without a cylinder."""
    low = -ROI_STEP_MM * (np.array(SHAPE[::-1]) - 1) / 2 + np.array([0.0, 0.0, -3.0])
    k, j, i = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    place = low + ROI_STEP_MM * np.stack([i, j, k], -1)
    radius = np.linalg.norm(place - CENTRE, axis=-1)
    wall = np.hypot(place[..., 0], place[..., 1]) - HOLE_MM
    shell = np.maximum(radius - OUTER_MM, INNER_MM - radius)
    bone = np.maximum(shell, -wall)
    raised = np.maximum(radius - OUTER_MM - GUESS_MM, INNER_MM + GUESS_MM - radius)
    guess = np.maximum(raised, wall - RIM_REACH_MM)
    fields = [np.clip(f / FIELD_LIMIT_MM, -1, 1) for f in (bone, bone, guess)]
    channels = np.stack([*fields, np.clip(wall / 20, -1, 1), place[..., 1] / 100, place[..., 2] / 100])
    truth = np.clip(shell / FIELD_LIMIT_MM, -1, 1)

    rng = np.random.default_rng(seed)
    disc = (HOLE_MM + RIM_REACH_MM) * np.sqrt(rng.uniform(size=points))
    angle = rng.uniform(0, 2 * np.pi, points)
    kind = rng.choice([0, 1, 2], points, p=[0.2, 0.4, 0.4])
    disc = np.where(kind == 0, HOLE_MM + RIM_REACH_MM, disc)
    share = np.choose(kind, [rng.uniform(size=points), np.ones(points), np.zeros(points)])
    target_mm = INNER_MM + share * (OUTER_MM - INNER_MM)
    flat = np.stack([disc * np.cos(angle), disc * np.sin(angle), np.sqrt(target_mm**2 - disc**2)], -1)
    outward = np.stack([np.cos(angle), np.sin(angle), np.zeros(points)], -1)
    unit = np.where(kind[:, None] == 0, outward, flat / target_mm[:, None] * np.where(kind == 1, 1, -1)[:, None])
    area = 2 * np.pi * HOLE_MM**2 / (0.8 * points)
    true_points = flat + CENTRE
    guesses = [true_points + (GUESS_MM + shift) * flat / target_mm[:, None] for shift in (0, -0.5, 0.5, 1, 0)]
    return Case(
        channels=channels.astype(np.float16), truth=truth.astype(np.float16), low=low, kind=kind.astype(np.int8),
        true_points=true_points.astype(np.float32), true_normals=(unit * area).astype(np.float32),
        guess_points=np.stack(guesses[: 1 + SAMPLES]).astype(np.float32),
        guess_normals=np.stack([unit * area] * (1 + SAMPLES)).astype(np.float32),
    )  # fmt: skip
