"""Synthetic defects and training cases on an analytic head."""

import dataclasses

import numpy as np
import pytest
from CranialImplantLib.head import FIELD_LIMIT_MM, HEAD_GRID
from CranialImplantLib.pose import Grid
from CranialImplantLib.training.cases import Case, bent_field, cut_field, make_case, vault_domain
from CranialImplantLib.training.defects import STYLES, Cutter, random_cutter
from CranialImplantLib.training.kernel import Kernel
from CranialImplantLib.training.pack import QUANTUM_MM, PackedSkull
from CranialImplantLib.training.shape_model import dome_model, fit_shape
from CranialImplantLib.vault import VAULT_MAP
from scipy import ndimage
from training_case import small_case

UP = np.array([0.0, 0.0, 1.0])
NONE = np.zeros((0, 3))
OUTER_MM, INNER_MM = 80.0, 74.0


def cutter(radius=20.0, bevel=0.0, pegs=NONE, islands=NONE, centre=(0.0, 0.0, 80.0), frame=None):
    frame = np.eye(3) if frame is None else frame
    return Cutter(np.array(centre), frame, np.full(256, radius, np.float32), bevel, np.array(pegs), np.array(islands))


def ball(head_points):
    """Signed mm to a spherical shell around the origin."""
    radius = np.linalg.norm(head_points, axis=-1)
    return np.maximum(radius - OUTER_MM, INNER_MM - radius).astype(np.float32)


@pytest.fixture(scope="module")
def field():
    return np.minimum(ball(HEAD_GRID.points()), FIELD_LIMIT_MM)


@pytest.fixture(scope="module")
def skull(field):
    return PackedSkull("ball", np.round(field / QUANTUM_MM).astype(np.int8), np.ones(field.shape, bool), True)


@pytest.fixture(scope="module")
def model():
    """A shape model of spheres of several sizes and thicknesses, right for the ball."""
    rng = np.random.default_rng(0)
    inner = np.full((8, *VAULT_MAP.shape), INNER_MM) + rng.normal(0, 1.5, (8, 1, 1))
    outer = inner + 6.0 + rng.normal(0, 0.4, (8, 1, 1))
    wave = ndimage.gaussian_filter(rng.normal(size=inner.shape), (0, 10, 10)) * 20
    domain = VAULT_MAP.polar_deg() < 95
    return dome_model(fit_shape(outer + wave, inner + wave, domain, modes=4, rounds=1), Kernel())


# ---- cutters


def test_a_circle_cuts_a_cylinder_negative_inside():
    angle = np.linspace(0, 2 * np.pi, 50)
    for rho in (0.0, 10.0, 19.0, 21.0, 30.0):
        points = np.stack([rho * np.cos(angle), rho * np.sin(angle), np.full(50, 76.0)], -1)
        assert np.allclose(cutter()(points), rho - 20.0, atol=1e-3)


def test_the_cut_ends_above_and_below_the_bone():
    points = np.array([[0.0, 0, 80 + 29], [0, 0, 80 + 31], [0, 0, 80 - 33], [0, 0, 80 - 36]])
    assert (cutter()(points) < 0).tolist() == [True, False, True, False]


def test_a_bevel_opens_the_hole_outwards_or_inwards():
    for bevel in (0.01, -0.01):
        for z in (-5.0, 0.0, 5.0):
            edge = 20.0 * (1 + bevel * z)
            points = np.array([[edge - 0.1, 0, 80 + z], [edge, 0, 80 + z], [edge + 0.1, 0, 80 + z]])
            assert np.allclose(cutter(bevel=bevel)(points), [-0.1, 0.0, 0.1], atol=1e-3)


def test_drill_holes_add_to_the_cut_and_islands_stay():
    cut = cutter(pegs=[[25.0, 0, 7.0]], islands=[[0.0, 0, 4.0]])
    points = np.array([[28.0, 0, 80], [33.0, 0, 80], [0, 0, 80], [0, 3.5, 80], [0, 5.0, 80]])
    assert np.allclose(cut(points), [-4.0, 1.0, 4.0, 0.5, -1.0], atol=1e-3)


def test_a_turned_cutter_cuts_around_its_own_axis():
    frame = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])  # its normal is the head's left
    cut = cutter(centre=(80.0, 0, 0), frame=frame)
    assert np.allclose(cut(np.array([[80.0, 12, 0], [78.0, 0, 25.0], [-80.0, 0, 0]]))[:2], [-8.0, 5.0], atol=1e-3)
    assert cut(np.array([[-80.0, 0, 0]])) > 0  # the other side of the head is not cut


def test_random_cutters_repeat_with_their_generator_and_lie_on_the_vault():
    outer = np.full(VAULT_MAP.shape, OUTER_MM)
    styles = set()
    for seed in range(60):
        one = random_cutter(np.random.default_rng(seed), outer, VAULT_MAP)
        two = random_cutter(np.random.default_rng(seed), outer, VAULT_MAP)
        for name in (f.name for f in dataclasses.fields(Cutter)):
            assert np.array_equal(getattr(one, name), getattr(two, name))
        assert np.linalg.norm(one.centre) == pytest.approx(OUTER_MM)
        assert np.allclose(one.frame @ one.frame.T, np.eye(3), atol=1e-9) and np.linalg.det(one.frame) > 0
        assert one.frame[2] @ one.centre > 0.8 * OUTER_MM  # the normal points outwards
        assert 5 < one.outline_mm.min() and one.outline_mm.max() < 110
        styles.add(len(one.pegs))
    assert styles == {0, 4} and len(STYLES) == 7


