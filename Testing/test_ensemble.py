"""The ensemble says how far its members differ, in mm and in voxels, and which of them to trust."""

import dataclasses
import time

import numpy as np
import pytest
from CranialImplantLib.ensemble import (
    ImplantEnsemble,
    MemberReport,
    build_ensemble_parts,
    compared,
    head_centre,
    notices_about,
    ranked,
    rim_share,
    soft_occupancy,
    soft_variance,
    tunnels_of,
)
from CranialImplantLib.subtraction import implant_from_field
from MedShapeCore.errors import FailedResult
from MedShapeCore.surfaces import mask_surface, surface_centroid_lps
from synthetic import Hole, case_around, head_points, shell_case, shell_field, turned

HOLE = Hole((0.3, 0.2, 1.0), 35.0)
AXIS = np.array(HOLE.direction) / np.linalg.norm(HOLE.direction)
SPACING = (1.5, 1.5, 2.0)
HALF_MM = 52.0  # half the edge of the grid around the hole
HEAD = turned(20, (1, 1, 0), (100.0, -50.0, 30.0))


def members_of(domes_mm, spacing_mm=SPACING, axes=None, head=HEAD):
    """Fields of skulls whose dome over the hole is pushed outwards by so many mm in its middle, tapering to the rim."""
    case = case_around(HOLE, spacing_mm, HALF_MM, axes=axes, lps_from_head=head)
    points = head_points(case.complete.shape, case.skull.ijk_to_lps, head).astype(np.float32)
    across = np.linalg.norm(np.cross(points, AXIS), axis=-1)
    push = np.clip(1 - (across / 35.0) ** 2, 0, 1)[..., None] * points / np.linalg.norm(points, axis=-1, keepdims=True)
    fields = np.stack([shell_field(points - dome * push, face=False) for dome in domes_mm])
    region = HOLE.signed_mm(points) < 8
    implants = np.stack([implant_from_field(f, case.skull.mask, region, spacing_mm) for f in fields])
    return case, fields, implants, region, across


def parts_of(domes_mm, **options):
    case, fields, implants, region, _ = members_of(domes_mm, **options)
    return build_ensemble_parts(fields, implants, case.skull.mask, region, case.skull.ijk_to_lps)


DOMES = (-2.0, -1.0, 0.0, 1.0, 2.0)


@pytest.fixture(scope="module")
def five():
    return (*members_of(DOMES), parts_of(DOMES))


def middle_spread(parts, side, head=HEAD):
    """Median spread of the vertices within 8 mm of the hole's axis."""
    vertices = (parts.spread.vertices_lps - head[:3, 3]) @ head[:3, :3]
    near = (np.linalg.norm(np.cross(vertices, AXIS), axis=1) < 8) & (parts.spread.side == side)
    return float(np.median(parts.spread.spread_mm[near]))


def test_the_spread_is_the_members_deviation_in_mm(five):
    parts = five[-1]
    expected = np.std(DOMES) * (1 - (4 / 35) ** 2)  # of the push in the middle, 1.40 mm
    assert abs(middle_spread(parts, 1) - expected) < 0.1 and abs(middle_spread(parts, 2) - expected) < 0.1
    assert parts.spread.spread_mm[parts.spread.side == 0].max() < 0.15  # bone ends every member at the rim


def test_the_spread_needs_no_voxel_to_change():
    """Domes 0.1 mm apart fill nearly the same voxels; the surface still tells them apart."""
    parts = parts_of((-0.1, 0.0, 0.1))
    assert abs(middle_spread(parts, 1) - np.std([-0.1, 0.0, 0.1])) < 0.02


def test_a_member_beyond_the_middle_of_the_wall_counts_in_full():
    """4.5 mm outwards the outer surface is nearer to the member's inner one; its outer one is what moved."""
    expected = np.std([0, 0, 0, 4.5]) * (1 - (4 / 35) ** 2)
    parts = parts_of((0.0, 0.0, 0.0, 4.5))
    assert abs(middle_spread(parts, 1) - expected) < 0.2 and abs(middle_spread(parts, 2) - expected) < 0.2


