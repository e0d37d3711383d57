"""Where guides of the bandit model start."""

import math

import pyro.distributions as dist
import pytest
import torch

from blob_pyro import BanditPriors
from blob_pyro.guides.bandit import prior_moments
from blob_pyro.models import BanditModel, HorseshoeKappa


@pytest.mark.parametrize(
    ("prior", "loc", "scale"),
    [
        (dist.Normal(-6.0, 2.0), -6.0, 2.0),
        (dist.Laplace(-1.0, 2.0), -1.0, 2.0 * math.sqrt(2)),
        (dist.Cauchy(-6.0, 2.0), -6.0, 2.0 * math.tan(math.pi * 0.3413447)),
        (dist.StudentT(4.0, -4.0, 2.0), -4.0, 2.0 * math.sqrt(2)),
        (dist.StudentT(1.5, -4.0, 2.0), -4.0, 1.0),  # neither a variance nor quantiles
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_moments_of_a_prior(prior, loc, scale):
    """Or its median, and half of what lies between the quantiles of 16 and 84 %."""
    prior = prior.expand((3,)).to_event(1)
    found = prior_moments(prior)
    assert found[0].tolist() == pytest.approx([loc] * 3, rel=1e-5)
    assert found[1].tolist() == pytest.approx([scale] * 3, rel=1e-5)


def test_a_scale_starts_at_the_median_of_its_prior():
    model = BanditModel(torch.randn(4, 2), BanditPriors(kappa=0.0, terms=(HorseshoeKappa(dist.HalfCauchy(0.03)),)))
    assert float(prior_moments(model.site_priors()["log_kappa_scale"])[0]) == pytest.approx(math.log(0.03), rel=1e-5)
