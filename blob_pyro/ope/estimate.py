"""`Estimate`: what every estimator returns: a value, how far to trust it, and intervals around it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from blob_pyro.ope.bounded_terms import BoundedTerms
from blob_pyro.ope.checks import group_codes
from blob_pyro.ope.confidence_sequences import DEFAULT_VARIANCE
from blob_pyro.ope.intervals import METHODS, Interval, IntervalOptions
from blob_pyro.ope.moments import Moments
from blob_pyro.ope.reliability import MissingSupportWarning, WeightSummary, interval_doubts, unit_influences

__all__ = ["Estimate"]


@dataclass(frozen=True, repr=False)
class Estimate:
    """The value of a policy, or a difference of two, estimated from another policy's log.

    Attributes:
        name: of the estimator.
        value: in the rewards' own units; a float64 tensor with its gradient where an argument was a tensor, else a
            float.
        support: share of the target's mass on actions that the log never shows; None where only the propensities of
            logged actions are known, which cannot tell.
        clip: weights were cut to it; None if they were not.
        clipped_share: of all rows, those whose weight was cut.
        num_groups: groups that standard errors and resampling go by; None for rows.
        notes: what else was done to the rows or is not known of the estimate.
    """

    name: str
    value: Any
    moments: Moments = field(compare=False)
    weights: WeightSummary | None
    support: float | None
    clip: float | None = None
    clipped_share: float = 0.0
    groups: Tensor | None = field(default=None, compare=False)
    num_groups: int | None = None
    bounded: BoundedTerms | None = field(default=None, compare=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        name: str,
        moments: Moments,
        *,
        tensor: bool,
        weights: Tensor | None,
        expected_weight: float | None = 1.0,
        support: float | None = None,
        support_known_by: str | None = None,
        groups: Any = None,
        clip: float | None = None,
        clipped_share: float = 0.0,
        bounded: BoundedTerms | None = None,
        notes: Sequence[str] = (),
    ) -> Estimate:
        """Build an estimate from its rows: see the class.

        Args:
            name: of the estimator.
            moments: the rows, with their gradient.
            tensor: whether the value is to be a tensor.
            weights: ``N`` importance weights or their differences; None for an estimate that has none.
            expected_weight: the average weight in expectation, where the propensities are right.
            support: see the class.
            support_known_by: the argument that would tell, where ``support`` is None.
            groups: ``N`` groups of any kind, or None.
            clip: see the class.
            clipped_share: see the class.
            bounded: the rows as bounded terms, for finite-sample intervals; None where there are none.
            notes: see the class.
        """
        value = moments.value()
        rows = moments.num_rows
        codes, num_groups = (None, None) if groups is None else group_codes(groups, rows, moments.columns[0].device)
        notes = list(notes)
        if support is None and support_known_by:
            notes.append(f"support unknown: pass {support_known_by}")
        estimate = cls(
            name=name,
            value=value if tensor else float(value.detach()),
            moments=moments.detach(),
            weights=None if weights is None else WeightSummary.of(weights, None if clip else expected_weight),
            support=support,
            clip=clip,
            clipped_share=clipped_share,
            groups=codes,
            num_groups=num_groups,
            bounded=bounded,
            notes=tuple(notes),
        )
        for problem in estimate.support_problems:
            warnings.warn(f"{name}: {problem}", MissingSupportWarning, stacklevel=4)
        return estimate

    @property
    def num_rows(self) -> int:
        """The number of logged events."""
        return self.moments.num_rows

    @cached_property
    def standard_error(self) -> float:
        """The standard error by the delta method, clustered where there are groups; NaN for one row or group."""
        return self.moments.standard_error(self.groups, self.num_groups or 0)

    @property
    def effective_sample_size(self) -> float:
        """The ratio ``(sum |w|)^2 / sum w^2``, of weights or their differences; ``N`` without weights."""
        return float(self.num_rows) if self.weights is None else self.weights.effective_sample_size

    @property
    def max_weight(self) -> float:
        """The largest weight, or absolute difference of weights; 1 without weights."""
        return 1.0 if self.weights is None else self.weights.largest

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """The reasons why large-sample intervals should not be believed; empty where they may be."""
        influences = unit_influences(self.moments.influences(), self.groups, self.num_groups or 0)
        return tuple(interval_doubts(self.weights, influences, self.num_groups))

    @property
    def support_problems(self) -> tuple[str, ...]:
        """The parts of the target that the log does not show."""
        problems = []
        if self.support is not None and self.support > 0:
            problems.append(
                f"{self.support:.3%} of the target's mass is on actions that the log never shows; the estimate counts "
                "their reward as 0 (or as predicted). Restrict the target to what was logged, or log those actions"
            )
        if self.weights is not None and self.weights.largest == 0 and self.weights.expected_mean != 0:
            problems.append(
                "every weight is 0: the target plays nothing that the log shows. Check that actions are numbered alike"
            )
        return tuple(problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that speaks against believing the value or its normal interval."""
        return (*self.support_problems, *self.doubts)

    def interval(
        self,
        level: float = 0.95,
        method: str = "normal",
        *,
        seed: int = 0,
        num_resamples: int = 1000,
        reward_range: tuple[float, float] = (0.0, 1.0),
        weight_bound: float | None = None,
        variance: float = DEFAULT_VARIANCE,
    ) -> Interval:
        """Return a confidence interval of the value.

        Args:
            level: probability of covering the value, such as 0.95.
            method: one of

                - ``"normal"``: by the standard error; right for many rows of comparable influence.
                - ``"bootstrap"``: percentiles over resampled groups (or rows), the ratio of a ratio resampled as one.
                - ``"empirical_bernstein"``: holds at this number of rows, whatever the weights, for rows that have one
                  mean given those before them (independent users and contexts).
                - ``"anytime"``: holds at *all* numbers of rows together, so a growing log may be looked at as often
                  as one likes; logging policy and contexts may change, and clicks of one user may be correlated.
                  What is covered is the average, over the logged contexts, of the target's expected reward.

                The last two rest on ``reward_range``, on exact propensities, on rows in the order in which they were
                logged and, for the upper end, on a log that shows all that the target plays. For rare rewards the
                upper end is far sharper where ``weight_bound`` is known; without it, it rests on ``w (1 - r)``, and
                the interval need not contain the IPS value. Where weights are clipped they still cover the target's
                value, the others only the clipped one.
            seed: of ``"bootstrap"``.
            num_resamples: of ``"bootstrap"``.
            reward_range: the least and the largest reward that can occur, for the last two methods.
            weight_bound: the largest weight that can occur (not: that did), for the last two methods.
            variance: of ``"anytime"``: the sum of squared deviations of the weighted rewards at which it is tightest,
                chosen before the data are seen; see `blob_pyro.ope.confidence_sequences`.

        Raises:
            ValueError: for an unknown method or level, one row or group, a reward outside ``reward_range``, a weight
                above ``weight_bound``, or a method that the estimator has no terms for.

        Warns:
            UnreliableIntervalWarning: for the first two methods, where few rows carry the estimate.
        """
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(map(repr, METHODS))}, got {method!r}")
        if not 0 < level < 1:
            raise ValueError(f"level: a probability between 0 and 1 is expected, such as 0.95, got {level}")
        if weight_bound is not None and self.clip is not None and self.clip < weight_bound:
            raise ValueError(
                f"weight_bound: the weights were clipped at {self.clip:.6g}, so no bound on them reaches the target's "
                "value; leave weight_bound out, or do not clip"
            )
        with torch.no_grad():
            return METHODS[method](
                self, level, IntervalOptions(seed, num_resamples, reward_range, weight_bound, variance)
            )

    def with_support(self, support: float | None) -> Estimate:
        """Return the same estimate where more is known of what the log shows.

        Args:
            support: see the class; None leaves the estimate as it is.

        Warns:
            MissingSupportWarning: where ``support`` is not 0.
        """
        if support is None:
            return self
        notes = tuple(note for note in self.notes if not note.startswith("support unknown"))
        estimate = replace(self, support=support, notes=notes)
        for problem in estimate.support_problems:
            warnings.warn(f"{self.name}: {problem}", MissingSupportWarning, stacklevel=3)
        return estimate

    def __repr__(self) -> str:
        clustered = "" if self.num_groups is None else f", clustered by {self.num_groups:,} groups"
        lines = [f"{self.name}: {float(self.value):.6g} (standard error {self.standard_error:.2g}{clustered})"]
        if self.weights is None:
            lines.append(f"{self.num_rows:,} rows, no weights")
        else:
            lines.append(
                f"{self.num_rows:,} rows, effective sample size {self.effective_sample_size:,.0f}, largest weight "
                f"{self.max_weight:.4g} ({self.weights.largest_share:.2%} of all)"
            )
        if self.clip is not None:
            lines.append(f"weights clipped at {self.clip:.6g}: {self.clipped_share:.2%} of rows; biased towards 0")
        if self.support is not None:
            lines.append(f"{self.support:.2%} of the target's mass is on actions that the log never shows")
        lines.extend(self.notes)
        lines.extend(f"warning: {problem}" for problem in self.warnings)
        return "\n  ".join(lines)
