"""Bands that the empirical distribution of uniform numbers stays in, everywhere at once, with a given probability.

Source: Säilynoja, Bürkner & Vehtari (2022), Graphical test for discrete uniformity and its applications in goodness-of-
fit evaluation and multiple sample comparison, Statistics and Computing 32(32), sections 2.1 and 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from scipy.stats import binom

__all__ = ["ecdf_band", "probability_inside"]


@lru_cache(maxsize=64)
def ecdf_band(size: int, num_points: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Compute a simultaneous band of counts of ``size`` independent uniform numbers at or below ``i / num_points``.

    Pointwise intervals of a binomial count are narrowed together until the whole path lies within them with the level
    wanted; its probability is exact, by a recursion over the points.

    Args:
        size: how many numbers, ``N``.
        num_points: at which the counts are compared, ``K``; ranks ``0 .. L`` are uniform at these if ``K`` divides
            ``L + 1``.
        level: probability that no count leaves the band.

    Returns:
        The lowest and the highest count at ``i / num_points``, ``i = 1 .. K``, each int64.

    Example:
        >>> low, high = ecdf_band(100, 4)
        >>> low.tolist(), high.tolist()
        ([15, 39, 65, 100], [35, 61, 85, 100])
    """
    points = np.arange(1, num_points + 1) / num_points
    steps = list(_steps(size, points))
    lower, upper = 0.0, 1 - level  # of gamma: pointwise probability outside; all of it at one point is the most
    for _ in range(40):
        middle = (lower + upper) / 2
        inside = _probability_inside(steps, *_pointwise(size, points, middle))
        lower, upper = (middle, upper) if inside >= level else (lower, middle)
    low, high = _pointwise(size, points, lower)
    return low, high


def probability_inside(low: np.ndarray, high: np.ndarray, shares: np.ndarray, size: int) -> float:
    """Compute the probability that counts of ``size`` independent numbers stay in a band, whatever they are drawn from.

    Args:
        low: of the band, ``K``.
        high: likewise.
        shares: the probability that a number is counted at each point, increasing to 1, ``K``.
        size: how many numbers.

    Example:
        >>> low, high = ecdf_band(100, 4)
        >>> round(probability_inside(low, high, np.array([0.25, 0.5, 0.75, 1.0]), 100), 2)
        0.96
        >>> round(probability_inside(low, high, np.array([0.5, 0.8, 0.95, 1.0]), 100), 2)
        0.0
    """
    return _probability_inside(list(_steps(size, shares)), low, high)


def _pointwise(size: int, points: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = binom.ppf(gamma / 2, size, points), binom.ppf(1 - gamma / 2, size, points)
    return np.maximum(low, 0).astype(np.int64), high.astype(np.int64)


def _steps(size: int, points: np.ndarray) -> Iterator[np.ndarray]:
    """The probability of every next count (columns) after every count (rows), from each point to the next."""
    counts = np.arange(size + 1)
    more = counts[None, :] - counts[:, None]  # of those that are left, how many come now
    before = 0.0
    for point in points:
        share = min((point - before) / (1 - before), 1.0)
        yield np.where(more >= 0, binom.pmf(np.maximum(more, 0), size - counts[:, None], share), 0.0)
        before = point


def _probability_inside(steps: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> float:
    counts = np.arange(len(steps[0]))
    probability = (counts == 0).astype(np.float64)  # of each count, with the path inside so far
    for step, least, most in zip(steps, low, high):
        probability = probability @ step
        probability[(counts < least) | (counts > most)] = 0.0
    return float(probability.sum())
