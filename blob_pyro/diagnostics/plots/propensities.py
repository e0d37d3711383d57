"""Propensities of one context: what will be played, and how well that is known."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blob_pyro.diagnostics.plots.canvas import axes_or_new
from blob_pyro.ops.arguments import whole_number
from blob_pyro.policies.base import Policy
from blob_pyro.policies.thompson import ThompsonSampling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_propensities"]

_SMALLEST = 1e-12  # drawn at the left end


def plot_propensities(
    policy: Policy | Any, history: Sequence[Hashable] = (), *, most: int = 30, ax: Axes | None = None
) -> Axes:
    """Plot the probability of each item to be played in one context, the likeliest first, on a logarithmic axis.

    Args:
        policy: a policy; or a fitted `blob_pyro.BLOB`, played by Thompson sampling.
        history: views of the user, ids; default none.
        most: items to show at most; the title says what all others share.
        ax: where to draw; default a new figure.
    """
    played = policy if isinstance(policy, Policy) else ThompsonSampling(policy)
    actions = played.action_distribution([history])
    probs = actions.probs[0].detach().cpu().double().numpy()
    error = getattr(actions, "error_estimate", None)
    error = np.zeros_like(probs) if error is None else error[0].detach().cpu().double().numpy()
    shown = np.argsort(-probs, kind="stable")[: whole_number(most, "most")]
    shown = shown[probs[shown] > _SMALLEST]
    rest = len(probs) - len(shown)
    ax = axes_or_new(ax, 6, 1.2 + 0.19 * len(shown))
    at, p = np.arange(len(shown)), probs[shown]
    reach = 1.96 * error[shown]
    if reach.any():
        # A logarithmic axis has no place for 0: what an error cannot tell from it goes on to a tenth.
        ax.hlines(at, np.maximum(p - reach, p / 10), np.minimum(p + reach, 1), color="C0", alpha=0.5, linewidth=3,
                  label="± 1.96 standard errors of the estimate")  # fmt: skip
        ax.legend(frameon=False, fontsize="small")
    ax.plot(p, at, "o", color="C0", markersize=4)
    ax.axvline(1 / len(probs), color="0.5", linestyle="--", linewidth=0.8)
    ax.annotate("uniform", (1 / len(probs), 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                textcoords="offset points", fontsize="x-small", color="0.4")  # fmt: skip
    ax.set_yticks(at, [str(id_) for id_ in played.items.decode(shown)], fontsize="small")
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set(xscale="log", ylabel="item")
    ax.set_xlabel(f"probability of being played after {len(history)} view{'s' * (len(history) != 1)}")
    others = f"; the other {rest:,} share {probs.sum() - p.sum():.2g}" if rest else ""
    ax.set_title(f"{type(played).__name__}: {len(shown)} of {len(probs):,} items{others}", fontsize=9)
    ax.grid(axis="x", alpha=0.3)
    return ax
