"""The report as a table and a figure, and a test from outside in it."""

import matplotlib
import pytest

from blob_pyro.ope import audit, auditing
from blob_pyro.ope.auditing import TESTS, Finding, LogFacts

matplotlib.use("Agg")


def test_table_and_plot(women):
    report = audit(women)
    table = report.table
    assert list(table.columns) == ["flagged", "statistic", "p_value", "row", "says"]
    assert table.loc["largest weight", "row"] == report["largest weight"].row
    assert table.flagged.sum() == len(report.flagged) == 4
    figure = report.plot()
    assert len(figure.axes) == 4
    assert figure.axes[2].get_ylabel() == "average uniform weight"
    average = figure.axes[2].lines[0].get_ydata()[-1]
    assert average == pytest.approx((1 / (46 * women.propensity)).mean().item())
    matplotlib.pyplot.close(figure)
    with pytest.raises(KeyError, match="no test 'nothing' in this audit; there are range"):
        report["nothing"]


def test_a_test_from_outside(healthy, monkeypatch):
    def short(facts: LogFacts) -> Finding:
        return Finding("short", len(facts) < 10**6, "fewer than a million rows")

    monkeypatch.setattr(auditing, "TESTS", [*TESTS, short])
    assert [f.test for f in audit(healthy).flagged] == ["short"]
