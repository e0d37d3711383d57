"""Laplace's approximation against brute force, and against draws."""

from copy import deepcopy
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch

from blob_pyro import BLOB, BanditPriors, Learned
from blob_pyro.distributions import ArrowheadNormal
from blob_pyro.guides import DrawsGuide, LowRankGuide, make_guide
from blob_pyro.infer import FitRequest, Training, fit_guide, from_laplace
from blob_pyro.infer.elbo_estimate import ELBOEstimate
from blob_pyro.infer.kappa_scale import SCALE_OF_SCALE
from blob_pyro.infer.laplace import mode_search
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.models import (
    BanditBatch,
    BanditModel,
    HorseshoeKappa,
    StudentTKappa,
)
from blob_pyro.models.sites import KAPPA, W_A, W_C
from blob_pyro.posteriors.next_priors import next_priors
from tests.infer.laplace.laplace_problems import (
    C,
    K,
    N,
    P,
    log_joint,
    log_joints,
)


@pytest.mark.parametrize("rate", [0.0, 8.0])
@pytest.mark.parametrize("known_well", [400.0, 0.0], ids=["in doubt", "known"])
def test_a_learned_scale_is_where_its_evidence_puts_it(batch, rate, known_well, monkeypatch):
    """Against the Laplace evidence for fixed scales: at the root mean square, and where many are known at the maximum.

    With an exponential prior of the scale, of both together; the half-normal one is for the mean square alone.
    """
    monkeypatch.setattr(mode_search, "_KNOWN_WELL", known_well)
    torch.manual_seed(3)
    psi = torch.randn(P, K, dtype=torch.float64)
    logit = torch.linspace(-1.5, 1.0, P).double()[batch.action]
    batch = BanditBatch(batch.interest, batch.context, batch.action, torch.bernoulli(logit.sigmoid()), N)

    def fitted(scale):
        model = BanditModel(psi, BanditPriors(w_a=-1.0, w_b=-6.0, zeta=0.0, kappa_scale=scale))
        guide = make_guide("laplace", model)
        fit_guide(guide, FitRequest(model, batch, Training(1, 1, 0.1), progress=False))
        return model, guide

    learned = float(fitted(Learned(0.2, rate))[0].kappa_scale.detach())

    def evidence(scale):
        fixed, own = fitted(scale)
        return float(log_joint(fixed, own, batch, own.loc) + own.multivariate().entropy()) - rate * scale

    if known_well:
        scales = torch.linspace(-3.0, 1.5, 14).double().exp()
        log = torch.tensor([evidence(float(scale)) for scale in scales]).double() + scales.log()
        weights = (log if rate else log + dist.HalfNormal(0.5).log_prob(scales)).softmax(0)
        assert learned == pytest.approx(float((weights @ scales.square()).sqrt()), rel=0.02)
    else:
        assert evidence(learned) > max(evidence(0.8 * learned), evidence(1.25 * learned))
    assert 0.4 < learned < 2.5


def test_a_scale_that_few_clicks_say_little_of_is_in_doubt_after_an_update_too(batch):
    """The evidence is largest at no scale at all: an update would leave nothing to explore."""
    torch.manual_seed(0)
    psi, reward = torch.randn(P, K, dtype=torch.float64), torch.zeros(N).double()
    reward[:10] = 1.0
    batch, priors = replace(batch, reward=reward), BanditPriors(w_a=-1.0, w_b=-6.0, zeta=0.0)

    def fitted(model, events):
        guide = make_guide("laplace", model)
        fit_laplace(guide, model, replace(batch[events], num_events=len(events)), progress=False)
        return float(model.kappa_scale.detach()), guide.multivariate(), guide

    model = BanditModel(psi, priors)
    whole, exact, _ = fitted(model, torch.arange(N))
    model = BanditModel(psi, priors)
    _, vector, guide = fitted(model, torch.arange(0, N, 2))
    model = BanditModel(psi, next_priors(model, dict(guide.parts(vector.mean, vector))), basis=model.basis)
    assert model.vector_prior is not None
    updated, found, _ = fitted(model, torch.arange(1, N, 2))
    assert 0.3 < whole < SCALE_OF_SCALE
    assert updated == pytest.approx(whole, rel=0.05)
    assert torch.allclose(found.variance[-P:].sqrt(), exact.variance[-P:].sqrt(), rtol=0.05)


