"""Densities of draws are those that Pyro gives, one draw at a time; interests that are propagated are averaged over."""

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from blob_pyro import BLOB, BanditPriors
from blob_pyro.models import HorseshoeKappa, ItemDeviations
from blob_pyro.models.sites import CLICK
from blob_pyro.posteriors.event_densities import event_log_likelihoods, event_logits, log_priors

PRIORS = {
    "usual": BanditPriors(),
    "terms": BanditPriors(w_c=dist.Normal(-3.0, 2.0), kappa=0.0, terms=(ItemDeviations(0.2), HorseshoeKappa())),
}


@pytest.mark.parametrize("guide", ["normal", "matrix_normal", "low_rank", "laplace"])
@pytest.mark.parametrize("priors", PRIORS)
def test_densities_are_pyros(blo, log, guide, priors):
    blob = BLOB(blo, guide, PRIORS[priors])
    blob.fits = [{"call": "fit"}]  # where it starts will do
    batch = blob.batch(log)
    torch.manual_seed(1)
    draws, log_q = blob._parts.known.sample_with_density(5)
    priors_of = log_priors(blob.model, draws)
    likelihood = torch.cat([part for _, part in event_log_likelihoods(blob.model, batch, draws)], -1)
    for i in range(5):
        one = {name: value[i] for name, value in draws.items()}
        trace = poutine.trace(poutine.condition(blob.model, one)).get_trace(batch)
        trace.compute_log_prob()
        for name in one:
            expected = trace.nodes[name]["log_prob_sum"]
            assert torch.allclose(priors_of[name][i].float(), expected, rtol=1e-4, atol=1e-3), name
        assert torch.allclose(likelihood[i], trace.nodes[CLICK]["log_prob"], rtol=1e-3, atol=1e-4)
    if hasattr(blob.guide, "shapes"):
        vector = torch.cat([draws[n].reshape(5, -1) for n in blob.guide.shapes], -1)
        expected = blob.guide.multivariate().log_prob(vector)
    else:
        expected = sum(blob.guide.site_posterior(n).log_prob(value) for n, value in draws.items())
    assert torch.allclose(log_q.float(), expected, rtol=1e-4, atol=1e-3)


def test_a_correlated_prior_counts_once(blo, log):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3))
    for call in (blob.fit, blob.update):
        call(log, progress=False)
    torch.manual_seed(2)
    draws = blob.sample(3)
    found = log_priors(blob.model, draws)
    vector = blob.model.vector_prior
    flat = torch.cat([draws[name].reshape(3, -1) for name in vector.shapes], -1).double()
    distribution = vector.distribution
    w_b, others = distribution.without(flat)
    given = [distribution.given(w) for w in w_b.float()]
    expected = distribution.density.log_prob(w_b) + torch.stack(
        [
            dist.MultivariateNormal(q.loc.double(), q.covariance_matrix.double()).log_prob(x)
            for q, x in zip(given, others)
        ]
    )
    assert list(found) == ["multivariate"]
    assert torch.allclose(found["multivariate"], expected, rtol=1e-4)


@pytest.mark.parametrize("guide", ["delta", "nuts"])
def test_point_masses_and_sets_of_draws_have_no_density(blo, guide):
    blob = BLOB(blo, guide, BanditPriors(kappa_scale=0.3))
    assert blob._parts.known.sample_with_density(2)[1] is None


def test_propagated_interests_are_averaged_over(blo, log):
    """Against the model's own noise, drawn 1,500 times."""
    blob = BLOB(blo, priors=BanditPriors(w_a=1.0, kappa_scale=0.3), omega="sample")
    batch = blob.batch(log)[torch.arange(0, 400, 80)]
    assert (batch.interest_scale > 0.05).any()
    torch.manual_seed(3)
    draws = {name: prior.sample((2,)) for name, prior in blob.model.site_priors().items()}
    loc, scale = event_logits(blob.model, batch, draws)
    found = torch.cat([part for _, part in event_log_likelihoods(blob.model, batch, draws)], -1)
    for i in range(2):
        one = {name: value[i] for name, value in draws.items()}
        with torch.no_grad():
            noisy = torch.stack([blob.model.logit(one, batch) for _ in range(1500)])
        assert ((noisy.mean(0) - loc[i]).abs() < 5 * scale[i] / 1500**0.5).all()
        assert torch.allclose(noisy.std(0), scale[i], rtol=0.11)
        probability = dist.Bernoulli(logits=noisy).log_prob(batch.reward.expand(1500, -1)).exp()
        error = probability.std(0) / 1500**0.5
        assert ((probability.mean(0) - found[i].exp()).abs() < 5 * error + 1e-6).all()


def test_what_was_not_observed_has_no_likelihood(blo, blob):
    batch = blob.model.unit_contexts()
    with pytest.raises(ValueError, match=r"batch: has no rewards.*make it of a log"):
        next(event_log_likelihoods(blob.model, batch, blob.sample(2)))
