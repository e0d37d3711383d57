"""Full covariances against low-rank ones, and linear models."""

import pytest
import torch

from blob_pyro.propensity import (
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
)
from tests.propensity.correlated_problems import DRAWS, _frequencies, _problem
from tests.propensity.propensity_oracles import double, standard_errors


@pytest.mark.parametrize("num_actions", [4, 12, 30])
def test_full_and_low_rank_covariances_agree(num_actions):
    loc, factor, diagonal = _problem(num_actions, 3, 0.4)
    low_rank = ArgmaxLowRankNormal(loc, factor, diagonal)
    full = ArgmaxMultivariateNormal(loc, factor @ factor.T + diagonal.diag(), seed=1)
    spread = (low_rank.error_estimate.square() + full.error_estimate.square()).sqrt()
    # Rarer actions are decided by few of the points, and their error estimate by few of the replicates.
    common = low_rank.probs > 1e-3
    assert ((low_rank.probs - full.probs).abs() / spread.clamp_min(1e-7))[common].max() < 5


def test_linear_model_is_correlated_and_its_marginals_are_not_enough():
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(20, 2, dtype=torch.float64, generator=generator)
    theta = double(0.3, -0.2)
    covariance = double(1.0, 0.3, 0.3, 0.5).reshape(2, 2)
    d = ArgmaxMultivariateNormal.from_linear(theta, covariance, features)
    root = torch.linalg.cholesky(covariance)
    frequency = _frequencies(features @ theta, features @ root, torch.zeros(20).double())
    assert standard_errors(d.probs, frequency, DRAWS) < 5
    marginals = ArgmaxMultivariateNormal.from_linear(theta, covariance, features, marginals_only=True)
    expected = ArgmaxNormal(features @ theta, (features @ covariance * features).sum(-1).sqrt()).probs
    torch.testing.assert_close(marginals.probs, expected, rtol=0, atol=1e-12)
    assert 0.5 * (marginals.probs - d.probs).abs().sum() > 0.2
