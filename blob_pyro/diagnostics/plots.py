"""Pictures of a fit. Each function draws into matplotlib's ``Axes``, given or new, and returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from blob_pyro.diagnostics.inference_data import SAMPLE_DIMS, import_arviz

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_elbo", "plot_prior_posterior"]


def plot_elbo(histories: Mapping[str, pd.DataFrame] | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the ELBO per row against the epoch.

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


def plot_prior_posterior(data: Any, var_names: Sequence[str], axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Plot densities of parameters before and after the data: one picture each, ArviZ's kernel density estimates.

    What it calls of ArviZ is the same in 0.x and 1.x.

    Args:
        data: what `blob_pyro.BLOB.to_inference_data` returned: groups ``prior`` and ``posterior``.
        var_names: names of scalar parameters, such as ``w_a``, ``w_b`` and ``w_c``.
        axes: one for each name; default a row in a new figure.

    Returns:
        The axes, in the order of ``var_names``.

    Raises:
        ValueError: if a name is in neither group or not of a scalar, or if names and axes differ in number.
    """
    from matplotlib import pyplot

    if isinstance(var_names, str) or not var_names:
        raise ValueError(f"var_names must be a list of names, at least one, got {var_names!r}")
    for name in var_names:
        for group in ("prior", "posterior"):
            if name not in data[group]:
                raise ValueError(f"var_names: {group} has no {name!r}; it has {sorted(data[group].data_vars)}")
            own = [dim for dim in data[group][name].dims if dim not in SAMPLE_DIMS]
            if own:
                raise ValueError(f"var_names: {name!r} is no scalar, it has the dimensions {own}")
    if axes is None:
        _, row = pyplot.subplots(
            1, len(var_names), figsize=(3.3 * len(var_names), 3), squeeze=False, layout="constrained"
        )
        axes = list(row[0])
    if len(axes) != len(var_names):
        raise ValueError(f"axes must be as many as var_names, {len(var_names)}, got {len(axes)}")
    for ax, name in zip(axes, var_names):
        for group, color in (("prior", "C1"), ("posterior", "C0")):
            grid, density, *_ = import_arviz().kde(data[group][name].values.ravel())
            ax.plot(grid, density, color=color, label=group)
        ax.set(xlabel=name, ylim=(0, None), yticks=[])
    axes[0].legend(frameon=False)
    return axes
