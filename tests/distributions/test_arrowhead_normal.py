"""ArrowheadNormal against the multivariate normal with its covariance; parts of a vector against the vector."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro.distributions import ArrowheadNormal, MatrixNormal, MultivariatePart
from blob_pyro.distributions.multivariate import factors, shear, with_analytic_entropy
from blob_pyro.infer.laplace.arrowhead_precision import ArrowheadPrecision

S, M = 3, 4


def arrowhead(batch=()):
    tril = torch.randn(*batch, S, S).double().tril(-1) + torch.tensor([0.2, 1.0, 3.0]).double().diag()
    loading = torch.randn(*batch, M, S).double()
    return ArrowheadNormal(
        torch.randn(*batch, S + M).double(), tril, loading, torch.tensor([0.1, 0.5, 1.0, 4.0]).double()
    )


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


def vectors():
    d = arrowhead()
    low_rank = dist.LowRankMultivariateNormal(d.loc, torch.randn(S + M, 2).double(), torch.rand(S + M).double() + 0.1)
    return {"arrowhead": d, "full": dist.MultivariateNormal(d.loc, d.covariance_matrix), "low rank": low_rank}


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


def test_the_vector_of_a_part_by_its_old_name():
    d = arrowhead()
    with pytest.warns(DeprecationWarning, match="MultivariatePart: 'joint' is now called 'multivariate'"):
        part = MultivariatePart(d.mean, joint=d, start=0, shape=torch.Size([2]))
    with pytest.warns(DeprecationWarning, match="MultivariatePart: 'joint' is now called 'multivariate'"):
        assert part.joint is d is part.multivariate
