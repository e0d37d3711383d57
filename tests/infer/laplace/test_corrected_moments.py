"""Moments of one number against sums over a grid, and what moves along with it."""

from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal
from blob_pyro.guides import make_guide
from blob_pyro.infer.laplace.arrowhead_precision import ArrowheadPrecision
from blob_pyro.infer.laplace.corrected_moments import Correction, correction, moved
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.infer.laplace.log_posterior import LogPosterior
from blob_pyro.models import BanditModel, BanditPriors
from tests.infer.laplace.laplace_problems import K, P, log_joint


def test_w_a_has_the_moments_of_its_marginal(batch):
    """Little interest in what views say: the softplus is flat where the mass is, and the mode is no mean."""
    torch.manual_seed(1)
    psi = torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.4, 1.0])
    priors = BanditPriors(w_a=dist.Normal(-1.0, 1.5), w_b=dist.Normal(-2.0, 0.5), w_c=-1.0, kappa=0.0, zeta=0.0)
    model = BanditModel(psi, priors)
    batch = replace(batch, reward=(torch.rand(len(batch)) < 0.27).double())
    guide = make_guide("laplace", model)
    fit_laplace(guide, model, batch, progress=False)
    q = guide.multivariate()
    grid = torch.linspace(-8, 3, 441).double()
    values = torch.stack([log_joint(model, guide, batch, torch.stack([w_a, grid.new_tensor(-2.0)])) for w_a in grid])
    weights = values.detach().softmax(0)
    mean = weights @ grid
    spread = (weights @ (grid - mean).square()).sqrt()
    mode = grid[values.argmax()]
    assert abs(mode - mean) > 0.3 * spread
    assert abs(q.mean[0] - mean) < 0.05 * spread
    assert float(q.variance[0].sqrt() / spread) == pytest.approx(1, abs=0.05)


def test_of_a_gaussian_nothing_is_corrected(batch):
    model = BanditModel(torch.randn(P, K).double(), BanditPriors(w_b=dist.Normal(-2.0, 0.5), kappa_scale=0.4))
    posterior = LogPosterior(make_guide("laplace", model), model, batch)
    posterior.events.log_likelihood = lambda coefficients: coefficients.sum() * 0
    posterior.events.moments = lambda c: (torch.zeros_like(c), c.new_zeros(*c.shape, c.shape[-1]))
    size = len(posterior.start)
    free = torch.arange(size) != 1
    shared, own = posterior.spread[free].split([posterior.num_shared - 1, posterior.num_own])
    prior = ArrowheadNormal(posterior.start[free], shared.diag(), own.new_zeros(len(own), len(shared)), own)
    found = correction(posterior, posterior.start, prior, fixed=1, number=0)
    assert found.shift == pytest.approx(0, abs=1e-6)
    assert found.ratio == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("blocks", [False, True], ids=["numbers", "blocks"])
def test_others_follow(blocks):
    torch.manual_seed(2)
    tril = torch.randn(3, 3).double().tril(-1) + torch.tensor([0.3, 1.0, 2.0]).double().diag()
    loading, loc = torch.randn(4, 3).double(), torch.randn(7).double()
    q = ArrowheadNormal(loc, tril, loading, torch.rand(4).double() + 0.1)
    if blocks:
        q = BlockArrowheadNormal(loc, tril, loading.view(2, 2, 3), torch.eye(2).double().expand(2, 2, 2), (1, 1))
    found = moved(q, 1, Correction(shift=-0.5, ratio=1.4))
    covariance = q.covariance_matrix
    deviation, direction = covariance[1, 1].sqrt(), covariance[1] / covariance[1, 1]
    assert torch.allclose(found.loc, q.loc - 0.5 * deviation * direction)
    expected = covariance + (1.4**2 - 1) * deviation**2 * torch.outer(direction, direction)
    assert torch.allclose(found.covariance_matrix, expected)
    assert found.variance[1].sqrt() == pytest.approx(float(1.4 * deviation))


@pytest.mark.parametrize("slope", [0.3, -0.5])
def test_room_beside_the_line_counts(slope):
    """``exp(-(a^2 + x^2 e^{2 s a}) / 2)``: the joint mode is at zero, and ``a`` has a normal marginal around ``-s``."""

    class Funnel:
        def objective(self, theta):
            a, _, x = theta
            return float(0.5 * (a.square() + x.square() * (2 * slope * a).exp()))

        def expansion(self, theta):
            a, _, x = theta
            tight = (2 * slope * a).exp()
            gradient = torch.stack([a + slope * x.square() * tight, 0 * a, x * tight])
            diagonal = torch.stack([torch.ones_like(a), torch.ones_like(a), tight])
            return gradient, ArrowheadPrecision(diagonal.diag(), theta.new_zeros(0, 3), theta.new_zeros(0))

    theta = torch.zeros(3).double()
    gaussian = ArrowheadNormal(theta[:2], torch.eye(2).double(), theta.new_zeros(0, 2), theta[:0])
    found = correction(Funnel(), theta, gaussian, fixed=1, number=0)
    assert found.shift == pytest.approx(-slope, abs=0.01)
    assert found.ratio == pytest.approx(1, abs=0.01)
