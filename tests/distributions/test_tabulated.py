"""A tabulated density against sums over a fine grid, and against the normal distribution."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.distributions import TabulatedDensity

NODES = torch.linspace(-5.0, 3.0, 9).double()


@pytest.fixture
def skewed():
    return TabulatedDensity(NODES, -0.5 * torch.where(NODES < 0, 0.4, 1.5) * NODES.square() + 1000)


def test_it_is_normalised_with_its_moments(skewed):
    x = torch.linspace(-60, 30, 900_001).double()
    p = skewed.log_prob(x).exp()
    total = torch.trapezoid(p, x)
    mean = torch.trapezoid(p * x, x)
    variance = torch.trapezoid(p * (x - mean) ** 2, x)
    assert float(total) == pytest.approx(1, abs=1e-6)
    assert float(skewed.mean) == pytest.approx(float(mean), abs=1e-5)
    assert float(skewed.variance) == pytest.approx(float(variance), rel=1e-5)
    entropy = -torch.trapezoid(p * skewed.log_prob(x), x)
    assert float(skewed.entropy()) == pytest.approx(float(entropy), abs=1e-5)
    assert float(skewed.mean) < -0.3


def test_points_of_quadrature_are_found_once(skewed):
    points, weights = skewed.quadrature()
    assert skewed.quadrature()[0] is points
    assert float(weights.sum()) == pytest.approx(1)


def test_quantiles_invert_the_distribution(skewed):
    x = torch.linspace(-60, 30, 900_001).double()
    cumulative = torch.cumulative_trapezoid(skewed.log_prob(x).exp(), x)
    levels = torch.tensor([1e-6, 0.003, 0.2, 0.5, 0.77, 0.999, 1 - 1e-6]).double()
    found = torch.searchsorted(x, skewed.icdf(levels)) - 1
    assert torch.allclose(cumulative[found], levels, atol=1e-4)
    assert torch.allclose(cumulative[found][[0]], levels[[0]], rtol=0.05)


def test_draws_have_its_density(skewed):
    torch.manual_seed(0)
    draws = skewed.sample((20_000,))
    assert abs(draws.mean() - skewed.mean) < 4 * (skewed.variance / 20_000).sqrt()
    assert torch.isclose(draws.var(), skewed.variance, rtol=0.05)
    assert skewed.log_prob(skewed.mode) > skewed.log_prob(torch.linspace(-1, 1, 999).double()).max() - 1e-6


def test_of_a_normals_values_it_is_that():
    normal = dist.Normal(torch.tensor(0.3).double(), 0.7)
    nodes = 0.3 + 0.7 * torch.linspace(-4, 4, 9).double()
    found = TabulatedDensity(nodes, normal.log_prob(nodes))
    x = torch.linspace(-2.4, 3.0, 50).double()
    assert torch.allclose(found.log_prob(x), normal.log_prob(x), atol=3e-3)
    assert found.variance.sqrt().item() == pytest.approx(0.7, rel=2e-3)


@pytest.mark.parametrize(
    ("nodes", "values", "message"),
    [
        (torch.arange(3.0), torch.zeros(3), "expected four nodes or more"),
        (torch.arange(5.0), torch.zeros(4), r"values of shape \(4,\)"),
        (torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.zeros(4), "nodes must increase"),
    ],
)
def test_what_it_refuses(nodes, values, message):
    with pytest.raises(ValueError, match=message):
        TabulatedDensity(nodes, values)
