"""Calibration of click probabilities: of events predicted at 3 %, three in a hundred should be clicked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ClickCalibration", "calibration_of", "clustered_error"]

_BINS = 10


@dataclass(frozen=True)
class ClickCalibration:
    """Predicted click probabilities beside clicks, on events that the prediction has not seen.

    Attributes:
        bins: tenths of the events by predicted probability: ``events``, ``predicted`` (mean), ``observed`` (rate),
            ``low`` and ``high`` (the central 95 % of rates that such probabilities give).
        scores: of the model and of two who know less, the ``constant`` rate and each item's rate (``popularity``): mean
            ``brier`` and ``log`` score (nats per event; lower is better) and ``brier_gain`` and ``log_gain`` of the
            model over each, with standard errors clustered by user.
        p_value: of a chi-squared test of the bins (Hosmer & Lemeshow 1980).
        held_out: how the events were kept from the prediction.
        losses: minus the log-probability of what happened, nats, of each event, ``N``.
        user: of each event.
    """

    bins: pd.DataFrame
    scores: pd.DataFrame
    p_value: float
    held_out: str
    losses: np.ndarray = field(repr=False, compare=False)
    user: np.ndarray = field(repr=False, compare=False)

    @property
    def flagged(self) -> bool:
        """The verdict: whether the probabilities are off, or worse than those of somebody who knows less."""
        others = self.scores.drop(index="model")
        return self.p_value < 0.01 or bool((others.log_gain < -2 * others.log_gain_error).any())

    @property
    def says(self) -> str:
        """The verdict in words."""
        gains = [
            f"{row.log_gain:+.5f} ± {row.log_gain_error:.5f} nats per event over {name}"
            for name, row in self.scores.drop(index="model").iterrows()
        ]
        return f"reliability p = {self.p_value:.3g}; log score {'; '.join(gains)} ({self.held_out})"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot observed click rates against predicted ones, over the band that predictions allow.

        Args:
            ax: where to draw; default a new figure.
        """
        from matplotlib import pyplot

        if ax is None:
            _, ax = pyplot.subplots(figsize=(4.2, 3.8), layout="constrained")
        predicted = 100 * self.bins.predicted
        ax.fill_between(predicted, 100 * self.bins.low, 100 * self.bins.high, color="0.85", label="allowed, 95 %")
        right = 1.08 * float(predicted.max())
        ax.plot([0, right], [0, right], color="0.5", linewidth=0.8)
        ax.plot(predicted, 100 * self.bins.observed, "o-", color="C0", markersize=4, label="observed", clip_on=False)
        ax.set(xlabel="predicted click probability, %", ylabel="click rate, %", xlim=(0, right), ylim=(0, None))
        ax.set_title(f"p = {self.p_value:.3g}", loc="right", fontsize=9, color="C3" if self.flagged else "black")
        ax.legend(frameon=False, fontsize="small")
        return ax


def calibration_of(
    probability: np.ndarray,
    reward: np.ndarray,
    constant: np.ndarray,
    popularity: np.ndarray,
    user: np.ndarray,
    held_out: str,
) -> ClickCalibration:
    """Compare predicted probabilities with clicks, and with the predictions of those who know less.

    Args:
        probability: predicted, ``N``.
        reward: clicks, ``N``.
        constant: one rate for all events, as each was predicted, ``N``.
        popularity: each item's rate, likewise.
        user: of each event; errors are clustered by it.
        held_out: how the events were kept from the prediction.
    """
    order = np.argsort(probability, kind="stable")
    rows = []
    for part in np.array_split(order, min(_BINS, max(1, int(reward.sum())))):
        p = probability[part]
        spread = np.sqrt((p * (1 - p)).sum())
        low, high = stats.norm.interval(0.95, p.sum(), spread) if spread > 0 else (p.sum(), p.sum())
        if p.sum() < 20:  # few clicks are nearly Poisson, and not normal
            low, high = stats.poisson.ppf([0.025, 0.975], p.sum())
        size = len(part)
        rows.append((size, p.mean(), reward[part].mean(), max(low, 0) / size, min(high, size) / size, spread))
    bins = pd.DataFrame(rows, columns=["events", "predicted", "observed", "low", "high", "spread"])
    chi = ((bins.events * (bins.observed - bins.predicted)) ** 2 / bins.spread.clip(1e-9) ** 2).sum()
    losses = {name: _losses(p, reward) for name, p in
              (("model", probability), ("constant", constant), ("popularity", popularity))}  # fmt: skip
    table = {}
    for name, (brier, log) in losses.items():
        row = {"brier": brier.mean(), "log": log.mean()}
        for kind, own, other in (("brier", losses["model"][0], brier), ("log", losses["model"][1], log)):
            row[f"{kind}_gain"] = (other - own).mean()
            row[f"{kind}_gain_error"] = clustered_error(other - own, user)
        table[name] = row
    scores = pd.DataFrame.from_dict(table, orient="index").rename_axis("predictor")
    return ClickCalibration(
        bins.drop(columns="spread"), scores, float(stats.chi2.sf(chi, len(bins))), held_out, losses["model"][1], user
    )


def _losses(p: np.ndarray, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return (p - reward) ** 2, -np.where(reward > 0, np.log(p), np.log1p(-p))


def clustered_error(values: np.ndarray, user: np.ndarray) -> float:
    """Estimate the standard error of the mean of values that are dependent within users.

    Args:
        values: one per event, ``N``.
        user: of each event.
    """
    _, index = np.unique(user, return_inverse=True)
    sums = np.bincount(index, weights=values - values.mean())
    groups = len(sums)
    return float(np.sqrt((sums**2).sum() * groups / max(groups - 1, 1)) / len(values))
