"""Derivatives read off the model's statements against forward-mode automatic ones; grouped events against a loop."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro import BanditPriors
from blob_pyro.infer.laplace import linearization
from blob_pyro.infer.laplace.arrowhead_precision import ArrowheadPrecision
from blob_pyro.infer.laplace.linearization import GroupedEvents, Linearization
from blob_pyro.models import (
    BanditBatch,
    BanditModel,
    HorseshoeKappa,
    ItemCategories,
    ItemDeviations,
    ItemFeatures,
    KappaOnPopularity,
    UserCovariates,
)

P, K, C, N = 5, 2, 8, 300
TERMS = {
    "none": (),
    "popularity": (KappaOnPopularity(),),
    "deviations and categories": (ItemDeviations(0.2), ItemCategories((0, 1, 1, 0, 2), 0.3, 0.2)),
    "features and covariates": (ItemFeatures(torch.randn(P, 3).tolist(), 0.3, 0.2), UserCovariates(2)),
    "horseshoe": (HorseshoeKappa(),),
}


@pytest.fixture
def psi():
    return torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.4, 1.5])


@pytest.mark.parametrize("at_once", [1, 1 << 22], ids=["item by item", "all items"])
@pytest.mark.parametrize("name", TERMS)
def test_derivatives_are_the_model_s(name, at_once, psi, monkeypatch):
    monkeypatch.setattr(linearization, "_MAX_ELEMENTS", at_once)
    model = BanditModel(psi, BanditPriors(terms=TERMS[name]), torch.randn(P).double())
    shapes = {n: d.event_shape for n, d in model.site_priors().items()}
    layout, start = {}, 0
    for n, shape in shapes.items():
        layout[n] = slice(start, start := start + shape.numel())
    theta, residual = torch.randn(start).double(), torch.randn(P, K + 1 + model.num_covariates).double()

    def coefficients(theta):
        return model.coefficients({n: theta[here].view(shapes[n]) for n, here in layout.items()})

    values = {n: theta[here].view(shapes[n]) for n, here in layout.items()}
    linear = Linearization(model, values, second=True)
    jacobian = torch.cat([part for _, part in linear.jacobian(layout, shapes)])
    assert torch.allclose(jacobian, torch.autograd.functional.jacobian(coefficients, theta))
    expected = torch.autograd.functional.hessian(lambda t: (residual * coefficients(t)).sum(), theta)
    assert torch.allclose(linear.curvature(residual, layout, shapes), expected)
    assert expected.abs().max() > 1e-3


class Careless:
    def build(self, model):
        pass

    def site_priors(self, model):
        return {"careless": dist.Normal(model.item_embedding.new_zeros(()), 1.0)}

    def logit(self, model, values, events):
        return values["careless"] * events.interest[:, 0]


def test_a_site_used_without_an_operation_is_named(psi):
    model = BanditModel(psi, BanditPriors(terms=(Careless(),)))
    with pytest.raises(ValueError, match=r"the logit uses careless without blob_pyro\.models\.operations"):
        Linearization(model, {n: d.sample() for n, d in model.site_priors().items()})


@pytest.mark.parametrize("popular", [1.0, 50.0], ids=["items alike", "one item has most events, one none"])
def test_grouped_events_are_the_events(popular, psi):
    weights = torch.tensor([popular, 1.0, 1.0, 1.0, 0.0])
    action = torch.multinomial(weights, N, replacement=True)
    interest, context = torch.randn(C, K).double(), torch.randint(C, (N,))
    batch = BanditBatch(interest, context, action, (torch.rand(N) < 0.4).double(), N)
    events = GroupedEvents(BanditModel(psi), batch)
    coefficients = torch.randn(P, K + 1).double()
    features = torch.cat([interest, torch.ones(C, 1).double()], -1)[context]
    bernoulli = dist.Bernoulli(logits=(features * coefficients[action]).sum(-1))
    assert torch.allclose(events.log_likelihood(coefficients), bernoulli.log_prob(batch.reward).sum())
    residual, moments = events.moments(coefficients)
    for item in range(P):
        x, own = features[action == item], action == item
        assert torch.allclose(residual[item], (batch.reward - bernoulli.probs)[own] @ x)
        assert torch.allclose(moments[item], (x.mT * bernoulli.variance[own]) @ x)


def test_arrow_precision_against_the_full_matrix():
    shared, own = torch.randn(3, 5).double(), torch.tensor([0.3, 2.0, 9.0, 1.0]).double()
    arrowhead = ArrowheadPrecision(
        shared @ shared.mT + 3 * torch.eye(3).double(), 0.2 * torch.randn(4, 3).double(), own
    )
    full = torch.cat(
        [torch.cat([arrowhead.shared, arrowhead.cross.mT], 1), torch.cat([arrowhead.cross, arrowhead.own.diag()], 1)]
    )  # fmt: skip
    right = torch.randn(7).double()
    assert torch.allclose(arrowhead.solve(right), torch.linalg.solve(full, right))
    assert arrowhead.log_det() == pytest.approx(torch.logdet(full).item())
    distribution = arrowhead.normal(right)
    assert torch.allclose(distribution.covariance_matrix, torch.linalg.inv(full))
    free = [0, 2, 3, 4, 5, 6]
    conditional = arrowhead.conditional(1).solve(right)
    assert torch.allclose(conditional[free], torch.linalg.solve(full[free][:, free], right[free]))
    indefinite = ArrowheadPrecision(-arrowhead.shared, arrowhead.cross, own)
    assert indefinite.solve(right) is indefinite.normal(right) is indefinite.log_det() is None
