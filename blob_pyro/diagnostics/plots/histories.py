"""The posterior of one user as their history grows, view by view."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from blob_pyro.diagnostics.plots.canvas import axes_or_new, evenly_spaced
from blob_pyro.diagnostics.plots.items import marginals
from blob_pyro.ops.arguments import whole_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from blob_pyro.recommenders.click_model import ClickModel
    from blob_pyro.recommenders.interest_model import InterestModel

__all__ = ["plot_growing_history", "plot_growing_interest"]

_LENGTHS = 40
_NAMED = 12  # views that have their names under the axis


def plot_growing_history(
    model: ClickModel,
    history: Sequence[Hashable],
    *,
    items: Sequence[Hashable] | None = None,
    most: int = 3,
    level: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Plot click probabilities of a few items after each view of one history, with their intervals as bands.

    Args:
        model: a fitted `blob_pyro.BLOB`.
        history: the views, ids, oldest first.
        items: ids to show; default those whose mean logit the whole history changes the most.
        most: items to show at most, if ``items`` are not given.
        level: of the central intervals.
        ax: where to draw; default a new figure.

    Raises:
        ValueError: for an unknown id, or a model that is not fitted.
    """
    views = list(history)
    lengths = evenly_spaced(len(views) + 1, _LENGTHS)
    prefixes = [views[:n] for n in lengths]
    logits = model.click_logits(prefixes)
    if items is None:
        ends = logits[torch.tensor([0, len(prefixes) - 1])].mean
        change = (ends[1] - ends[0]).abs().cpu().numpy()
        shown = np.argsort(-change, kind="stable")[: whole_number(most, "most")]
        which = f"the {len(shown)} of {model.num_items:,} items that change the most"
    else:
        shown = model.items.encode(list(items), "items")
        which = f"{len(shown)} of {model.num_items:,} items"
    mean, low, high = marginals(logits, shown, level)
    ax = axes_or_new(ax, 7, 4)
    for number, name in enumerate(model.items.decode(shown)):
        _band(ax, lengths, mean[:, number], low[:, number], high[:, number], number, f"item {name}")
    ax.set_ylabel(f"click probability, % (mean, central {100 * level:g} %)")
    _of_views(ax, views, lengths, which)
    return ax


def plot_growing_interest(
    model: InterestModel, history: Sequence[Hashable], *, most: int = 3, ax: Axes | None = None, **options: Any
) -> Axes:
    """Plot the posterior of a user's latent interest after each view: mean and one standard deviation to each side.

    Args:
        model: a fitted `blob_pyro.BLO`.
        history: the views, ids, oldest first.
        most: coordinates to show: those that the history moves the most, in prior standard deviations.
        ax: where to draw; default a new figure.
        options: of ``user_posterior``, as ``method="em"``.

    Raises:
        ValueError: for an unknown id, or a model that is not fitted.
    """
    views = list(history)
    lengths = evenly_spaced(len(views) + 1, _LENGTHS)
    posterior = model.user_posterior([views[:n] for n in lengths], **options)
    mean = posterior.mean.detach().cpu().double().numpy()
    scale = posterior.variance.detach().cpu().double().sqrt().numpy()
    shown = np.argsort(-np.abs(mean[-1] - mean[0]), kind="stable")[: whole_number(most, "most")]
    ax = axes_or_new(ax, 7, 4)
    for number, k in enumerate(shown):
        spread = (mean[:, k] - scale[:, k], mean[:, k] + scale[:, k])
        _band(ax, lengths, mean[:, k], *spread, number, f"coordinate {k}")
    ax.axhline(0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set(ylabel="interest, in prior standard\ndeviations (mean ± 1 sd)")
    _of_views(ax, views, lengths, f"the {len(shown)} of {mean.shape[1]} coordinates that move the most")
    return ax


def _band(
    ax: Axes, at: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray, number: int, label: str
) -> None:
    color, marker = f"C{number % 10}", "o" if len(at) <= _LENGTHS // 2 else ""
    ax.plot(at, middle, color=color, marker=marker, markersize=3, label=label)
    ax.fill_between(at, low, high, color=color, alpha=0.06, linewidth=0)
    for edge in (low, high):
        ax.plot(at, edge, color=color, linewidth=0.7, alpha=0.6, linestyle="--")


def _of_views(ax: Axes, views: list[Hashable], lengths: np.ndarray, which: str) -> None:
    ax.set_xlabel("views so far")
    if len(views) <= _NAMED:
        ax.set_xticks(range(len(views) + 1), ["none", *(f"{n}\n{view}" for n, view in enumerate(views, 1))])
        ax.set_xlabel("views so far, and the last one")
    part = "" if len(lengths) == len(views) + 1 else f"; {len(lengths)} of {len(views) + 1} lengths"
    ax.set_title(f"{which}{part}", fontsize=9)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
