"""The bundled demo skull is what it says, and the parts that made it do what they should."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from CranialImplantLib.head import HEAD_GRID
from CranialImplantLib.models import WEIGHTS, load_models
from CranialImplantLib.preparation import Located, locate, side_of
from CranialImplantLib.skull import Skull, load_skull
from CranialImplantLib.training import demo_skull
from CranialImplantLib.training.demo_skull import Known
from MedShapeCore.errors import RefusedInput
from MedShapeCore.volumes import orientation_of, spacing_of

DEMO = WEIGHTS.parent / "demo" / "demo_skull.nrrd"


@cache
def skull() -> Skull:
    return load_skull(DEMO)


@cache
def located() -> Located:
    return locate(skull(), load_models(torch.device("cpu")))


def shell(points: np.ndarray, radius_mm: float) -> Known:
    """A ball-shaped shell of 6 mm around the origin, known everywhere."""
    distance = np.abs(np.linalg.norm(points, axis=-1) - radius_mm) - 3.0
    return Known(np.clip(distance, -14, 14).astype(np.float32), np.ones(distance.shape, np.float32))


def test_the_demo_skull_loads_without_a_warning() -> None:
    assert skull().warnings == ()


def test_the_demo_skull_is_small_enough_for_a_repository() -> None:
    assert DEMO.stat().st_size <= 2.5 * 2**20


def test_the_demo_skull_lies_as_a_scan_of_fine_voxels() -> None:
    assert orientation_of(skull().ijk_to_lps) == "LPS"
    assert spacing_of(skull().ijk_to_lps).max() <= 1.0


def test_the_demo_skull_has_one_large_hole_on_the_left() -> None:
    holes = located().holes
    assert len(holes) == 1
    assert 60.0 <= holes[0].area_cm2 <= 80.0
    assert side_of(holes[0].centre_head) == "left"
    assert holes[0].centre_head[2] > 20.0


def test_the_demo_skull_is_a_head_of_usual_size() -> None:
    pose = located().pose
    assert 0.9 < pose.scale < 1.1 and pose.residual_mm < 1.0  # as the public skulls


def test_bending_follows_a_larger_and_shifted_shell() -> None:
    points = HEAD_GRID.points()
    shift = np.array([4.0, -3.0, 2.0], np.float32)
    # Where the small shell has p, the large one has shift + 65 / 60 p: 7.7 mm apart at most.
    small, large = shell(points, 60.0), shell(points - shift, 65.0)
    bend = demo_skull.register_bend(small, large, ((4, 40.0, 15.0, 25),))
    grid = demo_skull.coarse(4)
    near = np.abs(np.linalg.norm(grid.points(), axis=-1) - 60.0) < 4.0
    moved = demo_skull.bent(grid.points(), bend)[near]
    off = np.abs(np.linalg.norm(moved - shift, axis=-1) - np.linalg.norm(grid.points()[near], axis=-1) - 5.0)
    assert np.median(off) < 0.6  # a tenth of the voxel of 6 mm


def test_an_inverted_bending_leads_back() -> None:
    x, y, z = np.moveaxis(HEAD_GRID.points(), -1, 0)
    bend = np.stack([3 * np.sin(y / 30), 2 * np.cos(x / 25), np.sin(z / 20)]).astype(np.float32)
    inverse = demo_skull.inverted(bend)
    middle = (slice(20, -20),) * 3
    there = demo_skull.bent(HEAD_GRID.points(), inverse)[middle]
    back = demo_skull.bent(there, demo_skull.resampled(bend, HEAD_GRID, there))
    assert np.abs(back - HEAD_GRID.points()[middle]).max() < 0.02


def test_a_flap_is_wider_at_its_burr_holes() -> None:
    burrs = np.radians([45.0, 135.0])
    plain = demo_skull.flap_outline_mm(58.0, 44.0, burrs[:0], np.random.default_rng(1))
    bored = demo_skull.flap_outline_mm(58.0, 44.0, burrs, np.random.default_rng(1))
    at = np.round(burrs / (2 * np.pi) * len(plain)).astype(int)
    grown = bored[at] - plain[at]
    assert grown == pytest.approx(demo_skull.BURR_MM + 2.0, abs=0.2)  # centred 2 mm outside the saw's line
    assert (bored == plain).mean() > 0.85


def test_a_moved_vault_is_the_same_and_a_wider_one_is_not() -> None:
    directions = demo_skull.VAULT_MAP.directions()

    def ellipsoid(x_mm: float, shift: np.ndarray) -> np.ndarray:
        """Radii (H, W) from the origin to an ellipsoid around `shift`: the larger root of a quadratic equation."""
        axes = np.array([x_mm, 92.0, 80.0])
        a, c = ((directions / axes) ** 2).sum(-1), ((shift / axes) ** 2).sum() - 1
        b = (directions * shift / axes**2).sum(-1)
        return ((b + np.sqrt(b * b - a * c)) / a).astype(np.float32)

    outer = ellipsoid(72.0, np.zeros(3))
    moved, wider = ellipsoid(72.0, np.array([3.0, -2.0, 2.0])), ellipsoid(80.0, np.zeros(3))
    new, others = demo_skull.differences(outer, np.stack([moved, wider]))
    assert new[0] < 0.2
    assert 0.5 < new[1] < 8.0  # robust alignment hides a part of the 8 mm to either side
    assert others.shape == (2, 1) and (others > 0.5).all()


def test_too_few_skulls_are_refused() -> None:
    with pytest.raises(RefusedInput, match="16 are needed"):
        demo_skull.group_skulls([])