def test_a_skull_without_bone_at_the_place_gets_its_middle_radius():
    outer = np.full(VAULT_MAP.shape, np.nan)
    outer[60:70, 60:70] = 85.0
    radii = [np.linalg.norm(random_cutter(np.random.default_rng(s), outer, VAULT_MAP).centre) for s in range(5)]
    assert np.allclose(radii, 85.0)


def test_cutting_only_removes_bone_and_only_near_the_cutter(field):
    for seed in range(4):
        one = random_cutter(np.random.default_rng(seed), np.full(VAULT_MAP.shape, OUTER_MM), VAULT_MAP)
        cut = cut_field(field, one)
        assert (cut >= field).all() and cut.max() <= FIELD_LIMIT_MM
        gone = (cut > 0) & (field < 0)
        near = one(HEAD_GRID.points())
        assert gone.any() and (near[gone] < 0).all()  # bone goes inside the cutter
        assert (cut[(near > FIELD_LIMIT_MM)] == field[near > FIELD_LIMIT_MM]).all()
        assert not ((near < -0.1) & (cut < 0)).any()


# ---- skulls and cases


def test_a_bent_skull_repeats_and_stays_a_closed_shell(skull):
    one, two = (bent_field(skull, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, two)
    other = bent_field(skull, np.random.default_rng(4))
    assert np.abs(one - other).max() > 1.0
    volume = [(f[20:] < 0).sum() / (skull.field[20:] < 0).sum() for f in (one, other)]
    assert all(0.6 < v < 1.5 for v in volume)
    assert ndimage.label((one > 0)[20:])[1] >= 2  # inside and outside do not meet


def test_a_case_holds_true_points_on_the_bone_and_guesses_near_them(skull, model):
    for seed in range(5):
        case = make_case(skull, model, np.random.default_rng(seed))
        if case is not None:
            break
    assert case is not None
    count = len(case.kind)
    assert case.channels.shape[0] == 6 and case.channels.shape[1:] == case.truth.shape
    assert all(n % 16 == 0 for n in case.truth.shape)
    assert case.true_points.shape == (count, 3) and case.guess_points.shape == (5, count, 3)
    assert {0, 1, 2} == set(case.kind.tolist())
    grid = Grid(tuple(case.low), case.truth.shape, 2.0)
    known = np.isfinite(case.true_points).all(1)
    assert known.mean() > 0.95
    points, kind, normals = case.true_points[known], case.kind[known], case.true_normals[known]
    truth_mm = grid.sample(case.truth.astype(np.float32) * FIELD_LIMIT_MM, points, 9.0)
    table = kind > 0
    assert np.median(np.abs(truth_mm[table])) < 0.3 and np.percentile(np.abs(truth_mm[table]), 95) < 1.0
    # Outer points have bone below them, inner points above: a step along the normal leaves the bone.
    unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    ahead = grid.sample(case.truth.astype(np.float32) * FIELD_LIMIT_MM, (points + 1.5 * unit).astype(np.float32), 9.0)
    assert (ahead[table] > truth_mm[table] + 0.7).mean() > 0.95
    bone = case.channels[0].astype(np.float32) * FIELD_LIMIT_MM
    assert (bone >= case.truth.astype(np.float32) * FIELD_LIMIT_MM - 0.05).all()  # the hole only takes bone away
    inside = grid.sample(bone, points[kind == 1], 0.0)
    assert (inside > 0).mean() > 0.8  # the points are where bone is missing
    miss_mm = np.linalg.norm(case.guess_points[0][known] - points, axis=1)
    assert np.median(miss_mm) < 3.0
    samples = np.linalg.norm(case.guess_points[1:] - case.guess_points[:1], axis=-1)
    assert samples.max() > 0.3  # the samples differ from the mean


def test_a_case_is_the_same_after_saving(tmp_path):
    case = small_case()
    case.save(tmp_path / "case_0_0.npz")
    again = Case.load(tmp_path / "case_0_0.npz")
    for field in dataclasses.fields(Case):
        one, two = getattr(case, field.name), getattr(again, field.name)
        assert one.dtype == two.dtype and np.array_equal(one, two, equal_nan=True)
    assert [p.name for p in tmp_path.iterdir()] == ["case_0_0.npz"]  # nothing half written stays


def test_the_vault_is_where_nearly_all_skulls_agree():
    rng = np.random.default_rng(0)
    outer = np.full((20, *VAULT_MAP.shape), 80.0) + rng.normal(0, 2, (20, 1, 1))
    outer[:, VAULT_MAP.polar_deg() > 80] = np.nan
    outer[:10, 50:54, 20:24] = np.nan  # a place that half of them lack, on one side
    domain = vault_domain(outer)
    assert domain[64, 64] and not domain[0, 64]
    assert (domain == domain[:, ::-1]).all()
    assert not domain[VAULT_MAP.polar_deg() > 80].any()
    assert domain.sum() > 0.9 * (VAULT_MAP.polar_deg() < 78).sum()
