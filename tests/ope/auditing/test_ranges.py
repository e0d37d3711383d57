"""What a propensity may be; what is certain; what many rows share."""

import numpy as np
import pytest

from blob_pyro.ope.auditing.ranges import alternatives, constants, ranges
from tests.ope.auditing.facts_by_hand import facts


def test_propensities_in_range_pass_with_their_ends():
    found = ranges(facts([0.1, 1.0, 0.5]))
    assert not found.flagged
    assert "lie in [0.1, 1]" in found.says


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.01, np.nan])
def test_what_is_no_probability_is_counted_and_named(bad):
    found = ranges(facts([0.1, bad, 0.5, bad], row=np.array([7, 3, 9, 1])))
    assert found.flagged
    assert (found.statistic, found.row) == (2.0, 3)


def test_a_reward_that_is_not_finite_is_named():
    assert ranges(facts([0.1, 0.2], reward=np.array([0.0, np.inf]))).row == 1


def test_certain_rows_leave_no_alternative():
    found = alternatives(facts([1.0, 0.5, 1.0, 0.2]))
    assert found.flagged
    assert found.statistic == 0.5
    assert not alternatives(facts([0.999, 0.5])).flagged
    assert not alternatives(facts([1.0, 1.0], num_actions=1)).flagged


def test_values_that_many_share_are_reported_and_not_flagged():
    found = constants(facts([0.25, 0.25, 0.1, 0.05]))
    assert not found.flagged
    assert found.statistic == 0.5
    assert "25.00% at the least value 0.05" in found.says
    assert "3 distinct values" in found.says