@pytest.mark.slow
def test_agrees_with_nuts(blo, log):
    """The gold posterior of a small problem: means within a fraction of its spread, spreads alike."""
    priors = BanditPriors(kappa_scale=0.4)
    laplace = BLOB(blo, "laplace", priors)
    nuts = BLOB(blo, DrawsGuide(laplace.model, num_draws=250), priors)
    laplace.fit(log, progress=False, device="cpu")
    history = nuts.fit(log, progress=False, device="cpu")
    assert history.attrs["divergences"] == 0
    draws, q = nuts.sample(4000), laplace.posterior()
    for name in (W_A, W_C, KAPPA):
        mean, spread = draws[name].mean(0), draws[name].std(0)
        assert ((q[name].mean - mean).abs() < 0.6 * spread).all(), name
        assert torch.allclose(q[name].variance.sqrt(), spread, rtol=0.35), name
    exact, approximate = nuts.click_logits([[0, 1], []]), laplace.click_logits([[0, 1], []])
    assert ((exact.mean - approximate.mean).abs() < 0.6 * exact.variance.sqrt()).all()


def test_a_density_of_w_b_is_nearer_than_a_gaussian():
    """Its draws have nearly one importance weight, unlike those of the Gaussian along the same line."""
    torch.manual_seed(2)
    psi = torch.randn(8, 3).double() * torch.tensor([0.4, 1.0, 0.7])
    model = BanditModel(psi, BanditPriors(w_b=dist.Normal(-4.0, 2.0), kappa_scale=0.3))
    truth = {"w_a": -1.0, "w_b": -1.5, "w_c": -1.0, "zeta": torch.randn(3, 3), "kappa": 0.3 * torch.randn(8)}
    truth = {name: torch.as_tensor(value).double() for name, value in truth.items()}
    batch = BanditBatch(torch.randn(20, 3).double(), torch.arange(800) % 20, torch.randint(8, (800,)), None, 800)
    batch = replace(batch, reward=torch.bernoulli(model.logit(truth, batch).sigmoid()))
    guide = make_guide("laplace", model)
    history = fit_laplace(guide, model, batch, progress=False)
    values = []
    for q in (guide.multivariate(), *guide.gaussians()):
        points = q.sample((300,))
        values.append(log_joints(model, guide, batch, points) - q.log_prob(points))
    assert values[0].std() < 0.1 * values[1].std()
    assert float(values[0].mean()) == pytest.approx(history.attrs["log_evidence"], abs=0.15)
    assert values[2].mean() > values[1].mean() + 0.25, "the one at the mode has the higher ELBO here"


def test_an_update_is_a_refit():
    """Of half of the events each: moments within a tenth of a deviation; the second goes on from the first's nodes."""
    torch.manual_seed(7)
    psi = torch.randn(5, 2).double() * torch.tensor([0.6, 1.5])
    model = BanditModel(psi, BanditPriors(w_a=dist.Normal(0.5, 0.3), w_b=dist.Normal(-1.0, 1.0), kappa_scale=0.4))
    truth = {name: value[0] for name, value in model.prior_draws(1).items()}
    every = BanditBatch(torch.randn(60, 2).double(), torch.arange(1200) % 60, torch.randint(5, (1200,)), None, 1200)
    every = replace(every, reward=torch.bernoulli(model.logit(truth, every).sigmoid()))
    halves = [replace(every[torch.arange(i, 1200, 2)], num_events=600) for i in (0, 1)]
    whole, first = make_guide("laplace", model), make_guide("laplace", model)
    fit_laplace(whole, model, every, progress=False)
    fit_laplace(first, model, halves[0], progress=False)
    vector = first.multivariate()
    then = BanditModel(psi, next_priors(model, dict(first.parts(vector.mean, vector))), basis=model.basis)
    second = make_guide("laplace", then)
    fit_laplace(second, then, halves[1], progress=False)
    exact, half, found = (guide.multivariate() for guide in (whole, first, second))
    spread = exact.variance.sqrt()
    assert ((found.mean - exact.mean).abs() < 0.1 * spread).all()
    assert torch.allclose(found.variance.sqrt(), spread, rtol=0.12)
    assert ((half.mean - exact.mean).abs() > 0.3 * spread).any()


def test_what_it_refuses(batch):
    psi = torch.randn(P, K, dtype=torch.float64)
    correlated = BanditPriors(kappa=dist.MultivariateNormal(torch.zeros(P), torch.eye(P)))
    student = BanditPriors(kappa=StudentTKappa(4.0))
    cases = [
        (BanditModel(psi, correlated), batch, "kappa's prior must be independent over items"),
        (BanditModel(psi, student), batch, "learns the scale of normal priors only, and kappa_scale is of StudentT"),
        (
            BanditModel(psi),
            BanditBatch(batch.interest, batch.context, batch.action, batch.reward, N, None, torch.ones(C, K).double()),
            "takes omega at its mean",
        ),
    ]
    for model, events, message in cases:
        with pytest.raises(ValueError, match=message):
            fit_laplace(make_guide("laplace", model), model, events, progress=False)


