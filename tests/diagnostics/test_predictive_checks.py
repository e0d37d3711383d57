"""Groups that click otherwise than the model says are found; groups that do not are left in peace."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from blob_pyro import EventLog
from blob_pyro.diagnostics.predictive_checks import event_groups, predictive_check

matplotlib.use("Agg")


def simulated(off, seed=0):
    """Ten groups of 400 events that click at 5 %; one of them, 4, at ``off`` times that."""
    rng = np.random.default_rng(seed)
    group = np.arange(4000) % 10
    rate = 0.05 * np.where(group == 4, off, 1.0)
    probability = np.full((300, 4000), 0.05) * rng.uniform(0.95, 1.05, (300, 1))
    return group, [f"g{i}" for i in range(10)], (rng.random(4000) < rate).astype(float), probability


def test_a_group_that_differs_is_found():
    check = predictive_check("group", *simulated(3.0), seed=1)
    assert check.flagged
    assert "furthest is g4: " in check.says
    assert check.table.loc["g4", "z"] > 4
    assert check.table.loc["g4", "clicks"] > check.table.loc["g4", "high"]
    ax = check.plot(most=3)
    assert "the 3 with the most events, of 10 with any" in ax.get_xlabel()
    assert "%" in ax.get_ylabel()
    assert ax.get_title(loc="right").startswith("p = ")
    pyplot.close("all")


def test_groups_keep_their_order_and_each_has_its_name():
    """Of 60 items those with the most events, 20 to 59, in the catalogue's order: 9 does not come after 59."""
    group = np.repeat(np.arange(60), np.where(np.arange(60) < 20, 10, 20))
    reward, probability = np.zeros(len(group)), np.full((50, len(group)), 0.1)
    ax = predictive_check("item", group, [str(i) for i in range(60)], reward, probability, seed=0).plot()
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(i) for i in range(20, 60)]
    assert ax.get_xlabel() == "item (the 40 with the most events, of 60 with any)"
    pyplot.close("all")


def test_one_group_without_a_click_is_found():
    """None of 1,412 where 14 are expected, among 28 groups that are as they should be."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(28), 1412)
    reward = (rng.random(len(group)) < np.where(group == 9, 0.0, 0.01)).astype(float)
    probability = np.full((50, len(group)), 0.01) * rng.uniform(0.95, 1.05, (50, 1))
    check = predictive_check("day", group, [f"day {i}" for i in range(28)], reward, probability, seed=0)
    assert check.flagged
    assert "furthest is day 9: 0 clicks of 1412" in check.says
    assert check.table.loc["day 9", "p"] == pytest.approx(2 * 0.99**1412, rel=0.2)
    reward[group == 9] = (np.arange(1412) % 100 == 0).astype(float)
    assert not predictive_check("day", group, [str(i) for i in range(28)], reward, probability, seed=0).flagged


def test_tails_are_those_of_sums_of_unequal_chances():
    """Against the exact distribution, by convolution, of one draw of the parameters."""
    rng = np.random.default_rng(4)
    chances = rng.beta(0.5, 3.0, 60)
    exact = np.ones(1)
    for chance in chances:
        exact = np.convolve(exact, [1 - chance, chance])
    for count in (0, 2, 5, 9, 14, 22):
        reward = (np.arange(60) < count).astype(float)
        found = predictive_check("all", np.zeros(60, int), ["all"], reward, chances[None], seed=0).table.p.iloc[0]
        tail = min(exact[: count + 1].sum(), exact[count:].sum())
        assert found == pytest.approx(min(1.0, 2 * tail), rel=0.15, abs=0.01)
    every = predictive_check("all", np.zeros(3, int), ["all"], np.ones(3), np.full((1, 3), 0.2), seed=0)
    assert every.table.p.iloc[0] == pytest.approx(2 * 0.2**3)


def test_p_values_of_a_right_model_are_spread():
    checks = [predictive_check("group", *simulated(1.0, seed), seed=seed) for seed in range(20)]
    p_values = np.array([check.p_value for check in checks])
    assert (p_values > 0.5).sum() > 3
    assert (p_values < 0.05).sum() < 5
    assert not any(check.flagged for check in checks)
    assert np.mean([check.p_of_all for check in checks]) == pytest.approx(0.5, abs=0.2)
    p_of_groups = np.concatenate([check.table.p for check in checks])
    assert np.mean(p_of_groups < 0.2) == pytest.approx(0.2, abs=0.08)
    inside = np.concatenate([(c.table.clicks >= c.table.low) & (c.table.clicks <= c.table.high) for c in checks])
    assert inside.mean() > 0.9


def test_expected_clicks_are_sums_of_probabilities():
    group, names, reward, probability = simulated(1.0)
    table = predictive_check("group", group, names, reward, probability, seed=0).table
    for i, name in enumerate(names):
        assert table.loc[name, "expected"] == pytest.approx(probability[:, group == i].sum(1).mean())
        assert table.loc[name, "clicks"] == reward[group == i].sum()


def test_groups_of_a_log(log):
    groups = event_groups(log)
    assert list(groups) == ["item", "history length", "tenth of the log"]
    index, names = groups["history length"]
    for n in range(0, 200, 20):
        low, _, high = names[index[n]].rstrip("+").partition("-")
        length = int(log.contexts.lengths[log.context[n]])
        assert int(low) <= length
        assert not high or length <= int(high)
    assert np.bincount(groups["tenth of the log"][0]).min() > 0.05 * log.num_impressions


def test_days_and_positions():
    times = pd.to_datetime(["2024-03-01 10:00", "2024-03-01 23:59", "2024-03-03 00:01"])
    impressions = {"user": [1, 1, 2], "time": times, "action": [0, 1, 0], "reward": [0, 1, 0], "position": [1, 2, 1]}
    groups = event_groups(EventLog.from_tables(impressions=impressions))
    index, names = groups["day"]
    assert [names[i] for i in index] == ["2024-03-01", "2024-03-01", "2024-03-03"]
    index, names = groups["position"]
    assert [names[i] for i in index] == ["1", "2", "1"]
