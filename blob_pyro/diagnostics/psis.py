"""Pareto-smoothed importance sampling: how far draws of a guide may stand for draws of the posterior.

Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, JMLR 25(72); the fit of the
tail by Zhang & Stephens (2009), Technometrics 51(3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

__all__ = ["PSIS", "psis", "smooth"]

_FEWEST = 25
"""Draws below which no tail is fitted."""


class PSIS(NamedTuple):
    """Importance weights of a guide's draws.

    Attributes:
        k_hat: shape of the weights' tail. Below `threshold` the draws, weighted, estimate the posterior's means; above
            it they do not, and above 0.7 no number of draws will do.
        log_weights: smoothed, of each draw; their exponentials sum to one.
        threshold: ``min(1 - 1 / log10(num_draws), 0.7)``.
        effective_sample_size: of the smoothed weights, draws.
    """

    k_hat: float
    log_weights: np.ndarray
    threshold: float
    effective_sample_size: float

    @property
    def reliable(self) -> bool:
        """The verdict on the weighted draws: whether they may be believed."""
        return bool(self.k_hat < self.threshold)


def psis(data: Any) -> PSIS:
    """Give each draw of a guide the weight of the model's density over the guide's.

    Args:
        data: what ``blob.to_inference_data(log)`` returned: its group ``sample_stats`` has both densities.

    Raises:
        ValueError: if there are no such densities, or fewer than 25 draws.

    Example:
        >>> from blob_pyro.diagnostics.psis import smooth
        >>> import numpy as np
        >>> x = np.random.default_rng(0).standard_normal(4000)  # draws of N(0, 1) for N(0, 0.9^2)
        >>> found = smooth(-0.5 * (x / 0.9) ** 2 + 0.5 * x**2)
        >>> found.k_hat < 0.2, found.reliable
        (True, True)
    """
    stats = data["sample_stats"] if "sample_stats" in _groups(data) else {}
    if "log_p" not in stats or "log_q" not in stats:
        raise ValueError(
            "data: has no log_p and log_q in a group sample_stats; make it with to_inference_data(log), of a guide "
            "that is a density ('nuts' and 'delta' are none)"
        )
    return smooth((stats["log_p"].values - stats["log_q"].values).ravel())


def smooth(log_ratios: np.ndarray) -> PSIS:
    """Fit a generalised Pareto distribution to the largest ratios, and replace them by its expected order statistics.

    Args:
        log_ratios: log density wanted minus log density drawn from, of each draw, ``S``; up to a constant.

    Raises:
        ValueError: for fewer than 25 draws, or ratios that are NaN.
    """
    log_ratios = np.asarray(log_ratios, dtype=np.float64)
    size = len(log_ratios)
    if size < _FEWEST or np.isnan(log_ratios).any():
        raise ValueError(f"log_ratios: expected {_FEWEST} numbers or more, none of them NaN, got {size}")
    weights = log_ratios - log_ratios.max()
    tail = int(np.ceil(min(0.2 * size, 3 * size**0.5)))
    order = np.argsort(weights, kind="stable")
    largest, cut = order[-tail:], weights[order[-tail - 1]]
    excess = np.exp(weights[largest]) - np.exp(cut)
    k_hat = np.inf
    if excess[0] > 0:
        k_hat, scale = _fit_pareto(excess)
        if np.isfinite(k_hat):
            quantile = (np.arange(tail) + 0.5) / tail
            log_survival = np.log1p(-quantile)
            reach = -log_survival if abs(k_hat) < 1e-12 else np.expm1(-k_hat * log_survival) / k_hat
            weights[largest] = np.log(np.exp(cut) + scale * reach)
    elif excess[-1] == 0:  # all alike: the guide is the posterior
        k_hat = -np.inf
    weights = np.minimum(weights, 0.0)
    weights -= logsumexp(weights)
    threshold = min(1 - 1 / np.log10(size), 0.7)
    return PSIS(float(k_hat), weights, float(threshold), float(1 / np.exp(2 * weights).sum()))


def _fit_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution, by the mean of a profile posterior; ``excess`` ascends."""
    size = len(excess)
    count = 30 + int(size**0.5)
    quartile = excess[int(size / 4 + 0.5) - 1]
    slope = (1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))) / (3 * quartile) + 1 / excess[-1]
    shape = np.log1p(-slope[:, None] * excess).mean(1)
    log_likelihood = size * (np.log(-slope / shape) - shape - 1)
    weight = np.exp(log_likelihood - logsumexp(log_likelihood))
    mean_slope = float((slope * weight).sum())
    k = float(np.log1p(-mean_slope * excess).mean())
    scale = -k / mean_slope
    return (size * k + 5) / (size + 10), scale  # with a weak prior of 0.5


def _groups(data: Any) -> set[str]:
    groups = data.groups
    return set(groups()) if callable(groups) else {name.strip("/") for name in groups}
