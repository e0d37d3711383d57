"""The bandit story: its logit in both of the paper's forms, its priors, its plate."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch.nn.functional import softplus

from blob_pyro.models import BanditBatch, BanditModel, BanditPriors, Learned
from blob_pyro.models.sites import CLICK, KAPPA, W_A, W_B, W_C, ZETA

P, K, C, N = 7, 3, 4, 50


@pytest.fixture
def psi():
    return torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.2, 1.0, 3.0])


@pytest.fixture
def batch():
    return BanditBatch(
        interest=torch.randn(C, K, dtype=torch.float64),
        context=torch.randint(C, (N,)),
        action=torch.randint(P, (N,)),
        reward=torch.randint(2, (N,)).double(),
        num_events=N,
    )


def test_logit_is_beta_omega_plus_kappa(psi, batch):
    """lambda_n = beta_{a_n} omega_n + kappa_{a_n} with beta = sp(w_a) Psi + sp(w_b) Psi zeta L'."""
    model = BanditModel(psi)
    trace = poutine.trace(model).get_trace(batch)
    w_a, w_b, w_c, kappa, zeta = (trace.nodes[n]["value"] for n in (W_A, W_B, W_C, KAPPA, ZETA))
    factor = torch.linalg.cholesky(psi.mT @ psi / P)
    beta = softplus(w_a) * psi + softplus(w_b) * psi @ zeta @ factor.mT
    logits = [beta[a] @ batch.interest[c] + kappa[a] + w_c for a, c in zip(batch.action, batch.context)]
    assert torch.allclose(trace.nodes[CLICK]["fn"].logits, torch.stack(logits))


def test_prior_of_beta_has_the_paper_s_covariance(psi):
    """vec(beta - mean) has covariance sp(w_b)^2 (Psi Psi') (x) (Psi' Psi / P)."""
    model = BanditModel(psi)
    zeta = model.site_priors()[ZETA].sample((100_000,))
    draws = (psi @ zeta @ model.whitening.mT).flatten(-2)
    covariance = torch.kron(psi @ psi.mT, psi.mT @ psi / P)
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / 100_000**0.5
    assert ((draws.mT.cov() - covariance).abs() < 5 * spread + 1e-12).all()


def test_a_part_of_the_events_stands_for_all(psi, batch):
    whole = BanditModel(psi)
    values = {
        n: s["value"]
        for n, s in poutine.trace(whole).get_trace(batch).nodes.items()
        if n in (W_A, W_B, W_C, KAPPA, ZETA)
    }

    def log_likelihood(part):
        trace = poutine.trace(poutine.condition(whole, data=values)).get_trace(part)
        return trace.log_prob_sum(lambda name, site: name == CLICK)

    halves = [log_likelihood(batch[torch.arange(i, N, 2)]) for i in (0, 1)]
    assert torch.allclose(sum(halves) / 2, log_likelihood(batch))


def test_prior_predictive_draws_clicks(psi, batch):
    unseen = BanditBatch(batch.interest, batch.context, batch.action, None, N)
    draws = Predictive(BanditModel(psi), num_samples=30)(unseen)
    assert draws[CLICK].shape == (30, N)
    assert set(draws[CLICK].unique().tolist()) <= {0.0, 1.0}


def test_learned_kappa_scale_gets_a_gradient(psi, batch):
    learned, fixed = BanditModel(psi), BanditModel(psi, BanditPriors.paper())
    assert [n for n, _ in learned.named_parameters()] == ["kappa_scale_unconstrained"]
    assert list(fixed.parameters()) == []
    poutine.trace(learned).get_trace(batch).log_prob_sum().backward()
    assert learned.kappa_scale_unconstrained.grad.abs() > 0


