"""Priors as numbers, distributions and functions of the model, and refusals."""

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.nn.functional import softplus

from blob_pyro import BanditPriors
from blob_pyro.models import (
    BanditModel,
    ItemCategories,
    ItemFeatures,
    KappaOnPopularity,
    UserCovariates,
)
from blob_pyro.models.sites import CLICK, KAPPA, W_A, W_B, W_C, ZETA


def test_numbers_distributions_and_callables(psi, rho, batch):
    priors = BanditPriors(
        w_a=0.5,
        w_c=dist.StudentT(4.0, -3.0, 1.0),
        kappa=lambda model: dist.Normal(0.1 * model.item_intercept, 0.2).to_event(1),
        zeta=0.0,
    )
    model = BanditModel(psi, priors, rho)
    trace = poutine.trace(model).get_trace(batch)
    assert [n for n in trace.nodes if n in (W_A, W_B, W_C, KAPPA, ZETA)] == [W_B, W_C, KAPPA]
    assert torch.allclose(trace.nodes[KAPPA]["fn"].mean, 0.1 * rho)
    kappa, w_c = trace.nodes[KAPPA]["value"], trace.nodes[W_C]["value"]
    affinity = (psi[batch.action] * batch.interest[batch.context]).sum(-1)
    expected = softplus(torch.tensor(0.5).double()) * affinity + kappa[batch.action] + w_c
    assert torch.allclose(trace.nodes[CLICK]["fn"].logits, expected)


def test_a_scale_may_have_a_prior(psi, batch):
    model = BanditModel(psi, BanditPriors(kappa_scale=dist.HalfNormal(0.5)))
    trace = poutine.trace(model).get_trace(batch)
    log_scale, standard = (trace.nodes[n]["value"] for n in ("log_kappa_scale", "whitened_kappa"))
    without = BanditModel(psi, BanditPriors(kappa=0.0)).logit(
        {n: trace.nodes[n]["value"] for n in (W_A, W_B, W_C, ZETA)}, batch
    )
    assert torch.allclose(trace.nodes[CLICK]["fn"].logits - without, log_scale.exp() * standard[batch.action])
    density = dist.HalfNormal(torch.tensor(0.5).double()).log_prob(log_scale.exp()) + log_scale
    assert torch.allclose(trace.nodes["log_kappa_scale"]["fn"].log_prob(log_scale), density)


BAD = {
    "kappa's size": (
        BanditPriors(kappa=dist.Normal(torch.zeros(5), 1.0).to_event(1)),
        r"prior of 'kappa': expected event shape \(6,\)",
    ),
    "zeta's size": (
        BanditPriors(zeta=dist.Normal(torch.zeros(3, 2), 1.0).to_event(2)),
        r"prior of 'zeta'.*got \(3, 2\)",
    ),
    "support": (
        BanditPriors(w_a=dist.HalfNormal(1.0)),
        "prior of 'w_a': its support is .* every parameter is a real number",
    ),
    "categories": (BanditPriors(terms=(ItemCategories((0, 1)),)), "categories: expected 6 integers from 0"),
    "features": (BanditPriors(terms=(ItemFeatures(((1.0,),)),)), "features: expected 6 x F finite numbers"),
    "covariates": (BanditPriors(terms=(UserCovariates(0),)), "num_covariates: must be at least 1"),
    "no popularity": (BanditPriors(terms=(KappaOnPopularity(),)), "every item has the same intercept"),
    "random scale": (
        BanditPriors(kappa_scale=dist.Normal(0.0, 1.0)),
        "kappa_scale: expected a distribution over positive",
    ),
    "not a term": (BanditPriors(terms=(3,)), "terms: 3 is not a LogitTerm"),
}


@pytest.mark.parametrize(("priors", "message"), BAD.values(), ids=BAD.keys())
def test_bad_priors_are_named(priors, message, psi):
    with pytest.raises(ValueError, match=message):
        BanditModel(psi, priors)


def test_vectors_need_their_event_dimension():
    with pytest.raises(
        ValueError, match=r"kappa: expected a distribution over a vector of num_items: use .to_event\(1\)"
    ):
        BanditPriors(kappa=dist.Normal(torch.zeros(6), 1.0))
