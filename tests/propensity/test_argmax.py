"""Argmax of any base distribution: closed forms, the special families, Monte Carlo, and awkward densities."""

import pytest
import torch
from torch.distributions import (
    Beta,
    Categorical,
    Cauchy,
    Exponential,
    Gamma,
    Gumbel,
    Kumaraswamy,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    Normal,
    Pareto,
    StudentT,
    Uniform,
)

from blob_pyro.propensity import Argmax, ArgmaxBeta, ArgmaxNormal
from tests.propensity.propensity_oracles import double, standard_errors

BASES = {
    "gamma": Gamma(double(1.0, 3.0, 9.0, 0.3), double(1.0, 2.0, 4.0, 0.1)),
    "student": StudentT(double(3.0, 5.0, 2.5), double(0.0, 1.0, 2.0), double(1.0, 2.0, 0.1)),
    "cauchy": Cauchy(double(0.0, 1.0, 2.0), double(1.0, 2.0, 0.1)),
    "laplace, with cusps": Laplace(double(0.0, 1.0, 1.5), double(1.0, 2.0, 0.01)),
    "kumaraswamy": Kumaraswamy(double(1.0, 2.0, 0.5), double(2.0, 3.0, 0.7)),
    "lognormal": LogNormal(double(0.0, 1.0, 2.0), double(2.0, 1.0, 0.5)),
    "uniform, with jumps": Uniform(double(0.0, 0.2, 0.5), double(1.0, 1.2, 0.8)),
    "pareto, with different ends": Pareto(double(1.0, 2.0, 1.5), double(3.0, 4.0, 2.0)),
    "mixture": MixtureSameFamily(
        Categorical(double(1.0, 3.0, 1.0, 1.0, 2.0, 1.0).reshape(3, 2)),
        Normal(double(0.0, 3.0, 1.0, 1.1, -2.0, 4.0).reshape(3, 2), double(1.0, 0.1, 0.5, 2.0, 1.0, 0.3).reshape(3, 2)),
    ),
}


@pytest.mark.parametrize("minimum", [False, True], ids=["argmax", "argmin"])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_matches_monte_carlo(base, minimum):
    d = Argmax(base, minimum=minimum)
    scores = base.sample((200_000,))
    winners = scores.argmin(-1) if minimum else scores.argmax(-1)
    frequency = torch.bincount(winners, minlength=d.num_actions) / 200_000
    assert standard_errors(d.probs, frequency, 200_000) < 4.5
    assert abs(d.probs.sum().item() - 1) < 1e-10


def test_exponentials_race():
    rate = double(1.0, 2.0, 7.0)
    torch.testing.assert_close(Argmax(Exponential(rate), minimum=True).probs, rate / rate.sum(), rtol=0, atol=1e-12)


def test_gumbels_are_a_softmax():
    loc = double(0.0, 1.0, 2.5)
    d = Argmax(Gumbel(loc, torch.ones_like(loc)))
    torch.testing.assert_close(d.probs, loc.softmax(-1), rtol=0, atol=1e-12)


def test_uniforms_are_piecewise_polynomials():
    """P(U(0, 1) > U(0.2, 1.2)) = 0.8^2 / 2."""
    d = Argmax(Uniform(double(0.0, 0.2), double(1.0, 1.2)))
    torch.testing.assert_close(d.probs, double(0.32, 0.68), rtol=0, atol=1e-11)


def test_special_families_are_special_cases():
    loc, scale = double(0.0, 1e3, 1000.5), double(300.0, 1e-3, 1.0)
    torch.testing.assert_close(Argmax(Normal(loc, scale)).probs, ArgmaxNormal(loc, scale).probs, rtol=0, atol=1e-12)
    a, b = double(2.0, 1.5, 10.0), double(8.0, 3.5, 30.0)
    torch.testing.assert_close(Argmax(Beta(a, b)).probs, ArgmaxBeta(a, b).probs, rtol=0, atol=1e-12)


def test_batches():
    concentration = torch.rand(4, 1, 3).double() * 5 + 0.5
    d = Argmax(Gamma(concentration, torch.ones(4, 1, 3).double()))
    assert d.batch_shape == (4, 1)
    alone = Argmax(Gamma(concentration[2, 0], torch.ones(3).double()))
    torch.testing.assert_close(d.probs[2, 0], alone.probs, rtol=0, atol=1e-11)


def test_gradients():
    concentration = double(1.0, 3.0, 9.0).requires_grad_()
    rate = double(1.0, 2.0, 4.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, r: Argmax(Gamma(c, r)).probs, (concentration, rate))


@pytest.mark.cuda
def test_cuda_agrees_with_cpu():
    concentration, rate = double(1.0, 3.0, 9.0), double(1.0, 2.0, 4.0)
    on_device = Argmax(Gamma(concentration.cuda(), rate.cuda())).probs
    assert on_device.is_cuda
    torch.testing.assert_close(on_device.cpu(), Argmax(Gamma(concentration, rate)).probs, rtol=0, atol=1e-11)
