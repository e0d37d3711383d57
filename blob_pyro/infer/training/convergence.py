"""A test of convergence for any training, and the warning where a fit has not arrived."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["FEWEST_BLOCKS", "Convergence", "ConvergenceWarning", "assess", "verdict", "warn_unless_converged"]

FEWEST_BLOCKS = 20
"""Blocks of steps that the test needs; `blob_pyro.infer.train` reports the ELBO in so many if there are the steps."""

_TOLERANCE = 2e-3  # of the ELBO, relative
_ANNEALED = 0.9  # a rate that falls below this share of what it was in the second half is annealed
_BLOCKS_OF_HALF = 20  # that the second half is averaged to, so that what is left of a fit is nearly independent
_POWER = 10  # tolerances: with more noise than that the test could not see what it looks for


class ConvergenceWarning(UserWarning):
    """A fit ended before its objective had stopped rising, or cannot tell whether it had."""


@dataclass(frozen=True)
class Convergence:
    """The verdict on a fit.

    Attributes:
        converged: whether it has arrived.
        reason: why one thinks so, in words and figures.
    """

    converged: bool
    reason: str

    def write(self, trace: pd.DataFrame) -> None:
        """Put the verdict into a training trace: ``attrs["converged"]`` and ``attrs["convergence"]``."""
        trace.attrs.update(converged=self.converged, convergence=self.reason)


def assess(values: Sequence[float], rates: Sequence[float] | None = None) -> Convergence:
    """Tell whether the objective still rises, for reasons other than annealing.

    The last quarter of the steps is compared with the quarter before. What it gained is compared with 0.2 % of the
    objective's size and with twice the standard error of the difference: that of batch means of what is left of each
    quarter without its own trend.

    A step size that is annealed raises the objective by itself: parameters that have arrived fluctuate with a variance
    in proportion to it, and the objective lies as much below its maximum (Mandt, Hoffman and Blei 2017, *Stochastic
    gradient descent as approximate Bayesian inference*, section 4). So where there is a gain the second half is
    regressed on the step size and, for what is no fluctuation, on the sum of all step sizes so far: how far training
    has travelled. A quarter of that whole way, at its coefficient, is compared in place of the gain. Where the two
    cannot be told apart its standard error says so.

    Args:
        values: the objective, in the order of the steps, each the mean over as many of them.
        rates: the step size of each, in any unit; None for a constant one.

    Example:
        >>> import math
        >>> assess([-1 - math.exp(-i / 5) for i in range(100)]).converged
        True
        >>> assess([-1 - math.exp(-i / 100) for i in range(100)]).reason
        'the last quarter of the steps gained 0.119 ... nats per row, more than 0.2 % of the ELBO: train for longer'
    """
    if len(values) < FEWEST_BLOCKS:
        return Convergence(False, f"{len(values)} steps are too few to tell; the test takes {FEWEST_BLOCKS}")
    before, last = (np.asarray(part, dtype=np.float64) for part in np.array_split(np.asarray(values), 4)[2:])
    gain, error = float(last.mean() - before.mean()), float(np.hypot(_standard_error(before), _standard_error(last)))
    tolerance = _TOLERANCE * abs(float(last.mean()))
    figures = f"the last quarter of the steps gained {gain:.3g} +- {error:.1g} nats per row"
    if gain > max(tolerance, 2 * error):
        if rates is None or min(half := rates[len(values) // 2 : len(values)]) >= _ANNEALED * max(half):
            return Convergence(False, f"{figures}, more than 0.2 % of the ELBO: train for longer")
        figures += ", as the step size fell"
        gain, error = _annealed_gain(np.asarray(values, dtype=np.float64), np.asarray(rates[: len(values)]))
        figures += f"; at one step size a quarter of the way gains {gain:.3g} +- {error:.1g}"
        if gain > max(tolerance, 2 * error):
            return Convergence(False, f"{figures}, more than 0.2 % of the ELBO: train for longer")
    if 2 * error > _POWER * tolerance:
        remedy = "train for longer, in larger batches or at a lower learning_rate"
        return Convergence(False, f"{figures}, and that is too much noise to tell: {remedy}")
    within = "less than 0.2 % of the ELBO" if gain <= tolerance else "less than twice its standard error"
    return Convergence(True, f"{figures}, {within}")


def verdict(trace: pd.DataFrame) -> dict[str, Any]:
    """Take the verdict out of a training trace, as a record that is kept: empty where there is none.

    Args:
        trace: what a fit returns.
    """
    if "converged" not in trace.attrs:
        return {}
    return {"converged": bool(trace.attrs["converged"]), "convergence": str(trace.attrs.get("convergence", ""))}


def _annealed_gain(values: np.ndarray, rates: np.ndarray) -> tuple[float, float]:
    """What a quarter of the way gains, step size held constant, and its standard error."""
    way = np.cumsum(rates) / rates.sum()
    second = np.arange(len(values)) >= len(values) // 2
    parts = np.array_split(np.stack([values, rates / rates.max(), way])[:, second], _BLOCKS_OF_HALF, axis=1)
    y, rate, way = np.stack([part.mean(1) for part in parts if part.shape[1]], axis=1)
    design = np.stack([np.ones_like(y), rate, way], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = np.square(y - design @ coefficients).sum() / (len(y) - design.shape[1])
    return float(coefficients[2]) / 4, float(np.sqrt(variance * np.linalg.inv(design.T @ design)[2, 2])) / 4


def _standard_error(values: np.ndarray) -> float:
    """Of a mean, from batch means of the residuals of a line."""
    position = np.arange(len(values))
    residuals = values - np.polyval(np.polyfit(position, values, 1), position)
    means = [part.mean() for part in np.array_split(residuals, min(10, len(residuals)))]
    return float(np.std(means, ddof=2) / len(means) ** 0.5)


def warn_unless_converged(trace: pd.DataFrame, what: str, stacklevel: int = 2) -> None:
    """Warn of a fit that has not arrived, with its reason.

    Args:
        trace: what a fit returns.
        what: the fit, as its caller knows it: "BLOB.fit".
        stacklevel: frames between here and the user.

    Warns:
        ConvergenceWarning: unless ``trace.attrs["converged"]``.
    """
    if not trace.attrs["converged"]:
        warnings.warn(
            f"{what}: not converged: {trace.attrs['convergence']}", ConvergenceWarning, stacklevel=stacklevel + 1
        )
