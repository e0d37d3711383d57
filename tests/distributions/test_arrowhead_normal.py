"""ArrowheadNormal against the multivariate normal with its covariance; parts of a vector against the vector."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro.distributions import ArrowheadNormal
from blob_pyro.distributions.multivariate import with_analytic_entropy
from blob_pyro.infer.laplace.arrowhead_precision import ArrowheadPrecision
from tests.distributions.vectors import M, S, arrowhead, vectors


@pytest.mark.parametrize("batch", [(), (2,), (3, 2)], ids=str)
def test_it_is_a_multivariate_normal(batch):
    d = arrowhead(batch)
    reference = dist.MultivariateNormal(d.loc, d.covariance_matrix)
    x = d.sample((5,))
    assert x.shape == (5, *batch, S + M)
    assert torch.allclose(d.log_prob(x), reference.log_prob(x))
    assert torch.allclose(d.entropy(), reference.entropy())
    assert torch.allclose(d.variance, reference.variance)
    precision = torch.linalg.inv(d.covariance_matrix)[..., S:, S:]
    assert torch.allclose(precision, precision.diagonal(dim1=-2, dim2=-1).diag_embed(), atol=1e-6)
    wide = d.expand((7, *batch))
    assert torch.allclose(wide.log_prob(x[0]), d.log_prob(x[0]).expand(7, *batch))


def test_draws_have_its_covariance():
    d = arrowhead()
    covariance = d.covariance_matrix
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / 200_000**0.5
    assert ((d.rsample((200_000,)).mT.cov() - covariance).abs() < 5 * spread).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"for 1 shared and 2 independent variables expected a loc of 3, got \(4,\)"):
        ArrowheadNormal(torch.zeros(4), torch.eye(1), torch.zeros(2, 1), torch.ones(2))


@pytest.mark.parametrize("name", ["arrowhead", "full", "low rank"])
def test_divergence_from_an_arrow_is_that_of_full_covariances(name):
    q, p = vectors()[name], arrowhead()
    expected = kl_divergence(
        dist.MultivariateNormal(q.mean, q.covariance_matrix), dist.MultivariateNormal(p.mean, p.covariance_matrix)
    )
    assert torch.allclose(kl_divergence(q, p), expected)
    assert torch.allclose(kl_divergence(with_analytic_entropy(q), p), expected)  # as a guide's site has it


def test_precision_and_whitening():
    d = arrowhead()
    precision = torch.linalg.inv(d.covariance_matrix)
    assert torch.allclose(d.precision_diagonal, precision.diagonal())
    found = ArrowheadPrecision.of(d)
    assert torch.allclose(found.shared, precision[:S, :S])
    assert torch.allclose(found.cross, precision[S:, :S])
    assert torch.allclose(found.own, precision.diagonal()[S:])
    x = torch.randn(5, S + M).double()
    assert torch.allclose(d.whiten(x).square().sum(-1), (x @ precision * x).sum(-1))
