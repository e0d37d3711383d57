"""Power-scaling: how far a posterior moves when its prior, or its likelihood, is made a little stronger or weaker.

Source: Kallioinen, Paananen, Bürkner & Vehtari (2024), Detecting and diagnosing prior and likelihood sensitivity with
power-scaling, Statistics and Computing 34(57).
"""

from __future__ import annotations

import numpy as np

from blob_pyro.diagnostics.psis import smooth

__all__ = ["sensitivity"]

_DELTA = 0.01


def sensitivity(draws: np.ndarray, log_component: np.ndarray, log_weights: np.ndarray | None = None) -> float:
    """Measure the sensitivity of one number's posterior to a factor of its density, prior or likelihood.

    Above 0.05 the factor matters (section 3.3 of the source). The distance is the square root of the cumulative
    Jensen-Shannon divergence, per doubling of the factor's power.

    Args:
        draws: of the number, ``S``.
        log_component: logarithm of the factor at each draw, ``S``.
        log_weights: of the draws, where they are of a guide and stand for the posterior's; default equal ones.
            Draws are then repeated as their weights say: the distance depends on how far they reach.
    """
    draws, log_component = np.asarray(draws, dtype=np.float64), np.asarray(log_component, dtype=np.float64)
    if log_weights is not None:
        rows = _resampled(np.asarray(log_weights, dtype=np.float64))
        draws, log_component = draws[rows], log_component[rows]
    start = np.full(len(draws), 1 / len(draws))
    total = 0.0
    for alpha in (1 / (1 + _DELTA), 1 + _DELTA):
        moved = np.exp(smooth((alpha - 1) * log_component).log_weights)
        total += max(_distance(draws, start, moved), _distance(-draws, start, moved))
    return float(total / (2 * np.log2(1 + _DELTA)))


def _resampled(log_weights: np.ndarray) -> np.ndarray:
    """Rows of draws, each as often as its weight says, to one (systematic resampling)."""
    size = len(log_weights)
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    return np.searchsorted(weights.cumsum(), (np.arange(size) + 0.5) / size).clip(max=size - 1)


def _distance(draws: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """Square root of the cumulative Jensen-Shannon divergence of two weightings of the same draws."""
    order = np.argsort(draws, kind="stable")
    widths = np.diff(draws[order])
    p, q = (np.cumsum(weights[order])[:-1].clip(1e-300, 1.0) for weights in (before, after))
    middle = np.log2((p + q) / 2)
    areas = p @ widths, q @ widths
    forward = widths @ (p * (np.log2(p) - middle)) + 0.5 / np.log(2) * (areas[1] - areas[0])
    backward = widths @ (q * (np.log2(q) - middle)) + 0.5 / np.log(2) * (areas[0] - areas[1])
    return float(np.sqrt((max(forward, 0.0) + max(backward, 0.0)) / max(sum(areas), 1e-300)))
