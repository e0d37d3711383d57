"""Posterior predictive checks: clicks in groups of events, beside those that the fitted model would have drawn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.special import betainc

from blob_pyro.data import EventLog
from blob_pyro.data.clock import NUMBER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PredictiveCheck", "event_groups", "predictive_check"]

_LENGTHS = (0, 1, 3, 6, 11, 21, 51)  # where the bins of history lengths begin
_PERIODS = 10  # of logs whose times are numbers
_DAY = 86_400 * 10**9


@dataclass(frozen=True)
class PredictiveCheck:
    """Click rates of groups of events, observed and predicted.

    Attributes:
        by: what the events are grouped by.
        table: a row per group: ``events``, ``clicks``, ``expected`` (clicks), ``low`` and ``high`` (ends of the central
            95 % interval of the clicks that the model draws), ``z`` (observed minus expected, in standard deviations of
            what the model draws), and ``p`` (twice the probability of as few clicks, or of as many, under the model:
            not by draws of clicks, which cannot tell one in a hundred from one in a million).
        p_value: of all groups together: twice the smaller one of ``p_of_all``, the share of the model's own draws whose
            ``sum z^2`` is at least the observed one, and of the smallest ``p`` times the number of groups (Bonferroni).
            The first sees many groups that are a little off, the second one that is far off.
    """

    by: str
    table: pd.DataFrame
    p_of_all: float

    @property
    def p_value(self) -> float:
        """The probability of groups as different from what the model draws, in either of two ways: see the class."""
        smallest = float(self.table.p.min()) * len(self.table) if len(self.table) else 1.0
        return min(1.0, 2 * min(self.p_of_all, smallest))

    @property
    def flagged(self) -> bool:
        """The verdict: whether the groups differ from what the model draws."""
        return self.p_value < 0.01

    @property
    def says(self) -> str:
        """The verdict in words, with the group that is furthest off."""
        if not len(self.table):
            return "no groups"
        row = self.table.iloc[int(np.argmin(self.table.p.to_numpy()))]
        furthest = (
            f"furthest is {row.name}: {int(row.clicks)} clicks of {int(row.events)}, expected {row.expected:.1f} "
            f"(95 %: {int(row.low)} to {int(row.high)})"
        )
        return f"p = {self.p_value:.3g} over {len(self.table)} groups; {furthest}"

    def plot(self, ax: Axes | None = None, most: int = 40) -> Axes:
        """Plot observed click rates over the intervals that the model predicts.

        Args:
            ax: where to draw; default a new figure.
            most: groups to show; of more, those with the most events.
        """
        from matplotlib import pyplot

        if ax is None:
            _, ax = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
        kept = self.table.index.isin(self.table.events.nlargest(most, keep="first").index)
        table = self.table[kept]
        at, size = np.arange(len(table)), table.events.to_numpy()
        low, high = 100 * table.low / size, 100 * table.high / size
        ax.vlines(at, low, high, color="0.7", linewidth=max(2.0, 120 / max(len(table), 12)), label="predicted, 95 %")
        ax.plot(at, 100 * table.clicks / size, "o", color="C0", markersize=4, label="observed", clip_on=False, zorder=3)
        names, many = [str(name) for name in table.index], len(table) > 12
        every = 1 + (len(table) - 1) // 40
        ax.set_xticks(at[::every], names[::every], rotation=90 if many else 0, fontsize=7 if many else 9)
        note = "" if kept.all() else f" (the {most} with the most events, of {len(self.table):,} with any)"
        ax.set(xlabel=f"{self.by}{note}", ylabel="click rate, %", ylim=(0, None))
        ax.legend(frameon=False, fontsize="small", ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
        ax.set_title(f"p = {self.p_value:.3g}", loc="right", fontsize=9, color="C3" if self.flagged else "black")
        return ax


def event_groups(log: EventLog) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Group events by item, position (where there are any), length of history, and day or tenth of the log.

    Returns:
        By name of the grouping the group of each event, ``N``, and the groups' names.
    """
    length = log.contexts.lengths[log.context].numpy()
    bins = np.searchsorted(_LENGTHS, length, side="right") - 1
    ends = [*(f"{low}" if low + 1 == high else f"{low}-{high - 1}" for low, high in pairwise(_LENGTHS)),
            f"{_LENGTHS[-1]}+"]  # fmt: skip
    groups = {"item": (log.action.numpy(), [str(id_) for id_ in log.items.ids])}
    if log.position is not None:
        places, index = np.unique(log.position.numpy(), return_inverse=True)
        groups["position"] = (index, [str(place) for place in places])
    groups["history length"] = (bins, ends)
    time = log.time.numpy()
    if log.clock == NUMBER:
        cuts = np.quantile(time, np.linspace(0, 1, _PERIODS + 1)[1:-1])
        groups["tenth of the log"] = (np.searchsorted(cuts, time, side="right"), [str(i + 1) for i in range(_PERIODS)])
    else:
        days, index = np.unique(time // _DAY, return_inverse=True)
        groups["day"] = (index, [str(np.datetime64(int(day), "D")) for day in days])
    return groups


def predictive_check(
    by: str, group: np.ndarray, names: list[str], reward: np.ndarray, probability: np.ndarray, seed: int
) -> PredictiveCheck:
    """Compare clicks by group with what click probabilities say of them.

    Args:
        by: what the groups are.
        group: of each event, ``N``.
        names: of the groups.
        reward: clicks, ``N``.
        probability: of a click on each event under each draw of the parameters, ``D x N``.
        seed: of the clicks that are drawn.
    """
    used, index = np.unique(group, return_inverse=True)
    member = torch.from_numpy(index)
    generator = torch.Generator().manual_seed(seed)
    drawn, means, squares = np.zeros((3, len(probability), len(used)))

    def sums(values: torch.Tensor) -> np.ndarray:
        totals: np.ndarray = torch.zeros(len(used), dtype=torch.float64).index_add_(0, member, values).numpy()
        return totals

    for row, p in enumerate(torch.from_numpy(np.array(probability)).double()):
        drawn[row] = sums(torch.bernoulli(p, generator=generator))
        means[row], squares[row] = sums(p), sums(p.square())
    expected = means.mean(0)
    clicks = np.bincount(index, weights=reward, minlength=len(used))
    spread = np.sqrt(drawn.var(0) + 1e-12).clip(0.5)  # of a count: half a click is the least that can be told
    statistic = (((drawn - expected) / spread) ** 2).sum(1)
    observed = (((clicks - expected) / spread) ** 2).sum()
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    table = pd.DataFrame(
        {"events": np.bincount(index), "clicks": clicks, "expected": expected, "low": low, "high": high,
         "z": (clicks - expected) / spread, "p": _two_sided(clicks, means, squares)},
        index=pd.Index([names[i] for i in used], name=by),
    )  # fmt: skip
    return PredictiveCheck(by, table, float((1 + (statistic >= observed).sum()) / (1 + len(statistic))))


def _two_sided(clicks: np.ndarray, means: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Twice the probability of as few clicks as there are, or of as many, averaged over draws of the parameters.

    Given a draw the count is Poisson-binomial, which the binomial of the same mean and variance stands for, with a
    number of trials that need not be whole (Ehm 1991, *Binomial approximation to the Poisson binomial distribution*).

    Args:
        clicks: of each group, ``G``.
        means: sums of click probabilities, ``D x G``.
        squares: sums of their squares, ``D x G``.
    """
    share = np.clip(squares / np.maximum(means, 1e-300), 1e-12, 1 - 1e-12)
    trials = np.maximum(means / share, clicks)
    none, all_ = clicks <= 0, clicks >= trials - 1e-9
    at_least = np.where(none, 1.0, betainc(np.maximum(clicks, 1e-9), np.maximum(trials - clicks, 0) + 1, share))
    at_most = np.where(all_, 1.0, betainc(np.maximum(trials - clicks, 1e-9), clicks + 1, 1 - share))
    both: np.ndarray = np.minimum(1.0, 2 * np.minimum(at_least.mean(0), at_most.mean(0)))
    return both
