"""The report on many logs, by hand."""

import numpy as np
import pandas as pd
import pytest

from blob_pyro.experiments.figure1_report import summarize, verdict
from tests.experiments.figure1_runs import SMALL


def test_summary_by_hand():
    frame = pd.DataFrame({"log": [0, 1, 2, 3], "value": [0.5, 0.7, 0.4, 0.8], "standard_error": 0.1})
    frame = frame.assign(
        low=frame.value - 0.15, high=frame.value + 0.15, effective_sample_size=[900.0, 990, 1000, 2000]
    )
    frame = frame.assign(warned=[True, False, False, False], rows=200, propensities="exact", estimator="IPS")
    (row,) = summarize(frame, truth=0.58).itertuples()
    assert row.mean == pytest.approx(0.6)
    assert row.bias == pytest.approx(0.02)
    assert row.bias_error == pytest.approx(np.std([0.5, 0.7, 0.4, 0.8], ddof=1) / 2)
    assert row.bias_errors == pytest.approx(row.bias / row.bias_error)
    assert (row.coverage, row.effective_sample_size, row.warned, row.silent) == (0.5, 995.0, 0.25, 1)
    assert row.coverage_error == pytest.approx(0.25)


def test_small_samples_are_warned_of(runs):
    summary = summarize(runs, SMALL.population.value("exact"))
    assert summary.silent.sum() == 0
    assert (summary[summary.rows == 199].warned == 1).all()
    assert any("published propensities, 4,000 rows" in line for line in verdict(summary))
