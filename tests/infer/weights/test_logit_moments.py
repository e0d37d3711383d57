"""Moments of events' logits under a guide against its draws, and averages over them against SciPy's integrals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from blob_pyro.guides import LowRankGuide
from blob_pyro.infer.elbo import RecordDistributions
from blob_pyro.infer.weights.logit_moments import expected_click, logit_moments
from blob_pyro.models import ItemDeviations
from tests.infer.weights.test_posterior import EVENTS, after_an_update, problem


@pytest.mark.parametrize("case", ["independent", "vector", "own betas"])
def test_moments_are_those_of_draws(case: str) -> None:
    """To first order in the weights that enter by a softplus, which are all but certain here."""
    options = {"vector": {"vector": after_an_update()}, "own betas": {"terms": (ItemDeviations(0.4),)}}
    model, guide, batch = problem(**options.get(case, {}))
    with torch.no_grad():
        guide.w_a_scale, guide.w_b_scale = torch.tensor(0.03).double(), torch.tensor(0.02).double()
        guide.w_c_scale = torch.tensor(0.7).double()
        if case == "vector":  # kappa and zeta follow the weights
            guide.kappa_slope.normal_(generator=torch.Generator().manual_seed(1))
            guide.share_nothing()
        with RecordDistributions() as record:
            guide()
        means = {name: getattr(guide, f"{name}_loc").detach() for name in guide.shapes}
        mean, variance = logit_moments(model, means, record.posterior, batch)
        torch.manual_seed(0)
        numbers = guide.multivariate().sample((20_000,)).split([shape.numel() for shape in guide.shapes.values()], -1)
        values = {name: part.view(-1, *shape) for part, (name, shape) in zip(numbers, guide.shapes.items())}
        draws = torch.vmap(lambda value: model.logit(value, batch))(values)
    assert mean.shape == variance.shape == (EVENTS,)
    torch.testing.assert_close(draws.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(draws.var(0), variance, atol=0, rtol=0.06)


def test_sites_of_one_vector_move_logits_together() -> None:
    """By the Jacobian of all sites and the whole covariance, which is far from diagonal."""
    model, _, batch = problem()
    guide, numbers = LowRankGuide(model).double(), torch.Generator().manual_seed(2)
    with torch.no_grad():
        guide.loc = guide.loc + 0.3 * torch.randn(guide.loc.shape, generator=numbers, dtype=torch.float64)
        guide.factor = 2 * torch.randn(guide.factor.shape, generator=numbers, dtype=torch.float64)
        with RecordDistributions() as record:
            guide()
        pieces = guide.multivariate().mean.split([shape.numel() for shape in guide.shapes.values()])
        means = {name: piece.view(shape) for piece, (name, shape) in zip(pieces, guide.shapes.items())}
    mean, variance = logit_moments(model, means, record.posterior, batch)
    by_site = torch.func.jacrev(lambda values: model.logit(values, batch))(means)
    jacobian = torch.cat([by_site[name].reshape(EVENTS, -1) for name in means], -1)
    covariance = guide.multivariate().covariance_matrix.detach()
    torch.testing.assert_close(mean, model.logit(means, batch))
    torch.testing.assert_close(variance, ((jacobian @ covariance) * jacobian).sum(-1))


@pytest.mark.parametrize(
    ("loc", "scale", "off"), [(-7.3, 0.8, 1e-9), (2.0, 0.0, 1e-12), (9.0, 1.3, 1e-5), (0.4, 2.0, 5e-4)]
)
def test_clicks_are_averaged_over_logits(loc: float, scale: float, off: float) -> None:
    mean, variance = torch.tensor([[loc], [scale**2]], dtype=torch.float64)
    probability, slope = expected_click(mean, variance)
    if scale:
        span = (loc - 12 * scale, loc + 12 * scale)
        exact = [quad(lambda x, f=f: f(expit(x)) * norm.pdf(x, loc, scale), *span, epsabs=1e-13)[0]
                 for f in (lambda p: p, lambda p: p * (1 - p))]  # fmt: skip
    else:
        exact = [expit(loc), expit(loc) * expit(-loc)]
    np.testing.assert_allclose([float(probability), float(slope)], exact, rtol=off)
