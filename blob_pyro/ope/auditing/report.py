"""The report of an audit: one line per test, a table, and a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from blob_pyro.ope.auditing.facts import LogFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AuditReport", "Finding"]


@dataclass(frozen=True)
class Finding:
    """The answer of one test.

    Attributes:
        test: its name.
        flagged: whether something is wrong, or must be known before the log is used.
        says: what was found, with its numbers.
        statistic: the number that was tested; NaN where there is none.
        p_value: chance of a statistic so extreme from a healthy log; NaN for tests without one.
        row: of the log, where one row is to blame; None where not.
    """

    test: str
    flagged: bool
    says: str
    statistic: float = float("nan")
    p_value: float = float("nan")
    row: int | None = None


@dataclass(frozen=True, repr=False)
class AuditReport:
    """One finding per test, in the order in which data flow; see `blob_pyro.ope.audit`."""

    findings: tuple[Finding, ...]
    facts: LogFacts = field(compare=False)

    @property
    def flagged(self) -> tuple[Finding, ...]:
        """The findings that speak against the log."""
        return tuple(f for f in self.findings if f.flagged)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings against the log, as text."""
        return tuple(f"{f.test}: {f.says}" for f in self.flagged)

    def __getitem__(self, test: str) -> Finding:
        for finding in self.findings:
            if finding.test == test:
                return finding
        raise KeyError(f"no test {test!r} in this audit; there are {', '.join(f.test for f in self.findings)}")

    @property
    def table(self) -> pd.DataFrame:
        """One row per test: ``flagged``, ``statistic``, ``p_value``, ``row``, ``says``."""
        frame = pd.DataFrame([vars(f) for f in self.findings]).set_index("test")
        return frame[["flagged", "statistic", "p_value", "row", "says"]].astype({"row": "Int64"})

    def __repr__(self) -> str:
        verdict = f"{len(self.flagged)} of {len(self.findings)} tests flagged" if self.flagged else "nothing flagged"
        width = max(len(f.test) for f in self.findings)
        lines = [f"{'!!' if f.flagged else 'ok'}  {f.test:{width}}  {f.says}" for f in self.findings]
        return "\n".join([f"audit of {len(self.facts):,} impressions: {verdict}", *lines])

    def plot(self) -> Figure:
        """Plot propensities, their course in time, the average weight as rows come in, and shares of the weight."""
        from matplotlib import pyplot

        facts = self.facts
        usable = facts.usable
        propensity, weight = facts.propensity[usable], facts.uniform_weight
        figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), layout="constrained")
        ax = axes[0, 0]
        low, high = np.log10(propensity.min()), np.log10(propensity.max())
        ax.hist(propensity, bins=np.logspace(low, max(high, low + 1e-3), 60), color="C0")
        ax.axvline(1 / facts.num_actions, color="0.4", linestyle="--", label="1 / A")
        ax.set(xscale="log", yscale="log", xlabel="propensity", ylabel="rows")
        ax.legend(frameon=False)
        ax = axes[0, 1]
        ax.plot(facts.time[usable], propensity, ".", markersize=1.5, color="C0", rasterized=True)
        ax.set(yscale="log", xlabel="time", ylabel="propensity")
        ax = axes[1, 0]
        rows = np.arange(1, len(weight) + 1)
        rest = np.where(np.arange(len(weight)) == weight.argmax(), 0.0, weight)
        ax.plot(rows, weight.cumsum() / rows, color="C3", label="all rows")
        ax.plot(rows, rest.cumsum() / rows, color="C0", label="without the largest")
        ax.axhline(1, color="0.4", linestyle="--")
        ax.set(xscale="log", xlabel="rows, in time", ylabel="average uniform weight")
        ax.legend(frameon=False)
        ax = axes[1, 1]
        largest = np.sort(weight)[::-1]
        ax.plot(rows, largest.cumsum() / largest.sum(), color="C0")
        ax.set(xscale="log", xlabel="rows, largest weight first", ylabel="share of all weight", ylim=(0, 1.02))
        return figure
