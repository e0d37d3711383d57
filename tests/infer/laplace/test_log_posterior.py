"""The log posterior: mode, curvature and evidence."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch

from blob_pyro import BanditPriors
from blob_pyro.guides import make_guide
from blob_pyro.infer.laplace.corrected_moments import Correction
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.infer.laplace.log_posterior import LogPosterior
from blob_pyro.models import (
    BanditModel,
    ItemCategories,
    ItemDeviations,
    KappaOnPopularity,
    StudentTKappa,
    UserCovariates,
)
from blob_pyro.models.priors.learned import Learned
from blob_pyro.models.sites import KAPPA
from tests.infer.laplace.laplace_problems import K, N, P, log_joint, log_joints

PRIORS = {
    "paper's sites": BanditPriors(w_b=dist.Normal(0.3, 0.5), kappa_scale=0.4),
    "no kappa": BanditPriors(w_b=dist.Normal(0.3, 0.5), kappa=0.0),
    "Student-t": BanditPriors(kappa=StudentTKappa(5.0), kappa_scale=0.4),
    "terms": BanditPriors(
        kappa_scale=0.3, terms=(KappaOnPopularity(), ItemDeviations(0.2), ItemCategories((0, 1, 1, 0, 2), 0.3, 0.2))
    ),
    "items' own betas": BanditPriors(
        kappa_scale=0.3, terms=(UserCovariates(2), ItemDeviations(0.2)), normalize_embeddings=True
    ),
    "covariates": BanditPriors(kappa_scale=0.3, terms=(UserCovariates(2),), normalize_embeddings=True),
    "other priors": BanditPriors(
        w_a=dist.StudentT(4.0, -1.0, 0.5), kappa_scale=0.3, zeta=dist.Normal(torch.zeros(2, 2), 0.7).to_event(2)
    ),
}


@pytest.mark.parametrize("conditional", [False, True], ids=["w_b fixed", "at nodes of w_b"])
@pytest.mark.parametrize("name", PRIORS)
def test_mode_and_curvature_are_those_of_the_log_joint(name, conditional, batch, monkeypatch):
    """Of all numbers; given ``w_b``, where that has a prior, at its nodes, before ``w_a`` is corrected."""
    monkeypatch.setattr("blob_pyro.infer.laplace.nested_search.correction", lambda *_: Correction(0.0, 1.0))
    psi = torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.4, 1.5])
    priors = PRIORS[name] if conditional else replace(PRIORS[name], w_b=0.3)
    model = BanditModel(psi, priors, torch.randn(P, dtype=torch.float64))
    guide = make_guide("laplace", model)
    history = fit_laplace(guide, model, batch, progress=False)
    assert history.attrs["exact_curvature"]
    assert conditional or history.log_joint.is_monotonic_increasing
    q = guide.multivariate()
    if not conditional:
        _require_mode_and_curvature(lambda t: log_joint(model, guide, batch, t), q.loc, q.covariance_matrix)
        assert history.log_joint.iloc[-1] == pytest.approx(log_joint(model, guide, batch, q.loc).item() / N)
        return
    for number in (1, 4, 7):
        node, given = q.density.nodes[number], q.at_node(number)

        def log_density(others, node=node):
            return log_joint(model, guide, batch, q.together(node, others))

        size = q.num_shared  # own noise is that of all nodes on average: looked at by its share of the variance
        shared = given.covariance_matrix[:size, :size]
        covariance = torch.linalg.inv(-torch.autograd.functional.hessian(log_density, given.loc))
        _require_mode(log_density, given.loc, covariance)
        deviation = covariance.diagonal().sqrt()
        found, expected = (
            m / torch.outer(deviation, deviation)[:size, :size] for m in (shared, covariance[:size, :size])
        )
        assert torch.allclose(found, expected, atol=2e-3)
        assert torch.allclose(given.variance.sqrt(), deviation, rtol=0.15)


def _require_mode(log_density, at, covariance):
    point = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(point), point)
    assert (gradient.abs() * covariance.diagonal().sqrt() < 0.05).all()


def _require_mode_and_curvature(log_density, at, covariance):
    point = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(point), point)
    curvature = -torch.autograd.functional.hessian(log_density, at)
    scale = curvature.diagonal().sqrt()
    assert (gradient.abs() < 3e-3 * scale).all()
    found, expected = (matrix / scale.unsqueeze(-1) for matrix in (torch.linalg.inv(covariance), curvature))
    assert torch.allclose(found, expected, rtol=2e-3, atol=1e-4)


def test_evidence_is_the_integral(batch):
    """Two numbers of unequal spread, by quadrature on a grid."""
    psi = torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.4, 1.5])
    model = BanditModel(psi, BanditPriors(w_a=dist.Normal(0.5, 0.04), w_b=-6.0, kappa=0.0, zeta=0.0))
    guide = make_guide("laplace", model)
    found = fit_laplace(guide, model, batch, progress=False).attrs["log_evidence"]
    spread = guide.multivariate().variance.sqrt()
    assert max(spread) > 2 * min(spread)
    steps = torch.linspace(-8, 8, 81).double()
    points = guide.loc + torch.cartesian_prod(steps, steps) * spread
    values = log_joints(model, guide, batch, points)
    exact = values.logsumexp(0) + 2 * math.log(16 / 80) + spread.log().sum()
    assert found == pytest.approx(exact.item(), abs=0.02)


@pytest.mark.parametrize("rate", [0.0, 4.0])
def test_a_learned_scale_moves_to_mackays_fixed_point(batch, rate):
    """``s^2 = sum x^2 / (sum (1 - variance / s_0^2) + rate s_0)`` (MacKay 1992), in numbers put there by hand."""
    model = BanditModel(torch.randn(P, K).double(), BanditPriors(kappa_scale=Learned(0.5, rate)))
    posterior = LogPosterior(make_guide("laplace", model), model, batch)
    theta, variance = torch.zeros(len(posterior.start)).double(), torch.full((len(posterior.start),), 0.1).double()
    here = posterior.layout[KAPPA]
    theta[here] = torch.tensor([0.5, -0.2, 0.1, 0.0, 0.0])  # their squares sum to 0.3
    variance[here] = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.25])  # of 0.25: 0.8 + 0.6 + 0.4 + 0.2 + 0 numbers are known
    assert float(posterior.num_known(KAPPA, variance)) == pytest.approx(2)
    assert posterior.update_scales(theta, variance, fixed=["kappa_scale"]) == 0
    assert float(model.kappa_scale.detach()) == pytest.approx(0.5)
    change = posterior.update_scales(theta, variance)
    expected = (0.3 / (2 + 0.5 * rate)) ** 0.5
    assert float(model.kappa_scale.detach()) == pytest.approx(expected)
    assert change == pytest.approx(1 - expected / 0.5)


@pytest.mark.parametrize("size", [1, 2], ids=["one number", "two numbers"])
def test_the_evidence_is_the_integral(batch, size):
    """Against the sum of the joint density over a grid; Laplace's error is far below the constant it could lack."""
    free = {"w_c": dist.Normal(-1.0, 1.0), "w_a": dist.Normal(-1.0, 0.7) if size == 2 else 0.3}
    model = BanditModel(torch.randn(P, K).double(), BanditPriors(w_b=-3.0, kappa=0.0, zeta=0.0, **free))
    guide = make_guide("laplace", model)
    history = fit_laplace(guide, model, batch, progress=False)
    tril = torch.linalg.cholesky(guide.multivariate().covariance_matrix)
    grid = torch.linspace(-6, 6, 41).double()
    points = torch.cartesian_prod(*[grid] * size).view(-1, size) @ tril.mT
    values = log_joints(model, guide, batch, guide.loc + points)
    cell = size * math.log(12 / 40) + float(tril.diagonal().log().sum())
    assert history.attrs["log_evidence"] == pytest.approx(float(values.logsumexp(0)) + cell, abs=0.03)