def test_the_model_is_left_alone_but_for_its_scale(batch):
    model = BanditModel(torch.randn(P, K), BanditPriors())
    before = deepcopy(model.state_dict())
    single = BanditBatch(batch.interest.float(), batch.context, batch.action, batch.reward.float(), N)
    fit_laplace(make_guide("laplace", model), model, single, progress=False)
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert changed == ["kappa_scale_unconstrained"]
    assert model.item_embedding.dtype == torch.float32


def test_heavy_tails_do_not_stop_it(batch):
    model = BanditModel(torch.randn(P, K, dtype=torch.float64), BanditPriors(kappa=0.0, terms=(HorseshoeKappa(),)))
    guide = make_guide("laplace", model)
    history = fit_laplace(guide, model, batch, progress=False)
    assert history.log_joint.iloc[-1] > history.log_joint.iloc[0]
    assert torch.isfinite(guide.multivariate().sample()).all()


def test_heavy_tails_do_not_take_it_away():
    """A scale starts where its prior has its median: far out in a tail no curvature says how to come back."""
    torch.manual_seed(0)
    action = torch.randint(12, (6000,))
    interest = torch.randn(8, 3, dtype=torch.float64) * torch.tensor([0.5, 2.0, 1.0])
    batch = BanditBatch(interest, torch.randint(8, (6000,)), action, torch.bernoulli(0.04 + 0.02 * (action == 2)), 6000)
    priors = BanditPriors(kappa=0.0, terms=(HorseshoeKappa(),))
    model = BanditModel(torch.randn(12, 3, dtype=torch.float64), priors)
    guide = make_guide("laplace", model)
    fit_laplace(guide, model, replace(batch, reward=batch.reward.double()), progress=False)
    place = dict(zip(guide.shapes, [0, *torch.tensor([s.numel() for s in guide.shapes.values()]).cumsum(0).tolist()]))
    q, here = guide.multivariate(), place["log_kappa_scale"]
    assert -6 < guide.mode[here] < 2
    assert q.variance[here].sqrt() < 3


@pytest.mark.parametrize("guide", ["low_rank", "full"])
@pytest.mark.parametrize(
    ("options", "start"),
    [({}, "laplace"), ({"omega": "sample"}, "prior: guide 'laplace': takes omega at its mean")],
    ids=["taken", "refused"],
)
def test_the_history_says_where_svi_started(blo, log, guide, options, start):
    history = BLOB(blo, guide, **options).fit(log, num_epochs=2, progress=False, device="cpu")
    assert history.attrs["start"].startswith(start)


@pytest.mark.parametrize(("elbos", "best"), [((-2.0, -1.0), 1), ((-1.0, -2.0), 0)])
def test_svi_starts_where_the_elbo_is_higher(blo, log, monkeypatch, elbos, best):
    """Of the Gaussian with the moments of ``w_b`` and that at its mode."""
    taken, values = [], iter(elbos)
    monkeypatch.setattr(from_laplace, "rough_elbo", lambda *_: ELBOEstimate(next(values), 0.0))
    monkeypatch.setattr(LowRankGuide, "start_from", lambda self, gaussian: taken.append(gaussian))
    BLOB(blo, "low_rank").fit(log, num_epochs=1, progress=False, device="cpu")
    assert len(taken) == 3
    assert taken[2] is taken[best]
    assert not torch.equal(taken[0].loc, taken[1].loc)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_low_rank_starts_from_the_leading_correlations(rank):
    """Variances are the arrowhead's; with as many factors as it has, so are the correlations."""
    torch.manual_seed(3)
    scale = torch.tensor([0.1, 2.0, 0.5, 1.0]).double()
    distribution = ArrowheadNormal(
        torch.arange(9.0).double(),
        (torch.randn(4, 4).double().tril(-1) * 0.3 + torch.eye(4).double()) * scale.unsqueeze(-1),
        torch.randn(5, 4).double() * torch.tensor([0.1, 1.0, 0.3, 2.0, 0.5]).double().unsqueeze(-1),
        torch.tensor([0.2, 1.0, 0.1, 0.5, 3.0]).double(),
    )
    model = BanditModel(torch.randn(5, 2).double(), BanditPriors(w_a=0.3, w_b=0.1, w_c=0.0))
    guide = LowRankGuide(model, rank=rank)
    guide.start_from(distribution)
    found, exact = guide.multivariate().covariance_matrix, distribution.covariance_matrix
    deviation = distribution.variance.sqrt()
    assert torch.allclose(guide.loc, distribution.loc)
    assert torch.allclose(found.diagonal(), exact.diagonal(), rtol=2e-3)
    error = ((found - exact) / torch.outer(deviation, deviation)).norm()
    alone = (exact / torch.outer(deviation, deviation) - torch.eye(9)).norm()
    assert error < (0.9 if rank < 4 else 0.005) * alone
