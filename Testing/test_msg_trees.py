"""Artery trees keep the laws they are drawn from, and are one body without handles."""

import numpy as np
import pytest
from MedShapeCore.errors import FailedResult
from MedShapeGenLib.training import trees
from MedShapeGenLib.training.decimation import decimated, sphere_like
from MedShapeGenLib.training.queries import signed_distance
from shape_cases import cube, euler, sphere, together


@pytest.fixture(scope="module")
def tree():
    return trees.artery_tree(np.random.default_rng(3))


def test_seven_segments_branch_twice(tree):
    assert [s.parent for s in tree.segments] == [-1, 0, 0, 1, 1, 2, 2]
    for segment in tree.segments[1:]:
        assert np.array_equal(segment.points_lps[0], tree.segments[segment.parent].points_lps[-1])


def test_radii_follow_murrays_law_and_taper(tree):
    for parent, children in ((0, (1, 2)), (1, (3, 4)), (2, (5, 6))):
        cubes = sum(tree.segments[child].radius_mm[0] ** 3 for child in children)
        assert np.isclose(cubes, tree.segments[parent].radius_mm[-1] ** 3)
    for segment in tree.segments:
        assert (np.diff(segment.radius_mm) < 0).all()
        assert 0.91 < segment.radius_mm[-1] / segment.radius_mm[0] < 0.99


def test_equal_daughters_leave_at_the_angle_of_least_work():
    # cos = (1 + r^4 - r^4) / (2 r^2) with r^3 = 1/2: 37.5 degrees each.
    r = 0.5 ** (1 / 3)
    assert np.isclose(np.degrees(trees.branching_angle(1.0, r, r)), 37.47, atol=0.01)
    thick, thin = np.cbrt([0.7, 0.3])
    assert trees.branching_angle(1.0, thick, thin) < trees.branching_angle(1.0, thin, thick)


def test_the_surface_is_one_body_around_the_centre_lines(tree):
    assert sphere_like(tree.vertices_lps, tree.triangles) and len(tree.triangles) <= trees.MOST_TRIANGLES
    for segment in tree.segments:  # between its ends nothing else is near: the wall is one radius away
        middle = segment.points_lps[8:-8]
        depth = -signed_distance(tree.vertices_lps, tree.triangles, middle)
        assert np.abs(depth - segment.radius_mm[8:-8]).max() < 0.2


def test_branches_keep_clear_of_each_other(tree):
    assert trees.clearance_mm(tree.segments) >= trees.CLEARANCE_MM
    straight = np.linspace([0, 0, 0], [0, 0, 20.0], trees.STEPS)
    radius = np.full(trees.STEPS, 1.0)
    apart = (trees.Segment(straight, radius, -1), trees.Segment(straight + (5.0, 0, 0), radius, -1))
    assert np.isclose(trees.clearance_mm(apart), 3.0)


def test_a_tree_depends_on_seed_and_number_alone():
    a, b = trees.parametric_tree(7), trees.parametric_tree(7)
    assert np.array_equal(a.vertices_lps, b.vertices_lps) and np.array_equal(a.triangles, b.triangles)
    assert a.id == "tree_007" and (a.source, a.split, a.mirrored) == ("parametric-trees", "train", False)
    other = trees.parametric_tree(7, seed=1)
    assert other.vertices_lps.shape != a.vertices_lps.shape or not np.allclose(other.vertices_lps, a.vertices_lps)


def test_trees_are_split_as_documented(monkeypatch, tree):
    monkeypatch.setattr(trees, "artery_tree", lambda rng: tree)
    splits = [trees.parametric_tree(n).split for n in range(trees.COUNT)]
    assert [splits.count(s) for s in ("train", "val", "test")] == [110, 20, 20]


def test_branches_that_always_meet_are_an_error_not_a_loop(monkeypatch):
    monkeypatch.setattr(trees, "clearance_mm", lambda segments: 0.0)
    with pytest.raises(FailedResult):
        trees.artery_tree(np.random.default_rng(0))


def test_decimation_keeps_volume_and_place():
    vertices, triangles = sphere(10.0, (100.0, -50.0, 30.0), rings=40)
    fewer, corners = decimated(vertices, triangles, 1000)
    assert len(corners) <= 1000 and sphere_like(fewer, corners) and euler(fewer, corners) == 2
    assert np.abs(np.linalg.norm(fewer - (100.0, -50.0, 30.0), axis=1) - 10.0).max() < 0.1
    same, as_given = decimated(*cube(), 1000)
    assert np.array_equal(same, cube()[0]) and np.array_equal(as_given, cube()[1])


def test_only_one_closed_body_is_like_a_sphere():
    vertices, triangles = sphere()
    assert sphere_like(vertices, triangles)
    assert not sphere_like(vertices, triangles[:-1])
    turned = triangles.copy()
    turned[3] = turned[3, ::-1]
    assert not sphere_like(vertices, turned)
    assert not sphere_like(*together(sphere(), sphere(2.0, (30.0, 0, 0))))
    assert not sphere_like(np.vstack([vertices, [[0, 0, 0]]]), triangles)