@pytest.mark.parametrize("axes", [
    np.diag([-1.0, -1.0, 1.0]), np.diag([1.0, 1.0, -1.0]), np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
])
def test_any_axis_order_gives_the_same_figures(five, axes):
    spacing = tuple(np.abs(axes.T) @ np.array(SPACING))  # each patient direction keeps its voxel size
    parts = parts_of(DOMES, axes=axes, spacing_mm=spacing)
    for a, b in zip(parts.checks, five[-1].checks, strict=True):
        assert abs(a.volume_ml - b.volume_ml) < 0.03 * b.volume_ml and a.failed == b.failed
        assert abs(a.thickness_mm - b.thickness_mm) < 0.5 and abs(a.area_cm2 - b.area_cm2) < 0.05 * b.area_cm2
    for side in (1, 2):
        assert abs(middle_spread(parts, side) - middle_spread(five[-1], side)) < 0.1


def test_sides_are_outer_inner_and_rim(five):
    case, _, _, _, _, parts = five
    vertices = (parts.spread.vertices_lps - HEAD[:3, 3]) @ HEAD[:3, :3]
    radial = np.abs(np.linalg.norm(np.cross(vertices, AXIS), axis=1))
    outer, inner, rim = (parts.spread.side == s for s in (1, 2, 0))
    depth = shell_field(np.zeros((1, 3)))  # of the middle, positive: outside bone
    assert depth[0] > 0 and min(outer.sum(), inner.sum(), rim.sum()) > 100
    assert radial[rim].min() > 25 and radial[rim].max() < 45
    assert np.linalg.norm(vertices[outer], axis=1).mean() > np.linalg.norm(vertices[inner], axis=1).mean() + 4
    assert np.isfinite(parts.spread.spread_mm).all() and parts.spread.spread_mm.dtype == np.float32


def test_the_mean_lies_in_the_middle(five):
    case, fields, implants, region, _, parts = five
    middle = implant_from_field(fields[2], case.skull.mask, region, SPACING)
    assert 2 * (parts.mean & middle).sum() / (parts.mean.sum() + middle.sum()) > 0.97
    assert not (parts.mean & case.skull.mask).any()
    centre = surface_centroid_lps(parts.spread.vertices_lps, parts.spread.triangles)
    k, j, i = np.nonzero(parts.mean)
    points = np.stack([i, j, k], 1) @ case.skull.ijk_to_lps[:3, :3].T + case.skull.ijk_to_lps[:3, 3]
    assert np.linalg.norm(centre - points.mean(0)) < 0.3


def test_variance_has_more_levels_than_votes_and_lives_near_the_implants(five):
    case, _, implants, _, _, parts = five
    assert parts.variance.dtype == np.float32 and parts.variance.shape == implants.shape[1:]
    assert 0.15 < parts.variance.max() <= 0.25  # p (1 - p) has its maximum at one half; here 2 of 5 give 0.24
    assert len(np.unique(np.round(parts.variance, 3))) > 50
    assert (parts.variance[case.skull.mask] == 0).all()
    assert np.array_equal(parts.agreement, implants.sum(0)) and parts.agreement.dtype == np.uint8
    disputed = (parts.agreement > 1) & (parts.agreement < 4)
    assert parts.variance[parts.agreement == 5].mean() < parts.variance[disputed].mean()


def test_soft_variance_equals_numpys():
    fields = np.random.default_rng(0).normal(size=(4, 5, 6, 7)).astype(np.float32)
    bone, region = np.random.default_rng(1).random((2, 5, 6, 7)) < 0.3
    soft = np.stack([soft_occupancy(f, bone, region, 0.8) for f in fields])
    assert np.allclose(soft_variance(fields, bone, region, 0.8), soft.var(0), atol=1e-6)
    assert np.allclose(soft[:, region & ~bone], np.clip(0.5 - fields[:, region & ~bone] / 1.6, 0, 1), atol=1e-6)
    assert (soft[:, bone | ~region] == 0).all() and soft.dtype == np.float32