def test_dependent_columns_are_refused():
    with pytest.raises(ValueError, match=r"its 3 columns are linearly dependent \(P=2\).*at most num_items"):
        BanditModel(torch.randn(2, 3))
    with pytest.raises(ValueError, match="linearly dependent"):
        BanditModel(torch.zeros(5, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BanditPriors(kappa_scale=0.0), "kappa_scale: must be positive"),
        (lambda: Learned(-1.0), "Learned: start: must be positive and finite, got -1"),
        (lambda: BanditPriors(w_b=dist.Normal(torch.zeros(2), 1.0)), "w_b: expected a distribution over one number"),
        (lambda: BanditPriors(w_a="strong"), "w_a: expected a distribution, a number or a callable"),
    ],
)
def test_bad_priors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_models_do_not_share_parameters(psi, batch):
    """Pyro's parameter store is global: modules of one name would read each other's values."""
    first = BanditModel(psi, BanditPriors(kappa_scale=Learned(0.5)))
    second = BanditModel(psi, BanditPriors(kappa_scale=Learned(2.0)))
    for model, scale in ((first, 0.5), (second, 2.0)):
        trace = poutine.trace(model).get_trace(batch)
        assert trace.nodes[KAPPA]["fn"].base_dist.scale[0].item() == pytest.approx(scale)
    assert len(pyro.get_param_store()) == 2


def test_scales_are_registered_by_the_old_name_too():
    model = BanditModel(torch.randn(4, 2))
    with pytest.warns(DeprecationWarning, match="BanditModel: 'number' is now called 'register_scale'"):
        model.number("spread", 0.5, KAPPA)
    assert model.spread == 0.5


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["standard deviations", "Cholesky factors"])
def test_interests_that_are_propagated_have_the_noise_that_they_are_given(psi, batch, normalize, kind):
    """psi_a (omega + L e) for the model's own e, whatever units the embeddings are in."""
    spread = torch.rand(C, K, dtype=torch.float64) + 0.2
    scale = spread if kind == "standard deviations" else torch.tril(torch.randn(C, K, K).double())
    noisy = replace(batch, interest_scale=scale)
    model = BanditModel(
        psi, BanditPriors(w_a=0.7, w_b=-40.0, w_c=-1.0, kappa=0.0, zeta=0.0, normalize_embeddings=normalize)
    )
    torch.manual_seed(4)
    found = model.logit({}, noisy)
    torch.manual_seed(4)
    e = torch.randn(N, K, dtype=torch.float64)
    factor = torch.diag_embed(scale) if scale.dim() == 2 else scale
    expected = [
        softplus(torch.tensor(0.7)) * psi[a] @ (batch.interest[c] + factor[c] @ e[n]) - 1.0
        for n, (a, c) in enumerate(zip(batch.action.tolist(), batch.context.tolist()))
    ]
    assert torch.allclose(found, torch.stack(expected), rtol=1e-5)


def test_the_old_name_of_psi_and_its_whitening_still_works(blob):
    with pytest.warns(DeprecationWarning, match="'items' is now called 'item_factors'"):
        assert blob.model.items[0] is blob.model.item_factors[0]


def test_a_learned_scale_with_a_rate_has_an_exponential_prior():
    """In the density of the model, and so in every ELBO; its derivative by the scale is the rate."""
    psi = torch.randn(5, 2, dtype=torch.float64)
    batch = BanditModel(psi).example_batch()
    models = [BanditModel(psi, BanditPriors(kappa_scale=Learned(0.3, rate))) for rate in (0.0, 7.0)]
    trace = poutine.trace(models[0]).get_trace(batch)
    values = {n: s["value"] for n, s in trace.nodes.items() if n in (W_A, W_B, W_C, KAPPA, ZETA)}
    found = [poutine.trace(poutine.condition(m, data=values)).get_trace(batch).log_prob_sum() for m in models]
    assert float((found[1] - found[0]).detach()) == pytest.approx(-7 * 0.3)
    (found[1] - found[0]).backward()
    gradients = [m.kappa_scale_unconstrained.grad for m in models]
    assert float(gradients[1] + gradients[0]) == pytest.approx(-7 * 0.3)
