"""Orthant probabilities against SciPy's multivariate normal CDF."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

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
