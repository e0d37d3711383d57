"""MatrixNormal against the multivariate normal with the Kronecker covariance."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from blob_pyro.distributions import MatrixNormal

N, M = 3, 2


def random_tril(*shape):
    tril = torch.randn(*shape, shape[-1], dtype=torch.float64).tril(-1)
    return tril + torch.diag_embed(torch.rand(*shape, dtype=torch.float64) * torch.logspace(-1, 1, shape[-1]) + 0.1)


def random_matrix_normal(seed, batch=()):
    torch.manual_seed(seed)
    return MatrixNormal(torch.randn(*batch, N, M).double(), random_tril(*batch, N), random_tril(*batch, M), True)


def flat(x):
    """Row-major vec, whose covariance is U (x) V."""
    return x.flatten(-2)


def as_multivariate_normal(d):
    kron = torch.stack(
        [torch.kron(a, b) for a, b in zip(d.row_scale_tril.view(-1, N, N), d.column_scale_tril.view(-1, M, M))]
    )
    return dist.MultivariateNormal(flat(d.loc), scale_tril=kron.view(*d.batch_shape, N * M, N * M))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
def test_density_entropy_and_moments(batch):
    d = random_matrix_normal(0, batch)
    reference = as_multivariate_normal(d)
    x = d.sample((5,))
    assert x.shape == (5, *batch, N, M)
    assert torch.allclose(d.log_prob(x), reference.log_prob(flat(x)), atol=1e-9)
    assert torch.allclose(d.entropy(), reference.entropy())
    assert torch.allclose(flat(d.variance), reference.variance)
    assert torch.equal(d.mean, d.loc)


def test_samples_have_the_kronecker_covariance():
    d = random_matrix_normal(1)
    draws = flat(d.rsample((200_000,)))
    covariance = as_multivariate_normal(d).covariance_matrix
    scale = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / 200_000**0.5
    assert ((draws.T.cov() - covariance).abs() < 5 * scale).all()


def test_kl_between_matrix_normals():
    q, p = random_matrix_normal(2), random_matrix_normal(3)
    expected = kl_divergence(as_multivariate_normal(q), as_multivariate_normal(p))
    assert torch.allclose(kl_divergence(q, p), expected)
    assert kl_divergence(q, q).abs() < 1e-12


def test_kl_of_independent_normals():
    p = random_matrix_normal(4)
    loc, scale = torch.randn(N, M).double(), torch.rand(N, M).double() + 0.1
    q = dist.Normal(loc, scale).to_event(2)
    reference = dist.MultivariateNormal(flat(loc), scale_tril=flat(scale).diag())
    assert torch.allclose(kl_divergence(q, p), kl_divergence(reference, as_multivariate_normal(p)))
    with pytest.raises(NotImplementedError):
        kl_divergence(dist.Normal(loc, scale).to_event(1), p)


def test_kl_is_dispatched_inside_plates():
    """A distribution that does not expand itself is wrapped, and its KL then never found: the loss is noisy."""
    q, p = random_matrix_normal(5), random_matrix_normal(6)

    def story(d):
        def run():
            with pyro.plate("plate", 4):
                pyro.sample("x", d)

        return run

    losses = [TraceMeanField_ELBO().loss(story(p), story(q)) for _ in range(3)]
    assert losses == pytest.approx([4 * kl_divergence(q, p).item()] * 3, rel=1e-9)


def test_gradients_reach_every_parameter():
    d = random_matrix_normal(7)
    parameters = [d.loc.clone(), d.row_scale_tril.clone(), d.column_scale_tril.clone()]
    for parameter in parameters:
        parameter.requires_grad_()
    x = random_matrix_normal(8).sample()
    assert torch.autograd.gradcheck(lambda *a: MatrixNormal(*a, validate_args=False).log_prob(x), parameters)
    MatrixNormal(*parameters).rsample().square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in parameters)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"row_scale_tril: expected ... x 3 x 3 for a loc of \(3, 2\), got \(2, 2\)"):
        MatrixNormal(torch.zeros(3, 2), torch.eye(2), torch.eye(2))
    with pytest.raises(ValueError, match="column_scale_tril"):
        MatrixNormal(torch.zeros(2, 2), torch.eye(2), -torch.eye(2), validate_args=True)


def test_kl_against_independent_normals():
    q = random_matrix_normal(9)
    loc, scale = torch.randn(N, M).double(), torch.rand(N, M).double() + 0.1
    p = dist.Normal(loc, scale).to_event(2)
    reference = dist.MultivariateNormal(flat(loc), scale_tril=flat(scale).diag())
    assert torch.allclose(kl_divergence(q, p), kl_divergence(as_multivariate_normal(q), reference))
    with pytest.raises(NotImplementedError):
        kl_divergence(q, dist.Normal(loc, scale).to_event(1))


def test_from_scales_is_independent_with_variances_of_rank_one():
    row, column = torch.tensor([0.2, 1.0, 3.0]).double(), torch.tensor([0.5, 2.0]).double()
    d = MatrixNormal.from_scales(torch.randn(N, M).double(), row, column)
    x = torch.randn(N, M).double()
    assert torch.allclose(d.log_prob(x), dist.Normal(d.loc, torch.outer(row, column)).to_event(2).log_prob(x))
    assert torch.allclose(d.precision_diagonal, 1 / torch.outer(row, column) ** 2)
