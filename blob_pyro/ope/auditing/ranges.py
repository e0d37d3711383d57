"""Propensities outside (0, 1], rows that had no alternative, constants and floors."""

from __future__ import annotations

import numpy as np

from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.report import Finding

__all__ = ["alternatives", "constants", "ranges"]


def ranges(facts: LogFacts) -> Finding:
    """Test whether every propensity is a probability in (0, 1], and every reward finite."""
    bad = ~facts.usable | ~np.isfinite(facts.reward)
    if not bad.any():
        p = facts.propensity
        return Finding("range", False, f"propensities lie in [{p.min():.4g}, {p.max():.4g}], rewards are finite")
    first = int(np.flatnonzero(bad)[0])
    says = (
        f"{int(bad.sum()):,} rows have a propensity outside (0, 1] (or next to 0) or a reward that is not finite; row "
        f"{facts.row[first]} has {facts.propensity[first]:.6g} and {facts.reward[first]:.6g}. The other tests leave "
        "them out"
    )
    return Finding("range", True, says, float(bad.sum()), row=int(facts.row[first]))


def alternatives(facts: LogFacts) -> Finding:
    """Test whether something else could have been played."""
    certain = facts.propensity[facts.usable] >= 1 - 1e-9
    if facts.num_actions == 1 or not certain.any():
        return Finding("alternatives", False, "no row was played with certainty", 0.0)
    says = (
        f"{certain.mean():.2%} of rows were played with probability 1: in their contexts no other action can be valued"
    )
    return Finding("alternatives", True, says, float(certain.mean()))


def constants(facts: LogFacts) -> Finding:
    """Find values that many rows share, 1/A and a floor: common in healthy logs, so reported and not flagged."""
    p = facts.propensity[facts.usable]
    uniform = np.abs(p * facts.num_actions - 1) < 1e-6
    values, counts = np.unique(p, return_counts=True)
    floor = counts[0] / len(p)
    says = f"{uniform.mean():.2%} of rows are at 1/A, {floor:.2%} at the least value {values[0]:.4g}"
    says += f"; {len(values):,} distinct values"
    return Finding("constants", False, says, float(uniform.mean()))
