"""BLOB beyond the default: updates, propagated interests, covariates, prior predictions, resumed fits."""

import json
import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.data import as_histories
from blob_pyro.guides import FullGuide, LowRankGuide, NormalGuide
from blob_pyro.guides.draws import DrawsGuide
from blob_pyro.models import HorseshoeKappa, ItemDeviations, KappaOnPopularity, UserCovariates
from blob_pyro.models.sites import KAPPA, W_C
from blob_pyro.policies import ThompsonSampling
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts

HISTORIES = [[0, 0, 1], [], [5, 3]]
QUICK = {"num_epochs": 3, "batch_size": 1024, "progress": False}
# For guides that start from Laplace's approximation, which takes seconds to seek w_b where it is not known.
KNOWN_W_B = BanditPriors(w_b=-3.0, kappa_scale=0.3)


def part(log, keep):
    return EventLog.from_arrays(
        12,
        log.view_user,
        log.view_time,
        log.view_item,
        log.user[keep],
        log.time[keep],
        log.action[keep],
        log.reward[keep],
    )


def test_two_updates_are_one_fit(blo, log):
    """Items' own click rates around a known base: all independent, so the guide's family holds the posterior."""
    reward = (torch.rand(log.num_impressions) < 0.02 + 0.03 * log.action).float()
    log = EventLog.from_arrays(
        12, log.view_user, log.view_time, log.view_item, log.user, log.time, log.action, reward
    )  # fmt: skip
    priors = BanditPriors(w_a=-20.0, w_b=-20.0, w_c=-2.0, zeta=0.0, kappa_scale=1.0)
    fit = {"num_epochs": 300, "batch_size": 8192, "progress": False}
    first = torch.arange(log.num_impressions) % 2 == 0
    whole, halves = BLOB(blo, priors=priors), BLOB(blo, priors=priors)
    whole.fit(log, device="cpu", **fit)
    halves.fit(part(log, first), device="cpu", **fit)
    half = halves.posterior()[KAPPA]
    halves.update(part(log, ~first), **fit)
    exact, found = whole.posterior()[KAPPA], halves.posterior()[KAPPA]
    assert ((found.mean - exact.mean).abs() < 0.4 * exact.stddev).all()
    assert torch.allclose(found.stddev, exact.stddev, rtol=0.15)
    assert kl_divergence(found, exact) < 0.05 * kl_divergence(half, exact)


def test_updates_that_cannot_be(blo, blob, log):
    with pytest.raises(ValueError, match="update: the model is not fitted"):
        BLOB(blo).update(log)
    with pytest.raises(ValueError, match=r"forgetting: must lie in \(0, 1\], got 0"):
        blob.update(log, forgetting=0.0)
    certain = BLOB(blo, "delta", BanditPriors(kappa_scale=0.3))
    certain.fit(log, device="cpu", **QUICK)
    with pytest.raises(ValueError, match=r"posterior of 'w_a' is Delta.*such as 'normal'"):
        certain.update(log)


JOINT_PRIORS = BanditPriors(w_a=-20.0, w_b=-20.0, w_c=dist.Normal(-2.0, 0.3), zeta=0.0, kappa_scale=1.0)


def popular_items(log):
    """The log with click rates that rise with the item's number."""
    reward = (torch.rand(log.num_impressions) < 0.02 + 0.03 * log.action).float()
    return EventLog.from_arrays(
        12, log.view_user, log.view_time, log.view_item, log.user, log.time, log.action, reward
    )  # fmt: skip


