"""What belongs to the process is left alone: generators move for explicit sampling only, Pyro's store stays empty."""

import contextlib
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from blob_pyro import BLO, BLOB, BanditPriors, EventLog, policies, propensity
from blob_pyro.data.splits import split_sessions
from blob_pyro.guides import DrawsGuide, make_guide
from blob_pyro.infer import Bouchard, fit_nuts
from blob_pyro.models.priors.heavy_tails import HorseshoeKappa
from blob_pyro.ops import ranking_metrics
from blob_pyro.policies import baselines
from blob_pyro.recommenders.joint_blob import JointBLOB
from blob_pyro.simulation import RecoGym, ab_test
from blob_pyro.testing import check_guide

HISTORIES = [[0, 0, 1], [], [5, 3]]
QUICK = {"num_epochs": 2, "progress": False, "device": "cpu"}
FIXED = BanditPriors(kappa_scale=0.3)
TINY = BanditPriors(w_b=-6.0, zeta=0.0, kappa=0.0)


@pytest.fixture(scope="module")
def world(log, blo, blob):
    """Fitted models of every kind of answer: closed form, joint Gaussian, by draws, omega drawn, joint training."""

    class World:
        pass

    world = World()
    world.log, world.blo, world.blob = log, blo, blob
    world.em = BLO(12, embedding_dim=2, encoder="deep", bound=Bouchard(num_negatives=4), covariance="full")
    world.em.fit(log, **QUICK)
    world.full = BLOB(blo, "full", FIXED)
    world.full.fit(log, **QUICK)
    world.drawn = BLOB(blo, priors=BanditPriors(terms=(HorseshoeKappa(),)), omega="sample")
    world.drawn.fit(log, **QUICK)
    world.joint = JointBLOB(blob)
    world.joint.fit_jointly(log, **QUICK)
    world.recogym = RecoGym(num_items=12, num_flips=4, seed=3)
    world.gru = baselines.GRU(12, hidden_dim=4)
    world.gru.fit(log, num_epochs=1, device="cpu", progress=False)
    return world


def distributions():
    loc, scale = torch.tensor([0.1, 0.0, -0.3, 0.2]), torch.tensor([0.2, 0.5, 1.0, 0.4])
    spread = torch.tensor([[0.3, 0.1], [0.0, 0.2], [0.5, -0.4], [0.1, 0.1]])
    return {
        "ArgmaxNormal": propensity.ArgmaxNormal(loc, scale),
        "ArgmaxLogNormal": propensity.ArgmaxLogNormal(loc, scale),
        "ArgmaxBeta": propensity.ArgmaxBeta(3 + loc, 2 + scale),
        "ArgmaxLowRankNormal": propensity.ArgmaxLowRankNormal(loc, spread, scale),
        "ArgmaxMultivariateNormal": propensity.ArgmaxMultivariateNormal(loc, spread @ spread.mT + scale.diag()),
        "Argmax": propensity.Argmax(dist.Gumbel(loc, scale)),
        "RankNormal": propensity.RankNormal(loc, scale, num_ranks=2),
        "RankBeta": propensity.RankBeta(3 + loc, 2 + scale, num_ranks=2),
    }