def test_members_are_measured(five):
    case, _, _, _, _, parts = five
    truth_ml = case.implant.sum() * np.prod(SPACING) / 1000
    vertices, triangles = mask_surface(case.complete, case.skull.ijk_to_lps)
    corners = (vertices[triangles] - HEAD[:3, 3]) @ HEAD[:3, :3]  # (T, 3, 3) in the head frame
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    middle = corners.mean(1)
    covered = (HOLE.signed_mm(middle) < 0) & ((normal * middle).sum(1) > 0)  # outer surface of the piece that was cut
    hole_cm2 = np.linalg.norm(normal[covered], axis=1).sum() / 100
    for report in (*parts.checks, parts.mean_report):
        assert report.passed and report.failed == () and report.watertight and report.components == 1
        assert abs(report.thickness_mm - 6.0) < 0.5  # of the shell
        assert 4.0 < report.thickness_p05_mm <= report.thickness_mm
        assert report.bone_overlap_voxels == 0
        assert abs(report.area_cm2 - hole_cm2) < 0.1 * hole_cm2
        assert abs(report.volume_ml - truth_ml) < 0.1 * truth_ml
    assert parts.notices == ()


def test_the_middle_member_agrees_most_and_comes_first(five):
    parts = five[-1]
    assert parts.ranking[0] == 2 and set(parts.ranking[-2:]) == {0, 4}
    assert parts.pairwise_dsc.shape == (5, 5) and np.allclose(np.diag(parts.pairwise_dsc), 1)
    assert np.isclose(parts.checks[0].agreement, parts.pairwise_dsc[0, 1:].mean())
    assert len(parts.surfaces) == 6


def test_one_member_has_no_spread_and_full_agreement():
    parts = parts_of((0.0,))
    assert parts.ranking == (0,) and parts.checks[0].agreement == 1.0 and parts.checks[0].passed
    assert (parts.variance == 0).all() and (parts.spread.spread_mm == 0).all()
    assert parts.agreement.max() == 1


def test_an_outlier_fails_and_comes_last():
    parts = parts_of((0.0, 0.3, -0.3, 9.0, 0.1))
    assert parts.ranking[-1] == 3 and "outlier" in parts.checks[3].failed
    assert [c.passed for c in parts.checks] == [True, True, True, False, True]
    assert parts.notices[0].code == "member-checks" and "implant 4: " in parts.notices[0].message


def test_an_empty_member_is_last_and_no_member_at_all_is_an_error():
    case, fields, implants, region, _ = members_of((0.0, 0.3, 0.1))
    fields[1], implants[1] = 5.0, False
    parts = build_ensemble_parts(fields, implants, case.skull.mask, region, case.skull.ijk_to_lps)
    assert parts.ranking[-1] == 1 and parts.checks[1].failed[0] == "empty" and not parts.checks[1].passed
    with pytest.raises(FailedResult, match="None of the 3 members") as caught:
        build_ensemble_parts(fields, implants & False, case.skull.mask, region, case.skull.ijk_to_lps)
    assert caught.value.code == "no-implant"


@pytest.mark.parametrize(("damage", "failed"), [
    ("bone", "bone"), ("piece", "pieces"), ("half", "rim"), ("thin", "thickness"), ("tiny", "volume"),
])
def test_every_check_can_fail(damage, failed):
    case, fields, implants, region, across = members_of((0.0,))
    bone, mask = case.skull.mask, implants[0]
    if damage == "bone":
        mask[bone & (HOLE.signed_mm(head_points(bone.shape, case.skull.ijk_to_lps, HEAD)) < 4)] = True
    elif damage == "piece":
        mask[:4, :4, :4] = True
    elif damage == "half":
        points = head_points(bone.shape, case.skull.ijk_to_lps, HEAD)
        mask &= points[..., 0] > 40
    elif damage == "thin":
        mask &= np.abs(fields[0]) < 1.3
        mask &= np.linalg.norm(head_points(bone.shape, case.skull.ijk_to_lps, HEAD), axis=-1) > 76
    elif damage == "tiny":
        mask &= across < 5
    parts = build_ensemble_parts(fields, implants, bone, region, case.skull.ijk_to_lps)
    assert failed in parts.checks[0].failed and not parts.checks[0].passed


