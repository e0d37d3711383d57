"""Importance weights: whether a log can value a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blob_pyro.data import EventLog
from blob_pyro.diagnostics.plots.canvas import axes_or_new
from blob_pyro.ope.logged_rows import read_rows
from blob_pyro.ope.reliability import MIN_EFFECTIVE_SAMPLE_SIZE, WeightSummary
from blob_pyro.policies.base import Policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_importance_weights"]

_POINTS = 400


def plot_importance_weights(log: EventLog, policy: Policy, *, ax: Axes | None = None) -> Axes:
    """Plot the importance weights of a log's rows for a policy, the largest first, and the share of all that they have.

    A weight is the policy's probability of what was shown over that with which it was shown. A curve that falls steeply
    is an estimate that rests on few rows; the title has the effective sample size, in red where it is too small for an
    interval to be believed.

    Args:
        log: with ``propensity``.
        policy: to be valued.
        ax: where to draw; default a new figure.

    Raises:
        ValueError: for a log without propensities, or of another catalogue.
    """
    log.require_impressions()
    if log.propensity is None:
        raise ValueError("log: has no column 'propensity'; log the probability of each action that is played")
    if policy.num_items != log.num_items:
        raise ValueError(f"policy: chooses among {policy.num_items} items, the log has {log.num_items}")
    rows = read_rows(log, policy, None, None, [], None, 2)
    weights = rows.target / rows.logging
    summary = WeightSummary.of(weights, 1.0)
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
    few = summary.effective_sample_size < MIN_EFFECTIVE_SAMPLE_SIZE
    zero = f"; {len(falling) - positive:,} rows have weight 0" if positive < len(falling) else ""
    ax.set_title(
        f"{len(falling):,} rows, effective sample size {summary.effective_sample_size:,.0f}"
        f"{f' (below {MIN_EFFECTIVE_SAMPLE_SIZE:,.0f})' if few else ''}\n"
        f"mean {summary.mean:.3f} ± {summary.mean_error:.2g}, largest {summary.largest:.3g} "
        f"({summary.largest_share:.2%} of all){zero}",
        fontsize=9, color="C3" if few else "black",
    )  # fmt: skip
    return ax
