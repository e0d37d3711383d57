"""Projections have the distribution of what they replace."""

import math

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.distributions import MatrixNormal, MultivariatePart
from blob_pyro.infer import LocalReparameterization
from blob_pyro.infer.local_reparameterization.projections import project, project_right
from blob_pyro.models.operations import bilinear, broadcast, gather, inner, row_product

LEFT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]).double()


RIGHT = torch.tensor([[0.3, 1.0], [-2.0, 0.7]]).double()


def matrix_posteriors():
    torch.manual_seed(4)
    loc = torch.randn(3, 2).double()
    row = torch.tensor([[0.2, 0, 0], [1.0, 2.0, 0], [-0.5, 0.3, 0.7]]).double()
    column = torch.tensor([[1.5, 0], [-1.0, 0.1]]).double()
    return {
        "independent": dist.Normal(loc, torch.tensor([[0.1, 2.0], [1.0, 0.3], [0.5, 4.0]]).double()).to_event(2),
        "matrix normal": MatrixNormal(loc, row, column),
    }


def vector(matrix_distribution):
    """A Gaussian vector of 3 + 6 + 1 numbers, correlated, with the matrix in its middle."""
    torch.manual_seed(6)
    factor = torch.randn(10, 4).double() * torch.logspace(-1, 0.5, 10).unsqueeze(-1)
    return dist.LowRankMultivariateNormal(torch.randn(10).double(), factor, torch.logspace(-2, 1, 10).double())


@pytest.mark.parametrize("name", ["independent", "matrix normal"])
def test_projections_have_the_distribution_of_what_they_replace(name):
    posterior = matrix_posteriors()[name]
    draws = posterior.sample((200_000,))
    n = 200_000**0.5
    distribution = project(posterior, bilinear, LEFT, RIGHT)
    values = torch.einsum("ni,sij,nj->sn", LEFT, draws, RIGHT)
    assert ((values.mean(0) - distribution.mean).abs() < 4 * distribution.stddev / n).all()
    assert ((values.std(0) / distribution.stddev - 1).abs() < 4 / (2**0.5 * n)).all()
    loc, factor = project_right(posterior, RIGHT)
    values = torch.einsum("sij,nj->nsi", draws, RIGHT)
    assert torch.allclose(values.mean(1), loc, atol=0.05)
    for rows, f in zip(values, factor):
        covariance = f @ f.mT
        spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / n
        assert ((rows.mT.cov() - covariance).abs() < 5 * spread + 1e-12).all()


INDEX = torch.tensor([2, 0])


OPERATIONS = {
    "bilinear": (bilinear, (LEFT, RIGHT), 2),
    "row product": (row_product, (INDEX, RIGHT), 2),
    "inner": (inner, (LEFT,), 1),
    "gather": (gather, (INDEX,), 1),
    "broadcast": (broadcast, (INDEX,), 0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_linear_function_of_normals_is_normal(name):
    """Against the operation on the unit matrices: its coefficients, one by one."""
    operation, coefficients, event_dim = OPERATIONS[name]
    shape = (3, 2)[:event_dim]
    size = math.prod(shape)
    units = torch.eye(size).double().view(size, *shape)
    weights = operation.each(operation.value(units, *coefficients), 1, *coefficients)
    loc, scale = torch.randn(shape).double(), torch.rand(shape).double() + 0.1
    normal = dist.Normal(loc, scale)
    distribution = project(normal.to_event(event_dim) if event_dim else normal, operation, *coefficients)
    assert torch.allclose(distribution.mean, loc.flatten() @ weights)
    assert torch.allclose(distribution.variance, scale.flatten().square() @ weights.square())
    joint = vector(None)
    part = MultivariatePart(joint.sample(), joint, 3, torch.Size(shape))
    shared = project(part, operation, *coefficients)
    here = slice(3, 3 + size)
    covariance = weights.mT @ joint.covariance_matrix[here, here] @ weights
    found = shared.factor @ shared.factor.mT + shared.scale.square().diag()
    assert torch.allclose(shared.loc, joint.loc[here] @ weights)
    assert torch.allclose(found.diagonal(), covariance.diagonal())


def test_parts_of_one_vector_are_drawn_together():
    """Per event the joint distribution of two sites' projections is right; across events they are independent."""
    joint = vector(None)
    draw = joint.sample()
    parts = {
        "x": MultivariatePart(draw, joint, 0, torch.Size([3])),
        "b": MultivariatePart(draw, joint, 9, torch.Size([])),
    }
    left = LEFT[:1].expand(200_000, 3)
    with LocalReparameterization(parts):
        x, b = inner("x", parts["x"].v, left), broadcast("b", parts["b"].v, left[:, 0])
    pick = torch.zeros(2, 10).double()
    pick[0, :3], pick[1, 9] = LEFT[0], 1.0
    covariance = pick @ joint.covariance_matrix @ pick.mT
    found = torch.stack([x, b]).cov()
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / 200_000**0.5
    assert covariance[0, 1].abs() > 0.05 * covariance.diagonal().prod().sqrt()
    assert ((found - covariance).abs() < 5 * spread).all()
    assert torch.corrcoef(torch.stack([x[1:], x[:-1]]))[0, 1].abs() < 0.02


def test_unknown_families_have_no_projection():
    assert project(dist.Delta(torch.zeros(3, 2)), bilinear, LEFT, RIGHT) is None
    assert project(dist.Laplace(torch.zeros(3, 2), 1.0).to_event(2), bilinear, LEFT, RIGHT) is None
    matrix = matrix_posteriors()["matrix normal"]
    assert project(matrix, row_product, INDEX, RIGHT) is None


def test_a_coefficient_of_zero_is_no_noise_and_no_nan():
    """A context without interest, a user whose covariates are zero: the root of a variance of zero has no slope."""
    loc, scale = torch.randn(3).requires_grad_(), torch.rand(3).requires_grad_()
    distribution = project(dist.Normal(loc, scale).to_event(1), inner, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 2.0]]))
    distribution.rsample().sum().backward()
    assert distribution.scale[0] < 1e-8
    assert torch.isfinite(scale.grad).all()
    assert scale.grad[0] != 0
