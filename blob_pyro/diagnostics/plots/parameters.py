"""Parameters before and after the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blob_pyro.diagnostics.inference_data import SAMPLE_DIMS, import_arviz
from blob_pyro.models.sites import W_A, W_B, W_C

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_prior_posterior"]

_MEANING = {
    W_A: "weight of what views say",
    W_B: "weight of what clicks add",
    W_C: "click logit of an average item",
}
_POSITIVE = (W_A, W_B)  # through a softplus in the click logit
_DRAWS = 4000


def plot_prior_posterior(
    data: Any, var_names: Sequence[str] = (W_A, W_B, W_C), axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Plot densities of parameters before and after the data: one picture each, ArviZ's kernel density estimates.

    Each curve has its own scale, so that a narrow posterior does not flatten its prior. ``w_a``, ``w_b`` and ``w_c``
    say how much the organic signal is trusted: ``w_a`` and ``w_b`` go through a softplus, and the titles give medians
    and 90 % intervals of what comes out. What it calls of ArviZ is the same in 0.x and 1.x.

    Args:
        data: a fitted `blob_pyro.BLOB`, or what its ``to_inference_data`` returned: groups ``prior``, ``posterior``.
        var_names: names of scalar parameters.
        axes: one for each name; default a row in a new figure.

    Returns:
        The axes, in the order of ``var_names``.

    Raises:
        ValueError: if a name is in neither group or not of a scalar, or if names and axes differ in number.
    """
    if isinstance(var_names, str) or not var_names:
        raise ValueError(f"var_names must be a list of names, at least one, got {var_names!r}")
    if hasattr(data, "to_inference_data"):
        data = data.to_inference_data(groups=["posterior", "prior"], sites=list(var_names), num_draws=_DRAWS)
    for name in var_names:
        for group in ("prior", "posterior"):
            if name not in data[group]:
                raise ValueError(f"var_names: {group} has no {name!r}; it has {sorted(data[group].data_vars)}")
            own = [dim for dim in data[group][name].dims if dim not in SAMPLE_DIMS]
            if own:
                raise ValueError(f"var_names: {name!r} is no scalar, it has the dimensions {own}")
    if axes is None:
        from matplotlib import pyplot

        _, row = pyplot.subplots(
            1, len(var_names), figsize=(3.6 * len(var_names), 3.2), squeeze=False, layout="constrained"
        )
        axes = list(row[0])
    if len(axes) != len(var_names):
        raise ValueError(f"axes must be as many as var_names, {len(var_names)}, got {len(axes)}")
    for ax, name in zip(axes, var_names):
        says = []
        for group, color in (("prior", "C1"), ("posterior", "C0")):
            draws = np.asarray(data[group][name].values, dtype=np.float64).ravel()
            if np.ptp(draws) == 0:
                ax.axvline(draws[0], color=color, label=f"{group}: one value")
            else:
                grid, density, *_ = import_arviz().kde(draws)
                ax.plot(grid, density / density.max(), color=color, label=group)
            says.append(f"{group} {_interval(np.logaddexp(0, draws) if name in _POSITIVE else draws)}")
        before = " before its softplus" if name in _POSITIVE else ""
        ax.set(xlabel=f"{name}{before}:\n{_MEANING[name]}" if name in _MEANING else name, ylim=(0, None), yticks=[])
        ax.set_title("\n".join([f"softplus({name}), logits" if name in _POSITIVE else name, *says]), fontsize=9)
    axes[0].set_ylabel("density, share\nof its maximum")
    axes[0].legend(frameon=False, fontsize="small")
    return axes


def _interval(draws: np.ndarray) -> str:
    low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95])
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"
