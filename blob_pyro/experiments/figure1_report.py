"""A report on many logs of Figure 1: bias, coverage and warnings by number of rows, as a table and a figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from blob_pyro.experiments.figure1 import ESTIMATORS, Figure1
from blob_pyro.experiments.saved_runs import claim
from blob_pyro.ope.reliability import MIN_EFFECTIVE_SAMPLE_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Runs", "plot", "summarize", "verdict"]

COVERAGE = (0.93, 0.97)
"""What a nominal 95 % interval should cover."""

_COLUMNS = ["log", "rows", "propensities", "estimator", "value", "standard_error", "low", "high"]
_COLUMNS += ["effective_sample_size", "warned"]
_DIGITS = "%.9g"


class Runs:
    """Logs that have been run, in a file that the next call goes on from.

    Args:
        experiment: its settings; a folder holds logs of one experiment alone.
        folder: where ``logs.csv`` and ``settings.json`` are; None keeps all in memory.

    Raises:
        ValueError: for a folder with logs of other settings.
    """

    def __init__(self, experiment: Figure1, folder: Path | None = None) -> None:
        self.experiment, self.folder = experiment, folder
        self.frame = pd.DataFrame()
        if folder is None:
            return
        claim(experiment, folder)
        if self._file.exists():
            found = pd.read_csv(self._file, on_bad_lines="skip").dropna()
            whole = found.groupby("log")["rows"].transform("size") == self._rows_per_log
            self.frame = found[whole].astype({"log": int, "rows": int})
        part = self._file.with_suffix(".part")  # a run that was killed while it wrote has left half a log
        (self.frame if len(self.frame) else pd.DataFrame(columns=_COLUMNS)).to_csv(
            part, index=False, float_format=_DIGITS
        )
        part.replace(self._file)

    def complete(self, logs: range) -> Iterator[int]:
        """Run those of the logs that are missing, and yield each number when its log is done and on disk."""
        done = set() if self.frame.empty else set(self.frame["log"])
        for log in logs:
            if log not in done:
                run = self.experiment.run(log)
                self.frame = run if self.frame.empty else pd.concat([self.frame, run], ignore_index=True)
                if self.folder is not None:
                    run[_COLUMNS].to_csv(self._file, mode="a", header=False, index=False, float_format=_DIGITS)
            yield log

    @property
    def _file(self) -> Path:
        assert self.folder is not None
        return self.folder / "logs.csv"

    @property
    def _rows_per_log(self) -> int:
        return len(self.experiment.sizes) * len(ESTIMATORS) * 2


def summarize(runs: pd.DataFrame, truth: float) -> pd.DataFrame:
    """Summarise over logs: a row per propensities, estimator and size.

    Args:
        runs: rows of `Figure1.run`, of at least two logs.
        truth: the value of the policy.

    Returns:
        Columns ``mean`` (of the estimates), ``bias``, ``bias_error`` (its standard error), ``bias_errors`` (the bias in
        these), ``spread`` (standard deviation of the estimates), ``standard_error`` (as claimed, on average),
        ``coverage`` of the truth by the 95 % intervals, ``coverage_error``, ``effective_sample_size`` (median),
        ``warned`` (share of logs), ``silent`` (logs of an effective sample size below 1,000 and no warning), ``logs``.
    """
    few = runs["effective_sample_size"] < MIN_EFFECTIVE_SAMPLE_SIZE
    runs = runs.assign(covered=(runs["low"] <= truth) & (truth <= runs["high"]), silent=few & ~runs["warned"])
    groups = runs.groupby(["propensities", "estimator", "rows"], sort=False)
    table = groups.agg(
        mean=("value", "mean"),
        spread=("value", "std"),
        standard_error=("standard_error", "mean"),
        coverage=("covered", "mean"),
        effective_sample_size=("effective_sample_size", "median"),
        warned=("warned", "mean"),
        silent=("silent", "sum"),
        logs=("value", "size"),
    )
    table.insert(1, "bias", table["mean"] - truth)
    table.insert(2, "bias_error", table["spread"] / np.sqrt(table["logs"]))
    table.insert(3, "bias_errors", table["bias"] / table["bias_error"])
    table["coverage_error"] = np.sqrt(table["coverage"] * (1 - table["coverage"]) / table["logs"])
    return table.reset_index()


def verdict(summary: pd.DataFrame) -> list[str]:
    """Say what was asked of the estimates, and what came out, a line each.

    Args:
        summary: of `summarize`.
    """
    exact = summary[summary["propensities"] == "exact"]
    large = exact["effective_sample_size"] >= MIN_EFFECTIVE_SAMPLE_SIZE
    believed, doubted = exact[large], exact[~large]
    unbiased = exact["estimator"].isin(["IPS", "DR"])
    lines = [
        _bias(exact[unbiased], "bias of IPS and DR, which have none in expectation"),
        _bias(believed, f"bias where the effective sample size is {MIN_EFFECTIVE_SAMPLE_SIZE:,.0f} or more"),
        _bias(doubted[~unbiased[~large]], "bias of SNIPS and beta-IPS, of order 1/N, where it is less"),
    ]
    if len(believed):
        coverage = believed["coverage"]
        error = float(np.sqrt(0.95 * 0.05 / believed["logs"].min()))
        lines.append(
            f"coverage where the effective sample size is {MIN_EFFECTIVE_SAMPLE_SIZE:,.0f} or more: "
            f"{coverage.min():.1%} to {coverage.max():.1%}, on average {coverage.mean():.2%}; between "
            f"{COVERAGE[0]:.0%} and {COVERAGE[1]:.0%} in {int(coverage.between(*COVERAGE).sum())} of {len(believed)} "
            f"cells (each has a standard error of {error:.1%}); warned of: {believed['warned'].mean():.1%} of intervals"
        )
    if len(doubted):
        lines.append(
            f"coverage where it is less: {doubted['coverage'].min():.1%} to {doubted['coverage'].max():.1%}; intervals "
            f"of less that were not warned of: {int(summary['silent'].sum())}"
        )
    wrong = summary[(summary["propensities"] == "published") & (summary["rows"] == summary["rows"].max())]
    shown = ", ".join(f"{row.estimator} {row.bias:+.4f} ({row.coverage:.0%})" for row in wrong.itertuples())
    lines.append(f"published propensities, {int(wrong['rows'].max()):,} rows: bias (coverage) {shown}")
    return lines


def _bias(cells: pd.DataFrame, what: str) -> str:
    sizes = cells["bias_errors"].abs()
    if cells.empty:
        return f"{what}: no cells"
    largest = cells.iloc[int(sizes.to_numpy().argmax())]
    where = f"{largest['bias']:+.4f}, {largest['estimator']}, {largest['rows']:,} rows"
    return (
        f"{what}: within 3 standard errors in {int((sizes <= 3).sum())} of {len(cells)} cells (sizes x estimators); "
        f"the largest is {largest['bias_errors']:+.1f} ({where})"
    )


def plot(summary: pd.DataFrame, truth: float) -> Figure:
    """Plot estimates above, coverage below, an estimator a column; hollow where most intervals were warned of.

    Args:
        summary: of `summarize`.
        truth: the value of the policy.
    """
    from matplotlib import pyplot

    names = list(ESTIMATORS)
    figure, axes = pyplot.subplots(
        2, len(names), figsize=(12, 5.6), sharex=True, sharey="row", height_ratios=[2, 1], layout="constrained"
    )
    colors = {"exact": "C0", "published": "C1"}
    labels = {"exact": "exact propensities", "published": "published (standard deviations as variances)"}
    for (above, below), name in zip(axes.T, names):
        above.axhline(truth, color="black", linewidth=1, linestyle="--", label="true value")
        below.axhspan(*COVERAGE, color="0.9", label="93 to 97 %")
        for propensities, color in colors.items():
            chosen = (summary["estimator"] == name) & (summary["propensities"] == propensities)
            table = summary[chosen].sort_values("rows")
            reach = 1.96 * table["spread"]
            above.fill_between(
                table["rows"], table["mean"] - reach, table["mean"] + reach, color=color, alpha=0.2, lw=0
            )
            above.plot(table["rows"], table["mean"], color=color, label=labels[propensities])
            below.plot(table["rows"], table["coverage"], color=color, linewidth=1)
            for rows, coverage, warned in zip(table["rows"], table["coverage"], table["warned"]):
                face = "white" if warned > 0.5 else color
                below.plot(rows, coverage, "o", color=color, markerfacecolor=face, markersize=4)
        above.set_title(name)
        above.set_xscale("log")
        below.set_xlabel("logged rows")
    axes[0, 0].set_ylabel("estimated value:\nmean and 95 % of logs")
    axes[0, 0].set_ylim(truth - 0.25, truth + 0.25)
    axes[1, 0].set_ylabel("coverage of\n95 % intervals")
    axes[1, 0].set_ylim(0.5, 1.01)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure
