"""Powers and products of Gaussians, family by family, against dense natural parameters."""

import math

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.distributions import ArrowheadNormal, MatrixNormal
from blob_pyro.distributions.powers import log_normalizer, sharpened, widened

S, M = 3, 4
D = S + M
TRIL = torch.tensor([[0.6, 0.0, 0.0], [0.3, 1.5, 0.0], [-0.2, 0.1, 0.4]], dtype=torch.float64)
LAWS = {
    "normal": lambda: dist.Normal(torch.randn(D).double(), torch.linspace(0.2, 2, D).double()).to_event(1),
    "arrow": lambda: ArrowheadNormal(
        torch.randn(D).double(), TRIL, 0.5 * torch.randn(M, S).double(), torch.linspace(0.3, 1.2, M).double()
    ),
    "low rank": lambda: dist.LowRankMultivariateNormal(
        torch.randn(D).double(), torch.randn(D, 2).double(), 0.1 + torch.rand(D).double()
    ),
    "full": lambda: dist.MultivariateNormal(torch.randn(D).double(), LAWS["arrow"]().covariance_matrix),
}


def natural(law):
    """Precision and precision times mean."""
    covariance = law.variance.diag() if isinstance(law, dist.Independent) else law.covariance_matrix
    precision = torch.linalg.inv(covariance)
    return precision, precision @ law.mean


@pytest.mark.parametrize("sign", [1, -0.5], ids=["added", "taken away"])
@pytest.mark.parametrize("name", LAWS)
def test_natural_parameters_are_added(name, sign):
    law, loc = LAWS[name](), torch.randn(D).double()
    own = natural(law)[0]
    least = torch.linalg.eigvalsh(own)[0]
    precision = sign * least * torch.linspace(0.1, 0.9, D).double() * (10 if sign > 0 else 1)
    new = sharpened(law, precision, loc)
    assert type(new) is type(law)
    found, expected = natural(new), natural(law)
    assert torch.allclose(found[0], expected[0] + precision.diag(), rtol=1e-5, atol=1e-5)
    assert torch.allclose(found[1], expected[1] + precision * loc, rtol=1e-5, atol=1e-5)
    at = torch.randn(5, D).double()
    tilt = -0.5 * (precision * (at - loc).square()).sum(-1)
    constant = log_normalizer(law, new, precision, loc)
    assert torch.allclose(law.log_prob(at) + tilt, new.log_prob(at) + constant)


@pytest.mark.parametrize("name", LAWS)
def test_a_power_multiplies_the_precision(name):
    law = LAWS[name]()
    new = widened(law, 2.0)
    assert torch.allclose(natural(new)[0], natural(law)[0] / 4)
    assert torch.equal(new.mean, law.mean)


def test_a_matrix_normal_is_widened_once():
    """Its two factors multiply: both twice as wide would be four times the standard deviation."""
    law = MatrixNormal(torch.randn(2, S).double(), torch.tensor([[0.5, 0.0], [0.3, 1.5]]).double(), TRIL)
    new = widened(law, 2.0)
    assert torch.allclose(new.variance, 4 * law.variance)
    assert torch.equal(new.mean, law.mean)


@pytest.mark.parametrize("name", [name for name in LAWS if name != "normal"])
def test_what_is_not_there_is_not_taken_away(name):
    new = sharpened(LAWS[name](), torch.full((D,), -1e3).double(), torch.zeros(D).double())
    assert torch.isfinite(new.mean).all()
    assert (new.variance > 0).all()


def test_gradients_reach_the_precision():
    for name, make in LAWS.items():
        law, loc = make(), torch.zeros(D).double()

        def value(log_precision, law=law, loc=loc):
            precision = log_precision.exp().expand(D)
            new = sharpened(law, precision, loc)
            return new.log_prob(loc + 0.3) + log_normalizer(law, new, precision, loc)

        point = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(value, point), name


def test_a_matrix_of_independent_numbers_stays_exact():
    rows, columns = torch.tensor([0.2, 1.5, 0.7]), torch.tensor([0.5, 2.0])
    law = MatrixNormal.from_scales(torch.randn(3, 2), rows, columns)
    precision, loc = torch.rand(3, 2), torch.randn(3, 2)
    new = sharpened(law, precision, loc)
    own = 1 / torch.outer(rows, columns).square()
    assert torch.allclose(1 / new.variance, own + precision)
    assert torch.allclose(new.mean, (own * law.mean + precision * loc) / (own + precision), atol=1e-6)


def test_a_correlated_matrix_keeps_mean_and_log_determinant():
    row, column = torch.tensor([[1.0, 0.0], [0.8, 0.3]]).double(), torch.tensor([[0.4, 0.0], [-0.1, 0.2]]).double()
    law = MatrixNormal(torch.randn(2, 2).double(), row, column)
    loc = torch.randn(2, 2).double()
    new = sharpened(law, torch.full((2, 2), 0.7).double(), loc)
    precision = torch.linalg.inv(torch.kron(row @ row.mT, column @ column.mT))
    total = precision + 0.7 * torch.eye(4)
    mean = torch.linalg.solve(total, precision @ law.mean.flatten() + 0.7 * loc.flatten()).view(2, 2)
    assert torch.allclose(new.mean, mean)
    covariance = torch.kron(
        new.row_scale_tril @ new.row_scale_tril.mT, new.column_scale_tril @ new.column_scale_tril.mT
    )
    assert math.isclose(torch.logdet(covariance), -torch.logdet(total), rel_tol=1e-6)
    with pytest.raises(ValueError, match="one precision for all"):
        sharpened(law, torch.rand(2, 2).double(), loc)


def test_other_families_are_not_known():
    law = dist.StudentT(4.0, torch.zeros(2), torch.ones(2)).to_event(1)
    assert sharpened(law, torch.ones(2), torch.zeros(2)) is None
    assert widened(law, 2.0) is None
