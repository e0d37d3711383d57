"""How much of the uniform policy's weight few rows have, by hand."""

import numpy as np
import pytest
from scipy import stats

from blob_pyro.ope.auditing.concentration import effective_rows, largest_weight
from tests.ope.auditing.facts_by_hand import facts


def test_the_effective_sample_size_by_hand():
    p = np.array([0.25] * 150 + [0.001] * 2)
    weight = 1 / (4 * p)
    found = effective_rows(facts(p))
    assert found.statistic == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert not found.flagged


def test_a_log_of_which_one_row_is_left_is_flagged():
    found = effective_rows(facts([0.25] * 500 + [1e-6]))
    assert found.flagged
    assert "without its largest row 500" in found.says


def test_the_row_with_most_weight_is_named():
    p = np.full(200, 0.25)
    p[[3, 20]] = 1.5, 0.0005  # the first is no probability, and does not count
    found = largest_weight(facts(p, row=np.arange(1000, 1200)))
    weight = 1 / (4 * np.delete(p, 3))
    assert found.row == 1020
    assert found.statistic == pytest.approx(weight.max() / weight.sum())
    assert found.flagged
    assert not largest_weight(facts([0.25] * 200)).flagged


def test_few_rows_are_not_judged():
    assert not largest_weight(facts([0.25, 0.25, 0.001])).flagged


def test_the_p_value_is_right_under_the_heaviest_tail():
    """The inverse of a uniform number has a Pareto law of index 1, the limit of what a mean of 1/p allows."""
    rng = np.random.default_rng(0)
    found = [largest_weight(facts(rng.uniform(size=300))) for _ in range(500)]
    assert stats.kstest([finding.p_value for finding in found], "uniform").pvalue > 0.01
    flagged = sum(finding.flagged for finding in found)
    assert stats.binomtest(flagged, 500, 0.01, alternative="greater").pvalue > 0.01


def test_heavy_tails_by_themselves_are_healthy():
    p = 10.0 ** -np.linspace(0.1, 6, 400)  # a few rows have nearly all of the weight, each beside another like it
    assert effective_rows(facts(p)).statistic < 100
    assert not effective_rows(facts(np.r_[p, [0.3] * 100_000])).flagged
    assert effective_rows(facts(np.r_[p, [0.3] * 100_000])).statistic < 100
