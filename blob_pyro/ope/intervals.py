"""Confidence intervals of an estimate: one function per method, found by name in `METHODS`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import stats

from blob_pyro.ope.confidence_sequences import lower_mixture_bound, lower_plug_in_bound
from blob_pyro.ope.reliability import UnreliableIntervalWarning, few_units

if TYPE_CHECKING:
    from torch import Tensor

    from blob_pyro.ope.estimate import Estimate

__all__ = ["METHODS", "Interval", "IntervalOptions"]

_MAX_UNITS = 20_000


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


class IntervalOptions(NamedTuple):
    """The options that only some methods ask for: see `Estimate.interval`."""

    seed: int
    num_resamples: int
    reward_range: tuple[float, float]
    weight_bound: float | None
    variance: float


def normal(estimate: Estimate, level: float, options: IntervalOptions) -> Interval:
    """Return the value plus and minus normal quantiles times the standard error."""
    _warn_if_unreliable(estimate, "normal")
    reach = float(stats.norm.ppf((1 + level) / 2)) * estimate.standard_error
    return Interval(float(estimate.value) - reach, float(estimate.value) + reach)


def bootstrap(estimate: Estimate, level: float, options: IntervalOptions) -> Interval:
    """Return percentiles of the whole estimate over resampled groups (rows, where there are no groups).

    Beyond 20,000 units, random sets of units are resampled in their place: the same first two moments, at a cost that
    does not grow with the log.
    """
    _warn_if_unreliable(estimate, "bootstrap")
    if options.num_resamples < 2:
        raise ValueError(f"num_resamples: at least 2 are needed, got {options.num_resamples}")
    generator = np.random.default_rng(options.seed)
    sums, rows = (s.cpu() for s in estimate.moments.unit_sums(estimate.groups, estimate.num_groups or 0))
    if len(sums) > _MAX_UNITS:
        part = torch.from_numpy(generator.permutation(np.arange(len(sums)) % _MAX_UNITS))
        sums = sums.new_zeros(_MAX_UNITS, sums.shape[1]).index_add_(0, part, sums)
        rows = rows.new_zeros(_MAX_UNITS).index_add_(0, part, rows)
    units = len(sums)
    columns = torch.cat([sums, rows[:, None]], -1).numpy()
    drawn = np.empty((options.num_resamples, columns.shape[1]))
    step = max(1, (1 << 22) // units)
    for start in range(0, options.num_resamples, step):
        size = min(step, options.num_resamples - start)
        drawn[start : start + size] = generator.multinomial(units, np.full(units, 1 / units), size) @ columns
    resampled = torch.from_numpy(drawn)
    values = estimate.moments.combine(resampled[:, :-1] / resampled[:, -1:]).numpy()
    undefined = ~np.isfinite(values)
    if undefined.any():
        raise ValueError(
            f"{estimate.name}: {int(undefined.sum())} of {len(values)} resampled logs have no value (all their weights "
            "are 0); so few rows carry the estimate that no interval should be given: log more"
        )
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def empirical_bernstein(estimate: Estimate, level: float, options: IntervalOptions) -> Interval:
    """Return a finite-sample interval for rows with one mean, by `confidence_sequences.lower_plug_in_bound`."""
    if estimate.groups is not None:
        raise ValueError(
            "method: 'empirical_bernstein' takes rows for independent, and these are grouped; use 'anytime', which "
            "bounds the average over the logged contexts, or 'normal' or 'bootstrap'"
        )
    return _two_sided(estimate, level, options, lower_plug_in_bound)


def anytime(estimate: Estimate, level: float, options: IntervalOptions) -> Interval:
    """Return what a confidence sequence says after these rows, by `confidence_sequences.lower_mixture_bound`."""
    return _two_sided(estimate, level, options, lambda t, alpha: lower_mixture_bound(t, alpha, options.variance))


METHODS: dict[str, Callable[[Estimate, float, IntervalOptions], Interval]] = {
    "normal": normal,
    "bootstrap": bootstrap,
    "empirical_bernstein": empirical_bernstein,
    "anytime": anytime,
}


def _two_sided(
    estimate: Estimate, level: float, options: IntervalOptions, bound: Callable[[Tensor, float], float]
) -> Interval:
    if estimate.bounded is None:
        raise ValueError(
            f"method: {estimate.name} has no bound that holds at every number of rows, because its terms depend on one "
            "another; use 'normal' or 'bootstrap', or take ips, doubly_robust or delta_ips"
        )
    lower, upper = estimate.bounded.sides(options.reward_range, options.weight_bound)
    alpha = (1 - level) / 2
    low, high = lower.bound(bound(lower.terms, alpha)), upper.bound(bound(upper.terms, alpha))
    if low > high:
        raise ValueError(
            f"{estimate.name}: the {level:.1%} interval is empty ({low:.6g} > {high:.6g}), which the log contradicts: "
            "propensities are wrong, or the target plays what the log never shows; see blob_pyro.ope.audit"
        )
    return Interval(low, high)


def _warn_if_unreliable(estimate: Estimate, method: str) -> None:
    few_units(estimate.num_rows if estimate.groups is None else estimate.num_groups or 0, estimate.groups is not None)
    if estimate.doubts:
        # Two levels up: the caller of Estimate.interval.
        warnings.warn(
            f"{estimate.name}: do not rely on the {method} interval: {'; '.join(estimate.doubts)}. Log more, choose a "
            "target nearer to the logging policy, or ask for method='anytime'",
            UnreliableIntervalWarning,
            stacklevel=4,
        )
