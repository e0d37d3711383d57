"""Beliefs about items: what they may be, and what goes together."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.models.priors.organic_priors import OrganicPriors

BAD = {
    "another family": ({"item_embedding": dist.Laplace(0.0, 1.0)}, "item_embedding: expected None or a Normal"),
    "several numbers": ({"item_intercept": dist.Normal(torch.zeros(2), 1.0)}, "item_intercept: expected None or a"),
    "another inference": ({"inference": "mcmc"}, "inference: expected 'map' or 'posterior', got 'mcmc'"),
    "a posterior of nothing": ({"inference": "posterior"}, "inference: 'posterior' needs a prior"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OrganicPriors(**options)


def test_whether_there_is_any():
    assert not OrganicPriors().any
    assert OrganicPriors(item_intercept=dist.Normal(0.0, 1.0), inference="posterior").any
