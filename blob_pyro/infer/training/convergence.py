"""A test of convergence for any training, and the warning where a fit has not arrived."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["FEWEST_BLOCKS", "Convergence", "ConvergenceWarning", "assess", "warn_unless_converged"]

FEWEST_BLOCKS = 20
"""Blocks of steps that the test needs; `blob_pyro.infer.train` reports the ELBO in so many if there are the steps."""

_TOLERANCE = 2e-3  # of the ELBO, relative: annealing alone, as the noise of the parameters dies down, gains half of it
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


def assess(values: Sequence[float]) -> Convergence:
    """Compare the last quarter of a training with the quarter before.

    What the objective gained is compared with 0.2 % of its size and with twice the standard error of the difference:
    that of batch means of what is left of each quarter without its own trend. A schedule that anneals the step size
    gains a little as the noise of the parameters dies down; it gains ten times that where it was too short.

    Args:
        values: the objective, in the order of the steps, each the mean over as many of them.

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
        return Convergence(False, f"{figures}, more than 0.2 % of the ELBO: train for longer")
    if 2 * error > _POWER * tolerance:
        remedy = "train for longer, in larger batches or at a lower learning_rate"
        return Convergence(False, f"{figures}, and that is too much noise to tell: {remedy}")
    within = "less than 0.2 % of the ELBO" if gain <= tolerance else "less than twice its standard error"
    return Convergence(True, f"{figures}, {within}")


def _standard_error(values: np.ndarray) -> float:
    """Of a mean, from batch means of the residuals of a line."""
    position = np.arange(len(values))
    residuals = values - np.polyval(np.polyfit(position, values, 1), position)
    means = [part.mean() for part in np.array_split(residuals, min(10, len(residuals)))]
    return float(np.std(means, ddof=2) / len(means) ** 0.5)


def warn_unless_converged(trace: pd.DataFrame, what: str) -> None:
    """Warn of a fit that has not arrived, with its reason.

    Args:
        trace: what a fit returns.
        what: the fit, as its caller knows it: "BLOB.fit".

    Warns:
        ConvergenceWarning: unless ``trace.attrs["converged"]``.
    """
    if not trace.attrs["converged"]:
        warnings.warn(f"{what}: not converged: {trace.attrs['convergence']}", ConvergenceWarning, stacklevel=3)
