"""Averages that must be what they are, by hand."""

import dataclasses

import numpy as np
import pytest

from blob_pyro.ope import audit
from blob_pyro.ope.auditing.martingales import each_action, mean_inverse, mean_inverse_without_largest
from blob_pyro.ope.auditing.repetition import repetition
from tests.ope.auditing.logs import ITEMS, heavy, probabilities


def test_frequencies_against_whole_distributions(healthy):
    wrong = audit(healthy, logging_probs=probabilities(healthy, 0.5))
    assert wrong["action frequencies"].flagged
    shifted = probabilities(healthy).roll(1, -1)
    assert audit(healthy, logging_probs=shifted)["action frequencies"].flagged
    assert "pass logging_probs" in audit(healthy)["action frequencies"].says


def test_frequencies_by_hand(healthy):
    probs = probabilities(healthy).double().numpy()
    played = np.bincount(healthy.action.numpy(), minlength=ITEMS)
    z = (played - probs.sum(0)) / np.sqrt((probs * (1 - probs)).sum(0))
    assert audit(healthy, logging_probs=probs)["action frequencies"].statistic == pytest.approx(z[abs(z).argmax()])


def won(values, shares):
    """What bets have won on average, multiplied out."""
    return np.mean([np.prod(1 + share * (values - 1)) for share in shares])


def test_mean_of_inverse_by_hand(healthy):
    log = dataclasses.replace(healthy, propensity=0.97 * healthy.propensity)
    weight = 1 / (ITEMS * log.propensity.numpy())
    shares = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0001]
    found = audit(log)["mean of 1/p"]
    assert found.statistic == pytest.approx(ITEMS * weight.mean())
    assert found.p_value == pytest.approx(2 / won(weight, shares), rel=1e-6)
    assert 0 < found.p_value < 1
    rest = np.delete(weight, weight.argmax())
    found = audit(log)["mean of 1/p without its largest row"]
    assert found.p_value == pytest.approx(1 / won(rest, shares), rel=1e-6)
    log = dataclasses.replace(healthy, propensity=(1.03 * healthy.propensity).clamp(max=1))
    weight = 1 / (ITEMS * log.propensity.numpy())
    shares = [-share / (5 * weight.max() - 1) for share in (0.95, 0.5, 0.2, 0.05, 0.01)]
    assert audit(log)["mean of 1/p"].p_value == pytest.approx(2 / won(weight, shares), rel=1e-6)
    assert audit(log)["mean of 1/p without its largest row"].p_value == 1  # a lack says nothing there


def test_each_action_by_hand(healthy):
    log = dataclasses.replace(healthy, propensity=0.93 * healthy.propensity)
    inverse = 1 / log.propensity.numpy()
    shares = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0001]
    wealth = [won(np.where(log.action.numpy() == a, inverse, 0.0), shares) for a in range(ITEMS)]
    found = audit(log)["each action's weights"]
    assert found.p_value == pytest.approx(2 * ITEMS / max(wealth), rel=1e-6)
    assert f"action number {int(np.argmax(wealth))}, " in found.says


def test_heavy_tails_are_no_faults():
    tests = [mean_inverse, mean_inverse_without_largest, each_action, repetition]
    logs = [heavy(seed) for seed in range(100)]
    assert [test(log).flagged for log in logs for test in tests].count(True) == 0
    normal = 0  # what standard errors say of them
    for log in logs:
        rest = np.delete(log.uniform_weight, log.uniform_weight.argmax())
        normal += abs(rest.mean() - 1) > 3.5 * rest.std() / len(rest) ** 0.5
    assert normal > 30


def test_p_values_are_no_smaller_than_they_should_be():
    tests = [mean_inverse, each_action, repetition]
    chances = np.array(
        [[test(heavy(seed, rows=300, concentration=1.0)).p_value for test in tests] for seed in range(300)]
    )
    assert ((chances < 0.1).mean(0) < 0.1 + 3 * (0.09 / 200) ** 0.5).all()
    assert (chances[:, 2] < 0.5).any()