@pytest.mark.parametrize("guide", ["laplace", "full", pytest.param("low_rank", marks=pytest.mark.slow)])
def test_an_update_keeps_correlations(blo, log, guide):
    """w_c and the kappas pull against each other: two halves, one after the other, are one fit of the whole."""
    log = popular_items(log)
    first = torch.arange(log.num_impressions) % 2 == 0
    fit = {"num_epochs": 100, "learning_rate": 0.03, "progress": False}
    whole, halves = BLOB(blo, guide, JOINT_PRIORS), BLOB(blo, guide, JOINT_PRIORS)
    whole.fit(log, device="cpu", **fit)
    halves.fit(part(log, first), device="cpu", **fit)
    half = halves.guide.multivariate()
    halves.update(part(log, ~first), **fit)
    exact, found = whole.guide.multivariate(), halves.guide.multivariate()
    spread = exact.variance.sqrt()
    assert ((found.mean - exact.mean).abs() < 0.3 * spread).all()
    assert ((half.mean - exact.mean).abs() > 0.5 * spread).any()
    assert torch.allclose(found.variance.sqrt(), spread, rtol=0.15)
    correlation = [q.covariance_matrix / torch.outer(*(2 * [q.variance.sqrt()])) for q in (exact, found)]
    assert correlation[0][0, 1:].min() < -0.3
    assert torch.allclose(correlation[1], correlation[0], atol=0.2 if guide == "low_rank" else 0.12)


@pytest.mark.parametrize(("guide", "other"), [("laplace", "full"), ("full", "laplace"), ("low_rank", "full")])
def test_a_correlated_prior_is_saved_and_shown(blo, log, guide, other, tmp_path):
    blob = BLOB(blo, guide, BanditPriors(kappa_scale=0.3) if guide == "laplace" else KNOWN_W_B)
    blob.fit(log, device="cpu", **QUICK)
    before = blob.guide.multivariate().covariance_matrix.detach()
    blob.update(log, **QUICK)
    prior = blob.model.vector_prior.distribution
    assert torch.allclose(prior.covariance_matrix, before, rtol=1e-4, atol=1e-6)
    assert blob.model.learned == {}
    assert (blob.guide.multivariate().variance < 1.1 * prior.variance).all()

    blob.save(tmp_path / "updated")
    back = BLOB.load(tmp_path / "updated", device="cpu")
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))
    assert torch.equal(back.model.vector_prior.distribution.mean, prior.mean)
    back.update(log, **QUICK)  # and again
    assert blob.prior_click_rates(HISTORIES, num_samples=50).shape == (50, 3, 12)
    draws = blob.to_inference_data(num_draws=2000)["prior"]
    w_c = torch.as_tensor(draws[W_C].values.copy()).flatten()
    kappa = torch.as_tensor(draws[KAPPA].values.copy()).reshape(-1, 12)
    found = torch.stack([w_c, *kappa.mT]).corrcoef()[0, 1:]
    place = list(blob.model.vector_prior.shapes).index(W_C)  # before it are single numbers
    row = before[place] / (before[place, place] * before.diagonal()).sqrt()
    assert torch.allclose(found, row[-12:], atol=5 / 2000**0.5)

    with pytest.raises(ValueError, match="such as 'low_rank' or 'laplace', or give priors of independent sites"):
        BLOB(blo, "normal", blob.model.priors)
    taken = BLOB(blo, other, blob.model.priors)
    taken.fit(log, device="cpu", **QUICK)
    assert torch.isfinite(taken.scores(HISTORIES)).all()


@pytest.mark.parametrize("guide_class", [NormalGuide, LowRankGuide, FullGuide])
def test_an_instance_goes_on_and_its_prior_stays(blo, log, guide_class):
    guide = guide_class(BLOB(blo, priors=KNOWN_W_B).model)
    blob = BLOB(blo, guide, KNOWN_W_B)
    blob.fit(log, device="cpu", **QUICK)
    before = blob.posterior()[W_C].mean.clone()
    came_with = [p.detach().clone() for p in guide.parameters()]
    blob.update(log, **QUICK)
    assert all(torch.equal(*pair) for pair in zip(guide.parameters(), came_with))  # a copy is trained
    assert torch.equal(blob.model.site_priors()[W_C].mean, before)
    assert not torch.equal(blob.posterior()[W_C].mean, before)


