"""Parts of a Gaussian vector: divergences, shears, and old names."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro.distributions import MatrixNormal, MultivariatePart
from blob_pyro.distributions.multivariate import factors, shear, with_analytic_entropy
from tests.distributions.vectors import M, S, arrowhead, vectors


@pytest.mark.parametrize("name", ["arrowhead", "full", "low rank"])
def test_divergence_of_the_parts_is_that_of_the_vector(name):
    """Parts' cross-entropies less the vector's entropy: KL against a prior of independent sites."""
    q = vectors()[name]
    loc, factor, scale = factors(q)
    covariance = factor @ factor.mT + (0 if scale is None else scale.square().diag())
    row, column = torch.tensor([[0.5, 0], [0.3, 2.0]]).double(), torch.tensor([[1.5, 0], [-0.4, 0.7]]).double()
    priors = {
        "scalar": (0, dist.Normal(torch.tensor(0.3).double(), 2.0)),
        "vector": (1, dist.Normal(torch.zeros(2).double(), torch.tensor([0.5, 3.0]).double()).to_event(1)),
        "matrix": (3, MatrixNormal(torch.ones(2, 2).double(), row, column)),
    }
    draw = q.sample()
    terms = [kl_divergence(MultivariatePart(draw, q, start, p.event_shape), p) for start, p in priors.values()]
    prior_loc = torch.tensor([0.3, 0, 0, 1, 1, 1, 1]).double()
    prior_covariance = torch.block_diag(
        torch.tensor([[4.0]]).double(),
        torch.tensor([0.25, 9.0]).double().diag(),
        torch.kron(row @ row.mT, column @ column.mT),
    )
    expected = kl_divergence(
        dist.MultivariateNormal(loc, covariance), dist.MultivariateNormal(prior_loc, prior_covariance)
    )
    assert torch.allclose(sum(terms) - q.entropy(), expected)
    parts = with_analytic_entropy(q).score_parts(draw)
    assert torch.allclose(parts.entropy_term, -dist.MultivariateNormal(loc, covariance).entropy())
    assert torch.allclose(parts.log_prob, dist.MultivariateNormal(loc, covariance).log_prob(draw))


@pytest.mark.parametrize("name", ["arrowhead", "full"])
def test_shear_adds_one_number_to_others(name):
    q = vectors()[name]
    loading = torch.tensor([0, 0, 0, 0.5, -2.0, 1.0, 3.0]).double()
    matrix = torch.eye(S + M).double()
    matrix[:, 1] += loading
    sheared = shear(q, loading, 1)
    assert torch.allclose(sheared.mean, matrix @ q.mean)
    assert torch.allclose(sheared.covariance_matrix, matrix @ q.covariance_matrix @ matrix.mT)
    assert shear(vectors()["low rank"], loading, 1) is None


def test_an_arrowhead_is_sheared_by_one_of_its_own_numbers():
    """As a slope that no weight moves is one, under guide "arrowhead_normal"."""
    q = arrowhead()
    loading = torch.zeros(S + M).double()
    loading[S + 2 :] = torch.tensor([1.5, -0.7]).double()[: M - 2]
    matrix = torch.eye(S + M).double()
    matrix[:, S] += loading
    sheared = shear(q, loading, S)
    assert torch.allclose(sheared.mean, matrix @ q.mean)
    torch.testing.assert_close(
        sheared.covariance_matrix, matrix @ q.covariance_matrix @ matrix.mT, atol=1e-9, rtol=3e-6
    )
    x = torch.randn(3, S + M).double()
    assert torch.isfinite(sheared.log_prob(x)).all()


def test_the_vector_of_a_part_by_its_old_name():
    d = arrowhead()
    with pytest.warns(DeprecationWarning, match="MultivariatePart: 'joint' is now called 'multivariate'"):
        part = MultivariatePart(d.mean, joint=d, start=0, shape=torch.Size([2]))
    with pytest.warns(DeprecationWarning, match="MultivariatePart: 'joint' is now called 'multivariate'"):
        assert part.joint is d is part.multivariate
