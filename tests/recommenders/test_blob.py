"""BLOB: it learns what clicks say, knows how sure it is, and comes back from disk."""

import json
import subprocess
import sys
import warnings

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import MCMC, NUTS, Predictive
from torch.nn.functional import softplus

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.guides import NormalGuide
from blob_pyro.infer import ConvergenceWarning, PoorFitWarning
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA

HISTORIES = [[0, 0, 1], [], [5, 3]]


def test_batch_embeds_every_context_once(blob, log):
    batch = blob.batch(log)
    assert batch.interest.shape == (len(log.contexts), 3)
    assert batch.num_events == len(batch) == log.num_impressions
    seen = log.contexts[log.context[17:18]]
    assert torch.allclose(batch.interest[batch.context[17]], blob.blo.user_posterior(seen).mean[0])


def test_fit_learns_from_clicks(blo, log):
    """Kappa follows an item that is clicked far more often than it should be."""
    reward = torch.where(log.action == 4, torch.rand(log.num_impressions) < 0.5, torch.rand(log.num_impressions) < 0.01)
    changed = EventLog.from_arrays(
        12, log.view_user, log.view_time, log.view_item, log.user, log.time, log.action, reward.float()
    )
    blob = BLOB(blo)
    history = blob.fit(changed, num_epochs=40, batch_size=512, progress=False, device="cpu")
    assert history.elbo.iloc[-1] > history.elbo.iloc[0]
    kappa = blob.posterior()[KAPPA].mean
    assert kappa.argmax() == 4
    assert kappa[4] - kappa.median() > 1.5
    assert blob.scores(HISTORIES).argmax(-1).tolist() == [4, 4, 4]


def test_agrees_with_nuts_on_a_small_problem(blo, log):
    """The posterior of the base click rate, against the gold standard. Mean-field may be too sure, not elsewhere."""
    priors = BanditPriors(kappa_scale=0.3)
    blob = BLOB(blo, priors=priors)
    blob.fit(log, num_epochs=60, batch_size=8192, progress=False, device="cpu")
    kernel = NUTS(blob.model, jit_compile=False)
    mcmc = MCMC(kernel, num_samples=100, warmup_steps=50, disable_progbar=True)
    with pyro.validation_enabled(False):
        mcmc.run(blob.batch(log))
    draws = mcmc.get_samples()
    posterior = blob.posterior()
    for name in (W_A, W_C):
        exact = draws[name]
        assert abs(posterior[name].mean - exact.mean()) < 1.0 * exact.std() + 4 * exact.std() / 100**0.5, name
    correlation = torch.corrcoef(torch.stack([posterior[KAPPA].mean, draws[KAPPA].mean(0).flatten()]))[0, 1]
    assert correlation > 0.9


def test_same_seed_same_model(blo, log):
    fits = []
    for seed in (1, 1, 2):
        blob = BLOB(blo)
        for _ in range(2):  # a second fit starts afresh
            blob.fit(log, seed=seed, num_epochs=2, progress=False, device="cpu")
        fits.append(blob.posterior()[KAPPA].mean)
    assert torch.equal(fits[0], fits[1])
    assert not torch.equal(fits[0], fits[2])


def test_beta_hat_is_the_paper_s_formula(blob):
    q, psi = blob.posterior(), blob.model.item_embedding
    factor = torch.linalg.cholesky(psi.mT @ psi / 12)
    expected = softplus(q[W_A].mean) * psi + softplus(q[W_B].mean) * psi @ q[ZETA].mean @ factor.mT
    assert torch.allclose(blob.beta_hat, expected, atol=1e-6)


def test_sample_and_predictive_agree(blob, log):
    draws = blob.sample(4000)
    assert {name: tuple(d.shape) for name, d in draws.items()} == {
        W_A: (4000,), W_B: (4000,), W_C: (4000,), KAPPA: (4000, 12), ZETA: (4000, 3, 3),
    }  # fmt: skip
    predictive = Predictive(blob.model, guide=blob.guide, num_samples=400)(blob.batch(log))
    spread = draws[KAPPA].std(0)
    difference = predictive[KAPPA].reshape(400, 12).mean(0) - draws[KAPPA].mean(0)
    assert (difference.abs() < 4.5 * spread / 400**0.5).all()


def test_posterior_carries_no_graph(blob):
    logits = blob.click_logits(HISTORIES)
    assert not any(t.requires_grad for t in (logits.mean, logits.variance, logits.rsample()))


def test_inference_data(blob, tmp_path):
    data = blob.to_inference_data(num_draws=50)
    posterior = data["posterior"]
    assert posterior["kappa"].dims == ("chain", "draw", "item")
    assert posterior["zeta"].shape == (1, 50, 3, 3)
    assert data["prior"]["w_c"].sizes == {"chain": 1, "draw": 50}
    with pytest.warns(DeprecationWarning, match="'num_samples' is now called 'num_draws'"):
        again = blob.to_inference_data(num_samples=50)
    assert (again["posterior"]["w_a"] == posterior["w_a"]).all()
    data.to_netcdf(str(tmp_path / "posterior.nc"))
    with xr.open_dataset(tmp_path / "posterior.nc", group="posterior") as stored:
        assert stored["kappa"].sel(item=3).shape == (1, 50)
    assert az.hdi(posterior["w_c"].values.ravel()) is not None


