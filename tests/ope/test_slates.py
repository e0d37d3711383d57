"""Slates: exact expectations over every slate of a cascade, by hand, identities."""

import itertools

import numpy as np
import pytest
import torch

from blob_pyro.ope import cascade_dr, ips, reward_interaction_ips

ITEMS, SLOTS = 3, 2
LOGGING_FIRST, TARGET_FIRST = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
LOGGING_SECOND = np.array([[0.0, 0.6, 0.4], [0.7, 0.0, 0.3], [0.2, 0.8, 0.0]])  # given the first; no item twice
TARGET_SECOND = np.array([[0.0, 0.1, 0.9], [0.5, 0.0, 0.5], [0.9, 0.1, 0.0]])
RATE_FIRST = np.array([0.2, 0.5, 0.7])
RATE_SECOND = np.array([[0.0, 0.3, 0.9], [0.6, 0.0, 0.1], [0.4, 0.8, 0.0]])  # depends on the item above


def slates():
    for a, b, r, s in itertools.product(range(ITEMS), range(ITEMS), range(2), range(2)):
        if a != b:
            first = RATE_FIRST[a] if r else 1 - RATE_FIRST[a]
            second = RATE_SECOND[a, b] if s else 1 - RATE_SECOND[a, b]
            yield a, b, r, s, LOGGING_FIRST[a] * LOGGING_SECOND[a, b] * first * second


def arguments(a, b, r, s):
    target = [[TARGET_FIRST[a], TARGET_SECOND[a, b]]]
    logging = [[LOGGING_FIRST[a], LOGGING_SECOND[a, b]]]
    return [[r, s]], target, logging


def truth(weight=(1, 1)):
    second = (TARGET_SECOND * RATE_SECOND).sum(-1)
    return weight[0] * TARGET_FIRST @ RATE_FIRST + weight[1] * TARGET_FIRST @ second


@pytest.mark.parametrize("weight", [(1, 1), (1, 0.3)], ids=["total", "discounted"])
def test_reward_interaction_ips_is_unbiased(weight):
    mean = sum(
        p * reward_interaction_ips(*arguments(a, b, r, s), slot_weight=weight).value for a, b, r, s, p in slates()
    )
    assert mean == pytest.approx(truth(weight), rel=1e-12)


def exact_model(weight=(1, 1)):
    """What is still to come, under the target: of the first slot, and of the second given the first."""
    rest = (TARGET_SECOND * RATE_SECOND).sum(-1)
    return weight[0] * RATE_FIRST + weight[1] * rest, weight[1] * RATE_SECOND


@pytest.mark.parametrize("model", ["exact", "wrong"])
def test_cascade_dr_is_unbiased_and_a_good_model_narrows_it(model):
    first, second = exact_model()
    if model == "wrong":
        first, second = np.array([0.9, 0.1, 0.4]), np.full((3, 3), 0.5)
    values, plain, probs = [], [], []
    for a, b, r, s, p in slates():
        reward, target, logging = arguments(a, b, r, s)
        estimate = cascade_dr(
            reward,
            [[TARGET_FIRST, TARGET_SECOND[a]]],
            logging,
            action=[[a, b]],
            predicted_reward=[[first, second[a]]],
        )
        values.append(estimate.value)
        plain.append(reward_interaction_ips(reward, target, logging).value)
        probs.append(p)
    values, plain, probs = map(np.array, (values, plain, probs))
    assert probs @ values == pytest.approx(truth(), rel=1e-12)
    if model == "exact":
        assert probs @ (values - truth()) ** 2 < 0.6 * (probs @ (plain - truth()) ** 2)


def test_without_predictions_cascade_dr_is_reward_interaction_ips():
    rng = np.random.default_rng(0)
    target = rng.dirichlet(np.ones(4), size=(30, 3))
    action = rng.integers(4, size=(30, 3))
    logging = rng.uniform(0.2, 1, size=(30, 3))
    reward = rng.random((30, 3))
    zero = np.zeros_like(target)
    of_action = np.take_along_axis(target, action[..., None], -1)[..., 0]
    found = cascade_dr(reward, target, logging, action=action, predicted_reward=zero, slot_weight=[1, 0.5, 0.25])
    plain = reward_interaction_ips(reward, of_action, logging, slot_weight=[1, 0.5, 0.25])
    assert found.value == pytest.approx(plain.value, rel=1e-13)
    assert found.standard_error == pytest.approx(plain.standard_error, rel=1e-12)


def test_by_hand_and_of_one_slot():
    rng = np.random.default_rng(1)
    r, t, p = rng.random((20, 2)), rng.random((20, 2)), rng.uniform(0.3, 1, (20, 2))
    w = np.cumprod(t / p, -1)
    assert reward_interaction_ips(r, t, p).value == pytest.approx((w * r).sum(-1).mean(), rel=1e-13)
    normalised = reward_interaction_ips(r, t, p, self_normalized=True)
    v = (w * r).sum(0) / w.sum(0)
    psi = (w * (r - v) / w.mean(0)).sum(-1)
    assert normalised.value == pytest.approx(v.sum(), rel=1e-12)
    assert normalised.standard_error == pytest.approx((psi**2).sum() ** 0.5 / 20, rel=1e-11)
    assert reward_interaction_ips(r[:, :1], t[:, :1], p[:, :1]).value == pytest.approx(
        ips(r[:, 0], t[:, 0], p[:, 0]).value
    )


def test_gradients():
    rng = np.random.default_rng(2)
    scores = torch.from_numpy(rng.normal(size=(6, 2, 3))).requires_grad_()
    others = {"action": rng.integers(3, size=(6, 2)), "predicted_reward": rng.random((6, 2, 3))}
    reward, logging = rng.random((6, 2)), rng.uniform(0.2, 1, (6, 2))
    assert torch.autograd.gradcheck(lambda s: cascade_dr(reward, s.softmax(-1), logging, **others).value, scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": [[1, 0, 1]] * 2}, r"slates are misaligned: reward \(2, 3\)"),
        (
            {"logging_propensity": [[0.5, 0.5], [0.5, 0]]},
            "logging_propensity, row 1, column 1: .*the slots above",
        ),
        ({"target_propensity": [[0.5, 0.5], [0.5, 3]]}, "target_propensity, row 1, column 1: a propensity lies in"),
        ({"reward": [[1, 0], [np.nan, 0]]}, "reward, row 1, column 0: a reward must be finite"),
        ({"slot_weight": [1, 1, 1]}, "slot_weight: has 3 entries where slates have 2 slots"),
        (
            {"target_propensity": [[1, 0]] * 2, "self_normalized": True},
            "target_propensity, slot 1: the target",
        ),
    ],
    ids=["slots", "zero", "above one", "reward", "weights", "nothing"],
)
def test_bad_input(change, message):
    good = {"reward": [[1, 0]] * 2, "target_propensity": [[0.5, 0.5]] * 2, "logging_propensity": [[0.5, 0.5]] * 2}
    with pytest.raises(ValueError, match=message):
        reward_interaction_ips(**{**good, **change})


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"target_probs: expected slates x slots x items .*got shape \(1, 2\)"):
        cascade_dr([[1, 0]], [[0.5, 0.5]], [[0.5, 0.5]], action=[[0, 1]], predicted_reward=[[[0, 0]] * 2])
    with pytest.raises(ValueError, match="action, slot 1, row 0: an action is one of the 2 columns"):
        cascade_dr([[1, 0]], [[[0.5, 0.5]] * 2], [[0.5, 0.5]], action=[[0, 2]], predicted_reward=[[[0.0, 0]] * 2])