@pytest.mark.parametrize("guide", ["normal", "laplace", "full", "low_rank", "nuts", "delta"])
def test_every_guide_comes_back_and_plays(blo, log, guide, tmp_path):
    blob = BLOB(blo, guide, KNOWN_W_B if guide in ("full", "low_rank") else BanditPriors(kappa_scale=0.3))
    if guide == "nuts":  # draws need no sampler to be saved
        blob.guide = DrawsGuide(blob.model, 20)
        blob.guide.fill({n: torch.randn(20, *d.event_shape) for n, d in blob.model.site_priors().items()})
        blob.fits = [{"call": "fit"}]
    else:
        blob.fit(log, device="cpu", **QUICK)
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))
    if guide == "delta":
        with pytest.warns(UserWarning, match="ThompsonSampling: the posterior is a point mass.*use a guide with doubt"):
            ThompsonSampling(back).action_distribution(HISTORIES)
    else:
        actions = ThompsonSampling(back, num_points=32).action_distribution(HISTORIES)
        assert torch.allclose(actions.probs.sum(-1), torch.ones(3).to(actions.probs), atol=1e-6)
        played = torch.nn.functional.one_hot(actions.sample((4000,)), 12).double().mean(0)
        assert ((played - actions.probs).abs() < 5 * (0.25 / 4000) ** 0.5 + 4 * actions.error_estimate).all()


def test_priors_that_json_cannot_hold_are_asked_for(blo, log, tmp_path):
    priors = BanditPriors(kappa=lambda model: dist.Normal(0.1 * model.item_intercept, 0.2).to_event(1))
    blob = BLOB(blo, priors=priors)
    blob.fit(log, device="cpu", **QUICK)
    blob.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"saved with functions as priors or terms; pass them, priors="):
        BLOB.load(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", priors=priors, device="cpu")
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))


def test_plug_in_and_averaged_probabilities(blob):
    plug_in = blob.click_probabilities(HISTORIES, method="plug_in")
    averaged = blob.click_probabilities(HISTORIES)
    draws = blob.click_logits(HISTORIES).sample((20_000,)).sigmoid()
    assert ((averaged - draws.mean(0)).abs() < 5 * draws.std(0) / 20_000**0.5 + 1e-5).all()
    features = torch.cat([blob.blo.embed([[0, 0, 1]]), torch.ones(1, 1)], -1)
    kappa = blob.posterior()[KAPPA].mean + blob.posterior()[W_C].mean
    expected = torch.sigmoid(features[:, :-1] @ blob.beta_hat.mT + kappa)
    assert torch.allclose(plug_in[:1], expected, atol=1e-6)
    low, high = blob.click_intervals(HISTORIES, level=0.9)
    inside = ((draws > low) & (draws < high)).double().mean(0)
    assert ((inside - 0.9).abs() < 5 * (0.09 / 20_000) ** 0.5 + 2e-3).all()
    with pytest.raises(ValueError, match="expected 'averaged' or 'plug_in', got 'mode'"):
        blob.click_probabilities(HISTORIES, method="mode")
    with pytest.raises(ValueError, match="level: must lie between 0 and 1, got 95"):
        blob.click_intervals(HISTORIES, level=95)


def test_propagated_interests_add_doubt(blo, log):
    blobs = {
        omega: BLOB(blo, omega=omega, priors=BanditPriors(w_a=1.0, kappa_scale=0.2)) for omega in ("mean", "sample")
    }
    for blob in blobs.values():
        blob.fit(log, num_epochs=10, batch_size=1024, progress=False, device="cpu")
    variance = {omega: blob.click_logits([[]], num_draws=2000).variance[0] for omega, blob in blobs.items()}
    assert (variance["sample"] > 1.2 * variance["mean"]).all()
    batch = blobs["sample"].batch(log)
    posterior = blo.user_posterior(log.contexts[:4], "newton")
    assert torch.allclose(batch.interest[:4], posterior.mean)
    assert torch.allclose(batch.interest_scale[:4], posterior.scale_tril)
    with pytest.raises(ValueError, match="omega: expected 'mean' or 'sample', got 'map'"):
        BLOB(blo, omega="map")


