"""How like a set of generated shapes is to a set of real ones: MMD, COV, 1-NNA, FID, KID and nearest training shapes.

Shapes are compared within their category. Both sets of a category have equal numbers, drawn repeatedly from what there
is: with unequal numbers 1-NNA and COV mean something else (facts/medshape.md, section 3). The level which pure chance
would reach stands beside 1-NNA; for few shapes it is below one half, because a shape is not its own neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.spatial import cKDTree

RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Agreement:
    """Of one or several categories together; shares from 0 to 1, distances in the unit of the matrices."""

    nna: float  # leave-one-out nearest-neighbour accuracy, real against generated: 1 = told apart, below chance = copied
    nna_low: float  # 95 % interval by the bootstrap over shapes
    nna_high: float
    nna_chance: float
    coverage: float  # share of the real shapes that are the nearest real one of some generated shape
    coverage_low: float
    coverage_high: float
    coverage_real: float  # what an equally large set of real shapes would cover: see `expected_coverage`
    mmd: float  # mean over the real shapes of the distance to the nearest generated one
    shapes: int  # of each kind in one draw
    draws: int


@dataclass(frozen=True)
class _Scores:
    """Of one category: mean scores of each shape over the draws, the real ones first, and how often it was drawn."""

    correct: np.ndarray  # (r + g,) share of its draws
    covered: np.ndarray  # (r,)
    mmd: np.ndarray  # (r,)
    drawn: np.ndarray  # (r + g,)

    def means(self) -> tuple[float, float, float]:
        """Accuracy, coverage and MMD; every draw counts alike."""
        real = self.drawn[: len(self.covered)]
        return (
            float(self.correct @ self.drawn / self.drawn.sum()),
            float(self.covered @ real / real.sum()),
            float(self.mmd @ real / real.sum()),
        )

    def drawn_again(self, rng: np.random.Generator) -> _Scores:
        """Shapes of either kind drawn with putting back. Each share becomes yes or no again: neighbours of a shape are
        neighbours of each other, and without this the interval of equal sets holds the truth in 87 % in place of 95 %.
        """
        real, count = len(self.covered), len(self.drawn)
        while True:
            own, other = rng.integers(0, real, real), rng.integers(real, count, count - real)
            if self.drawn[own].sum() and self.drawn[other].sum():
                break
        both = np.concatenate([own, other])
        return _Scores(
            (rng.random(count) < self.correct[both]).astype(float), (rng.random(real) < self.covered[own]).astype(float),
            self.mmd[own], self.drawn[both],
        )  # fmt: skip


def chamfer_distance(a: cKDTree, b: cKDTree) -> float:
    """Mean of both mean nearest distances of two point sets, not squared; the paper's CD."""
    return float(a.query(b.data)[0].mean() + b.query(a.data)[0].mean()) / 2


def distance_matrix(
    rows: Sequence[cKDTree], columns: Sequence[cKDTree] | None = None,
    distance: Callable[[cKDTree, cKDTree], float] = chamfer_distance,
) -> np.ndarray:  # fmt: skip
    """Distances (n, m) of every row to every column; without columns (n, n) among the rows, 0 on the diagonal."""
    if columns is not None:
        return np.array([[distance(a, b) for b in columns] for a in rows]).reshape(len(rows), len(columns))
    matrix = np.zeros((len(rows), len(rows)))
    for a in range(len(rows)):
        for b in range(a):
            matrix[a, b] = matrix[b, a] = distance(rows[a], rows[b])
    return matrix