@pytest.mark.parametrize("guide", ["normal", "matrix_normal"])
@pytest.mark.parametrize(
    "priors", [BanditPriors(), BanditPriors(w_a=dist.Normal(0.5, 2.0), kappa_scale=0.2)], ids=["learned", "fixed"]
)
def test_round_trip(blo, log, guide, priors, tmp_path):
    blob = BLOB(blo, guide=guide, priors=priors)
    blob.fit(log, num_epochs=2, progress=False, device="cpu")
    blob.save(tmp_path / "model")
    blob.save(tmp_path / "model")  # over itself
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))
    assert torch.equal(back.model.kappa_scale, blob.model.kappa_scale)
    assert back.model.priors.w_a.scale == priors.w_a.scale
    assert back.guide_name == guide


LOAD = """
import sys
from blob_pyro import BLO, BLOB
organic, bandit = (cls.load(path, device="cpu") for cls, path in zip((BLO, BLOB), sys.argv[1:]))
print([organic.predict_next([["mug", "tea"], []])[0].tolist(), bandit.scores([["jar"]])[0].tolist()])
"""


def test_both_models_come_back_in_a_new_process_with_their_ids(tmp_path):
    log = EventLog.from_tables(
        views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": ["tea", "mug", "mug", "jar"]},
        impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": ["tea", "jar", "mug"], "reward": [1, 0, 0]},
    )
    blo = BLO(3, embedding_dim=2)
    blo.fit(log, num_epochs=3, progress=False, device="cpu")
    blob = BLOB(blo)
    blob.fit(log, num_epochs=3, progress=False, device="cpu")
    blo.save(tmp_path / "organic")
    blob.save(tmp_path / "bandit")
    command = [sys.executable, "-c", LOAD, tmp_path / "organic", tmp_path / "bandit"]
    views, scores = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert views == pytest.approx(blo.predict_next([["mug", "tea"], []])[0].tolist(), rel=1e-6)
    assert scores == pytest.approx(blob.scores([["jar"]])[0].tolist(), rel=1e-5)


def test_a_guide_of_one_s_own(blo, log, tmp_path):
    class Bolder(NormalGuide):
        """NQ that starts with all its scales doubled."""

        def __init__(self, model):
            super().__init__(model)
            with torch.no_grad():
                for name, parameter in self.named_parameters():
                    if name.endswith("scale_unconstrained"):
                        parameter.add_(torch.tensor(2.0).log())

    blob = BLOB(blo, guide=Bolder)
    blob.fit(log, num_epochs=2, progress=False, device="cpu")
    blob.save(tmp_path / "model")
    with pytest.raises(ValueError, match="guide of your own; pass its class"):
        BLOB.load(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", guide=Bolder, device="cpu")
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))


NO_CLICKS = EventLog.from_tables(views={"user": [1], "time": [0], "item": [3]}, num_items=12)
OTHER = EventLog.from_tables(impressions={"user": [1], "time": [0], "action": [3], "reward": [1]}, num_items=50)
BAD = {
    "not fitted": (lambda blo: BLOB(BLO(4, 2)), "blo: is not fitted; call blo.fit"),
    "guide": (
        lambda blo: BLOB(blo, guide="flow"),
        "guide: unknown name 'flow'; known: arrowhead_normal, delta, full, laplace, low_rank, matrix_normal, ",
    ),
    "no events": (lambda blo: BLOB(blo).fit(NO_CLICKS), "log: has no bandit events"),
    "other items": (lambda blo: BLOB(blo).fit(OTHER), "38 of its 50 items are not among the 12 that the organic"),
    "folder in use": (lambda blo: BLOB(blo).save("."), "exists and is not a saved model"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(blo, make, message):
    with pytest.raises(ValueError, match=message):
        make(blo)


def test_ids_that_json_cannot_hold(tmp_path):
    log = EventLog.from_tables(views={"user": [1, 1], "time": [0, 1], "item": [(0, 5), (1, 5)]})
    blo = BLO(2, embedding_dim=1)
    blo.fit(log, num_epochs=1, progress=False, device="cpu")
    with pytest.raises(ValueError, match=r"id \(0, 5\) is a tuple; only strings and integers can be saved"):
        blo.save(tmp_path / "model")


@pytest.mark.cuda
def test_on_cuda(log, tmp_path):
    blo = BLO(12, embedding_dim=2)
    blo.fit(log, num_epochs=3, progress=False)
    blob = BLOB(blo)
    blob.fit(log, num_epochs=3, progress=False)
    assert blob.device.type == "cuda"
    blob.save(tmp_path / "model")
    on_cpu = BLOB.load(tmp_path / "model", device="cpu")
    assert torch.allclose(on_cpu.scores(HISTORIES), blob.scores(HISTORIES).cpu(), atol=1e-4)


def test_warnings_of_a_fit_are_of_the_line_that_asked_for_it(blo, log):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for blob in (BLOB(blo, priors=BanditPriors.recommended()), BLOB(blo)):
            blob.fit(log, num_epochs=2, learning_rate=1.0, progress=False, device="cpu")
            blob.update(log, num_epochs=2, learning_rate=1.0, progress=False)
    kinds = {warning.category for warning in seen}
    assert kinds == {UserWarning, ConvergenceWarning, PoorFitWarning}
    assert {warning.filename for warning in seen} == {__file__}
