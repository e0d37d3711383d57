"""Reports of many environments of `blob_pyro.experiments.click_rates`: a table with intervals, a figure and notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from scipy import stats

from blob_pyro.experiments.click_rates import PAPER, PUBLISHED_SEED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NOTES", "of_published_environment", "plot", "summarize"]

NOTES = """\
click rate: mean over environments, %, and its standard error. paper: as printed, there with the environment of seed 0
alone; seed 0: ours in that environment, left out of the means. of the way: from random items, 0, to the oracle, 1.
top item: share of the impressions that the most played item got. against BLO: paired difference, %, with its 95 %
interval over environments (Student's t).
best constant item: one item for everybody, chosen with knowledge of all click rates.
oracle, estimated interests: knows all click rates, and of a user what the user has viewed.
Bayes: as that, but clicks are known from the log alone, under the right prior. swaps unknown: so many pairs of items
have exchanged their answers, any set of pairs alike; answers of some item: each item is clicked as some item of the
catalogue is viewed, any of them alike; answers unrelated to views: drawn as RecoGym draws them, whatever the views are.
What an agent that assumes no link between clicks and views can reach is the last; BLOB assumes one, and not that one.
Their posteriors take interests as standing still and a click as telling of the answer alone, and so are too sure: with
1,000 items of which all are swapped BLOB lies above them, and there they bound nothing.
as published: agents see the views since their last recommendation, nine times in ten none. The published code, when it
was run again, gave its contextual bandit 1.93 and 1.51 with 100 items, not the 1.37 and 1.09 that are printed; the rest
came within .05 of the print.\
"""


def summarize(rows: pd.DataFrame, num_items: int) -> pd.DataFrame:
    """Summarise each flips, setting and agent: means over environments, against the paper, random items and BLO.

    Args:
        rows: of `blob_pyro.experiments.click_rates.ClickRates.run`, with ``seed`` and ``flips``. Those of the paper's
            environment, seed 0, make a column and are left out of the means, unless there are no others.
        num_items: catalogue; it says which of the paper's figures are meant.

    Returns:
        Columns ``click rate`` (%) with its ``se`` over environments, ``paper``, ``seed 0``, ``of the way`` from random
        items to the oracle, ``top item``, and ``against BLO`` with ``low`` and ``high``: the paired difference in %
        with its 95 % interval (Student's t), NaN for one environment.
    """
    table = []
    for (flips, setting), both in rows.groupby(["flips", "setting"], sort=False):
        of_seed_0 = of_published_environment(both)
        part = both[both["seed"] != PUBLISHED_SEED] if (both["seed"] != PUBLISHED_SEED).any() else both
        wide = part.pivot(index="seed", columns="agent", values="click_rate")
        top = part.groupby("agent")["top_item_share"].mean()
        size, way = len(wide), wide["oracle"] - wide["random"]
        paper = PAPER.get((num_items, int(str(flips))), {})
        quantile = stats.t.ppf(0.975, size - 1) if size > 1 else float("nan")
        for agent in wide.mean().sort_values(ascending=False).index:
            gain = wide[agent] - wide["BLO"]
            reach = quantile * gain.sem() if size > 1 else float("nan")
            table.append(
                {"flips": flips, "setting": setting, "agent": agent, "click rate": wide[agent].mean(),
                 "se": wide[agent].sem(), "paper": paper.get(str(agent), float("nan")),
                 "seed 0": of_seed_0.get(str(agent), float("nan")),
                 "of the way": ((wide[agent] - wide["random"]) / way).mean(), "top item": top[agent],
                 "against BLO": gain.mean(), "low": gain.mean() - reach, "high": gain.mean() + reach}
            )  # fmt: skip
    return pd.DataFrame(table).set_index(["flips", "setting", "agent"])


def of_published_environment(rows: pd.DataFrame) -> dict[str, float]:
    """Pick the click rates in the paper's environment, by agent, from rows of one setting and number of flips."""
    part = rows[rows["seed"] == PUBLISHED_SEED]
    return dict(zip(part["agent"], part["click_rate"]))


def plot(table: pd.DataFrame) -> Figure:
    """Plot click rates of `summarize` with a standard error to either side, a panel per flips.

    Crosses are the paper's, triangles ours as published in the paper's environment.
    """
    from matplotlib.figure import Figure

    flips = list(dict.fromkeys(table.index.get_level_values("flips")))
    most = len(table.index.get_level_values("agent").unique())
    figure = Figure(figsize=(5.4 * len(flips), 1.6 + 0.24 * most), layout="constrained")
    axes = figure.subplots(1, len(flips), squeeze=False)[0]
    for ax, number in zip(axes, flips):
        part = table.loc[number]
        # Those of the published setting alone, such as BLOB-MNQ, stand where they came there.
        rates = part["click rate"]
        agents = list(rates["proper"].combine_first(rates["as published"]).sort_values().index)
        place = {agent: at for at, agent in enumerate(agents)}
        for setting, shift in (("as published", -0.17), ("proper", 0.17)):
            rows = part.loc[setting]
            at = [place[agent] + shift for agent in rows.index]
            ax.errorbar(rows["click rate"], at, xerr=rows["se"].fillna(0), fmt="o", markersize=4, label=setting)
        published = part.loc["as published"]
        for column, mark, label in (("seed 0", "C0^", "as published, seed 0"), ("paper", "kx", "printed (seed 0)")):
            known = published[published["paper"].notna()][column].dropna()
            ax.plot(known, [place[agent] - 0.17 for agent in known.index], mark, markersize=5, mfc="none", label=label)
        ax.set_yticks(range(len(agents)), agents, fontsize=9)
        ax.set_ylim(-0.7, len(agents) - 0.3)
        ax.set_title(f"{number} pairs of products swapped")
        ax.set_xlabel("click rate, %")
        ax.grid(axis="both", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure
