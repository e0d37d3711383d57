"""The bandit model on another device: every guide and term fits to the CPU's numbers, and no step waits.

The budget of reads of a fit by SVI, after its first look at the model:

================================================  ===============  ==================================================
guide                                             reads            of
================================================  ===============  ==================================================
all of ours but "low_rank"; AutoNormal,           1 per epoch      its losses
AutoDiagonalNormal, AutoDelta; with any term
"low_rank", AutoLowRankMultivariateNormal         1 more per step  torch's Cholesky factor in the distribution; none
                                                                   in a captured step on CUDA, which leaves it out
"laplace", "nuts"                                 no budget        not SVI
================================================  ===============  ==================================================
"""

import warnings
from contextlib import nullcontext

import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoLowRankMultivariateNormal, AutoNormal

from blob_pyro import BLO, BLOB, BanditPriors, JointBLOB, Learned
from blob_pyro.guides import GUIDES, DrawsGuide
from blob_pyro.infer import CannotCapture, GuidedELBO, LocalReparameterization, Training, seeded, train
from blob_pyro.infer.nuts import fit_nuts
from blob_pyro.models import (
    HorseshoeKappa,
    ItemCategories,
    ItemDeviations,
    ItemFeatures,
    KappaOnPopularity,
    StudentTKappa,
    UserCovariates,
)
from blob_pyro.policies import Greedy, SessionPopularity, ThompsonSampling
from blob_pyro.simulation import RecoGym
from tests.devices.test_organic_fits import check_budget

P, EPOCHS, STEPS = 6, 2, 2
HISTORIES = [[0, 1, 1], [], [5]]
SVI = sorted(set(GUIDES) - {"laplace", "nuts"})
AUTO = [AutoNormal, AutoDiagonalNormal, AutoLowRankMultivariateNormal, AutoDelta]
READS_PER_STEP = {"low_rank": 1, AutoLowRankMultivariateNormal: 1}
FIXED = BanditPriors(w_b=-3.0, kappa_scale=0.3)  # nothing for Laplace to search
PRIORS = {
    "popularity": BanditPriors(terms=(KappaOnPopularity(0.7),)),
    "deviations": BanditPriors(terms=(ItemDeviations(Learned(0.3)),)),
    "categories": BanditPriors(terms=(ItemCategories(tuple(p % 3 for p in range(P)), 0.4, Learned(0.2)),)),
    "features": BanditPriors(terms=(ItemFeatures(tuple((float(p), (-1.0) ** p) for p in range(P)), 0.3, 0.2),)),
    "horseshoe": BanditPriors(terms=(HorseshoeKappa(dist.HalfCauchy(0.2)),)),
    "covariates": BanditPriors(terms=(UserCovariates(2),)),
    "random-scale": BanditPriors(kappa_scale=dist.HalfNormal(0.3)),
    "student": BanditPriors(kappa=StudentTKappa(4.0)),
    "normalized": BanditPriors(normalize_embeddings=True),
}


@pytest.fixture(scope="module")
def log():
    environment = RecoGym(num_items=P, num_flips=2, seed=3)
    return environment.simulate(SessionPopularity(P, epsilon=0.3), num_users=4, num_organic_users=30)


@pytest.fixture(scope="module")
def organic(log, tmp_path_factory):
    """Where a fitted organic model is, to be loaded on either device."""
    blo = BLO(P, embedding_dim=2)
    blo.fit(log, num_epochs=10, progress=False, device="cpu")
    path = tmp_path_factory.mktemp("organic") / "blo"
    blo.save(path)
    return path


