"""The course of a fit, so that its first epochs and its last are seen in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from blob_pyro.diagnostics.plots.canvas import axes_or_new, wrapped
from blob_pyro.infer.training.trace import ELBO, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_training"]

_TOLERANCE = 2e-3  # of the objective, as `blob_pyro.infer.training.convergence` has it
_SMOOTH = 50  # epochs or more: a moving average over a twentieth of them is drawn, too


def plot_training(traces: Mapping[str, pd.DataFrame] | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot what a fit maximised against its epochs, steps or draws, with the verdict on its convergence.

    The vertical axis counts nats per row from the mean over the last quarter, where that is highest: linear where the
    noise of that quarter or 0.2 % of the objective are, what the verdict goes by, and logarithmic beyond. So the first
    epochs, hundreds of times further off, and whether the end is flat, are both seen. The quarters of an ELBO that the
    verdict compares are shaded.

    Args:
        traces: what `blob_pyro.BLO.fit` or `blob_pyro.BLOB.fit` returned, or several by name.
        ax: where to draw; default a new figure.

    Raises:
        ValueError: for a table that is no training trace, or none.
    """
    named = {"": traces} if isinstance(traces, pd.DataFrame) else dict(traces)
    if not named or any(not len(trace) for trace in named.values()):
        raise ValueError("traces: expected what a fit returns, with a row at least; there is nothing to draw")
    ax = axes_or_new(ax, 7, 4.2)
    columns = {name: axes_of(trace) for name, trace in named.items()}
    ends = {name: _end(trace[columns[name][1]].to_numpy(np.float64)) for name, trace in named.items()}
    best = max(ends, key=lambda name: ends[name][0])
    level, noise = ends[best][0], max(noise for _, noise in ends.values())
    for number, (name, trace) in enumerate(named.items()):
        at, value = trace[columns[name][0]].to_numpy(), trace[columns[name][1]].to_numpy(np.float64) - level
        label = "" if len(named) == 1 else ": ".join(part for part in (name, _word(trace)) if part)
        smooth = len(trace) >= _SMOOTH and columns[name][1] == ELBO
        marker = "o" if len(trace) < 30 else ""
        ax.plot(at, value, color=f"C{number}", alpha=0.35 if smooth else 1.0, marker=marker, markersize=3,
                linewidth=1.0, label=None if smooth else label)  # fmt: skip
        if smooth:
            width = len(trace) // 20
            mean = pd.Series(value).rolling(width, center=True, min_periods=1).mean()
            ax.plot(
                at, mean, color=f"C{number}", linewidth=1.8, label=label or f"mean over {width} {columns[name][0]}s"
            )
    if len(named) == 1:
        ((name, trace),) = named.items()
        at = trace[columns[best][0]].to_numpy()
        for part, shade in zip(np.array_split(np.arange(len(at)), 4)[2:], ("0.95", "0.88")):
            if len(part) and columns[best][1] == ELBO:
                ax.axvspan(at[part[0]] - 0.5, at[part[-1]] + 0.5, color=shade, zorder=0, linewidth=0)
        if _word(trace):
            said = f"{_word(trace)}: {trace.attrs.get('convergence', '')}".rstrip(": ")
            text = f"{name}, {said}" if name else said
            ax.set_title(wrapped(ax, text), fontsize=9, color="C3" if _word(trace) != "converged" else "black")
    ax.axhline(0, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    values = np.concatenate([trace[columns[name][1]].to_numpy(np.float64) - level for name, trace in named.items()])
    _scale(ax, values, max(2 * noise, _TOLERANCE * abs(level), 1e-9))
    kinds = {value for _, value in columns.values()}
    what = "ELBO" if kinds == {ELBO} else "log joint density" if ELBO not in kinds else "objective"
    ax.set_xlabel(" or ".join(sorted({row for row, _ in columns.values()})))
    ax.locator_params(axis="x", integer=True)
    ax.set_ylabel(f"{what} minus {level:.5g},\nnats per row")
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize="small", loc="lower right")
    return ax


def _scale(ax: Axes, values: np.ndarray, linear: float) -> None:
    """An axis linear up to ``linear`` and logarithmic beyond, with ticks at 0 and powers of ten that do not collide."""
    ax.set_yscale("asinh", linear_width=linear)
    reach = np.arcsinh(np.array([min(values.min(), -linear), max(values.max(), linear)]) / linear)
    ax.set_ylim(*(linear * np.sinh(reach + np.array([-0.06, 0.06]) * np.ptp(reach))))
    low, high = ax.get_ylim()
    first, last = int(np.ceil(np.log10(linear))), int(np.floor(np.log10(max(-low, high))))
    powers = [10.0**k for k in range(first, last + 1, max(1, (last - first) // 4))] or [_one_digit(linear)]
    ticks = [-p for p in powers[::-1] if -p > low] + [0.0] + [p for p in powers if p < high]
    ax.set_yticks(ticks, [f"{tick:g}".replace("-", "\N{MINUS SIGN}", 1) if tick else "0" for tick in ticks])
    ax.set_yticks([], minor=True)


def _one_digit(value: float) -> float:
    """Round a positive number down to its first digit."""
    power = np.floor(np.log10(value))
    return float(f"{np.floor(value / 10**power) * 10**power:.0e}")


def _end(values: np.ndarray) -> tuple[float, float]:
    """The mean of the last quarter, and the standard deviation around it."""
    last = values[-max(1, len(values) // 4) :]
    return float(last.mean()), float(last.std())


def _word(trace: pd.DataFrame) -> str:
    if trace.attrs.get("interrupted"):
        return "interrupted"
    if "converged" not in trace.attrs:
        return ""
    return "converged" if trace.attrs["converged"] else "not converged"
