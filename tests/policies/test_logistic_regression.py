"""Bayesian logistic regression against SciPy's optimum and autograd's curvature, with features of unequal scales."""

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from blob_pyro.policies import BayesianLogisticRegression
from blob_pyro.propensity import ArgmaxLowRankNormal, ArgmaxNormal

SCALES = np.array([1.0, 0.2, 5.0])


COVARIANCES = ["diagonal", "full"]


def batch(seed, rows=120, actions=4):
    """Rewards of four actions; the last action is never played."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)) * SCALES
    weights = np.random.default_rng(99).normal(size=(actions, 3)) / SCALES
    a = rng.integers(actions - 1, size=rows)
    return x, (rng.random(rows) < special.expit((x * weights[a]).sum(-1))).astype(float), a


def oracle(x, y, mean, precision):
    """Mode and curvature by SciPy: the prior is normal with this mean and precision matrix."""

    def loss(w):
        z = x @ w
        return 0.5 * (w - mean) @ precision @ (w - mean) + np.logaddexp(0, z).sum() - y @ z

    def slope(w):
        return precision @ (w - mean) + x.T @ (special.expit(x @ w) - y)

    mode = optimize.minimize(loss, mean, jac=slope, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).x
    mode = optimize.root(slope, mode, tol=1e-13).x
    p = special.expit(x @ mode)
    return mode, precision + x.T @ np.diag(p * (1 - p)) @ x


def chain(batches, covariance, prior_mean, prior_precision):
    """Algorithm 3 of Chapelle and Li (2011) for one action, batch after batch."""
    mean, precision = prior_mean, np.diag(prior_precision)
    for x, y in batches:
        mean, precision = oracle(x, y, mean, precision)
        if covariance == "diagonal":
            precision = np.diag(np.diag(precision))
    return mean, precision


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)], ids=["one batch", "three batches"])
def test_posterior_of_each_action(covariance, seeds):
    prior_mean, prior_precision = np.array([0.1, -0.3, 0.2]), np.array([1e-3, 2.0, 0.5])
    regression = BayesianLogisticRegression(
        3,
        4,
        covariance=covariance,
        prior_precision=torch.from_numpy(prior_precision),
        prior_loc=torch.from_numpy(prior_mean),
    )
    batches = [batch(seed) for seed in seeds]
    for x, y, a in batches:
        regression.update(x, y, a)
    for action in range(3):
        mine = [(x[a == action], y[a == action]) for x, y, a in batches]
        mean, precision = chain(mine, covariance, prior_mean, prior_precision)
        np.testing.assert_allclose(regression.loc[action], mean, rtol=1e-7, atol=1e-8)
        got = regression.precision[action]
        expected = np.diag(precision) if covariance == "diagonal" else precision
        np.testing.assert_allclose(got, expected, rtol=1e-7)
    assert np.array_equal(regression.loc[3], prior_mean)  # never played: exactly as it was
    untouched = regression.precision[3] if covariance == "diagonal" else regression.precision[3].diagonal()
    assert np.array_equal(untouched, prior_precision)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_shared_weights(covariance):
    x, y, _ = batch(5)
    regression = BayesianLogisticRegression(3, covariance=covariance, prior_precision=0.7)
    regression.update(x, y)
    mean, precision = chain([(x, y)], covariance, np.zeros(3), np.full(3, 0.7))
    np.testing.assert_allclose(regression.loc, mean, rtol=1e-8, atol=1e-9)
    got = regression.precision.diag() if covariance == "diagonal" else regression.precision
    np.testing.assert_allclose(got, precision, rtol=1e-7)


def test_curvature_is_that_of_the_log_posterior():
    x, y, _ = (torch.as_tensor(part) for part in batch(6))
    regression = BayesianLogisticRegression(3, covariance="full", prior_precision=0.3)
    regression.update(x, y)

    def loss(w):
        return 0.15 * w.square().sum() + (torch.logaddexp(x @ w, torch.zeros(())) - y * (x @ w)).sum()

    mode = regression.loc
    gradient, hessian = torch.autograd.functional.jacobian(loss, mode), torch.autograd.functional.hessian(loss, mode)
    assert gradient.abs().max() < 1e-10
    assert torch.allclose(regression.precision, hessian, rtol=1e-10)


def test_a_row_counts_whatever_its_reward():
    """Non-clicks are evidence: the published code, which takes rewards of 0 for no rows at all, learns nothing."""
    regression = BayesianLogisticRegression(1, prior_precision=1.0)
    regression.update(torch.ones(40, 1), torch.zeros(40))
    assert regression.loc.item() < -2
    assert regression.precision.item() > 2


@pytest.mark.parametrize(("reward", "rows"), [(1.0, 3), (0.0, 50)], ids=["three clicks", "no click of fifty"])
def test_separable_rewards_and_a_weak_prior_arrive(reward, rows):
    """All rows are alike, so the mode lies along them, and one root says how far: precision z = n |x|^2 sigma(-z)."""
    x = torch.tensor([1.0, 3e3, 1e-3], dtype=torch.float64)
    regression = BayesianLogisticRegression(3, prior_precision=1e-6)
    regression.update(x.expand(rows, 3), torch.full((rows,), reward))
    size = float(x.square().sum())
    z = optimize.brentq(lambda z: 1e-6 * z - rows * size * special.expit(-z), 0, 100, xtol=1e-14)
    np.testing.assert_allclose(regression.loc, (2 * reward - 1) * z / size * x, rtol=1e-10)


def draws_of_weights(regression, size, seed):
    rng = np.random.default_rng(seed)
    loc, precision = regression.loc.numpy(), regression.precision.numpy()
    if regression.covariance == "diagonal":
        return loc + rng.normal(size=(size, *loc.shape)) / np.sqrt(precision)
    draws = [
        rng.multivariate_normal(m, np.linalg.inv(q), size=size)
        for m, q in zip(loc.reshape(-1, 3), precision.reshape(-1, 3, 3))
    ]
    return np.stack(draws, 1).reshape(size, *loc.shape)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("shared", [False, True], ids=["per action", "shared"])
def test_propensities_are_frequencies_of_the_best_action_under_draws_of_the_weights(covariance, shared):
    x, y, a = batch(7)
    regression = BayesianLogisticRegression(3, None if shared else 4, covariance=covariance, prior_precision=0.05)
    regression.update(x, y, None if shared else a)
    rng = np.random.default_rng(8)
    features = rng.normal(size=(2, 4, 3) if shared else (2, 3)) * SCALES
    d = regression.action_distribution(features)
    assert isinstance(d, ArgmaxLowRankNormal if shared else ArgmaxNormal)
    weights = draws_of_weights(regression, 100_000, 9)
    logits = np.einsum("nad,sd->sna" if shared else "nd,sad->sna", features, weights)
    loc, scale = regression.logits(features)
    np.testing.assert_allclose(loc, logits.mean(0), atol=4.5 * scale.max().item() / 100_000**0.5)
    np.testing.assert_allclose(scale, logits.std(0), rtol=4.5 / 200_000**0.5)
    for context in range(2):
        frequency = np.bincount(logits[:, context].argmax(-1), minlength=4) / 100_000
        error = np.sqrt(frequency * (1 - frequency) / 100_000 + 1e-10)
        assert (np.abs(frequency - d.probs[context].numpy()) < 4.5 * error + 1e-3 * shared).all()
        played = torch.bincount(d.sample((20_000,))[:, context], minlength=4).numpy()
        likely = d.probs[context].numpy() > 1e-3
        expected = d.probs[context].numpy()[likely]
        assert stats.chisquare(played[likely], played[likely].sum() * expected / expected.sum()).pvalue > 1e-5
    clicked = special.expit(logits).mean(0)
    np.testing.assert_allclose(regression.click_probabilities(features), clicked, atol=4.5 * 0.5 / 100_000**0.5)


def test_state_is_saved_and_moves_with_the_module():
    x, y, a = batch(1)
    regression = BayesianLogisticRegression(3, 4, covariance="full")
    regression.update(x, y, a)
    again = BayesianLogisticRegression(3, 4, covariance="full")
    again.load_state_dict(regression.state_dict())
    assert torch.equal(again.action_distribution(x[:5]).probs, regression.action_distribution(x[:5]).probs)
    assert "4 actions" in repr(again)


X, Y, A = torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, s: r.update(torch.ones(2, 4), Y, A), r"features: expected rows x 3, got shape \(2, 4\)"),
        (lambda r, s: r.update(X * torch.tensor([[1.0], [np.nan]]), Y, A), r"features\[1\]: every feature is finite"),
        (lambda r, s: r.update(X, torch.tensor([0, -1]), A), r"reward\[1\]: a reward is 0 or 1, got -1"),
        (lambda r, s: r.update(X, torch.ones(3), A), "reward: expected 2 numbers, one per row"),
        (lambda r, s: r.update(X, Y), "action: each action has weights of its own"),
        (lambda r, s: r.update(X, Y, torch.tensor([0, 4])), r"action\[1\]: an action lies in 0\.\.3, got 4"),
        (lambda r, s: r.update(X, Y, A[:1]), "action: expected 2 numbers"),
        (lambda r, s: s.update(X, Y, A), "action: weights are shared"),
        (lambda r, s: s.logits(X), "weights are shared, so expected contexts x actions x 3"),
        (lambda r, s: BayesianLogisticRegression(3, prior_precision=0.0), "prior_precision: must be positive"),
        (lambda r, s: BayesianLogisticRegression(3, prior_loc=np.inf), "prior_loc: must be finite"),
        (lambda r, s: BayesianLogisticRegression(3, 4, prior_loc=torch.ones(4)), "prior_loc: has shape"),
        (lambda r, s: BayesianLogisticRegression(3, covariance="low"), "covariance: expected 'diagonal' or 'full'"),
    ],
)
def test_bad_input(call, message):
    regression, shared = BayesianLogisticRegression(3, 4), BayesianLogisticRegression(3)
    before = regression.loc.clone(), regression.precision.clone()
    with pytest.raises(ValueError, match=message):
        call(regression, shared)
    assert torch.equal(before[0], regression.loc)
    assert torch.equal(before[1], regression.precision)


def test_actions_are_whole_numbers():
    with pytest.raises(TypeError, match="action: expected whole numbers"):
        BayesianLogisticRegression(3, 4).update(X, Y, A.float())