def fit(organic, log, device, guide="normal", priors=None, omega="mean", **settings):
    torch.manual_seed(5)  # of guides that are constructed at random
    blob = BLOB(BLO.load(organic, device=device), guide, priors, omega=omega)
    settings = {"num_epochs": EPOCHS, "batch_size": -(-len(log.action) // STEPS), "progress": False, **settings}
    return blob, blob.fit(log, device=device, **settings)


def check_same(found, expected, **tolerance):
    tolerance = {"rtol": 1e-3, "atol": 1e-4, **tolerance}
    torch.testing.assert_close(torch.as_tensor(found).cpu(), torch.as_tensor(expected), **tolerance)


def check_same_fit(reads, organic, log, guide="normal", priors=None, **settings):
    """Fit on both devices; returns both."""
    there, history = fit(organic, log, "pretend", guide, priors, **settings)
    assert there.device.type == "pretend"
    check_budget(reads, per_step=READS_PER_STEP.get(guide, 0), num_steps=STEPS)
    here, expected = fit(organic, log, "cpu", guide, priors, **settings)
    check_same(history.iloc[:, 1], expected.iloc[:, 1])  # the objective, by its own name
    return there, here


def check_same_posterior(there, here):
    for name, distribution in there.posterior().items():
        assert distribution.mean.device.type == "pretend"
        check_same(distribution.mean, here.posterior()[name].mean)


@pytest.mark.parametrize("guide", [*SVI, AUTO[0], *(pytest.param(guide, marks=pytest.mark.slow) for guide in AUTO[1:])])
def test_guides_trained_by_svi(reads, organic, log, guide):
    check_same_posterior(*check_same_fit(reads, organic, log, guide, FIXED))


@pytest.mark.parametrize(
    "priors", [FIXED, pytest.param(BanditPriors(), marks=pytest.mark.slow)], ids=["fixed", "usual"]
)
def test_laplace(reads, organic, log, priors):
    there, history = fit(organic, log, "pretend", "laplace", priors)
    here, expected = fit(organic, log, "cpu", "laplace", priors)
    check_same(history.iloc[:, 1], expected.iloc[:, 1])
    check_same_posterior(there, here)


def test_nuts(reads, organic, log):
    blobs = []
    for device in ("pretend", "cpu"):
        blob = BLOB(BLO.load(organic, device=device), "normal", FIXED).to(device)
        blob.guide = DrawsGuide(blob.model, 4)
        with seeded(0, device), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="guide 'nuts'")  # of too few draws
            fit_nuts(blob.guide, blob.model, blob.batch(log), warmup_steps=2, progress=False)
        blob.mark_fitted(log)
        blobs.append(blob)
    check_same(*(blob.scores(HISTORIES) for blob in blobs), rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore:BLOB. guide .* takes the numbers of an item's own beta")
@pytest.mark.parametrize("name", PRIORS)
def test_priors_and_terms(reads, organic, log, name):
    covariates = torch.randn(log.num_users, 2) if name == "covariates" else None
    there, here = check_same_fit(reads, organic, log, priors=PRIORS[name], covariates=covariates)
    rows = None if covariates is None else covariates[: len(HISTORIES)]
    logits = [blob.click_logits(HISTORIES, rows).mean for blob in (there, here)]
    check_same(*logits)


def test_sampled_interest(reads, organic, log):
    check_same_posterior(*check_same_fit(reads, organic, log, omega="sample"))


def test_jointly(reads, organic, log):
    histories = []
    for device in ("pretend", "cpu"):
        joint = JointBLOB(fit(organic, log, device)[0])
        reads.clear()
        histories.append(joint.fit_jointly(log, num_epochs=EPOCHS, batch_size=100, device=device, progress=False))
        if device == "pretend":
            assert joint.device.type == device
            check_budget(reads)
    check_same(*(history["elbo"] for history in histories))


@pytest.mark.parametrize("guide", ["normal", pytest.param("matrix_normal", marks=pytest.mark.slow), "full"])
def test_answers_updates_and_files(reads, organic, log, guide, tmp_path):
    there, here = (fit(organic, log, device, guide, FIXED)[0] for device in ("pretend", "cpu"))
    for method in ("click_probabilities", "scores"):
        check_same(getattr(there, method)(HISTORIES), getattr(here, method)(HISTORIES))
    zero = torch.zeros(P)
    check_same(there.click_logits(HISTORIES).cdf(zero.to("pretend")), here.click_logits(HISTORIES).cdf(zero))
    check_same(there.prior_click_rates(HISTORIES, num_samples=5), here.prior_click_rates(HISTORIES, num_samples=5))
    for blob in (there, here):
        blob.update(log, num_epochs=EPOCHS, batch_size=200, progress=False)
    check_same_posterior(there, here)
    there.save(tmp_path / "model")
    again, moved = (BLOB.load(tmp_path / "model", device=device) for device in ("pretend", "cpu"))
    check_same(again.scores(HISTORIES), there.scores(HISTORIES).cpu(), rtol=0, atol=0)
    check_same(moved.scores(HISTORIES), there.scores(HISTORIES).cpu(), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_intervals(reads, organic, log):
    there, here = (fit(organic, log, device, priors=FIXED)[0] for device in ("pretend", "cpu"))
    check_same(torch.stack(there.click_intervals(HISTORIES)), torch.stack(here.click_intervals(HISTORIES)))


@pytest.mark.parametrize("guide", [pytest.param("normal", marks=pytest.mark.slow), "low_rank", AutoNormal, "delta"])
def test_policies(reads, organic, log, guide):
    there, here = (fit(organic, log, device, guide, FIXED)[0] for device in ("pretend", "cpu"))
    for policy in (Greedy, ThompsonSampling):
        degenerate = policy is ThompsonSampling and guide == "delta"
        with pytest.warns(UserWarning, match="point mass") if degenerate else nullcontext():
            actions = policy(there).action_distribution(HISTORIES)
            expected = policy(here).action_distribution(HISTORIES)
        assert actions.probs.device.type == "pretend"
        check_same(actions.probs, expected.probs.to(actions.probs.dtype))
        torch.manual_seed(4)
        played = actions.sample()
        torch.manual_seed(4)
        check_same(played, expected.sample())
        assert played.device.type == "pretend"
        check_same(actions.log_prob(played).exp(), actions.probs.gather(-1, played.unsqueeze(-1)).squeeze(-1).cpu())


@pytest.mark.parametrize("capture", [True, "auto"])
def test_a_step_that_cannot_be_captured_there_is_taken_as_it_is(reads, organic, log, capture, monkeypatch):
    """What torch records of this device are tensors of its host: the recording is refused, and nothing is half done."""
    monkeypatch.setattr("blob_pyro.infer.training.gradients.WORTH_CAPTURING", 5)
    blob = BLOB(BLO.load(organic, device="pretend")).to("pretend")
    training = Training(8, 400, 0.1, capture=capture)
    arguments = blob.model, blob.guide, GuidedELBO(LocalReparameterization), blob.batch(log), training
    if capture is True:
        with pytest.raises(CannotCapture, match="cannot be replayed"):
            train(*arguments, progress=False)
    else:
        history = train(*arguments, progress=False)
        assert not history.attrs["captured"]
        assert history["elbo"].iloc[-1] > history["elbo"].iloc[0]
