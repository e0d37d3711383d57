"""Priors beyond the paper's: each term adds what it says, is learned from data, and comes back from disk."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro import BanditPriors, Learned
from blob_pyro.models import (
    BanditBatch,
    BanditModel,
    HorseshoeKappa,
    ItemCategories,
    ItemDeviations,
    ItemFeatures,
    KappaOnPopularity,
    StudentTKappa,
    UserCovariates,
)
from blob_pyro.models.sites import KAPPA, ZETA
from blob_pyro.serialization.codec import decode, encode
from blob_pyro.testing import check_guide
from tests.models.priors.term_problems import C, F, K, N, P

CATEGORIES = (0, 1, 1, 0, 2, 2)


FEATURES = tuple((float(p), (-1.0) ** p, 0.5) for p in range(P))


TERMS = {
    "popularity": KappaOnPopularity(0.7),
    "deviations": ItemDeviations(Learned(0.3)),
    "categories": ItemCategories(CATEGORIES, 0.4, Learned(0.2)),
    "features": ItemFeatures(FEATURES, 0.3, 0.2),
    "horseshoe": HorseshoeKappa(dist.HalfCauchy(0.2)),
    "covariates": UserCovariates(F),
}


def by_hand(name, v, psi, rho, batch):
    """What each term adds, event by event."""
    added = []
    for a, c in zip(batch.action.tolist(), batch.context.tolist()):
        omega = batch.interest[c]
        if name == "popularity":
            added.append(v["kappa_slope"] * (rho[a] - rho.mean()) / rho.std())
        elif name == "deviations":
            added.append(v["beta_deviation"][a] @ omega)
        elif name == "categories":
            g = CATEGORIES[a]
            added.append(v["category_kappa"][g] + v["category_beta"][g] @ omega)
        elif name == "features":
            x = torch.tensor(FEATURES[a]).double()
            added.append(x @ v["feature_kappa"] + x @ v["feature_beta"] @ omega)
        elif name == "horseshoe":
            local, overall = v["log_kappa_local_scale"][a].exp(), v["log_kappa_scale"].exp()
            added.append(overall * local * v["whitened_kappa"][a])
        else:
            added.append(batch.covariates[c] @ v["covariate_weight"])
    return torch.stack(added)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_adds_what_it_says(name, psi, rho, batch):
    with_term, without = (BanditModel(psi, BanditPriors(terms=t), rho) for t in ((TERMS[name],), ()))
    values = {n: d.sample() for n, d in with_term.site_priors().items()}
    added = with_term.logit(values, batch) - without.logit(values, batch)
    assert torch.allclose(added, by_hand(name, values, psi, rho, batch))
    assert added.abs().max() > 1e-3


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("guide", ["normal", "matrix_normal", "low_rank"])
def test_every_guide_takes_every_term(name, guide, psi, rho):
    check_guide(guide, BanditModel(psi.float(), BanditPriors(terms=(TERMS[name],)), rho.float()))


@pytest.mark.parametrize("name", TERMS)
def test_coefficients_are_the_story(name, psi, rho, batch):
    """The logit of any event, from its item's row and its context's features."""
    model = BanditModel(psi, BanditPriors(terms=(TERMS[name],), normalize_embeddings=True), rho)
    values = {n: d.sample() for n, d in model.site_priors().items()}
    extra = [batch.covariates] if name == "covariates" else []
    features = torch.cat([batch.interest, torch.ones(C, 1).double(), *extra], -1)[batch.context]
    logit = (features * model.coefficients(values)[batch.action]).sum(-1)
    assert torch.allclose(logit, model.logit(values, batch))


def test_normalised_embeddings_keep_affinities(psi, batch):
    plain, normalised = BanditModel(psi), BanditModel(psi, BanditPriors(normalize_embeddings=True))
    values = {n: d.sample() for n, d in plain.site_priors().items()}
    values[ZETA] = torch.zeros(K, K).double()
    assert torch.allclose(plain.logit(values, batch), normalised.logit(values, batch))
    gram = normalised.whitening @ normalised.whitening.mT
    assert torch.allclose(gram.diagonal(), torch.full((K,), 1 / P).double())


PRIORS = {
    "paper": BanditPriors.paper(),
    "numbers": BanditPriors(w_a=0.5, kappa=0.0, zeta=0.0, normalize_embeddings=True),
    "Student-t": BanditPriors(kappa=StudentTKappa(3.0), kappa_scale=Learned(0.4), w_a=dist.StudentT(3.0, 0.0, 2.0)),
    "random scale": BanditPriors(kappa_scale=dist.HalfNormal(0.3)),
    "terms": BanditPriors(terms=tuple(TERMS[n] for n in ("popularity", "deviations", "categories", "features"))),
    "sites": BanditPriors(sites={KAPPA: dist.Normal(torch.arange(6.0), torch.ones(6)).to_event(1)}),
}


@pytest.mark.parametrize("name", PRIORS)
def test_priors_as_json(name, psi, rho):
    back = decode(encode(PRIORS[name]))
    assert encode(back) == encode(PRIORS[name])
    old, new = (BanditModel(psi, priors, rho).site_priors() for priors in (PRIORS[name], back))
    for site, prior in old.items():
        x = prior.sample()
        assert torch.equal(prior.log_prob(x), new[site].log_prob(x)), site


def test_events_without_covariates(psi, batch):
    model = BanditModel(psi, BanditPriors(terms=(UserCovariates(F),)))
    bare = BanditBatch(batch.interest, batch.context, batch.action, batch.reward, N)
    with pytest.raises(ValueError, match=r"the model has UserCovariates\(3\), but the events have none"):
        model(bare)


def test_jitter_lets_dependent_columns_pass():
    psi = torch.randn(5, 1, dtype=torch.float64).expand(5, 2)
    with pytest.raises(ValueError, match="pass jitter=1e-6 to go on"):
        BanditModel(psi)
    whitening = BanditModel(psi, jitter=1e-6).whitening
    assert torch.allclose(whitening @ whitening.mT, psi.mT @ psi / 5, atol=1e-4)
