"""Point masses are told from densities, in a single number too."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from blob_pyro.guides import DeltaGuide, NormalGuide
from blob_pyro.guides.certainty import certain_sites, is_a_set_of_draws
from blob_pyro.models import BanditModel, BanditPriors


@pytest.fixture
def model():
    return BanditModel(torch.randn(5, 2))


def test_a_point_mass_and_a_density(model):
    fixed = BanditModel(torch.randn(5, 2), priors=BanditPriors(kappa_scale=0.3))  # a mode takes no learned scale
    assert set(certain_sites(DeltaGuide(fixed), fixed)) == set(fixed.site_priors())
    assert certain_sites(NormalGuide(model), model) == []


def test_one_number_without_doubt_is_found(model):
    def guide(batch=None):
        for name, prior in model.site_priors().items():
            scale = torch.full(prior.event_shape, 0.5)
            if name == "kappa":
                scale[2] = 1e-30
            pyro.sample(name, dist.Normal(torch.ones(prior.event_shape), scale).to_event(len(prior.event_shape)))

    assert certain_sites(guide, model) == ["kappa"]


def test_densities_are_no_sets_of_draws(model):
    assert not is_a_set_of_draws(NormalGuide(model), model)
