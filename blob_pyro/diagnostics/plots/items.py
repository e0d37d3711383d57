"""Items: how well their click rates are known, and what clicks made of their embeddings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import softplus

from blob_pyro.data import EventLog
from blob_pyro.diagnostics.plots.canvas import axes_or_new, evenly_spaced
from blob_pyro.models.sites import W_A
from blob_pyro.ops.arguments import whole_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits
    from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts
    from blob_pyro.recommenders.click_model import ClickModel

__all__ = ["marginals", "plot_click_rates", "plot_embeddings"]

_DOTS = 300  # items in the background
_SEEN = 0.005  # of the picture's width: shorter lines are hidden by their own dots


def plot_click_rates(
    model: ClickModel,
    history: Sequence[Hashable] = (),
    *,
    items: Sequence[Hashable] | None = None,
    log: EventLog | None = None,
    most: int = 30,
    level: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Plot items' click probabilities with their intervals, by item id: a forest.

    Args:
        model: a fitted `blob_pyro.BLOB`.
        history: views of the user, ids; default none.
        items: ids to show, in this order; default those with the highest means.
        log: to draw hollow what it never shows.
        most: items to show at most, if ``items`` are not given.
        level: of the central intervals.
        ax: where to draw; default a new figure.

    Raises:
        ValueError: for an unknown id, a log of another catalogue, or a model that is not fitted.
    """
    logits, size = model.click_logits([history]), model.num_items
    if items is None:
        every = logits.click_probability()[0].cpu().numpy()
        shown = np.argsort(-every, kind="stable")[: whole_number(most, "most")]
        which = "all" if len(shown) == size else f"the highest means, {len(shown)} of {size:,} items"
    else:
        shown = model.items.encode(list(items), "items")
        which = f"{len(shown)} of {size:,} items"
    mean, low, high = (of_item[0] for of_item in marginals(logits, shown, level))
    never = np.zeros(size, dtype=bool)
    if log is not None:
        if log.items != model.items:
            raise ValueError("log: is not over the model's catalogue; pass the one that it was fitted to")
        never = np.bincount(log.action.cpu().numpy(), minlength=size) == 0
    ax = axes_or_new(ax, 6, 1.2 + 0.19 * len(shown))
    at = np.arange(len(shown))
    ax.hlines(at, low, high, color="C0", linewidth=1.5)
    for hollow, label in ((False, "shown before"), (True, "never shown")):
        part = never[shown] == hollow
        if part.any():
            face = "white" if hollow else "C0"
            ax.plot(mean[part], at[part], "o", color="C0", markerfacecolor=face, markersize=4,
                    label=label if log is not None else None)  # fmt: skip
    ax.set_yticks(at, [str(id_) for id_ in model.items.decode(shown)], fontsize="small")
    ax.set_ylim(len(shown) - 0.5, -0.5)
    after = "nothing" if not len(history) else f"{len(history)} view{'s' * (len(history) > 1)}"
    ax.set(xlabel=f"click probability after {after}, % (mean, central {100 * level:g} % interval)", ylabel="item")
    ax.set_title(f"click rates: {which}", fontsize=9)
    ax.grid(axis="x", alpha=0.3)
    if log is not None:
        ax.legend(frameon=False, fontsize="small", loc="lower right")
    return ax


def marginals(
    logits: LogitsOfContexts | DrawnClickLogits, items: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute click probabilities of some items and their central intervals: mean and both ends, ``N x I``, percent.

    Args:
        logits: of ``N`` contexts.
        items: ``I`` item numbers.
        level: of the intervals.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: must lie between 0 and 1, got {level}")
    of_these = logits.of_items(torch.from_numpy(np.asarray(items)))
    ends = (torch.sigmoid(of_these.icdf((1 + side * level) / 2)) for side in (-1, 1))
    mean, low, high = (100 * part.cpu().numpy() for part in (of_these.click_probability(), *ends))
    return mean, low, high


def plot_embeddings(model: ClickModel, *, most: int = 10, ax: Axes | None = None) -> Axes:
    """Plot item embeddings before and after the bandit signal, in the two directions in which they vary the most.

    Before: ``softplus(E w_a) Psi``, what views alone say of the click logit. After: ``beta_hat``, with all that clicks
    added. Lines join the two for the items that moved farthest; they are named, and drawn beside those evenly spaced.

    Args:
        model: a fitted `blob_pyro.BLOB`.
        most: items with a line and a name.
        ax: where to draw; default a new figure.

    Raises:
        ValueError: for a model that is not fitted.
    """
    from matplotlib.collections import LineCollection

    after = model.beta_hat.detach().cpu().double().numpy()
    weight = model.model.fixed_values().get(W_A)
    weight = model.posterior()[W_A].mean if weight is None else weight
    psi = model.model.item_factors.embedding.detach().cpu().double()
    before = (softplus(torch.as_tensor(weight).detach().cpu().double()) * psi).numpy()
    both = np.concatenate([before, after])
    center = both.mean(0)
    _, size, directions = np.linalg.svd(both - center, full_matrices=False)
    plane = np.zeros((2, both.shape[1]))
    plane[: len(directions[:2])] = directions[:2]
    share = np.zeros(2)
    share[: len(size[:2])] = (size**2 / max(float((size**2).sum()), 1e-300))[:2]
    start, end = (before - center) @ plane.T, (after - center) @ plane.T
    length = np.linalg.norm(after - before, axis=1)
    moved = np.argsort(-length, kind="stable")[: whole_number(most, "most")]
    spaced = evenly_spaced(len(start), _DOTS)
    dots = np.union1d(spaced, moved)
    ax = axes_or_new(ax, 6.4, 5.2)
    small = 2.0 if len(dots) > 100 else 4.0
    ax.plot(*start[dots].T, "o", color="0.6", markerfacecolor="none", markersize=small + 3, label="before: views alone")
    ax.plot(*end[dots].T, "o", color="C0", markersize=small, label="after: clicks, too")
    ax.add_collection(LineCollection(list(np.stack([start[moved], end[moved]], 1)), colors="C3", linewidths=1.5))
    for item, name in zip(moved, model.items.decode(moved)):
        ax.annotate(str(name), end[item], xytext=(4, 3), textcoords="offset points", fontsize="small", color="C3")
    notes = [f"dots: these, and {len(spaced):,} evenly spaced"] if len(dots) < len(start) else []
    width = np.ptp(np.concatenate([start, end]), axis=0).max()
    if np.linalg.norm(end - start, axis=1)[moved].max() < _SEEN * width:
        notes.insert(0, "the lines are too short to be seen")
    ax.set_title(
        f"red: the {len(moved)} longest moves of {len(start):,} items, {length[moved].min():.2g} to "
        f"{length.max():.2g} logits" + "\n" * bool(notes) + "; ".join(notes),
        fontsize=9,
    )
    ax.set_xlabel(f"first direction ({share[0]:.0%} of the variance), logits per unit of interest")
    ax.set_ylabel(f"second direction ({share[1]:.0%}), logits per unit of interest")
    ax.legend(frameon=False, fontsize="small")
    ax.grid(alpha=0.3)
    return ax