@pytest.mark.parametrize("omega", ["mean", "sample"])
@pytest.mark.parametrize("interest", ["encoder", "newton"])
def test_interests_are_found_as_asked(blo, log, omega, interest, tmp_path):
    blob = BLOB(blo, omega=omega, interest=interest)
    batch, posterior = blob.batch(log), blo.user_posterior(log.contexts, interest)
    assert torch.allclose(batch.interest, posterior.mean)
    if omega == "sample":
        assert torch.allclose(batch.interest_scale, getattr(posterior, "scale_tril", posterior.stddev))
    blob.save(tmp_path / "model")
    again = BLOB.load(tmp_path / "model", device="cpu")
    assert (again.omega, again.interest) == (omega, interest)
    # What was saved before there was a choice says nothing of it, and had the encoder.
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config.get("interest", "encoder") == interest
    assert again.fingerprint() == blob.fingerprint()
    assert (blob.fingerprint() == BLOB(blo, omega=omega, interest="encoder").fingerprint()) is (interest == "encoder")


def test_interests_that_are_unknown_are_refused(blo):
    assert BLOB(blo).interest == "encoder"
    with pytest.raises(ValueError, match="interest: expected 'encoder' or 'newton', got 'em'"):
        BLOB(blo, interest="em")


def test_terms_answer_by_draws(blo, log):
    for term in (ItemDeviations(0.2), HorseshoeKappa()):
        blob = BLOB(blo, priors=BanditPriors(terms=(term,), kappa_scale=0.2))
        blob.fit(log, device="cpu", **QUICK)
        logits = blob.click_logits(HISTORIES, num_draws=300)
        assert logits.mean.shape == (3, 12)
        assert torch.equal(logits.mean, blob.click_logits(HISTORIES, num_draws=300).mean)
        assert blob.click_probabilities(HISTORIES).shape == (3, 12)


@pytest.mark.parametrize("guide", ["normal", "arrowhead_normal", "matrix_normal", "laplace", "full"])
def test_popularity_keeps_the_closed_form(blo, log, guide):
    """Against the same posterior by draws; and it can be played."""
    blob = BLOB(blo, guide, BanditPriors(terms=(KappaOnPopularity(),), kappa_scale=0.2))
    blob.fit(log, num_epochs=20, batch_size=1024, progress=False, device="cpu")
    exact = blob.click_logits(HISTORIES)
    assert isinstance(exact, LogitsOfContexts)
    with torch.no_grad():
        coefficients = torch.vmap(blob.model.coefficients)(blob.sample(20_000))
    features = torch.cat([blo.embed(as_histories(HISTORIES, blo.items)), torch.ones(3, 1)], -1)
    drawn = DrawnClickLogits(coefficients, features)
    assert ((drawn.mean - exact.mean).abs() < 5 * exact.variance.sqrt() / 20_000**0.5).all()
    assert torch.allclose(drawn.variance, exact.variance, rtol=0.06)
    slope, popularity = blob.posterior()["kappa_slope"], blob.model.popularity
    assert slope.variance.sqrt() * popularity.abs().max() > 0.05  # what is shared is no trifle
    actions = ThompsonSampling(blob, num_points=32).action_distribution(HISTORIES)
    played = torch.nn.functional.one_hot(actions.sample((4000,)), 12).double().mean(0)
    assert ((played - actions.probs).abs() < 5 * (0.25 / 4000) ** 0.5 + 4 * actions.error_estimate).all()