def report(agreement=0.9, volume_ml=20.0, failed=()):
    return MemberReport(volume_ml, 40.0, 6.0, 5.0, agreement, 0, 1, True, not failed, failed)


def test_holes_through_an_implant_are_counted_and_told():
    plate = np.zeros((12, 40, 40), bool)
    plate[4:8, 5:35, 5:35] = True
    assert tunnels_of(mask_surface(plate, np.eye(4)), 1) == 0
    for hole in ((10, 10), (20, 25)):
        plate[:, hole[0] : hole[0] + 4, hole[1] : hole[1] + 4] = False
    assert tunnels_of(mask_surface(plate, np.eye(4)), 1) == 2
    perforated = dataclasses.replace(report(), tunnels=2)
    (notice,) = notices_about((report(),), perforated)
    assert notice.code == "perforated" and notice.message.startswith("Where it is thinnest, 2 small holes lead")
    assert notices_about((perforated,), report()) == ()


def test_ranking_counts_failed_checks_before_agreement():
    checks = (report(0.8), report(0.95, failed=("rim",)), report(0.9), report(0.9), report(0.0, 0.0, ("empty",)))
    assert ranked(checks) == (2, 3, 0, 1, 4)


def test_members_are_compared_with_their_median():
    checks = compared([report(0.9), report(0.91), report(0.6), report(0.9, 50.0), report(0.89)])
    assert [c.failed for c in checks] == [(), (), ("outlier",), ("volume",), ()]
    assert compared([report(0.1), report(0.9)])[0].passed  # two members: nobody can tell which is wrong


def test_the_middle_of_the_head_is_found_from_the_bone():
    case = shell_case(3.0, (HOLE,), face=False, lps_from_head=HEAD, bottom_cut_mm=110.0)
    centre = head_centre(np.zeros((0, 3)), case.skull.mask, case.skull.ijk_to_lps)
    assert np.linalg.norm(centre - HEAD[:3, 3]) < 40  # an egg is no sphere; inside the braincase is enough


def test_the_share_of_the_rim_is_that_of_the_circle():
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle), np.full(360, 5.0)], 1) * 10
    for share in (1.0, 0.5, 0.0):
        side = np.where(np.arange(360) < 360 * share, 0, 1)
        assert abs(rim_share(ring, side, np.zeros(3)) - share) < 0.06


def test_inputs_are_not_changed_and_progress_is_told():
    case, fields, implants, region, _ = members_of((0.0, 1.0))
    before = [a.copy() for a in (fields, implants, case.skull.mask, region)]
    told: list[float] = []
    build_ensemble_parts(fields, implants, case.skull.mask, region, case.skull.ijk_to_lps, progress=told.append)
    assert all(np.array_equal(a, b) for a, b in zip(before, (fields, implants, case.skull.mask, region), strict=True))
    assert told == sorted(told) and told[-1] == 1.0


def test_an_ensemble_prints_what_a_person_asks_first(five):
    case, _, implants, _, _, parts = five
    box = [slice(0, n) for n in implants.shape[1:]]
    ensemble = ImplantEnsemble(
        case.skull, (box[0], box[1], box[2]), implants, parts.mean, parts.variance, parts.agreement, parts.ranking,
        parts.checks, parts.mean_report, parts.spread, parts.notices, {},
    )
    assert str(ensemble).startswith("5 implants of 2") and "around the hole, 5 pass all checks" in str(ensemble)


def test_five_members_take_about_a_second():
    case, fields, implants, region, _ = members_of(DOMES, spacing_mm=(1.0, 1.0, 1.2))
    start = time.process_time()
    build_ensemble_parts(fields, implants, case.skull.mask, region, case.skull.ijk_to_lps)
    assert time.process_time() - start < 10.0  # 0.5 to 1 s; the limit leaves room for a busy machine
