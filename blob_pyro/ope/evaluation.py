"""The result of an evaluation: one line per estimator, a table, a figure."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.reliability import OffPolicyWarning

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Evaluation"]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Estimates by name, of one policy from one log; see `blob_pyro.ope.evaluate`.

    Attributes:
        estimates: by the estimators' names; those that begin with ``delta`` are of the target minus the baseline.
        policy: what was valued.
        baseline: what it was compared with; None for its value alone.
        num_impressions: of the log.
    """

    estimates: dict[str, Estimate]
    policy: str
    baseline: str | None
    num_impressions: int

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.estimates:
            raise KeyError(f"no estimate {name!r} in this evaluation; there are {', '.join(self.estimates)}")
        return self.estimates[name]

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that speaks against an estimate or its interval, after the estimator's name."""
        return tuple(f"{name}: {problem}" for name, e in self.estimates.items() for problem in e.warnings)

    def table(self, level: float = 0.95, method: str = "normal", **options: Any) -> pd.DataFrame:
        """Return a row per estimator: value, standard error, interval, effective sample size, largest weight, warnings.

        Warnings are a column here, so none is raised for the intervals.

        Args:
            level: of the intervals.
            method: of the intervals; NaN where an estimator has none of that kind.
            options: as those of `Estimate.interval`.
        """
        rows = {}
        for name, e in self.estimates.items():
            low, high = self._interval(e, level, method, options)
            rows[name] = {
                "value": float(e.value),
                "standard_error": e.standard_error,
                "low": low,
                "high": high,
                "effective_sample_size": e.effective_sample_size,
                "max_weight": e.max_weight,
                "support": float("nan") if e.support is None else e.support,
                "warnings": "; ".join(e.warnings),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("estimator")

    def plot(self, level: float = 0.95, method: str = "normal", ax: Axes | None = None) -> Axes:
        """Plot values with their intervals, one line per estimator; hollow where an interval should not be believed.

        Args:
            level: of the intervals.
            method: of the intervals.
            ax: where to draw; default a new figure.
        """
        from matplotlib import pyplot

        if ax is None:
            _, ax = pyplot.subplots(figsize=(7.5, 1 + 0.4 * len(self.estimates)), layout="constrained")
        table = self.table(level, method)
        for place, (name, row) in enumerate(table.iterrows()):
            color = "C1" if str(name).startswith("delta") else "C0"
            ax.plot([row.low, row.high], [place, place], color=color)
            face = "white" if row.warnings else color
            ax.plot(row.value, place, "o", color=color, markerfacecolor=face)
        ax.set_yticks(range(len(table)), list(table.index))
        ax.invert_yaxis()
        ax.margins(y=0.6 / len(table))
        ax.set_xlabel(f"reward per impression, {100 * level:g} % {method.replace('_', ' ')} intervals")
        for color, face, label, used in (
            ("C0", "C0", "value", True),
            ("C1", "C1", f"gain on {self.baseline}", self.baseline is not None),
            ("0.4", "white", "warned of: see .warnings", bool(self.warnings)),
        ):
            if used:
                ax.plot([], [], "o", color=color, markerfacecolor=face, label=label)
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        if self.baseline is not None:
            ax.axvline(0, color="0.7", linewidth=0.8)
        return ax

    def __repr__(self) -> str:
        against = "" if self.baseline is None else f" against {self.baseline}"
        head = f"evaluation of {self.policy}{against} from {self.num_impressions:,} impressions"
        shown = self.table().drop(columns=["warnings", "support"])
        lines = [head, shown.to_string(float_format=lambda v: f"{v:.6g}")]
        known = next((e.support for e in self.estimates.values() if e.support is not None), None)
        lines.append(
            "support unknown: pass logging_policy"
            if known is None
            else f"{known:.2%} of the target's mass is on items that the log never shows"
        )
        return "\n".join([*lines, *(f"warning: {problem}" for problem in self.warnings)])

    @staticmethod
    def _interval(estimate: Estimate, level: float, method: str, options: dict[str, Any]) -> tuple[float, float]:
        units = estimate.num_rows if estimate.num_groups is None else estimate.num_groups
        if units < 2 or (estimate.bounded is None and method in ("anytime", "empirical_bernstein")):
            return float("nan"), float("nan")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OffPolicyWarning)
            return estimate.interval(level, method, **options)
