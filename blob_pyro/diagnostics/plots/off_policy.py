"""Importance weights: whether a log can value a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data import EventLog
from blob_pyro.diagnostics.plots.canvas import axes_or_new, evenly_spaced
from blob_pyro.ope.logged_rows import read_rows, slots_of
from blob_pyro.ope.reliability import MIN_EFFECTIVE_SAMPLE_SIZE, WeightSummary
from blob_pyro.ops.arguments import whole_number
from blob_pyro.policies.base import Policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_importance_weights"]

_POINTS = 400
_AT_ONCE = 1 << 22  # contexts times items, up to which the whole log is weighted


def plot_importance_weights(
    log: EventLog, policy: Policy, *, max_rows: int | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the importance weights of a log's rows for a policy, the largest first, and the share of all that they have.

    A weight is the policy's probability of what was shown over that with which it was shown. A curve that falls steeply
    is an estimate that rests on few rows; the title has the effective sample size, in red where it is too small for an
    interval to be believed.

    The time goes to the policy's propensities: at 10,000 items a row of Thompson sampling takes a hundredth of a second
    with ``shared_draws=4``, and seconds without. So some rows stand for a log of many contexts times items, and the
    title says so; the largest weights of the whole log may not be among them.

    Args:
        log: with ``propensity``.
        policy: to be valued.
        max_rows: rows to weight at most, evenly spaced. Default: all, where distinct contexts times items are 4 million
            at most; else 4 million over the number of items.
        ax: where to draw; default a new figure.

    Raises:
        ValueError: for a log without propensities, or of another catalogue, or fewer than two rows.
    """
    log.require_impressions()
    if log.propensity is None:
        raise ValueError("log: has no column 'propensity'; log the probability of each action that is played")
    if policy.num_items != log.num_items:
        raise ValueError(f"policy: chooses among {policy.num_items} items, the log has {log.num_items}")
    rows = _rows(log, max_rows)
    if len(rows) == log.num_impressions:
        known = read_rows(log, policy, None, None, [], None, 2)
        weights = known.target / known.logging
    else:
        weights = _weights(log, policy, rows)
    summary = WeightSummary.of(weights, 1.0)
    effective = summary.effective_sample_size * log.num_impressions / len(rows)
    falling = np.sort(weights.numpy())[::-1]
    positive = int((falling > 0).sum())
    ax = axes_or_new(ax, 7, 4.2)
    rank = np.unique(np.geomspace(1, max(positive, 1), min(_POINTS, max(positive, 1))).round().astype(np.int64))
    ax.plot(rank, falling[rank - 1], color="C0")
    ax.axhline(1, color="0.5", linestyle="--", linewidth=0.8)
    ax.set(xscale="log", yscale="log", xlabel="row, the largest weight first")
    ax.set_ylabel("importance weight (policy / logging)", color="C0")
    other = ax.twinx()
    other.plot(rank, 100 * falling.cumsum()[rank - 1] / max(falling.sum(), 1e-300), color="C1")
    other.set_ylabel("share of all weight so far, %", color="C1")
    other.set_ylim(0, 103)
    few = effective < MIN_EFFECTIVE_SAMPLE_SIZE
    part = f"{len(rows):,} of " if len(rows) < log.num_impressions else ""
    zero = f"; {len(falling) - positive:,} rows have weight 0" if positive < len(falling) else ""
    ax.set_title(
        f"{part}{log.num_impressions:,} rows, {'evenly spaced; ' if part else ''}"
        f"effective sample size{' of all, by these,' if part else ''} {effective:,.0f}"
        f"{f' (below {MIN_EFFECTIVE_SAMPLE_SIZE:,.0f})' if few else ''}\n"
        f"mean {summary.mean:.3f} ± {summary.mean_error:.2g}, largest {summary.largest:.3g} "
        f"({summary.largest_share:.2%} of {'these' if part else 'all'}){zero}",
        fontsize=9, color="C3" if few else "black",
    )  # fmt: skip
    return ax


def _rows(log: EventLog, most: int | None) -> Tensor:
    size = log.num_impressions
    if most is not None:
        most = whole_number(most, "max_rows", at_least=2)
    elif len(log.contexts) * log.num_items <= _AT_ONCE:
        most = size
    else:
        most = max(2, _AT_ONCE // log.num_items)
    return torch.from_numpy(evenly_spaced(size, most))


def _weights(log: EventLog, policy: Policy, rows: Tensor) -> Tensor:
    """Of some rows, by the probabilities of what was shown alone."""
    assert log.propensity is not None
    slot, slots = slots_of(log)
    slates = policy.slate_distribution(log.contexts[log.context[rows]], slots)
    with torch.no_grad():
        probs = slates.rank_probs(log.action[rows].unsqueeze(-1)).squeeze(1)
    return probs.gather(1, slot[rows].unsqueeze(-1)).squeeze(1) / log.propensity[rows].cpu().to(torch.float64)
