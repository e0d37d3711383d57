"""How much of the uniform policy's weight few rows have, by hand."""

import numpy as np
import pytest

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
