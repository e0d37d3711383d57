"""The marginal density of ``w_b``, where the joint mode misleads and where there are several modes."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.guides import make_guide
from blob_pyro.infer.laplace.fit import fit_laplace
from tests.infer.laplace.laplace_problems import deviating, log_joint, marginal_of_w_b


@pytest.mark.parametrize("strength", [0.3, 2.0], ids=["no deviation", "a clear deviation"])
def test_w_b_is_where_its_marginal_is_not_the_joint_mode(strength):
    """Against its marginal density with zeta integrated out by draws from the prior."""
    prior, grid = dist.Normal(-1.0, 1.0), torch.linspace(-5, 3, 33).double()
    model, batch = deviating(strength, prior)
    guide = make_guide("laplace", model)
    fit_laplace(guide, model, batch, progress=False)
    q = guide.multivariate()
    weights = marginal_of_w_b(model, batch, prior, grid)
    mean = (weights * grid).sum()
    spread = (weights * (grid - mean).square()).sum().sqrt()
    assert abs(q.mean[0] - mean) < 0.12 * spread
    assert torch.isclose(q.variance[0].sqrt(), spread, rtol=0.12)
    skew = (weights * ((grid - mean) / spread) ** 3).sum()
    points, chances = q.density.quadrature()
    found = (chances * ((points - q.mean[0]) / q.variance[0].sqrt()) ** 3).sum()
    assert abs(found - skew) < 0.25

    theta = guide.mode.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -log_joint(model, guide, batch, theta)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert theta[0] > mean + 0.5 * spread, "the trap is there"


@pytest.mark.parametrize(
    ("strength", "num_events", "seed"),
    [(2.0, 1200, 1), (2.0, 1800, 1), (3.0, 4200, 2)],
    ids=["far above the prior", "beyond a valley", "two modes"],
)
def test_w_b_is_not_lost_among_several_modes(strength, num_events, seed):
    """One lies at the prior's, where zeta says nothing, and others beyond, as far as events ask for a strong zeta."""
    prior, grid = dist.Normal(-6.0, 1.0), torch.linspace(-11, 3, 81).double()
    model, batch = deviating(strength, prior, num_events, seed)
    guide = make_guide("laplace", model)
    fit_laplace(guide, model, batch, progress=False)
    q = guide.multivariate()
    weights = marginal_of_w_b(model, batch, prior, grid)
    mean = (weights * grid).sum()
    assert abs(q.mean[0] - mean) < 0.15
    assert abs(q.variance[0].sqrt() - (weights * (grid - mean).square()).sum().sqrt()) < 0.15
    rounded = (q.node_weights * q.density.nodes).sum()  # as click logits take it
    assert abs(rounded - q.mean[0]) < 0.01
