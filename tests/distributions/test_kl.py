"""A full covariance against independent normals: torch's own divergence of two full ones is the oracle."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro.ops.precision import scale_tril_from_precision


@pytest.fixture
def full():
    torch.manual_seed(2)
    factor = torch.randn(4, 3, 3, dtype=torch.float64).tril(-1) + torch.tensor([0.2, 1.0, 3.0]).double().diag()
    return dist.MultivariateNormal(torch.randn(4, 3, dtype=torch.float64), scale_tril=factor)


def test_closed_form(full):
    loc, scale = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.3, 1.0, 4.0]).double()
    prior = dist.Normal(loc, scale).expand([4, 3]).to_event(1)
    oracle = dist.MultivariateNormal(loc, covariance_matrix=scale.square().diag()).expand([4])
    assert torch.allclose(kl_divergence(full, prior), kl_divergence(full, oracle), rtol=1e-10)


def test_no_other_prior_is_answered(full):
    with pytest.raises(NotImplementedError, match="no closed form for the divergence of a multivariate normal from"):
        kl_divergence(full, dist.Laplace(torch.zeros(3).double(), 1.0).to_event(1))


def test_factor_of_the_inverse(full):
    precision = full.precision_matrix
    factor = scale_tril_from_precision(precision)
    assert torch.allclose(factor @ factor.mT @ precision, torch.eye(3).double().expand(4, 3, 3), atol=1e-9)
    assert torch.equal(factor, factor.tril())
    assert (factor.diagonal(dim1=-2, dim2=-1) > 0).all()
