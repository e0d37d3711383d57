"""Pictures of reports, under one roof with the others: each report draws itself, by its method ``plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from blob_pyro.diagnostics.calibration_report import Calibration
    from blob_pyro.diagnostics.click_calibration import ClickCalibration
    from blob_pyro.diagnostics.comparison import Comparison
    from blob_pyro.diagnostics.diagnose import Diagnosis
    from blob_pyro.ope import Evaluation
    from blob_pyro.simulation import ABTest

__all__ = [
    "plot_ab_test", "plot_comparison", "plot_estimates", "plot_predictive_check", "plot_ranks", "plot_regret",
    "plot_reliability",
]  # fmt: skip


def plot_ranks(calibration: Calibration, site: str = "logit", *, ax: Axes | None = None) -> Axes:
    """Plot the ECDF of simulation-based calibration's ranks minus the uniform one, with its band.

    Args:
        calibration: what `blob_pyro.diagnostics.calibrate` returned.
        site: a parameter's name, or ``"logit"``.
        ax: where to draw; default a new figure.
    """
    return calibration.plot(site, ax=ax)


def plot_reliability(report: Diagnosis | ClickCalibration, *, ax: Axes | None = None) -> Axes:
    """Plot observed click rates against predicted ones, with the band that predictions allow.

    Args:
        report: what `blob_pyro.diagnostics.diagnose` returned, or its ``calibration``.
        ax: where to draw; default a new figure.
    """
    calibration: Any = getattr(report, "calibration", report)
    drawn: Axes = calibration.plot(ax)
    return drawn


def plot_predictive_check(diagnosis: Diagnosis, by: str = "item", *, ax: Axes | None = None) -> Axes:
    """Plot click rates of groups of events over the intervals that the model predicts.

    Args:
        diagnosis: what `blob_pyro.diagnostics.diagnose` returned.
        by: what events are grouped by: a key of ``diagnosis.predictive``.
        ax: where to draw; default a new figure.

    Raises:
        ValueError: for another grouping.
    """
    if by not in diagnosis.predictive:
        raise ValueError(f"by: no grouping {by!r}; there are {', '.join(diagnosis.predictive)}")
    return diagnosis.predictive[by].plot(ax)


def plot_comparison(comparison: Comparison, *, ax: Axes | None = None) -> Axes:
    """Plot how many decisions each choice of guide or prior changes.

    Args:
        comparison: what `blob_pyro.diagnostics.compare_guides` or ``compare_priors`` returned.
        ax: where to draw; default a new figure.
    """
    return comparison.plot(ax)


def plot_estimates(evaluation: Evaluation, *, ax: Axes | None = None, **options: Any) -> Axes:
    """Plot off-policy estimates of a policy's value with their intervals.

    Args:
        evaluation: what `blob_pyro.ope.evaluate` returned.
        ax: where to draw; default a new figure.
        options: ``level`` and ``method`` of the intervals.
    """
    return evaluation.plot(ax=ax, **options)


def plot_ab_test(result: ABTest, *, ax: Axes | None = None) -> Axes:
    """Plot click-through rates of an A/B test's policies with their intervals, the best on top.

    Args:
        result: what `blob_pyro.simulation.ab_test` returned.
        ax: where to draw; default a new figure.
    """
    return result.plot(ax)


def plot_regret(result: Any, *, measure: str = "regret", ax: Axes | None = None) -> Axes:
    """Plot cumulative regret over rounds, a line per agent.

    Args:
        result: what `blob_pyro.experiments.rounds` returned.
        measure: of its ``per_environment``.
        ax: where to draw; default a new figure.
    """
    axes: Axes = result.plot(measure, ax)
    return axes
