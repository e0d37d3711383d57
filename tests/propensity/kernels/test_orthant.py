"""Orthant probabilities against SciPy's multivariate normal CDF."""

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr, logsumexp
from scipy.stats import multivariate_normal

from blob_pyro.propensity import ArgmaxMultivariateNormal
from blob_pyro.propensity.kernels.orthant import argmax_probs_by_orthants
from blob_pyro.propensity.kernels.qmc import mean_and_error


def by_scipy(loc, covariance):
    size = len(loc)
    found = []
    for i in range(size):
        others = [j for j in range(size) if j != i]
        difference = np.zeros((size - 1, size))
        difference[np.arange(size - 1), others] = 1
        difference[:, i] = -1
        found.append(
            multivariate_normal(difference @ loc, difference @ covariance @ difference.T).cdf(np.zeros(size - 1))
        )
    return np.array(found)


@pytest.mark.parametrize("num_actions", [2, 3, 5])
def test_against_scipy(num_actions):
    rng = np.random.default_rng(num_actions)
    loc, factor = rng.normal(size=(2, num_actions)), rng.normal(size=(2, num_actions, num_actions))
    covariance = factor @ factor.swapaxes(-1, -2) + np.diag(10.0 ** np.arange(num_actions) / 10)
    replicates = argmax_probs_by_orthants(torch.tensor(loc), torch.tensor(covariance), 8, 1024, 0)
    assert replicates.shape == (8, 2, num_actions)
    mean, error = mean_and_error(replicates)
    for row in range(2):
        tolerance = 5 * error[row].numpy() + 1e-4  # SciPy's own
        assert (np.abs(mean[row].numpy() - by_scipy(loc[row], covariance[row])) < tolerance).all()


def by_one_factor(loc, loading, deviation):
    """P(argmax) of loc + loading z + deviation e: a fine rule over z and each action's own noise; log space."""
    z = np.linspace(-14, 14, 281)
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) + np.log(z[1] - z[0])
    mean = loc[:, None] + loading[:, None] * z
    found = []
    for i in range(len(loc)):
        score = mean[i][:, None] + deviation[i] * z
        log_others = sum(log_ndtr((score - mean[j][:, None]) / deviation[j]) for j in range(len(loc)) if j != i)
        found.append(np.exp(logsumexp(log_others + log_density + log_density[:, None])))
    return np.array(found)


@pytest.mark.parametrize("num_actions", [12, 30])
def test_rare_actions_are_as_well_known_as_common_ones(num_actions):
    """Down to 1e-12, each within its stated relative error, which is small: no point of 16,384 by itself shows them."""
    rng = np.random.default_rng(num_actions)
    loc, loading = 3.0 * rng.normal(size=num_actions), rng.normal(size=num_actions)
    deviation = np.exp(0.5 * rng.normal(size=num_actions))
    expected = by_one_factor(loc, loading, deviation)
    assert expected.sum() == pytest.approx(1, abs=1e-9)
    assert ((expected > 1e-12) & (expected < 1e-5)).sum() >= 1
    covariance = loading[:, None] * loading + np.diag(deviation**2)
    d = ArgmaxMultivariateNormal(torch.tensor(loc), torch.tensor(covariance), method="orthants", num_points=1024)
    known = expected > 1e-12
    error = (d.probs.numpy() / expected - 1)[known]
    stated = (d.error_estimate.numpy() / expected)[known]
    assert (np.abs(error) < 6 * stated + 1e-6).all()
    assert stated.max() < 2e-3
    assert d.probs.sum().item() == pytest.approx(1, abs=1e-9)


def test_single_precision_is_double_precision(monkeypatch):
    rng = np.random.default_rng(5)
    root = torch.tensor(rng.normal(size=(15, 17)))
    problem = torch.tensor(2 * rng.normal(size=(1, 15))), (root @ root.mT)[None]
    single = argmax_probs_by_orthants(*problem, 4, 256, 0)
    monkeypatch.setattr("blob_pyro.propensity.kernels.orthant._SINGLE", 1000)
    double = argmax_probs_by_orthants(*problem, 4, 256, 0)
    assert not torch.equal(single, double)
    torch.testing.assert_close(single, double, rtol=1e-5, atol=0)


def test_blocks_of_points_and_of_replicates_are_the_whole(monkeypatch):
    rng = np.random.default_rng(6)
    root = torch.tensor(rng.normal(size=(6, 8)))
    loc = torch.tensor(rng.normal(size=(1, 6))).requires_grad_()

    def value_and_gradient():
        probs = argmax_probs_by_orthants(loc, (root @ root.mT)[None], 4, 64, 0)
        return probs, torch.autograd.grad(probs[:, 0, 0].sum(), loc)[0]

    whole = value_and_gradient()
    for size in (6 * 64 * 3, 6 * 24):
        monkeypatch.setattr("blob_pyro.propensity.kernels.orthant._BLOCK", size)
        for part, expected in zip(value_and_gradient(), whole):
            torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-14)
