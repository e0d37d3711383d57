"""Tests of concentration: how much of the uniform policy's weight few rows would have."""

from __future__ import annotations

import numpy as np

from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.report import Finding

__all__ = ["effective_rows", "largest_weight"]

# The weights of a policy that plays some actions once in a million times have heavy tails, and a healthy log may have a
# thousandth of its rows left, or half of all weight in one. That one row lies far beyond all others is another matter.
_MIN_EFFECTIVE_SHARE = 0.001
_MIN_EFFECTIVE_ROWS = 2
_MAX_SHARE = 0.5
_LEVEL = 0.01
_FEW_ROWS = 100


def effective_rows(facts: LogFacts) -> Finding:
    """Count the rows that are left for the uniform policy, by their weights.

    Flagged are a thousandth of them and less, where it is one row that hides the others: see `largest_weight`.
    """
    weight = facts.uniform_weight
    rest = np.delete(weight, weight.argmax())
    size, without = _effective(weight), _effective(rest)
    says = (
        f"the uniform policy has an effective sample size of {size:,.0f} of {len(weight):,} rows; without its largest "
        f"row {without:,.0f}"
    )
    few = size < max(_MIN_EFFECTIVE_ROWS, _MIN_EFFECTIVE_SHARE * len(weight))
    flagged = len(weight) >= _FEW_ROWS and few and _next_to_largest(weight) < _LEVEL
    return Finding("effective sample size", flagged, says, size)


def largest_weight(facts: LogFacts) -> Finding:
    r"""Look for one row that outweighs all others by more than the tail of a propensity's inverse allows.

    The mean of 1/p is the number of actions, so its tail is at most that of a Pareto law of index 1, under which the
    largest of many weights exceeds the next by a factor of ``r`` with probability ``1/r`` (Renyi 1953): the p-value.
    Flagged is a row with more than half of all weight and a p-value below 0.01.
    """
    weight = facts.uniform_weight
    worst = int(weight.argmax())
    share = weight[worst] / weight.sum()
    row = int(facts.row[np.flatnonzero(facts.usable)[worst]])
    propensity = 1 / (weight[worst] * facts.num_actions)
    says = f"row {row}, at a propensity of {propensity:.4g}, has {share:.2%} of the uniform policy's weight"
    p_value = _next_to_largest(weight)
    if len(weight) > 1:
        says += f", {1 / p_value:.3g} times that of the next"
    flagged = len(weight) >= _FEW_ROWS and share > _MAX_SHARE and p_value < _LEVEL
    return Finding("largest weight", bool(flagged), says, float(share), p_value, row)


def _next_to_largest(weight: np.ndarray) -> float:
    """Return the next to largest weight as a part of the largest."""
    if len(weight) < 2:
        return float("nan")
    below, largest = np.partition(weight, -2)[-2:]
    return float(below / largest)


def _effective(weight: np.ndarray) -> float:
    return float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0