PROPENSITIES = distributions()
DETERMINISTIC = ("probs", "entropy", "mean", "variance", "mode", "logits", "error_estimate", "quadrature_error")
FITS = {
    f"fit {guide if isinstance(guide, str) else guide.__name__}": lambda w, guide=guide: BLOB(w.blo, guide, FIXED).fit(
        w.log, **QUICK
    )
    for guide in ("normal", "matrix_normal_full", "low_rank", "full", "laplace", "delta", AutoNormal)
}
METRICS = ("recall_at_k", "dcg_at_k")
CALLS = {
    "BLO": lambda w: BLO(12, 2),
    "BLO deep": lambda w: BLO(12, 2, encoder="deep", covariance="full"),
    "BLO.fit": lambda w: BLO(12, 2).fit(w.log, **QUICK),
    "BLO.fit sampled items": lambda w: BLO(12, 2, bound=Bouchard(num_negatives=4)).fit(w.log.sessions, **QUICK),
    "user_posterior": lambda w: w.blo.user_posterior(HISTORIES),
    "user_posterior deep": lambda w: w.em.user_posterior(HISTORIES),
    "user_posterior em": lambda w: w.blo.user_posterior(HISTORIES, "em"),
    "user_posterior newton": lambda w: w.blo.user_posterior(HISTORIES, "newton"),
    "user_posterior online_em": lambda w: w.blo.user_posterior(HISTORIES, "online_em", num_steps=5),
    "embed": lambda w: w.blo.embed(HISTORIES),
    "predict_next": lambda w: w.blo.predict_next(HISTORIES),
    "predict_next monte_carlo": lambda w: w.blo.predict_next(HISTORIES, "monte_carlo", 5),
    "predict_next monte_carlo full": lambda w: w.em.predict_next(HISTORIES, "monte_carlo", 5, top_k=2),
    "predict_next other": lambda w: w.blo.predict_next(
        [[0]], "monte_carlo", 5, posterior=dist.StudentT(9.0, torch.zeros(1, 3)).to_event(1)
    ),
    "BLO.scores": lambda w: w.blo.scores(HISTORIES),
    "BLOB": lambda w: BLOB(w.blo),
    "BLOB AutoNormal": lambda w: BLOB(w.blo, AutoNormal),
    "batch": lambda w: w.blob.batch(w.log),
    "fit omega sample": lambda w: BLOB(w.blo, omega="sample").fit(w.log, **QUICK),
    "fit nuts": lambda w: BLOB(w.blo, make_nuts(w), TINY).fit(few(w.log), progress=False, device="cpu"),
    **FITS,
    "update": lambda w: fitted(w).update(w.log, num_epochs=1, progress=False),
    "elbo": lambda w: w.blob.elbo(w.log, num_draws=3),
    "JointBLOB": lambda w: JointBLOB(w.blob).fit_jointly(w.log, **QUICK),
    "joint scores": lambda w: w.joint.scores(HISTORIES),
    "posterior": lambda w: w.full.posterior(),
    "posterior drawn": lambda w: w.drawn.posterior(),
    "click_logits": lambda w: w.blob.click_logits(HISTORIES).variance,
    "click_logits drawn": lambda w: w.drawn.click_logits(HISTORIES, num_draws=5).variance,
    "scores": lambda w: w.drawn.scores(HISTORIES),
    "click_probabilities": lambda w: [m.click_probabilities(HISTORIES) for m in (w.blob, w.full, w.drawn)],
    "plug_in": lambda w: w.blob.click_probabilities(HISTORIES, "plug_in"),
    "click_intervals": lambda w: w.full.click_intervals(HISTORIES),
    "prior_click_rates": lambda w: w.blob.prior_click_rates(HISTORIES, num_samples=3),
    "beta_hat": lambda w: w.blob.beta_hat,
    "to_inference_data": lambda w: w.blob.to_inference_data(num_draws=5),
    "save": lambda w: w.blob.save(w.folder / "model"),
    "check_guide": lambda w: check_guide("matrix_normal"),
    "make_guide": lambda w: [make_guide(g, w.blob.model) for g in ("normal", "low_rank", "laplace", AutoNormal)],
    "Greedy": lambda w: policies.Greedy(w.blob).action_distribution(HISTORIES).probs,
    "EpsilonGreedy": lambda w: policies.EpsilonGreedy(w.blo, 0.1).action_distribution(HISTORIES).probs,
    "Softmax": lambda w: policies.Softmax(w.blob, 0.1).action_distribution(HISTORIES).entropy(),
    "Uniform": lambda w: policies.Uniform(12).action_distribution(HISTORIES).probs,
    "SessionPopularity": lambda w: policies.SessionPopularity(12, 0.3).action_distribution(HISTORIES).probs,
    "Thompson": lambda w: answers(policies.ThompsonSampling(w.blob).action_distribution(HISTORIES)),
    "Thompson drawn": lambda w: answers(policies.ThompsonSampling(w.drawn).action_distribution(HISTORIES)),
    "RecoGym": lambda w: w.recogym.simulate(policies.ThompsonSampling(w.blob), num_users=3, num_organic_users=3),
    "ab_test": lambda w: ab_test(w.recogym, {"t": policies.ThompsonSampling(w.blob)}, num_users=5),
    "oracle": lambda w: ab_test(w.recogym, {"oracle": w.recogym.oracle()}, num_users=5).table(),
    "GRU": lambda w: baselines.GRU(12, 4).fit(w.log, num_epochs=1, device="cpu", progress=False),
    "GRU.scores": lambda w: w.gru.scores(HISTORIES),
    "ItemKNN": lambda w: [b.scores(HISTORIES) for b in fitted_baselines(w)],
    "metrics": lambda w: [getattr(ranking_metrics, m)(torch.eye(3), torch.arange(3), 2) for m in METRICS],
    "split_sessions": lambda w: split_sessions(w.log.sessions),
    **{name: lambda w, d=d: answers(d) for name, d in PROPENSITIES.items()},
}


def answers(d):
    """Everything that a distribution knows without drawing."""
    for name in DETERMINISTIC:
        with contextlib.suppress(NotImplementedError):
            value = getattr(d, name, None)
            value() if callable(value) else value
    d.log_prob(torch.zeros(d.batch_shape + d.event_shape, dtype=torch.long))


def fitted(world):
    blob = BLOB(world.blo)
    blob.fit(world.log, **QUICK)
    return blob


def fitted_baselines(world):
    made = [baseline(world.log) for baseline in (baselines.ItemKNN, baselines.SessionItemKNN, baselines.Popularity)]
    return [*made, baselines.SessionFrequency(12)]


def few(log):
    """The first thousand events."""
    at = slice(0, 1000)
    arrays = (log.view_user, log.view_time, log.view_item, log.user[at], log.time[at], log.action[at], log.reward[at])
    return EventLog.from_arrays(log.num_items, *arrays)


def make_nuts(world):
    return DrawsGuide(BLOB(world.blo, priors=TINY).model, 4)


def state():
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


@pytest.mark.filterwarnings("ignore:guide 'nuts'", "ignore:.*arviz|.*not converged")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_nothing_but_sampling_moves_a_global_generator(call, world, tmp_path, short_starts, monkeypatch):
    monkeypatch.setitem(fit_nuts.__kwdefaults__, "warmup_steps", 5)
    world.folder = tmp_path
    torch.rand(3)
    before = state()
    call(world)
    after = state()
    assert torch.equal(before[0], after[0]), "torch's generator has moved"
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1])), "NumPy's generator has moved"
    assert before[2] == after[2], "Python's generator has moved"
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.parametrize("d", PROPENSITIES.values(), ids=PROPENSITIES.keys())
def test_sampling_draws_from_the_global_generator(d):
    torch.manual_seed(5)
    first, second = d.sample((20,)), d.sample((20,))
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(first, d.sample((20,)))
