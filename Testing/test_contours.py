import numpy as np
import pytest
from CranialImplantLib.contours import level_lines
from scipy import ndimage


def length(line):
    return np.linalg.norm(np.diff(line, axis=0), axis=1).sum()


def test_a_circle_gives_one_closed_line_of_its_length():
    row, column = np.mgrid[:120, :140]
    (line,) = level_lines(np.hypot(row - 60.3, column - 71.2) - 40.0, 1.5)
    assert np.array_equal(line[0], line[-1])
    assert np.abs(np.hypot(line[:, 0] - 60.3, line[:, 1] - 71.2) - 41.5).max() < 0.01  # a chord's error: 1 / (8 r)
    assert length(line) == pytest.approx(2 * np.pi * 41.5, rel=1e-3)
    assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < 1.5  # neighbours in the list are neighbours in space


def test_a_straight_edge_gives_an_open_line_from_border_to_border():
    image = np.arange(10.0)[:, None] + np.zeros(7)
    (line,) = level_lines(image, 3.25)
    assert np.allclose(line[:, 0], 3.25) and sorted(line[:, 1]) == list(range(7))
    assert abs(line[0, 1] - line[-1, 1]) == 6


def test_an_island_in_a_hole_gives_two_lines_and_a_flat_image_none():
    row, column = np.mgrid[:80, :80]
    radius = np.hypot(row - 40, column - 40)
    lines = level_lines(np.maximum(radius - 30, 8 - radius), 0.0)
    assert sorted(round(length(line) / (2 * np.pi)) for line in lines) == [8, 30]
    assert level_lines(np.ones((5, 5)), 0.0) == []


def test_one_pixel_gives_a_diamond():
    image = np.zeros((3, 3))
    image[1, 1] = 1.0
    (line,) = level_lines(image, 0.5)
    assert {tuple(p) for p in line.tolist()} == {(0.5, 1.0), (1.0, 0.5), (1.5, 1.0), (1.0, 1.5)}
    assert len(line) == 5 and np.array_equal(line[0], line[-1])


def test_a_saddle_joins_what_the_middle_says():
    image = np.array([[1.0, 0.0], [0.0, 1.0]])
    bridge, gap = level_lines(image, 0.45), level_lines(image, 0.55)  # the middle is 0.5
    assert len(bridge) == len(gap) == 2
    # Below the middle the high corners hang together: each line runs around one of the low ones.
    assert all(np.ptp(line[:, 0]) > 0.4 for line in bridge + gap)
    near = [np.abs(line - [0, 1]).sum(1).max() for line in bridge]
    assert min(near) < 0.6 and min(np.abs(line - [0, 0]).sum(1).max() for line in gap) < 0.6


def test_random_images_agree_with_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    for seed, smooth in ((0, 4.0), (1, 5.0), (2, 9.0)):
        noise = np.random.default_rng(seed).normal(size=(150, 130))
        image = ndimage.gaussian_filter(noise, smooth)
        image /= image.std()
        ours, theirs = level_lines(image, 0.2), measure.find_contours(image, 0.2)
        assert sum(map(length, ours)) == pytest.approx(sum(map(length, theirs)), rel=1e-3)  # saddles differ
        points = np.concatenate(theirs)
        assert {tuple(p) for p in np.concatenate(ours).round(6)} == {tuple(p) for p in points.round(6)}