def test_covariates_of_users(blo, log):
    """Half of the users click ten times as often: the covariate takes it, not the base rate."""
    eager = (torch.arange(log.num_users) % 2).float().unsqueeze(-1)
    rate = torch.where(eager[log.user, 0] > 0, 0.3, 0.03)
    reward = torch.bernoulli(rate)
    log = EventLog.from_arrays(
        12, log.view_user, log.view_time, log.view_item, log.user, log.time, log.action, reward
    )  # fmt: skip
    blob = BLOB(blo, priors=BanditPriors(terms=(UserCovariates(1),), kappa_scale=0.2))
    blob.fit(log, covariates=eager, num_epochs=250, batch_size=8192, learning_rate=0.05, progress=False, device="cpu")
    weight = blob.posterior()["covariate_weight"].mean
    expected = math.log(0.3 / 0.7) - math.log(0.03 / 0.97)
    assert weight.item() == pytest.approx(expected, abs=0.35)
    mean = blob.click_logits([[], []], torch.tensor([[0.0], [1.0]])).mean
    assert torch.allclose(mean[1] - mean[0], weight.expand(12), atol=0.1)
    with pytest.raises(ValueError, match=r"covariates: expected 1 x 1 \(the number of histories .*got None"):
        blob.click_logits([[]])
    with pytest.raises(ValueError, match=r"covariates: expected 360 x 1 \(log.num_users"):
        blob.batch(log, torch.zeros(3, 1))


def test_prior_click_rates(blo):
    """Before any data: the base rate of the prior, and how far it lets items differ."""
    narrow, wide = (
        BLOB(blo, priors=BanditPriors(w_a=-20.0, w_c=dist.Normal(-3.0, 0.1), zeta=0.0, kappa_scale=s))
        for s in (0.1, 1.0)
    )
    rates = {name: b.prior_click_rates([[0], []], num_samples=2000) for name, b in (("narrow", narrow), ("wide", wide))}
    assert rates["narrow"].shape == (2000, 2, 12)
    logits = {name: r.logit() for name, r in rates.items()}
    assert logits["narrow"].mean().item() == pytest.approx(-3.0, abs=0.02)
    assert logits["wide"].std(-1).mean() > 5 * logits["narrow"].std(-1).mean()
    assert torch.equal(rates["wide"], wide.prior_click_rates([[0], []], num_samples=2000))


def test_an_interrupted_fit_resumes_to_the_same_floats(blo, log, tmp_path, monkeypatch):
    whole, broken = BLOB(blo), BLOB(blo)
    settings = {"num_epochs": 6, "batch_size": 512, "progress": False, "device": "cpu", "seed": 3}
    whole.fit(log, **settings)
    calls = iter(range(10_000))
    original = type(broken.model).forward

    def stop(self, *args, **kwargs):
        if next(calls) == 20:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(broken.model), "forward", stop)
    with pytest.warns(UserWarning, match="interrupted"):
        broken.fit(log, checkpoint=tmp_path / "run", **settings)
    monkeypatch.undo()
    resumed = BLOB(blo)
    history = resumed.fit(log, checkpoint=tmp_path / "run", **settings)
    assert len(history) == 6
    assert torch.equal(resumed.posterior()[KAPPA].mean, whole.posterior()[KAPPA].mean)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_loss_that_is_not_finite_names_the_site(blo, log, monkeypatch):
    blob = BLOB(blo)
    original = type(blob.guide).site_posterior
    calls = iter(range(10_000))

    def spoil(self, name):
        distribution = original(self, name)
        return (
            dist.Normal(distribution.loc * float("nan"), distribution.scale)
            if name == W_C and next(calls) > 6
            else distribution
        )

    monkeypatch.setattr(type(blob.guide), "site_posterior", spoil)
    import pyro

    with pyro.validation_enabled(False), pytest.raises(FloatingPointError, match=r"not finite at epoch .*site 'w_c'"):
        blob.fit(log, device="cpu", **QUICK)
    monkeypatch.undo()
    assert all(torch.isfinite(p).all() for p in blob.guide.parameters())


