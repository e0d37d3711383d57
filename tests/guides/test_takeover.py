"""What the closest normal to a prior is, and what a guide that does not take over says."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from blob_pyro.guides.takeover import guide_taking_over, normal_moments, take_over_rows
from blob_pyro.models import BanditModel, BanditPriors, HorseshoeKappa, StudentTKappa


def test_moments_are_the_priors_own():
    loc, scale = normal_moments(dist.Normal(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])).to_event(1))
    assert (loc.tolist(), scale.tolist()) == ([1.0, 2.0], [0.5, 3.0])
    model = BanditModel(torch.eye(2), BanditPriors(kappa=StudentTKappa(df=4.0), kappa_scale=0.2))
    assert torch.allclose(normal_moments(model.site_priors()["kappa"])[1], torch.full((2,), 0.2 * math.sqrt(2)))


def test_without_moments_they_are_those_of_quantiles():
    """The logarithm of a half-Cauchy number has mean 0 and standard deviation pi / 2."""
    model = BanditModel(torch.eye(2), BanditPriors(kappa=0.0, terms=(HorseshoeKappa(dist.HalfCauchy(1.0)),)))
    for name, shape in (("log_kappa_local_scale", (2,)), ("log_kappa_scale", ())):
        loc, scale = normal_moments(model.site_priors()[name])
        assert loc.shape == scale.shape == shape
        assert loc.abs().max() < 1e-3
        assert (scale - math.pi / 2).abs().max() < 0.02


def test_rows_are_copied():
    old, new = nn.Linear(2, 3), nn.Linear(2, 5)
    rest = new.weight[3:].clone()
    with torch.no_grad():
        take_over_rows(new, old)
    assert torch.equal(new.weight[:3], old.weight)
    assert torch.equal(new.weight[3:], rest)


def test_a_guide_that_does_not_take_over():
    with pytest.raises(ValueError, match=r"guide: Linear does not say .* a method take_over\(old, priors\)"):
        guide_taking_over(nn.Linear(1, 1), lambda: nn.Linear(1, 2), {})
