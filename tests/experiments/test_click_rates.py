"""Tables 3 and 4 in small: rows, bounds, resumption, and the arithmetic of the summary."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, stats

from blob_pyro.experiments import click_rates
from blob_pyro.experiments.click_rates import PAPER, TABLE_3, ClickRates, EstimatedInterests, plot, run_all, summarize
from blob_pyro.simulation import RecoGym

SMALL = ClickRates(
    num_items=10, flips=(4,), num_users=40, num_organic_users=200, test_users=60, interests=5, embedding_dim=3,
    num_epochs=3, agents=("random", "popularity", "MultiVAE", "LinUCB"),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:log. .* never shown")
def test_runs_resume_and_say_what_they_are(tmp_path, monkeypatch):
    results = list(run_all(SMALL, range(200, 202), tmp_path))
    assert [(flips, seed) for flips, seed, _ in results] == [(4, 200), (4, 201)]
    rows = results[-1][2]
    assert len(rows) == 2 * 2 * 10
    about = json.loads((tmp_path / "settings.json").read_text())
    assert about["settings"]["num_items"] == 10
    assert about["torch"] == torch.__version__
    rate = rows.set_index(["seed", "setting", "agent"])["click_rate"]
    for seed in (200, 201):
        assert rate[seed, "proper", "oracle"] == rate[seed].max()
        assert rate[seed, "proper", "random"] == rate[seed, "as published", "random"]
        assert rate[seed, "proper", "oracle, estimated interests"] > rate[seed, "proper", "random"]
    monkeypatch.setattr(ClickRates, "run", lambda *_: pytest.fail("it was run already"))
    again = list(run_all(SMALL, range(200, 202), tmp_path))[-1][2]
    pd.testing.assert_frame_equal(again, rows, rtol=1e-4)
    figure = plot(summarize(rows, 10))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "oracle"
    assert set(labels) == set(rows["agent"])
    with pytest.raises(ValueError, match=r"settings\.json is of other settings"):
        next(run_all(TABLE_3, range(1), tmp_path))


def test_estimated_interests_are_posterior_modes():
    environment = RecoGym(num_items=8, seed=1)
    history = [0, 3, 3, 7]

    def negative(omega):
        probs = environment.organic_probability(torch.tensor(omega))
        return -float(probs[history].log().sum()) + 0.5 * (omega**2).sum() / environment.sigma_omega_initial**2

    expected = optimize.minimize(negative, np.zeros(5)).x
    assert np.allclose(EstimatedInterests(environment).interests([history, []])[0], expected, atol=1e-3)
    assert EstimatedInterests(environment).interests([[]]).abs().max() == 0


def test_best_item_is_that_of_a_long_simulation():
    environment = RecoGym(num_items=6, num_flips=2, seed=3)
    omega = environment.sigma_omega_initial * torch.randn(50_000, 5, dtype=torch.float64)
    rates = environment.click_probability(omega).mean(0)
    assert rates[click_rates.best_item(environment)] > rates.max() - 1e-4


def test_summary_by_hand():
    agents = {"random": [1.0, 1.2], "BLO": [1.5, 1.5], "BLOB-NQ": [2.0, 1.8], "oracle": [3.0, 2.2]}
    rows = pd.DataFrame(
        [
            {"flips": 50, "seed": seed, "setting": "proper", "agent": agent, "click_rate": rate, "top_item_share": 0.5}
            for agent, rates in agents.items()
            for seed, rate in enumerate(rates)
        ]
    )
    row = summarize(rows, 100).loc[50, "proper", "BLOB-NQ"]
    assert row["click rate"] == pytest.approx(1.9)
    assert row["of the way"] == pytest.approx((0.5 + 0.6) / 2)
    assert row["paper"] == PAPER[100, 50]["BLOB-NQ"] == 1.57
    interval = stats.t.interval(0.95, 1, loc=0.4, scale=stats.sem([0.5, 0.3]))
    assert (row["low"], row["high"]) == pytest.approx(interval)