def test_rewards_that_teach_nothing(blo, log):
    constant = EventLog.from_arrays(
        12, log.view_user, log.view_time, log.view_item, log.user, log.time, log.action, torch.zeros_like(log.reward)
    )
    with pytest.raises(ValueError, match="rewards are 0, so no item can be told from another"):
        BLOB(blo).fit(constant, device="cpu", **QUICK)


def test_rank_deficient_embeddings(log):
    blo = BLO(12, embedding_dim=3)
    blo.fit(log, num_epochs=1, progress=False, device="cpu")
    with torch.no_grad():
        blo.model.item_embedding[:, 2] = blo.model.item_embedding[:, 0]
    with pytest.raises(ValueError, match=r"columns are linearly dependent.*jitter=1e-6"):
        BLOB(blo)
    blob = BLOB(blo, jitter=1e-6)
    blob.fit(log, device="cpu", **QUICK)
    assert torch.isfinite(blob.scores(HISTORIES)).all()


def test_a_saved_model_says_how_it_was_fitted(blo, log, tmp_path):
    blob = BLOB(blo)
    assert not blob.fitted
    blob.fit(log, seed=5, num_epochs=3, batch_size=1000, progress=False, device="cpu")
    blob.update(log, seed=6, forgetting=0.5, num_epochs=2, learning_rate=0.02, progress=False)
    blob.save(tmp_path / "model")
    fits = BLOB.load(tmp_path / "model", device="cpu").fits
    assert fits == blob.fits
    assert [(f["call"], f["seed"], f["num_epochs"], f["batch_size"], f["learning_rate"]) for f in fits] == [
        ("fit", 5, 3, 1000, 0.2),
        ("update", 6, 2, log.num_impressions, 0.02),
    ]
    assert fits[0]["num_rows"] == log.num_impressions
    assert blob.blo.fits[0]["call"] == "fit"


def test_an_update_that_is_stopped_at_once_leaves_the_model_as_it_was(blo, log, monkeypatch):
    blob = BLOB(blo)
    blob.fit(log, num_epochs=3, progress=False, device="cpu")
    before = blob.scores(HISTORIES)

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("blob_pyro.infer.training.run.Run.epoch", stop)
    with pytest.warns(UserWarning, match="interrupted"):
        blob.update(log, num_epochs=3, progress=False)
    assert torch.equal(blob.scores(HISTORIES), before)
    assert len(blob.fits) == 1
    with pytest.warns(UserWarning, match="interrupted"):
        blob.fit(log, num_epochs=3, progress=False, device="cpu")
    assert torch.equal(blob.scores(HISTORIES), before)
    assert len(blob.fits) == 1


def test_correlated_interests_spread_logits_as_their_covariance_says(log):
    """Var(psi_p' omega) = psi_p' L L' psi_p, with a factor that is not symmetric."""
    blo = BLO(12, embedding_dim=3, covariance="full")
    blo.fit(log, num_epochs=1, progress=False, device="cpu")
    blob = BLOB(
        blo, priors=BanditPriors(w_a=1.0, w_b=-40.0, w_c=dist.Normal(-4.0, 1e-3), kappa=0.0, zeta=0.0), omega="sample"
    )
    blob.guide.w_c_scale = torch.tensor(1e-3)
    blob.fits = [{"call": "fit"}]
    factor = torch.tril(torch.tensor([[1.0, 0.0, 0.0], [-2.0, 0.3, 0.0], [0.5, 1.0, 0.2]]))
    mean = torch.zeros(2, 3)
    blob._interest = lambda blo, histories: (mean, factor.expand(2, 3, 3))
    found = blob.click_logits([[], [0]], num_draws=6000).variance[0]
    psi = blob.model.item_embedding
    expected = torch.nn.functional.softplus(torch.tensor(1.0)) ** 2 * (psi @ factor).square().sum(-1)
    assert torch.allclose(found, expected, rtol=0.1, atol=1e-4)
