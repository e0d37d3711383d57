"""Tests of concentration: how much of the uniform policy's weight few rows would have."""

from __future__ import annotations

import numpy as np

from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.report import Finding

__all__ = ["effective_rows", "largest_weight"]

# The weights of a policy that plays some actions once in a million times have tails so heavy that a healthy log may
# have a hundredth of its rows left, or a tenth of all weight in one. That one row outweighs all others is another
# matter.
_MIN_EFFECTIVE_SHARE = 0.001
_MIN_EFFECTIVE_ROWS = 2
_MAX_SHARE = 0.5
_FEW_ROWS = 100


def effective_rows(facts: LogFacts) -> Finding:
    """Count the rows that are left for the uniform policy, by their weights."""
    weight = facts.uniform_weight
    rest = np.delete(weight, weight.argmax())
    size, without = _effective(weight), _effective(rest)
    says = (
        f"the uniform policy has an effective sample size of {size:,.0f} of {len(weight):,} rows; without its largest "
        f"row {without:,.0f}"
    )
    flagged = len(weight) >= _FEW_ROWS and size < max(_MIN_EFFECTIVE_ROWS, _MIN_EFFECTIVE_SHARE * len(weight))
    return Finding("effective sample size", flagged, says, size)


def largest_weight(facts: LogFacts) -> Finding:
    """Look for one row that has much of the weight."""
    weight = facts.uniform_weight
    worst = int(weight.argmax())
    share = weight[worst] / weight.sum()
    row = int(facts.row[np.flatnonzero(facts.usable)[worst]])
    propensity = 1 / (weight[worst] * facts.num_actions)
    says = f"row {row}, at a propensity of {propensity:.4g}, has {share:.2%} of the uniform policy's weight"
    if len(weight) > 1:
        says += f", {weight[worst] / np.partition(weight, -2)[-2]:.3g} times that of the next"
    flagged = len(weight) >= _FEW_ROWS and share > _MAX_SHARE
    return Finding("largest weight", bool(flagged), says, float(share), row=row)


def _effective(weight: np.ndarray) -> float:
    return float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0
