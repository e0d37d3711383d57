"""Importance weights are drawn as a log has them."""

import numpy as np
import pandas as pd
import pytest

from blob_pyro import EventLog
from blob_pyro.diagnostics import plots
from blob_pyro.policies import Mixture, SessionPopularity, ThompsonSampling, Uniform
from blob_pyro.simulation import RecoGym


def test_weights_fall_and_their_shares_add_up(log):
    ax = plots.plot_importance_weights(log, Uniform(12))
    weights = np.sort(1 / 12 / log.propensity.double().numpy())[::-1]
    (falling, _), (shares,) = ax.get_lines(), ax.figure.axes[1].get_lines()
    rank = falling.get_xdata()
    np.testing.assert_allclose(falling.get_ydata(), weights[rank - 1])
    np.testing.assert_allclose(shares.get_ydata(), 100 * weights.cumsum()[rank - 1] / weights.sum())
    assert (rank[0], rank[-1]) == (1, len(weights))
    assert len(rank) <= 400
    size = weights.sum() ** 2 / (weights**2).sum()
    assert f"{len(weights):,} rows, effective sample size {size:,.0f}" in ax.get_title()


def test_few_effective_rows_are_said(log):
    few = EventLog.from_arrays(
        log.num_items, log.view_user, log.view_time, log.view_item, log.user[:50], log.time[:50], log.action[:50],
        log.reward[:50], log.propensity[:50],
    )  # fmt: skip
    ax = plots.plot_importance_weights(few, Uniform(12))
    assert "(below 1,000)" in ax.get_title()
    assert ax.title.get_color() == "C3"


@pytest.mark.parametrize("policy", [SessionPopularity(12, 0.2), "thompson"])
def test_some_rows_are_weighted_as_in_the_whole(policy, blob, log):
    """By the probabilities of what was shown alone, where the whole log asks for those of every item."""
    if policy == "thompson":
        policy = Mixture([ThompsonSampling(blob, shared_draws=4), Uniform(12)], weights=[0.9, 0.1])
    rows = np.unique(np.linspace(0, log.num_impressions - 1, 60).round().astype(int))
    probs = policy.action_distribution(log.contexts[log.context[rows]]).probs
    weights = (probs[np.arange(60), log.action[rows]] / log.propensity[rows]).numpy()
    ax = plots.plot_importance_weights(log, policy, max_rows=60)
    positive = np.sort(weights[weights > 0])[::-1]
    rank = ax.get_lines()[0].get_xdata()
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), positive[rank - 1], rtol=1e-5)
    size = weights.sum() ** 2 / (weights**2).sum() * log.num_impressions / 60
    expected = f"60 of {log.num_impressions:,} rows, evenly spaced; effective sample size of all, by these, {size:,.0f}"
    assert ax.get_title().startswith(expected)


def test_slots_are_weighted_each_by_its_own_probabilities():
    """Of the policy that logged every weight is 1; by the other slot's probabilities it would not be."""
    policy, histories = SessionPopularity(4, 0.3), [[0, 0, 1], [2], [1, 3, 3]] * 20
    frame = policy.decide(histories, user=np.arange(60), time=1.0, slots=2, seed=1).assign(reward=0)
    views = [(user, 0.5, item) for user, history in enumerate(histories) for item in history]
    views += [(0, 2.0, 0)]  # afterwards
    log = EventLog.from_tables(pd.DataFrame(views, columns=["user", "time", "item"]), frame, items=range(4))
    falling = plots.plot_importance_weights(log, policy, max_rows=50).get_lines()[0]
    np.testing.assert_allclose(falling.get_ydata(), 1.0, rtol=1e-5)
    assert falling.get_xdata()[-1] == 50


def test_of_10_000_items_some_rows_are_weighted():
    environment = RecoGym(num_items=10_000, seed=200)
    log = environment.simulate(SessionPopularity(10_000, epsilon=0.3), num_users=100, num_organic_users=10)
    ax = plots.plot_importance_weights(log, Uniform(10_000))
    assert ax.get_title().startswith(f"419 of {log.num_impressions:,} rows, evenly spaced; ")
    assert ax.get_lines()[0].get_xdata()[-1] == 419


def test_what_cannot_be_weighted_is_refused(log):
    with pytest.raises(ValueError, match="policy: chooses among 3 items, the log has 12"):
        plots.plot_importance_weights(log, Uniform(3))
    columns = (log.user, log.time, log.action, log.reward)
    bare = EventLog.from_arrays(log.num_items, log.view_user, log.view_time, log.view_item, *columns)
    with pytest.raises(ValueError, match="log: has no column 'propensity'"):
        plots.plot_importance_weights(bare, Uniform(12))
