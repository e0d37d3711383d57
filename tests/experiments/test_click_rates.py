"""Tables 3 and 4 in small: rows and their order, and the arithmetic of the summary."""

import pandas as pd
import pytest
from scipy import stats

from blob_pyro.experiments.click_rates import CEILINGS, PAPER, ClickRates
from blob_pyro.experiments.click_rates_report import plot, summarize
from blob_pyro.experiments.saved_runs import SavedRuns

SMALL = ClickRates(
    num_items=10, flips=(4,), num_users=25, num_organic_users=100, test_users=40, interests=5, embedding_dim=3,
    num_epochs=3, agents=("popularity", "MultiVAE", "LinUCB"),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:log. .* never shown")
def test_every_agent_meets_the_same_users_in_both_settings(tmp_path):
    runs = SavedRuns(SMALL, tmp_path, ("seed", "flips"))
    assert list(runs.complete([(200, 4), (0, 4)], SMALL.run)) == [(200, 4), (0, 4)]
    agents = {"random", *SMALL.agents, *CEILINGS, "BLO", "BLOB-NQ", "BLOB-MNQ", "logging policy", "oracle"}
    agents |= {"best constant item", "oracle, estimated interests"}
    assert set(runs.frame["agent"]) == agents
    assert len(runs.frame) == 2 * (2 * len(agents) - 1)  # of the two guides one is fitted in the proper setting
    rate = runs.frame.set_index(["seed", "setting", "agent"])["click_rate"]
    for seed in (200, 0):
        assert rate[seed, "proper", "oracle"] == rate[seed].max()
        for agent in ("random", "best constant item"):
            assert rate[seed, "proper", agent] == rate[seed, "as published", agent]
        assert rate[seed, "proper", "oracle, estimated interests"] > rate[seed, "proper", "random"]
        assert rate[seed, "proper", "popularity"] == rate[seed, "as published", "popularity"]
        assert rate[seed, "proper", "BLO"] != rate[seed, "as published", "BLO"]
    table = summarize(runs.frame, 10)
    assert table.loc[4, "as published", "BLO"]["seed 0"] == rate[0, "as published", "BLO"]
    figure = plot(table)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "oracle"
    assert set(labels) == agents


def rows_of(agents, seeds):
    return pd.DataFrame(
        [
            {"flips": 50, "seed": seed, "setting": "proper", "agent": agent, "click_rate": rate, "top_item_share": 0.5}
            for agent, rates in agents.items()
            for seed, rate in zip(seeds, rates)
        ]
    )


def test_summary_by_hand():
    agents = {"random": [1.0, 1.2], "BLO": [1.5, 1.5], "BLOB-NQ": [2.0, 1.8], "oracle": [3.0, 2.2]}
    row = summarize(rows_of(agents, (200, 201)), 100).loc[50, "proper", "BLOB-NQ"]
    assert row["click rate"] == pytest.approx(1.9)
    assert row["of the way"] == pytest.approx((0.5 + 0.6) / 2)
    assert row["paper"] == PAPER[100, 50]["BLOB-NQ"] == 1.57
    interval = stats.t.interval(0.95, 1, loc=0.4, scale=stats.sem([0.5, 0.3]))
    assert (row["low"], row["high"]) == pytest.approx(interval)


def test_the_papers_environment_is_left_out_of_the_means():
    agents = {"random": [1.0, 1.2, 9.0], "BLO": [1.5, 1.5, 9.0], "oracle": [3.0, 2.2, 9.9]}
    row = summarize(rows_of(agents, (200, 201, 0)), 100).loc[50, "proper", "oracle"]
    assert row["click rate"] == pytest.approx(2.6)
    assert row["seed 0"] == 9.9
    alone = summarize(rows_of({name: rates[2:] for name, rates in agents.items()}, (0,)), 100)
    assert alone.loc[50, "proper", "oracle"]["click rate"] == 9.9
