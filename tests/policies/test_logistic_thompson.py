"""The policy on a logistic regression: logs, targets, refusals."""

import numpy as np
import pytest
import torch

from blob_pyro.data import EventLog, Vocabulary
from blob_pyro.ope import evaluate
from blob_pyro.policies import BayesianLogisticRegression, Greedy, LogisticThompsonSampling


def of_context(histories):
    return torch.cat([torch.ones(len(histories), 1), histories.counts()[:, :2]], -1)


def of_items(histories):
    """Of context and item: a constant, views of this item, and a number of the item."""
    views = histories.counts()
    size = torch.linspace(-1, 1, histories.num_items).expand_as(views)
    return torch.stack([torch.ones_like(views), views, size], -1)


@pytest.fixture
def events():
    rng = np.random.default_rng(3)
    views = {"user": rng.integers(20, size=80), "time": np.arange(80) * 10, "item": rng.integers(5, size=80)}
    shown = {
        "user": rng.integers(20, size=300),
        "time": rng.integers(800, size=300),
        "action": rng.integers(5, size=300),
    }
    return EventLog.from_tables(views, {**shown, "reward": rng.integers(2, size=300)}, num_items=5)


@pytest.mark.parametrize("shared", [False, True], ids=["per item", "shared"])
def test_update_from_a_log_is_that_from_its_rows(events, shared, monkeypatch):
    monkeypatch.setattr("blob_pyro.policies.logistic_thompson.MAX_ELEMENTS", 15 * 7)  # a few contexts at a time
    features = of_items if shared else of_context
    policy = LogisticThompsonSampling(5, features, BayesianLogisticRegression(3, None if shared else 5))
    policy.update(events)
    by_rows = BayesianLogisticRegression(3, None if shared else 5)
    x = features(events.contexts)[events.context]
    if shared:
        by_rows.update(x[torch.arange(300), events.action], events.reward)
    else:
        by_rows.update(x, events.reward, events.action)
    assert torch.allclose(policy.regression.loc, by_rows.loc, rtol=1e-10)
    assert torch.allclose(policy.regression.precision, by_rows.precision, rtol=1e-10)
    histories = [[0, 1, 1], [], [4]]
    d = policy.action_distribution(histories)
    assert d.batch_shape == (3,)
    expected = by_rows.action_distribution(features(policy.histories(histories)))
    assert torch.allclose(d.probs, expected.probs, atol=1e-6)
    best = Greedy(policy).action_distribution(histories).mode
    assert torch.equal(best, policy.scores(histories).argmax(-1))
    many = policy.action_distribution([[0], [1], [2], [3]] * 6)  # in chunks
    assert torch.allclose(many.probs.sum(-1), torch.ones(24, dtype=torch.float64))


def test_it_is_a_reward_model_and_a_target(events):
    policy = LogisticThompsonSampling(5, of_context, BayesianLogisticRegression(3, 5))
    policy.update(events)
    logged = EventLog.from_arrays(
        5, events.view_user, events.view_time, events.view_item, events.user, events.time, events.action,
        events.reward, torch.full((300,), 0.2),
    )  # fmt: skip
    evaluation = evaluate(logged, policy, policy.click_probabilities)
    assert 0 < evaluation["doubly_robust"].value < 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r, log: LogisticThompsonSampling(6, of_context, r), ValueError, "has 5 actions, expected 6"),
        (lambda r, log: LogisticThompsonSampling(5, 3, r), TypeError, "features: expected a function of Histories"),
        (lambda r, log: LogisticThompsonSampling(5, of_context, "r"), TypeError, "expected a Bayesian"),
        (
            lambda r, log: LogisticThompsonSampling(5, of_items, r).scores([[0]]),
            ValueError,
            r"features: gave shape \(1, 5, 3\) for 1 histories, expected \(1, 3\)",
        ),
        (
            lambda r, log: LogisticThompsonSampling(Vocabulary(list("abcde")), of_context, r).update(log),
            ValueError,
            "log: is over",
        ),
    ],
)  # fmt: skip
def test_bad_input_of_the_policy(events, call, error, message):
    with pytest.raises(error, match=message):
        call(BayesianLogisticRegression(3, 5), events)
