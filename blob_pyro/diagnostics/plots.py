"""Pictures of a fit. Each function draws into one matplotlib ``Axes`` and returns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_elbo"]


def plot_elbo(histories: Mapping[str, pd.DataFrame] | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """ELBO per row against the epoch.

    The first epochs, far below the rest, are let run out of the picture: what matters is whether the end is flat.

    Args:
        histories: what `blob_pyro.BLO.fit` or `blob_pyro.BLOB.fit` returned, or several by name.
        ax: where to draw; default a new figure.
    """
    from matplotlib import pyplot

    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    named = {"": histories} if isinstance(histories, pd.DataFrame) else histories
    lows, highs = [], []
    for name, history in named.items():
        ax.plot(history.epoch, history.elbo, label=name or None)
        lows.append(history.elbo.quantile(0.15))
        highs.append(history.elbo.max())
    low, high = min(lows), max(highs)
    if high > low:
        margin = 0.1 * (high - low)
        ax.set_ylim(low - margin, high + margin)
    ax.set_xlabel("epoch")
    ax.set_ylabel("ELBO per row, nats")
    ax.grid(alpha=0.3)
    if any(named):
        ax.legend(frameon=False)
    return ax
