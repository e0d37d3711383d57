"""Tests of drift: whether the policy changed while it logged.

A policy that is a function of the history alone has one propensity for each history, action and slot. Where a log
shows several, the policy was updated, looks at more than the log holds, or its propensities are noisy. If values at
neighbouring times are alike (von Neumann's ratio of squared successive differences, about 2 without order), it is a
matter of time.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from blob_pyro.data.clock import NUMBER
from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.report import Finding

__all__ = ["drift", "pauses"]

_SAME = 1e-3
_PAUSE = 100.0
_FEWEST_GAPS = 20


def drift(facts: LogFacts) -> Finding:
    """Test whether rows of one history, action and slot have one propensity."""
    p = np.where(facts.usable, facts.propensity, np.nan)
    key = np.stack([facts.history, facts.action, facts.slot])[:, facts.usable]
    p, time = p[facts.usable], facts.time[facts.usable]
    order = np.lexsort((np.arange(len(p)), *key))  # in time within each history, action and slot
    key, p, time = key[:, order], p[order], time[order]
    same = (key[:, 1:] == key[:, :-1]).all(0)
    if not same.any():
        return Finding("drift", False, "no history, action and slot occur twice: nothing to compare", 0.0)
    group = np.concatenate([[0], (~same).cumsum()])
    logs = np.log(p)
    count = np.bincount(group)
    centred = logs - (np.bincount(group, logs) / count)[group]
    low, high = np.full(len(count), np.inf), np.full(len(count), -np.inf)
    np.minimum.at(low, group, logs)
    np.maximum.at(high, group, logs)
    varies = (high - low > _SAME) & (count > 1)
    among = int((count > 1).sum())
    if not varies.any():
        says = f"each of {among:,} repeated histories, actions and slots has one propensity"
        return Finding("drift", False, says, 0.0)
    step = np.diff(logs)[same & varies[group[1:]]]
    inside = varies[group]
    spread = float((centred[inside] ** 2).sum())
    degrees = int(inside.sum() - varies.sum())
    # Under no order in time, E[step^2] = 2 s^2 within each group.
    ratio = float((step**2).mean() / (spread / degrees))
    z = (ratio - 2) / np.sqrt(4 / max(len(step), 1))
    changed = same & (np.abs(np.diff(logs)) > _SAME)
    lasting = _median_run(group, changed, time, facts.clock)
    factor = float(np.exp(np.median((high - low)[varies])))
    says = (
        f"{int(varies.sum()):,} of {among:,} repeated histories, actions and slots have more than one propensity (a "
        f"factor of {factor:.2g} between the largest and the least, in the median): the policy was updated, or sees "
        "more than the log holds"
    )
    p_value = float(stats.norm.cdf(z))
    if p_value < facts.significance:
        says += f"; neighbours in time are alike (von Neumann's ratio {ratio:.2f}, 2 without order)"
    else:
        says += f"; in no order of time (von Neumann's ratio {ratio:.2f}): noise, or contexts that were not logged"
    if lasting is not None:
        says += f"; a value that repeats lasts for {lasting} in the median"
    return Finding("drift", True, says, ratio, p_value)


def pauses(facts: LogFacts) -> Finding:
    """Look for delays: pauses in the log far longer than usual, after which a policy may have been another."""
    gap = np.diff(facts.time.astype(np.float64))
    some = gap[gap > 0]  # many rows may share a time
    if len(some) < _FEWEST_GAPS:
        return Finding("delays", False, "too few different times to tell", float("nan"))
    usual = float(np.quantile(some, 0.99))
    longest = int(gap.argmax())
    ratio = float(gap[longest] / usual)
    says = (
        f"the longest pause, before row {facts.row[longest + 1]}, is {ratio:.3g} times as long as 99 % of the pauses "
        "are at most"
    )
    flagged = ratio > _PAUSE
    return Finding("delays", flagged, says, ratio, row=int(facts.row[longest + 1]) if flagged else None)


def _median_run(group: np.ndarray, changed: np.ndarray, time: np.ndarray, clock: str) -> str | None:
    """Median time from the first to the last row of runs of one value, with its unit."""
    starts = np.concatenate([[True], changed | (np.diff(group) != 0)])
    run = starts.cumsum() - 1
    first = np.flatnonzero(starts)
    last = np.concatenate([first[1:], [len(time)]]) - 1
    long = np.bincount(run) > 1
    if not long.any():
        return None
    lasting = float(np.median((time[last] - time[first])[long]))
    return f"{lasting:.4g} units of time" if clock == NUMBER else f"{lasting / 60e9:.2g} minutes"
