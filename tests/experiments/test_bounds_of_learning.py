"""Bayes ceilings: their posteriors against enumeration and optimisation, in environments of a few items."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from blob_pyro import EventLog
from blob_pyro.data import Histories
from blob_pyro.experiments.bounds_of_learning import (
    BayesCeiling,
    Constant,
    EstimatedInterests,
    best_item,
    interests,
    swapped_pairs,
)
from blob_pyro.simulation import RecoGym


def response(logit):
    return special.expit(5 * special.expit(2 * special.expit(0.3 * logit) - 2) - 6)


def test_interests_are_the_posterior_mode_and_curvature():
    environment = RecoGym(num_items=8, seed=1)
    history = [0, 3, 3, 7]

    def negative(omega):
        probs = environment.organic_probability(torch.as_tensor(omega, dtype=torch.float64)).numpy()
        return -np.log(probs[history]).sum() + 0.5 * (np.asarray(omega) ** 2).sum() / environment.sigma_omega_initial**2

    mode, covariance = interests(environment, Histories.from_sequences([history, []], 8))
    assert np.allclose(mode[0], optimize.minimize(negative, np.zeros(5), tol=1e-10).x, atol=1e-4)
    assert mode[1].abs().max() == 0
    assert np.allclose(covariance[1], environment.sigma_omega_initial**2 * np.eye(5))
    step, hessian = 1e-3 * np.eye(5), np.zeros((5, 5))
    at = mode[0].numpy()
    for i in range(5):
        for j in range(5):
            corners = [negative(at + a * step[i] + b * step[j]) * a * b for a in (-1, 1) for b in (-1, 1)]
            hessian[i, j] = sum(corners) / 4e-6
    assert np.allclose(covariance[0], np.linalg.inv(hessian), rtol=1e-3, atol=1e-4)


def sets_of_pairs(items, size):
    """All sets of ``size`` disjoint pairs."""
    if size == 0:
        return [()]
    pairs = combinations(items, 2)
    return [
        chosen for chosen in combinations(list(pairs), size) if len({i for pair in chosen for i in pair}) == 2 * size
    ]


@pytest.mark.parametrize(("size", "num_pairs"), [(6, 3), (5, 1), (6, 2), (4, 0)])
def test_swapped_pairs_agree_with_enumeration(size, num_pairs):
    evidence = 1.5 * torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    expected, total = np.zeros((size, size)), 0.0
    for chosen in sets_of_pairs(range(size), num_pairs):
        answers = np.arange(size)
        for i, j in chosen:
            answers[i], answers[j] = j, i
        weight = np.exp(evidence.numpy()[np.arange(size), answers].sum())
        expected[np.arange(size), answers] += weight
        total += weight
    found = swapped_pairs(evidence, num_pairs, chains=256, sweeps=800)
    assert np.allclose(found, expected / total, atol=0.012)
    assert np.allclose(found.sum(0), 1)


def small_log(environment, events):
    """A log of ``(history, action, click)`` by users of one decision each."""
    user = np.repeat(np.arange(len(events)), [len(history) for history, _, _ in events])
    return EventLog.from_arrays(
        environment.num_items,
        view_user=torch.from_numpy(user),
        view_time=torch.cat([torch.arange(len(history)) for history, _, _ in events]),
        view_item=torch.tensor([item for history, _, _ in events for item in history]),
        user=torch.arange(len(events)),
        time=torch.full((len(events),), 100),
        action=torch.tensor([action for _, action, _ in events]),
        reward=torch.tensor([click for _, _, click in events]),
    )


EVENTS = [([0, 1], 2, 1), ([3], 2, 0), ([4, 4, 1], 2, 0), ([2], 0, 1), ([0, 1], 1, 0), ([3, 2], 4, 1)]


def expected_response(environment, history, vector, intercept):
    """By many nodes of Gauss-Hermite, where the policy has three."""
    mode, covariance = interests(environment, Histories.from_sequences([history], environment.num_items))
    node, weight = np.polynomial.hermite_e.hermegauss(60)
    scale = np.sqrt(vector @ covariance[0].numpy() @ vector)
    return weight @ response(vector @ mode[0].numpy() + intercept + scale * node) / weight.sum()


def test_answers_of_some_item_by_hand():
    environment = RecoGym(num_items=5, num_flips=2, seed=4)
    ceiling = BayesCeiling(environment, small_log(environment, EVENTS), "some item")
    gamma, mu = environment.gamma.numpy(), environment.mu_organic.numpy()
    likelihood = np.ones((5, 5))
    for history, action, click in EVENTS:
        for answer in range(5):
            probability = expected_response(environment, history, gamma[answer], mu[answer])
            likelihood[action, answer] *= probability if click else 1 - probability
    posterior = likelihood / likelihood.sum(1, keepdims=True)
    assert np.allclose(ceiling.weight, posterior, rtol=5e-3)
    assert np.allclose(ceiling.weight[3], 0.2)  # never shown
    probs = [expected_response(environment, [1], gamma[answer], mu[answer]) for answer in range(5)]
    assert np.allclose(ceiling.click_probabilities([[1]])[0], posterior @ probs, rtol=5e-3)
    assert ceiling.action_distribution([[1]]).probs.argmax() == (posterior @ probs).argmax()


def test_answers_without_a_link_have_recogyms_distribution():
    environment = RecoGym(num_items=5, num_flips=2, seed=4)
    ceiling = BayesCeiling(environment, small_log(environment, EVENTS), "no link", num_draws=20_000)
    assert stats.kstest(ceiling.intercepts, stats.norm(0, environment.sigma_mu_organic).cdf).pvalue > 0.001
    assert stats.kstest(ceiling.vectors[:, 2], stats.norm.cdf).pvalue > 0.001
    # A click lifts the item everywhere, and what was never shown is as it was.
    found = ceiling.click_probabilities([[2]])[0]
    assert found[0] > found[3] > found[1]
    draws = response(ceiling.vectors.numpy() @ np.zeros(5) + ceiling.intercepts.numpy())
    assert abs(float(ceiling.click_probabilities([[]])[0, 3]) - draws.mean()) < 3e-3
    assert bool((ceiling.effective_draws[[3]] > 19_999).all())


def test_a_ceiling_knows_the_family_and_not_the_answers(monkeypatch):
    """Two environments that differ in which pairs are swapped, and a log: the ceilings are the same policies."""
    environment = RecoGym(num_items=10, num_flips=2, seed=4)
    log = environment.simulate(num_users=30, num_organic_users=10)
    other = RecoGym(num_items=10, num_flips=2, seed=4)
    order = torch.tensor([1, 0, 3, 2, 4, 5, 6, 7, 8, 9])
    for name in ("beta", "mu_bandit"):
        object.__setattr__(other, name, getattr(other, {"beta": "gamma", "mu_bandit": "mu_organic"}[name])[order])
    assert not torch.equal(environment.beta, other.beta)
    for link in ("swaps", "some item", "no link"):
        one, two = (BayesCeiling(e, log, link).click_probabilities([[1], [2, 3]]) for e in (environment, other))
        assert torch.equal(one, two)
    assert not torch.equal(
        EstimatedInterests(environment).environment.click_probability(torch.zeros(1, 5).double()),
        EstimatedInterests(other).environment.click_probability(torch.zeros(1, 5).double()),
    )


def test_an_unknown_link_is_refused():
    environment = RecoGym(num_items=5)
    with pytest.raises(ValueError, match="link"):
        BayesCeiling(environment, small_log(environment, EVENTS), "none")


def test_best_item_is_that_of_a_long_simulation():
    environment = RecoGym(num_items=6, num_flips=2, seed=3)
    omega = environment.sigma_omega_initial * torch.randn(50_000, 5, dtype=torch.float64)
    rates = environment.click_probability(omega).mean(0)
    assert rates[best_item(environment)] > rates.max() - 1e-4
    assert Constant(6, 2).action_distribution([[], [1]]).probs.argmax(-1).tolist() == [2, 2]
