"""Report on many logs of the coverage experiment: a table, sentences, a figure, and where they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from blob_pyro.experiments.off_policy_coverage import KINDS, OffPolicyCoverage
from blob_pyro.experiments.saved_runs import claim
from blob_pyro.ope.reliability import MIN_EFFECTIVE_SAMPLE_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Runs", "plot", "shifts", "summarize", "verdict"]

COVERAGE = (0.93, 0.97)
"""What a nominal 95 % interval should cover."""
CELLS = 11
"""Policies (and their difference) times estimators."""
_DIGITS = "%.7g"


class Runs:
    """Logs that have been run, in a folder that the next call goes on from.

    Args:
        experiment: a folder holds logs of one experiment alone.
        folder: for ``settings.json``, ``logs.csv`` and ``ab_tests.csv``.

    Raises:
        ValueError: for a folder with logs of other settings.
    """

    def __init__(self, experiment: OffPolicyCoverage, folder: Path) -> None:
        self.experiment, self.folder = experiment, folder
        claim(experiment, folder)
        self.logs = self._read("logs.csv", ["block", "kind"], CELLS * experiment.logs_per_block)
        self.ab_tests = self._read("ab_tests.csv", ["environment"], 4)

    def complete(self, blocks: range) -> Iterator[int]:
        """Run those of the blocks that are missing, with every kind of propensity; yield a number when it is done."""
        done = set(zip(self.logs["block"], self.logs["kind"])) if len(self.logs) else set()
        for block in blocks:
            for kind in KINDS:
                if (block, kind) not in done:
                    self.logs = self._add("logs.csv", self.logs, self.experiment.run(block, kind))
            yield block

    def complete_ab_tests(self) -> None:
        """Run the A/B tests that are missing, one an environment."""
        first = self.experiment.first_environment
        done = set(self.ab_tests["environment"]) if len(self.ab_tests) else set()
        for seed in sorted({*range(first, first + self.experiment.num_environments)} - done):
            self.ab_tests = self._add("ab_tests.csv", self.ab_tests, self.experiment.ab_test(seed))

    def _read(self, name: str, key: list[str], rows: int) -> pd.DataFrame:
        path = self.folder / name
        if not path.exists():
            return pd.DataFrame()
        found = pd.read_csv(path, on_bad_lines="skip").dropna()
        found = found[found.groupby(key)[key[0]].transform("size") == rows]  # a killed run leaves half a log
        part = path.with_suffix(".part")
        found.to_csv(part, index=False, float_format=_DIGITS)
        part.replace(path)
        return found

    def _add(self, name: str, table: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
        path = self.folder / name
        new.to_csv(path, mode="a", header=not path.exists(), index=False, float_format=_DIGITS)
        return new if table.empty else pd.concat([table, new], ignore_index=True)


def summarize(logs: pd.DataFrame) -> pd.DataFrame:
    """Average over logs: a row for each kind of propensities, target and estimator.

    Args:
        logs: rows of `OffPolicyCoverage.run`.

    Returns:
        Columns ``coverage`` of the truth on the logged contexts, its binomial ``coverage_error``, ``below`` and
        ``above`` (shares of logs in which the truth lies beyond that end), ``bias`` and ``bias_errors`` (in its
        standard errors), ``spread`` of value minus truth, the ``standard_error`` claimed (on average), ``truth``, mean
        ``effective_sample_size`` and the share of logs with one below 1,000 (``few``), mean ``skewness``, ``warned``
        (share), ``logs``.
    """
    error = logs["value"] - logs["truth"]
    logs = logs.assign(
        error=error,
        covered=(logs["low"] <= logs["truth"]) & (logs["truth"] <= logs["high"]),
        below=logs["truth"] < logs["low"],
        above=logs["truth"] > logs["high"],
        few=logs["effective_sample_size"] < MIN_EFFECTIVE_SAMPLE_SIZE,
    )
    table = logs.groupby(["kind", "target", "estimator"], sort=False).agg(
        coverage=("covered", "mean"),
        below=("below", "mean"),
        above=("above", "mean"),
        bias=("error", "mean"),
        spread=("error", "std"),
        standard_error=("standard_error", "mean"),
        truth=("truth", "mean"),
        effective_sample_size=("effective_sample_size", "mean"),
        few=("few", "mean"),
        skewness=("skewness", "mean"),
        warned=("warned", "mean"),
        logs=("log", "size"),
    )
    table.insert(1, "coverage_error", np.sqrt(table["coverage"] * (1 - table["coverage"]) / table["logs"]))
    table.insert(5, "bias_errors", table["bias"] / (table["spread"] / np.sqrt(table["logs"])))
    return table.reset_index()


def shifts(logs: pd.DataFrame, ab_tests: pd.DataFrame) -> pd.DataFrame:
    """Compare A/B tests with the truth on logged contexts, on average over environments.

    Another policy's clicks come at other times, a click brings a user back to browse, and so contexts are other ones.

    Args:
        logs: rows of `OffPolicyCoverage.run`.
        ab_tests: rows of `OffPolicyCoverage.ab_test`.

    Returns:
        A row per target: ``logged`` (the truth on logged contexts), ``ab_test``, ``shift`` and its standard error
        ``shift_error``, from the spread of truths between logs and the test's own error.
    """
    truths = logs.drop_duplicates(["block", "log", "kind", "target"])
    by = truths.groupby(["environment", "target"])["truth"].agg(["mean", "sem"]).reset_index()
    table = by.merge(ab_tests, on=["environment", "target"])
    table["variance"] = table["sem"] ** 2 + table["error"] ** 2
    groups = table.groupby("target", sort=False)
    result = groups.agg(logged=("mean", "mean"), ab_test=("rate", "mean"))
    result["shift"] = result["ab_test"] - result["logged"]
    result["shift_error"] = np.sqrt(groups["variance"].sum()) / groups.size()
    return result.reset_index()


def verdict(summary: pd.DataFrame) -> list[str]:
    """Say what was asked of the intervals, and what came out, a line for each kind of propensities.

    Args:
        summary: of `summarize`.
    """
    lines = []
    for kind, cells in summary.groupby("kind", sort=False):
        large = cells["effective_sample_size"] >= MIN_EFFECTIVE_SAMPLE_SIZE
        believed = cells[large]
        error = float(np.sqrt(0.95 * 0.05 / cells["logs"].min()))
        inside = believed["coverage"].between(*COVERAGE)
        line = (
            f"{kind}: coverage {believed['coverage'].min():.1%} to {believed['coverage'].max():.1%}, on average "
            f"{believed['coverage'].mean():.2%}, within {COVERAGE[0]:.0%} to {COVERAGE[1]:.0%} in {int(inside.sum())} "
            f"of {len(believed)} cells (a cell of 95 % has a standard error of {error:.1%}); largest bias "
            f"{believed['bias_errors'].abs().max():.1f} standard errors; mean effective sample size "
            f"{believed['effective_sample_size'].min():,.0f} to {believed['effective_sample_size'].max():,.0f}"
        )
        if not large.all():
            few = cells[~large]
            line += f"; {len(few)} cells with less than 1,000: {few['coverage'].min():.1%} and more"
        lines.append(line)
    return lines


def plot(summary: pd.DataFrame) -> Figure:
    """Plot the coverage of each estimator with two binomial standard errors to either side, a panel per target.

    Args:
        summary: of `summarize`.
    """
    from matplotlib.figure import Figure

    targets = list(dict.fromkeys(summary["target"]))
    figure = Figure(figsize=(4 * len(targets), 3.8), layout="constrained")
    axes = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for ax, target in zip(axes, targets):
        part = summary[summary["target"] == target]
        names = list(dict.fromkeys(part["estimator"]))
        ax.axhspan(*COVERAGE, color="0.9", label="93 to 97 %")
        ax.axhline(0.95, color="0.5", linewidth=1)
        for number, kind in enumerate(KINDS):
            cells = part[part["kind"] == kind].set_index("estimator").reindex(names)
            place = np.arange(len(names)) + 0.22 * (number - 1)
            ax.errorbar(
                place, cells["coverage"], yerr=2 * cells["coverage_error"], fmt="o", color=f"C{number}", label=kind
            )
        ax.set_xticks(range(len(names)), names)
        ax.set_title(target)
    axes[0].set_ylabel("coverage of 95 % intervals")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure
