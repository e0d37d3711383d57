"""The weights' posterior against dense algebra: one Gaussian of all else, by Hessians, at each point of a grid.

The log-likelihood is averaged over the logits that the fit has, whose variances are by the Jacobian of all sites.
"""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

from blob_pyro.distributions import ArrowheadNormal
from blob_pyro.guides import ArrowheadNormalGuide
from blob_pyro.infer import correlate_weights
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors, VectorPrior

ITEMS, SIZE, EVENTS = 5, 2, 60


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Grids differ, and what they miss of tails."""
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def problem(seed: int = 0, **options) -> tuple[BanditModel, ArrowheadNormalGuide, BanditBatch]:
    """A model of few items, a guide that is anywhere, and clicks: no number is special."""
    numbers = torch.Generator().manual_seed(seed)
    psi = torch.randn(ITEMS, SIZE, generator=numbers, dtype=torch.float64) * torch.tensor([1.0, 1.7])
    given = {
        "w_a": dist.Normal(torch.tensor(-1.0).double(), 0.8),
        "w_b": dist.Normal(torch.tensor(-0.5).double(), 0.7),
        "w_c": dist.Normal(torch.tensor(-1.0).double(), 0.9),
        "kappa_scale": 0.6,
    }
    model = BanditModel(psi, BanditPriors(**{**given, **options}))
    guide = ArrowheadNormalGuide(model).double()
    with torch.no_grad():
        for name in guide.shapes:
            loc = getattr(guide, f"{name}_loc")
            setattr(guide, f"{name}_loc", loc + 0.3 * torch.randn(loc.shape, generator=numbers, dtype=loc.dtype))
    interest = 0.5 + torch.randn(12, SIZE, generator=numbers, dtype=torch.float64)
    context, action = (torch.randint(n, (EVENTS,), generator=numbers) for n in (12, ITEMS))
    reward = (torch.rand(EVENTS, generator=numbers) < 0.35).double()
    return model, guide, BanditBatch(interest, context, action, reward, EVENTS)


def by_dense_algebra(model: BanditModel, guide: ArrowheadNormalGuide, batch: BanditBatch, num_nodes: int = 33) -> dict:
    """The same moments by Hessians of the log-likelihood and the log prior, and one Gaussian for each grid point."""
    at = {n: getattr(guide, f"{n}_loc").detach().clone() for n in guide.shapes}
    at = {**model.fixed_values(), **at}
    psi, row = model.item_embedding[batch.action], batch.interest[batch.context] @ model.whitening
    along = torch.linalg.inv(model.whitening).mT
    z = softplus(at["w_a"]) * along + softplus(at["w_b"]) * at["zeta"]
    start = torch.cat([z.flatten(), at["kappa"], at["w_c"].view(1)])

    def logits(sites: dict) -> torch.Tensor:
        v = {**at, **sites}
        z = softplus(v["w_a"]) * along + softplus(v["w_b"]) * v["zeta"]
        return ((psi @ z) * row).sum(-1) + v["kappa"][batch.action] + v["w_c"]

    in_doubt = {n: at[n] for n in guide.shapes}
    by_site = torch.func.jacrev(logits)(in_doubt)
    variances = [
        by_site[n].view(EVENTS, -1).square() @ getattr(guide, f"{n}_scale").detach().flatten().square()
        for n in in_doubt
    ]
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
    spread = sum(variances).sqrt() * nodes.unsqueeze(-1)  # of each event's logit, by node

    def log_likelihood(beta: torch.Tensor) -> torch.Tensor:
        z, kappa, w_c = beta.split([SIZE**2, ITEMS, 1])
        logit = ((psi @ z.view(SIZE, SIZE)) * row).sum(-1) + kappa[batch.action] + w_c
        each = dist.Bernoulli(logits=logit + spread).log_prob(batch.reward)
        return (weights / weights.sum()) @ each.sum(-1)

    gradient, hessian = torch.func.grad(log_likelihood)(start), torch.func.hessian(log_likelihood)(start)
    names = [n for n in ("zeta", "kappa", "w_c") if n in guide.shapes]
    priors, vector = model.site_priors(), model.vector_prior

    def log_joint(x: torch.Tensor, w_a: torch.Tensor, w_b: torch.Tensor) -> torch.Tensor:
        pieces = dict(zip(names, x.split([guide.shapes[n].numel() for n in names])))
        v = {**at, **{n: piece.view(guide.shapes[n]) for n, piece in pieces.items()}, "w_a": w_a, "w_b": w_b}
        z = softplus(w_a) * along + softplus(w_b) * v["zeta"]
        away = torch.cat([z.flatten(), v["kappa"], v["w_c"].view(1)]) - start
        total = gradient @ away + 0.5 * away @ hessian @ away
        if vector is not None:
            return total + vector.distribution.log_prob(torch.cat([v[n].flatten() for n in vector.shapes]))
        return total + sum(priors[n].log_prob(v[n]) for n in guide.shapes)

    reach = torch.linspace(-5, 5, num_nodes, dtype=torch.float64)
    spans = [
        priors[n].mean + reach * priors[n].variance.sqrt() if n in guide.shapes else at[n].view(1)
        for n in ("w_a", "w_b")
    ]
    zero = torch.zeros(sum(guide.shapes[n].numel() for n in names), dtype=torch.float64)
    w = torch.cartesian_prod(*spans)
    by = (None, 0, 0)
    precision = -torch.vmap(torch.func.hessian(log_joint), by)(zero, *w.T)
    mean = torch.linalg.solve(precision, torch.vmap(torch.func.grad(log_joint), by)(zero, *w.T))
    log_density = torch.vmap(log_joint)(mean, *w.T) - 0.5 * torch.logdet(precision)
    covariance = torch.linalg.inv(precision)
    full = torch.cat([w, mean], -1)  # w_a, w_b, zeta, kappa, w_c
    within = torch.nn.functional.pad(covariance, (2, 0, 2, 0))
    share = torch.softmax(log_density, 0)
    tilted = share * softplus(w[:, 1]) / (share @ softplus(w[:, 1]))
    result = {"strength": share @ softplus(w[:, 1])}
    for kind, weight in (("plain", share), ("tilted", tilted)):
        loc = weight @ full
        away = full - loc
        result[kind] = loc, (away.mT * weight) @ away + (weight[:, None, None] * within).sum(0)
    return result


def after_an_update(with_kappa: bool = True) -> VectorPrior:
    numbers = torch.Generator().manual_seed(5)
    size = SIZE**2 + ITEMS * with_kappa

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=numbers, dtype=torch.float64)

    tril = 0.5 * torch.tril(0.3 * some(3, 3), -1) + torch.tensor([0.6, 0.5, 0.4]).double().diag()
    loc = torch.cat([torch.tensor([-1.0, -0.5, -1.0]).double(), 0.3 * some(size)])
    own = 0.3 + 0.4 * torch.rand(size, generator=numbers, dtype=torch.float64)
    distribution = ArrowheadNormal(loc, tril, 0.2 * some(size, 3), own)
    shapes = {"w_a": (), "w_b": (), "w_c": (), "zeta": (SIZE, SIZE)}
    return VectorPrior(distribution, {**shapes, "kappa": (ITEMS,)} if with_kappa else shapes)


@pytest.mark.parametrize("case", ["independent", "vector"])
def test_moments_are_those_of_dense_algebra(case: str) -> None:
    model, guide, batch = problem(**({"vector": after_an_update()} if case == "vector" else {}))
    exact = by_dense_algebra(model, guide, batch)
    correlate_weights(model, guide, batch)
    order = [0, 1, 2 + SIZE**2 + ITEMS]  # of the weights in the oracle's vector
    zeta, kappa = slice(2, 2 + SIZE**2), slice(2 + SIZE**2, 2 + SIZE**2 + ITEMS)
    vector, (loc, covariance) = guide.multivariate(), exact["plain"]
    assert_near(vector.mean[:3], loc[order])
    assert_near(vector.covariance_matrix[:3, :3], covariance[order][:, order])
    assert_near(guide.kappa_loc, loc[kappa])
    assert_near(vector.covariance_matrix[-ITEMS:, :3], covariance[kappa][:, order])
    tilted_loc, tilted = exact["tilted"]
    slope = tilted[zeta][:, order] @ torch.linalg.inv(tilted[order][:, order])
    assert_near(guide.zeta_slope.flatten(0, 1), slope)
    assert_near(guide.zeta_loc.flatten(), tilted_loc[zeta] + slope @ (loc - tilted_loc)[order])


def test_kappas_that_are_known_stay_known_after_an_update() -> None:
    model, guide, batch = problem(vector=after_an_update(with_kappa=False), kappa=0.3)
    loc, covariance = by_dense_algebra(model, guide, batch)["plain"]
    correlate_weights(model, guide, batch)
    order, vector = [0, 1, 2 + SIZE**2], guide.multivariate()
    assert_near(vector.mean[:3], loc[order])
    assert_near(vector.covariance_matrix[:3, :3], covariance[order][:, order])


def test_weights_that_are_known_stay_where_they_are() -> None:
    """Given two of them the third has the moments of dense algebra; what is no site is left out."""
    for known in ("w_a", "w_b", "w_c"):
        model, guide, batch = problem(**{known: -0.7})
        loc, covariance = by_dense_algebra(model, guide, batch)["plain"]
        correlate_weights(model, guide, batch)
        end = 2 + SIZE**2 + ITEMS
        order = [i for i, name in ((0, "w_a"), (1, "w_b"), (end, "w_c")) if name != known]
        vector = guide.multivariate()
        assert_near(vector.mean[:2], loc[order])
        assert_near(vector.covariance_matrix[:2, :2], covariance[order][:, order])
        assert_near(vector.covariance_matrix[-ITEMS:, :2], covariance[2 + SIZE**2 : end][:, order])


def test_logits_keep_their_mean() -> None:
    """The regression of zeta is such that the mean of ``sp(w_b) zeta`` is what the grid has."""
    model, guide, batch = problem()
    exact = by_dense_algebra(model, guide, batch)
    (loc, _), mean_b = exact["tilted"], exact["strength"]
    correlate_weights(model, guide, batch)
    w = guide.multivariate().mean[:3]
    order = [0, 1, 2 + SIZE**2 + ITEMS]
    along = guide.zeta_loc.flatten() + guide.zeta_slope.flatten(0, 1) @ (loc[order] - w)
    assert_near(mean_b * along, mean_b * loc[2 : 2 + SIZE**2])


@pytest.mark.parametrize("fixed", [{"zeta": 0.0, "w_b": -6.0}, {"kappa": 0.0}, {"w_a": 0.5, "w_b": -6.0, "w_c": -2.0}])
def test_models_of_fewer_sites_are_taken(fixed: dict) -> None:
    model, guide, batch = problem(**fixed)
    correlate_weights(model, guide, batch)
    assert guide.is_correlated == bool(guide.weights)
    assert torch.isfinite(guide.multivariate().sample((10,))).all()
