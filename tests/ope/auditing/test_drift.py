"""Policies that change while they log, and pauses in between, planted by hand."""

import numpy as np
import pytest

from blob_pyro.ope.auditing.drift import drift, pauses
from tests.ope.auditing.facts_by_hand import facts


def repeated(p, **changes):
    return facts(p, history=np.arange(len(p)) % 5, **changes)


def test_one_propensity_for_each_history_passes():
    found = drift(repeated(np.tile([0.1, 0.2, 0.3, 0.4, 0.5], 40)))
    assert not found.flagged
    assert "each of 5 repeated histories" in found.says


def test_histories_that_never_repeat_cannot_tell():
    assert "nothing to compare" in drift(facts(np.linspace(0.1, 0.9, 50))).says


def test_a_change_in_time_is_told_from_noise():
    changed = np.repeat([0.1, 0.4], 100)
    noise = np.where(np.random.default_rng(0).random(200) < 0.5, 0.1, 0.4)
    in_time, without_order = drift(repeated(changed)), drift(repeated(noise))
    assert in_time.flagged
    assert without_order.flagged
    assert in_time.p_value < 1e-3 < without_order.p_value
    assert "a factor of 4 between" in in_time.says
    assert in_time.statistic < 0.3
    assert without_order.statistic == pytest.approx(2, abs=0.5)


def test_a_long_pause_is_named():
    time = np.arange(300)
    time[60:] += 5000
    found = pauses(facts(np.full(300, 0.5), time=time))
    assert found.flagged
    assert found.row == 60
    assert not pauses(facts(np.full(100, 0.5))).flagged
    assert "too few different times" in pauses(facts(np.full(5, 0.5))).says
