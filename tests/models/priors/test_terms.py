"""Priors beyond the paper's: each term adds what it says, is learned from data, and comes back from disk."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.nn.functional import softplus

from blob_pyro import BLOB, BanditPriors, Learned
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
from blob_pyro.models.sites import CLICK, KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.serialization.codec import decode, encode
from blob_pyro.testing import check_guide

P, K, C, N, F = 6, 2, 5, 40, 3
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


@pytest.fixture
def psi():
    return torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.5, 2.0])


@pytest.fixture
def rho():
    return torch.randn(P, dtype=torch.float64)


@pytest.fixture
def batch():
    return BanditBatch(
        interest=torch.randn(C, K, dtype=torch.float64),
        context=torch.randint(C, (N,)),
        action=torch.arange(N) % P,
        reward=(torch.rand(N) < 0.3).double(),
        num_events=N,
        covariates=torch.randn(C, F, dtype=torch.float64),
    )


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


def test_student_t_shrinks_outliers_less(psi):
    """Posterior of one item with far more clicks than the rest, under normal and Student-t kappas of one scale."""
    action = torch.arange(P).repeat(200)
    rate = torch.where(action == 3, 0.5, 0.05)
    batch = BanditBatch(
        torch.zeros(1, K).double(), torch.zeros_like(action), action, torch.bernoulli(rate).double(), len(action)
    )
    kappa = {}
    for name, prior in (("normal", None), ("Student-t", StudentTKappa(2.0))):
        model = BanditModel(psi, BanditPriors(kappa=prior, kappa_scale=0.3))
        guide = pyro.infer.autoguide.AutoDelta(model)
        optimizer = pyro.optim.Adam({"lr": 0.05})
        svi = pyro.infer.SVI(model, guide, optimizer, pyro.infer.Trace_ELBO())
        pyro.clear_param_store()
        for _ in range(400):
            svi.step(batch)
        kappa[name] = guide.median()[KAPPA]
    assert kappa["Student-t"][3] > kappa["normal"][3] + 0.3


def test_categories_pool(blo, log):
    """An item that was never shown leans to its category."""
    categories = tuple(int(p >= 6) for p in range(12))
    keep = log.action != 11
    reward = torch.where(log.action >= 6, torch.rand(len(keep)) < 0.4, torch.rand(len(keep)) < 0.02).float()
    seen = type(log).from_arrays(
        12, log.view_user, log.view_time, log.view_item, log.user[keep], log.time[keep], log.action[keep], reward[keep]
    )
    blob = BLOB(blo, priors=BanditPriors(terms=(ItemCategories(categories, 1.0, 0.1),), kappa_scale=0.3))
    with pytest.warns(UserWarning, match="1 of 12 items were never shown"):
        blob.fit(seen, num_epochs=60, batch_size=1024, progress=False, device="cpu")
    scores = blob.scores([[]])[0]
    assert scores[11] > scores[:6].max() + 1


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
