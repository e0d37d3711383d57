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
    assert "the 3 with the most events of 10" in ax.get_xlabel()
    assert "%" in ax.get_ylabel()
    assert ax.get_title(loc="right").startswith("p = ")
    pyplot.close("all")


def test_groups_keep_their_order_and_each_has_its_name():
    """Of 60 items those with the most events, 20 to 59, in the catalogue's order: 9 does not come after 59."""
    group = np.repeat(np.arange(60), np.where(np.arange(60) < 20, 10, 20))
    reward, probability = np.zeros(len(group)), np.full((50, len(group)), 0.1)
    ax = predictive_check("item", group, [str(i) for i in range(60)], reward, probability, seed=0).plot()
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(i) for i in range(20, 60)]
    assert ax.get_xlabel() == "item (the 40 with the most events of 60)"
    pyplot.close("all")


def test_p_values_of_a_right_model_are_spread():
    checks = [predictive_check("group", *simulated(1.0, seed), seed=seed) for seed in range(20)]
    p_values = np.array([check.p_value for check in checks])
    assert (p_values > 0.5).sum() > 3
    assert (p_values < 0.05).sum() < 5
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
