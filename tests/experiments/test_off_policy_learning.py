"""Learning through exact propensities: it goes up, predictions are out of fold, and the table is right."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from blob_pyro.data import EventLog
from blob_pyro.experiments.off_policy_learning import (
    LinearScores,
    OffPolicyLearning,
    improve,
    plot,
    summarize,
    view_shares,
)
from blob_pyro.policies import BayesianLogisticRegression, LogisticThompsonSampling, NormalScores

SMALL = OffPolicyLearning(
    num_items=3, num_start_users=20, num_users=20, num_test_users=5, num_steps=4, num_checks=1, contexts_per_step=30
)
RATES = torch.tensor([0.2, 0.8, 0.5])


@pytest.fixture
def log():
    """Three items, played uniformly, of known click rates that no view tells of."""
    rng = np.random.default_rng(4)
    users, action = np.repeat(np.arange(200), 5), rng.integers(3, size=1000)
    views = {"user": np.arange(200), "time": np.tile([0.0, 9.0], 100), "item": rng.integers(3, size=200)}
    shown = {
        "user": users,
        "time": 1.0 + np.tile(np.arange(5), 200),
        "action": action,
        "propensity": np.full(1000, 1 / 3),
    }
    clicks = rng.random(1000) < RATES.numpy()[action]
    return EventLog.from_tables(views, {**shown, "reward": clicks.astype(int)}, num_items=3)


@pytest.mark.parametrize("objective", ["doubly_robust", "snips"])
def test_the_true_value_goes_up(log, objective):
    scores = LinearScores(BayesianLogisticRegression(4, 3))
    policy = NormalScores(3, scores)
    predicted = torch.full((len(log.contexts), 3), 0.5, dtype=torch.float64)

    def value():
        with torch.no_grad():
            return (policy.action_distribution([[0], [1], [2]]).probs * RATES).sum(-1).mean().item()

    assert value() == pytest.approx(0.5)
    found = improve(
        policy, list(scores.parameters()), log, objective=objective, predicted_reward=predicted, num_steps=40,
        contexts_per_step=100,
    )  # fmt: skip
    assert len(found) == 40
    assert value() > 0.75
    assert np.mean(found[-10:]) == pytest.approx(0.78, abs=0.07)


def test_the_start_is_thompson_sampling(log):
    regression = BayesianLogisticRegression(4, 3, prior_precision=torch.tensor([1.0, 0.2, 3.0, 0.5]))
    thompson = LogisticThompsonSampling(3, view_shares, regression)
    thompson.update(log)
    start = NormalScores(3, LinearScores(regression))
    histories = [[0, 1, 1], [], [2]]
    expected = thompson.action_distribution(histories).probs
    assert torch.allclose(start.action_distribution(histories).probs, expected)


def test_predictions_have_not_seen_the_user(log):
    before = SMALL.cross_fit(log)
    mine = log.user == 7
    object.__setattr__(log, "reward", torch.where(mine, 1 - log.reward, log.reward))
    after = SMALL.cross_fit(log)
    assert torch.equal(before[log.context[mine]], after[log.context[mine]])
    assert not torch.equal(before, after)


def test_bad_input(log):
    scores = LinearScores(BayesianLogisticRegression(4, 3))
    arguments = NormalScores(3, scores), list(scores.parameters()), log
    with pytest.raises(ValueError, match="predicted_reward: is needed by 'doubly_robust'"):
        improve(*arguments)
    with pytest.raises(ValueError, match="objective: expected 'doubly_robust' or 'snips', got 'ips'"):
        improve(*arguments, objective="ips")
    object.__setattr__(log, "propensity", None)
    with pytest.raises(ValueError, match="log: has no column 'propensity'"):
        improve(*arguments, objective="snips")


def test_experiment_in_small():
    runs = SMALL.run(5)
    assert runs.policy.tolist() == [
        "logging policy", "greedy on a model of the whole log", "learned", "learned", "oracle",
    ]  # fmt: skip
    assert runs[runs.policy == "learned"].step.tolist() == [0, 4]
    assert (runs.click_rate.between(0.004, 0.03)).all()
    assert runs[runs.step == 0].gain.item() == 0
    assert plot(runs).axes


def test_summary_by_hand():
    runs = pd.DataFrame({"seed": [0, 1, 2], "click_rate": [0.01, 0.02, 0.03], "gain": [0.001, 0.002, -0.0015]})
    (row,) = summarize(runs.assign(policy="learned", step=9)).itertuples()
    assert row.click_rate == pytest.approx(0.02)
    low, high = stats.t.interval(0.95, 2, loc=0.0005, scale=stats.sem([0.001, 0.002, -0.0015]))
    assert (row.gain, row.gain_low, row.gain_high) == pytest.approx((0.0005, low, high))
    assert (row.improved, row.environments) == (2, 3)
