"""Warnings, of their own class, of estimates that should not be believed; thresholds are from a simulation.

A normal interval is right unless a few rows decide the estimate. Coverage of nominal 95 % intervals, 1,000 logs per
line (a standard error of 0.007), ten actions, medians over logs (``python benchmarks/ope_coverage.py``):

========  =====================  ======================  =============  ========  =====  =====  ========
rows      click rate             effective sample size   largest share  skewness  ips    snips  beta-ips
========  =====================  ======================  =============  ========  =====  =====  ========
10,000    30 %                   8,727                   0.0003         0.01      0.954  0.956  0.955
10,000    30 %                   4,144                   0.0015         0.05      0.949  0.952  0.956
10,000    2 %                    4,144                   0.0015         0.17      0.948  0.948  0.946
10,000    30 %                   1,702                   0.0054         0.13      0.950  0.944  0.940
3,000     30 %                   1,246                   0.0049         0.10      0.939  0.952  0.948
10,000    2 %                    1,702                   0.0054         0.32      0.926  0.929  0.928
3,000     2 %                    1,246                   0.0049         0.28      0.928  0.931  0.929
10,000    30 %                   614                     0.0121         0.23      0.939  0.956  0.935
3,000     30 %                   516                     0.0154         0.20      0.939  0.942  0.928
10,000    2 %                    614                     0.0121         0.45      0.854  0.861  0.850
1,000     30 %                   180                     0.0298         0.30      0.932  0.940  0.918
1,000     2 %                    180                     0.0298         0.56      0.820  0.826  0.817
1,000     30 %                   73                      0.0727         0.39      0.856  0.900  0.816
1,000     2 %                    73                      0.0727         0.61      0.668  0.702  0.661
========  =====================  ======================  =============  ========  =====  =====  ========

The first five lines pass the thresholds below; the others are warned of. Effective sample size alone does not tell: a
rare reward at a large weight is what spoils an interval, and the skewness sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "MAX_MEAN_ERRORS",
    "MAX_SKEWNESS",
    "MAX_WEIGHT_SHARE",
    "MIN_EFFECTIVE_SAMPLE_SIZE",
    "MIN_GROUPS",
    "MissingSupportWarning",
    "OffPolicyWarning",
    "UnreliableIntervalWarning",
    "WeightSummary",
]

MIN_EFFECTIVE_SAMPLE_SIZE = 1000.0
"""Below it, an interval that rests on large samples is warned of."""
MAX_WEIGHT_SHARE = 0.02
"""A single weight may be so much of the sum of all; beyond it, an interval is warned of."""
MAX_SKEWNESS = 0.2
"""The largest skewness of the estimate (that of its influences over the square root of their number) not warned of."""
MIN_GROUPS = 50
"""Clustered standard errors from fewer groups are too small."""
MAX_MEAN_ERRORS = 4.5
"""The average weight may be so many standard errors from what it is in expectation."""


class OffPolicyWarning(UserWarning):
    """An off-policy estimate, or its interval, should not be believed as it stands."""


class UnreliableIntervalWarning(OffPolicyWarning):
    """Too few rows carry the estimate for an interval that rests on large samples."""


class MissingSupportWarning(OffPolicyWarning):
    """The target plays what the log never shows: no number of rows makes up for that."""


@dataclass(frozen=True)
class WeightSummary:
    """A summary of importance weights, or of their differences.

    Attributes:
        effective_sample_size: ``(sum |w|)^2 / sum w^2`` (Kish 1965); 0 where all weights are 0.
        largest: the largest absolute weight.
        largest_share: that of the largest in the sum of all absolute weights.
        mean: the average weight.
        mean_error: its standard error.
        expected_mean: 1 for weights, 0 for differences, where the propensities belong to the log and it supports the
            target; None where clipping forbids to say.
    """

    effective_sample_size: float
    largest: float
    largest_share: float
    mean: float
    mean_error: float
    expected_mean: float | None

    @classmethod
    def of(cls, weights: Tensor, expected_mean: float | None) -> WeightSummary:
        """Return the summary of ``N`` weights."""
        weights = weights.detach()
        size = weights.abs()
        total, squares, largest = float(size.sum()), float(weights.square().sum()), float(size.max())
        mean, rows = float(weights.mean()), len(weights)
        variance = max(squares / rows - mean**2, 0.0)
        return cls(
            effective_sample_size=total**2 / squares if squares else 0.0,
            largest=largest,
            largest_share=largest / total if total else 0.0,
            mean=mean,
            mean_error=(variance / max(rows - 1, 1)) ** 0.5,
            expected_mean=expected_mean,
        )

    @property
    def mean_doubt(self) -> str | None:
        """The doubt that the average weight casts on the propensities; None where it casts none."""
        if self.expected_mean is None:
            return None
        off = self.mean - self.expected_mean
        if abs(off) <= MAX_MEAN_ERRORS * self.mean_error or abs(off) < 1e-6:
            return None
        errors = f"{abs(off) / self.mean_error:.1f} standard errors" if self.mean_error else "exactly"
        return (
            f"the weights average {self.mean:.4g}, {errors} from {self.expected_mean:.0f}: the propensities are not "
            "those of this log, or it does not show all that the target plays"
        )


def skewness(influences: Tensor) -> float:
    """Compute the skewness of the estimate: ``sum psi^3 / (sum psi^2)^1.5``; 0 where nothing varies."""
    spread = float(influences.square().sum())
    return float(influences.pow(3).sum()) / spread**1.5 if spread > 0 else 0.0


def interval_doubts(weights: WeightSummary | None, influences: Tensor, num_groups: int | None) -> list[str]:
    """Say why an interval that rests on large samples should not be believed; nothing where it may be."""
    doubts = []
    if weights is not None and weights.effective_sample_size < MIN_EFFECTIVE_SAMPLE_SIZE:
        doubts.append(
            f"the effective sample size is {weights.effective_sample_size:,.0f}, below {MIN_EFFECTIVE_SAMPLE_SIZE:,.0f}"
        )
    if weights is not None and weights.largest_share > MAX_WEIGHT_SHARE:
        doubts.append(f"one row has {weights.largest_share:.1%} of all weight, more than {MAX_WEIGHT_SHARE:.0%}")
    if weights is not None and (doubt := weights.mean_doubt):
        doubts.append(doubt)
    if len(influences) > 1 and not bool(influences.any()):
        doubts.append("no row differs from another, so nothing is known of the spread (its standard error is 0)")
    tilt = skewness(influences)
    if abs(tilt) > MAX_SKEWNESS:
        doubts.append(f"few rows decide the estimate (its skewness is {tilt:.2f}, beyond {MAX_SKEWNESS})")
    if num_groups is not None and num_groups < MIN_GROUPS:
        doubts.append(f"there are {num_groups} groups, fewer than {MIN_GROUPS}")
    return doubts


def few_units(count: int, grouped: bool) -> None:
    """Raise a ValueError where nothing is known of the spread."""
    if count < 2:
        unit, argument = ("group", "groups") if grouped else ("row", "reward")
        raise ValueError(f"{argument}: an interval needs at least two {unit}s, got {count}; log more, or group less")


def unit_influences(influences: Tensor, groups: Tensor | None, num_groups: int) -> Tensor:
    """Sum influences by group; those of rows stay as they are."""
    if groups is None:
        return influences
    return torch.zeros(num_groups, dtype=influences.dtype, device=influences.device).index_add_(0, groups, influences)