def agreement(matrices: Sequence[tuple[np.ndarray, int]], draws: int = 50, seed: int = 0, keep: float = 0.8) -> Agreement:
    """MMD, COV and 1-NNA of categories together, neighbours being looked for within each category.

    matrices : of each category the distances (r + g, r + g) among its r real shapes, which come first, and g generated
               ones; and r. Categories with fewer than two shapes of a kind are left out.
    Each draw takes n = max(2, keep * min(r, g)) of each kind, without putting back. A shape's score is its mean over the
    draws; the interval comes from drawing shapes. No category left: NaN and 0 shapes.
    """
    rng = np.random.default_rng(seed)
    scored, chance, real_cover, sizes = [], [], [], []
    for matrix, real in matrices:
        made = len(matrix) - real
        if min(real, made) < 2:
            continue
        size = max(2, round(keep * min(real, made)))
        scored.append(_scores(matrix, real, size, draws, rng))
        chance.append((size - 1) / (2 * size - 1))
        real_cover.append(expected_coverage(size))
        sizes.append(size)
    if not sizes:
        none = float("nan")
        return Agreement(none, none, none, none, none, none, none, none, none, 0, draws)
    weights = np.array(sizes) / sum(sizes)

    def pooled(scores: list[_Scores]) -> tuple[float, float, float]:
        """Accuracy, coverage and MMD of the categories, each with the weight of its draws."""
        accuracy, cover, mmd = weights @ np.array([s.means() for s in scores])
        return float(accuracy), float(cover), float(mmd)

    nna, coverage, mmd = pooled(scored)
    again = np.array([pooled([s.drawn_again(rng) for s in scored]) for _ in range(RESAMPLES)])
    low, high = np.percentile(again[:, :2], [2.5, 97.5], axis=0)
    return Agreement(
        nna, float(low[0]), float(high[0]), float(weights @ np.array(chance)), coverage, float(low[1]), float(high[1]),
        float(weights @ np.array(real_cover)), mmd, sum(sizes), draws,
    )  # fmt: skip


def expected_coverage(size: int) -> float:
    """About what `size` shapes of the same distribution cover of `size` real ones, if all were equally near: 1 - (1 - 1/n)^n."""
    return 1.0 - (1.0 - 1.0 / size) ** size


def _scores(matrix: np.ndarray, real: int, size: int, draws: int, rng: np.random.Generator) -> _Scores:
    """Plays the draws of `size` shapes of each kind."""
    count = len(matrix)
    correct, covered, mmd, drawn = np.zeros(count), np.zeros(real), np.zeros(real), np.zeros(count)
    for _ in range(draws):
        chosen = np.concatenate([rng.choice(real, size, replace=False), real + rng.choice(count - real, size, replace=False)])
        part = matrix[np.ix_(chosen, chosen)].astype(float)
        across = part[:size, size:]  # real, generated
        mmd[chosen[:size]] += across.min(axis=1)
        covered[chosen[np.unique(across.argmin(axis=0))]] += 1
        np.fill_diagonal(part, np.inf)
        neighbour = part.argmin(axis=1)
        correct[chosen] += (neighbour < size) == (np.arange(2 * size) < size)
        drawn[chosen] += 1
    often = np.maximum(drawn, 1)
    return _Scores(correct / often, covered / often[:real], mmd / often[:real], drawn)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """FID of features (n, d) and (m, d): |mean - mean|^2 + tr(A + B - 2 (A B)^1/2). Biased for few shapes; NaN below 2."""
    if min(len(a), len(b)) < 2:
        return float("nan")
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (AB)^1/2 = tr (A^1/2 B A^1/2)^1/2, which is symmetric: real eigenvalues, not below 0 but for rounding.
    values, vectors = linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(linalg.eigvalsh(root @ second @ root), 0.0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID of features (n, d) and (m, d): squared MMD of the kernel (x.y / d + 1)^3, without bias; may be below 0."""
    if min(len(a), len(b)) < 2:
        return float("nan")
    width = a.shape[1]
    within_a, within_b, across = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    pairs_a, pairs_b = len(a) * (len(a) - 1), len(b) * (len(b) - 1)
    return float(
        (within_a.sum() - np.trace(within_a)) / pairs_a
        + (within_b.sum() - np.trace(within_b)) / pairs_b
        - 2 * across.mean()
    )


@dataclass(frozen=True)
class Memorisation:
    """How near generated shapes come to training shapes, beside how near real unseen ones do."""

    generated: float  # median distance to the nearest training shape
    unseen: float  # the same of shapes that were not trained on
    floor: float  # distance of two samplings of one shape: a copy would lie here
    nearest: float  # smallest distance of a generated shape
    copies: float  # share of generated shapes nearer than halfway from the floor to the nearest unseen shape


def memorisation(generated: np.ndarray, unseen: np.ndarray, floor: float) -> Memorisation:
    """From distances (g, t) of generated and (r, t) of unseen shapes to the t training shapes; empty sets give NaN."""
    if generated.size == 0 or unseen.size == 0:
        return Memorisation(*[float("nan")] * 5)
    near, other = generated.min(axis=1), unseen.min(axis=1)
    limit = (floor + float(other.min())) / 2
    return Memorisation(
        float(np.median(near)), float(np.median(other)), floor, float(near.min()), float((near < limit).mean())
    )
