"""Two and three actions, exactly."""

import math

import pytest
import torch
from scipy.stats import multivariate_normal

from blob_pyro.propensity import (
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
)
from tests.propensity.propensity_oracles import double


def test_three_actions_match_scipy():
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(20, 3, 3, dtype=torch.float64, generator=generator)
    loc = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    covariance = root @ root.mT
    probs = ArgmaxMultivariateNormal(loc, covariance).probs
    for row in range(20):
        for own in range(3):
            others = [j for j in range(3) if j != own]
            contrast = torch.zeros(2, 3, dtype=torch.float64)
            contrast[:, own] = -1
            contrast[0, others[0]] = contrast[1, others[1]] = 1
            expected = multivariate_normal.cdf(
                -(contrast @ loc[row]).numpy(), cov=(contrast @ covariance[row] @ contrast.T).numpy(), abseps=1e-12
            )
            assert abs(probs[row, own].item() - expected) < 1e-9
    assert (probs.sum(-1) - 1).abs().max() < 1e-13


def test_three_actions_on_a_line_are_exact():
    """Rank one and no noise: scores 0, z and 2 z + 1 cross at known places."""
    loc, factor = double(0.0, 0.0, 1.0), double(0.0, 1.0, 2.0)[:, None]
    phi = torch.special.ndtr(double(-1.0, -0.5))
    # 2z + 1 > 0 and > z where z > -1/2; below that 0 > z.
    expected = torch.stack([phi[1], torch.zeros_like(phi[0]), 1 - phi[1]])
    for d in (
        ArgmaxLowRankNormal(loc, factor, torch.zeros(3).double(), method="envelope"),
        ArgmaxMultivariateNormal(loc, factor @ factor.T),
    ):
        torch.testing.assert_close(d.probs, expected, rtol=0, atol=1e-12)


def test_two_actions_are_a_single_normal_cdf():
    covariance = double(2.0, 0.9, 0.9, 0.5).reshape(2, 2)
    d = ArgmaxMultivariateNormal(double(0.3, 0.0), covariance)
    assert d.probs[0].item() == pytest.approx(torch.special.ndtr(double(0.3 / math.sqrt(0.7))).item(), abs=1e-15)
