"""Results of `blob_pyro.experiments.rounds`: rows, a table with intervals, a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pandas as pd
from scipy import stats

from blob_pyro.ops.arguments import number_between, one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Interval", "RoundsResult"]

_NO_ERROR = 1e-9  # of a click rate: what is less is rounding
Measure = Literal["regret", "share", "played_share"]


class Interval(NamedTuple):
    """A mean over environments with its Student's t interval, NaN where there is one environment."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, eq=False)
class RoundsResult:
    """The rounds of agents in environments.

    Attributes:
        rows: one per environment, log, agent and round: ``impressions``, ``clicks``; ``played``, ``random`` and
            ``oracle``, expected click rates on the round's users; ``regret`` of the round in clicks; ``greedy``,
            ``test_random`` and ``test_oracle``, click rates on the users of the A/B test after the round; ``estimate``
            with ``estimate_error`` and ``effective_sample_size``: SNIPS of the next round's policy from this round's
            log, which that policy has learned from; NaN and 0 where it plays nothing that this log shows.
    """

    rows: pd.DataFrame

    @property
    def agents(self) -> list[str]:
        """Names, in the order in which they played."""
        return list(dict.fromkeys(self.rows["agent"]))

    @property
    def num_rounds(self) -> int:
        """Rounds that all agents have played everywhere."""
        return int(self.rows.groupby(["environment", "log", "agent"])["round"].max().min())

    def per_environment(self, measure: Measure = "regret") -> pd.DataFrame:
        """Return a measure after each round, averaged over the logs of an environment.

        Args:
            measure: "regret", cumulative and in clicks; "share" of the way from random items to the oracle of what
                greedy play of the learned earns; "played_share", the same of what was played.

        Returns:
            A row per environment and round, a column per agent.
        """
        one_of(measure, "measure", ("regret", "share", "played_share"))
        rows = self.rows.sort_values("round", kind="stable")
        if measure == "regret":
            value = rows.groupby(["environment", "log", "agent"])["regret"].cumsum()
        elif measure == "share":
            value = (rows["greedy"] - rows["test_random"]) / (rows["test_oracle"] - rows["test_random"])
        else:
            value = (rows["played"] - rows["random"]) / (rows["oracle"] - rows["random"])
        wide = rows.assign(value=value).pivot_table(
            index=["environment", "round"], columns="agent", values="value", aggfunc="mean"
        )
        return wide[self.agents].dropna()

    def interval(self, agent: str, measure: Measure = "regret", *, number: int | None = None,
                 confidence: float = 0.95) -> Interval:  # fmt: skip
        """Return a measure of one agent after a round, with an interval over environments.

        Args:
            agent: its name.
            measure: see `per_environment`.
            number: of the round; by default the last one that all have played.
            confidence: coverage of the interval.
        """
        return _interval(self._after(measure, number, agent)[agent], confidence)

    def difference(self, agent: str, other: str, measure: Measure = "regret", *, number: int | None = None,
                   confidence: float = 0.95) -> Interval:  # fmt: skip
        """Estimate how much more one agent has than another after a round, paired by environment.

        Args:
            agent: its name.
            other: the other's.
            measure: see `per_environment`.
            number: of the round; by default the last one that all have played.
            confidence: coverage of the interval.
        """
        wide = self._after(measure, number, agent, other)
        return _interval(wide[agent] - wide[other], confidence)

    def table(
        self, reference: str | None = None, *, number: int | None = None, confidence: float = 0.95
    ) -> pd.DataFrame:
        """Return a row per agent, lowest regret first.

        Args:
            reference: the agent that regrets are compared with; by default the first.
            number: of the round; by default the last one that all have played.
            confidence: coverage of the intervals, which are over environments.

        Returns:
            Columns ``agent``, ``round``; cumulative ``regret`` in clicks with ``regret_low`` and ``regret_high``;
            ``against`` (the reference, paired) with ``against_low`` and ``against_high``; ``share`` with ``share_low``
            and ``share_high``; ``played_share`` of this round; ``estimate`` and ``earned``: click rates of this round's
            policy as estimated from the round before, and as it was.
        """
        number = self.num_rounds if number is None else number
        reference = self.agents[0] if reference is None else reference
        told = self.predictions()
        told = told[told["round"] == number].groupby("agent")[["estimate", "earned"]].mean()
        rows = []
        for agent in self.agents:
            regret, share = (self.interval(agent, m, number=number, confidence=confidence) for m in ("regret", "share"))
            against = self.difference(agent, reference, number=number, confidence=confidence)
            rows.append(
                {"agent": agent, "round": number, "regret": regret.value, "regret_low": regret.lower,
                 "regret_high": regret.upper, "against": against.value, "against_low": against.lower,
                 "against_high": against.upper, "share": share.value, "share_low": share.lower,
                 "share_high": share.upper, "played_share": self.interval(agent, "played_share", number=number).value,
                 "estimate": told["estimate"].get(agent, float("nan")),
                 "earned": told["earned"].get(agent, float("nan"))}
            )  # fmt: skip
        return pd.DataFrame(rows).sort_values("regret", kind="stable", ignore_index=True)

    def predictions(self) -> pd.DataFrame:
        """Compare what off-policy estimates said of each policy before it was played with what it then earned.

        Returns:
            A row per environment, log, agent and round from the second on: ``estimate``, ``estimate_error``,
            ``effective_sample_size``, ``earned``, and ``errors``: how many standard errors the estimate was too high,
            NaN where the error is zero, as that of what a greedy log cannot tell.
        """
        rows, keys = self.rows, ["environment", "log", "agent", "round"]
        columns = ["estimate", "estimate_error", "effective_sample_size"]
        if "estimate" not in rows:
            return pd.DataFrame(columns=[*keys, *columns, "earned", "errors"])
        before = rows[[*keys, *columns]].assign(round=rows["round"] + 1)
        both = before.merge(rows[[*keys, "played"]], on=keys).rename(columns={"played": "earned"})
        error = both["estimate_error"].where(both["estimate_error"] > _NO_ERROR)
        return both.assign(errors=(both["estimate"] - both["earned"]) / error)

    def plot(self, measure: Measure = "regret", ax: Axes | None = None, *, confidence: float = 0.95) -> Axes:
        """Plot a measure after each round, a line per agent, with its interval over environments as a band.

        Args:
            measure: see `per_environment`.
            ax: where to draw; default a new figure.
            confidence: coverage of the bands.
        """
        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
        wide = self.per_environment(measure)
        for place, agent in enumerate(self.agents):
            found = {int(str(n)): _interval(part, confidence) for n, part in wide[agent].groupby("round")}
            numbers = list(found)
            style = ("-", "--", ":")[place // 10 % 3]
            (line,) = ax.plot(numbers, [i.value for i in found.values()], style, marker="o", markersize=3, label=agent)
            if wide.index.get_level_values("environment").nunique() > 1:
                low, high = ([getattr(i, side) for i in found.values()] for side in ("lower", "upper"))
                ax.fill_between(numbers, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        ax.set_xlabel("round")
        ax.set_ylabel(
            {"regret": "cumulative regret, clicks", "share": "greedy play: share of the way, random to oracle",
             "played_share": "what was played: share of the way, random to oracle"}[measure]
        )  # fmt: skip
        ax.set_xticks(sorted(set(wide.index.get_level_values("round"))))
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
        return ax

    def save(self, folder: str | Path) -> None:
        """Write ``rows.csv``, ``summary.csv`` and ``predictions.csv`` into a folder.

        Args:
            folder: made if need be.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.rows.to_csv(folder / "rows.csv", index=False, float_format="%.8g")
        self.table().to_csv(folder / "summary.csv", index=False, float_format="%.6g")
        self.predictions().to_csv(folder / "predictions.csv", index=False, float_format="%.6g")

    @classmethod
    def load(cls, folder: str | Path) -> RoundsResult:
        """Read what `save` wrote."""
        return cls(pd.read_csv(Path(folder) / "rows.csv"))

    def _after(self, measure: Measure, number: int | None, *agents: str) -> pd.DataFrame:
        for agent in agents:
            if agent not in self.agents:
                raise ValueError(f"agent: there is no {agent!r}; there are {', '.join(self.agents)}")
        wide = self.per_environment(measure)
        number = self.num_rounds if number is None else number
        known = set(wide.index.get_level_values("round"))
        if number not in known:
            raise ValueError(f"number: all agents have played rounds {min(known)} to {max(known)}, got {number}")
        return wide[wide.index.get_level_values("round") == number]


def _interval(values: pd.Series, confidence: float) -> Interval:
    number_between(confidence, "confidence", 0, 1)
    mean, size = float(values.mean()), len(values)
    if size < 2:
        return Interval(mean, float("nan"), float("nan"))
    reach = float(stats.t.ppf(0.5 + confidence / 2, size - 1) * values.sem())
    return Interval(mean, mean - reach, mean + reach)
