"""Fits of guide "arrowhead_normal", from end to end."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.distributions import ArrowheadNormal
from blob_pyro.guides import ArrowheadNormalGuide
from blob_pyro.infer import FitRequest, PoorFitWarning, Training, correlate_weights, fit_guide
from blob_pyro.infer.weights import expansion, fit
from blob_pyro.models import BanditBatch, BanditModel, ItemDeviations
from blob_pyro.policies import SessionPopularity
from blob_pyro.recommenders import joint_blob
from blob_pyro.recommenders.blob_fit import workers_of
from blob_pyro.recommenders.joint_blob import JointBLOB
from blob_pyro.simulation import RecoGym


@pytest.fixture(scope="module")
def log() -> EventLog:
    environment = RecoGym(num_items=6, num_flips=2, seed=100)
    return environment.simulate(SessionPopularity(6, epsilon=0.5), num_users=40, num_organic_users=60)


@pytest.fixture(scope="module")
def blo(log: EventLog) -> BLO:
    torch.manual_seed(0)
    blo = BLO(6, embedding_dim=2)
    blo.fit(log, num_epochs=30, progress=False, device="cpu")
    return blo


def fitted(blo: BLO, log: EventLog, **priors) -> BLOB:
    blob = BLOB(blo, "arrowhead_normal", BanditPriors(**priors))
    blob.fit(log, num_epochs=20, learning_rate=0.1, progress=False, device="cpu")
    return blob


@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning", "ignore::blob_pyro.infer.PoorFitWarning")
def test_it_is_used_as_any_guide_is(blo: BLO, log: EventLog, tmp_path: Path) -> None:
    blob = fitted(blo, log)
    assert blob.guide.is_correlated
    contexts = [[], [0, 1], [3, 3, 5]]
    posterior = blob.posterior()
    vector = posterior["kappa"].multivariate
    assert isinstance(vector, ArrowheadNormal)
    assert vector.num_shared == 3
    logits = blob.click_logits(contexts)
    torch.manual_seed(1)
    values = blob.sample(20_000)
    drawn = (
        blob._parts.known.coefficients(values)
        @ torch.cat([blob.blo.user_posterior(contexts).mean, torch.ones(3, 1)], -1).mT
    )
    torch.testing.assert_close(logits.mean.mT, drawn.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(logits.variance.sqrt().mT, drawn.std(0), atol=0.02, rtol=0.05)
    blob.save(tmp_path / "saved")
    again = BLOB.load(tmp_path / "saved", device="cpu")
    assert torch.equal(again.click_logits(contexts).variance, logits.variance)


@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning", "ignore::blob_pyro.infer.PoorFitWarning")
def test_an_update_goes_on_from_the_vector(blo: BLO, log: EventLog) -> None:
    blob = fitted(blo, log, kappa_scale=0.3)
    before = blob.posterior()["kappa"].multivariate
    blob.update(log, num_epochs=20, learning_rate=0.1, progress=False)
    vector = blob.model.vector_prior
    assert vector is not None
    torch.testing.assert_close(vector.distribution.covariance_matrix, before.covariance_matrix)
    after = blob.posterior()["kappa"].multivariate
    assert isinstance(after, ArrowheadNormal)
    assert after.num_shared == 3
    assert (after.variance[[0, 2]] < before.variance[[0, 2]]).all()  # the same events once more
    assert torch.isfinite(blob.click_logits([[0]]).variance).all()


@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning", "ignore::blob_pyro.infer.PoorFitWarning")
def test_items_of_own_betas_have_closed_forms(blo: BLO, log: EventLog) -> None:
    blob = fitted(blo, log, terms=(ItemDeviations(0.3),))
    contexts = [[], [0, 1]]
    logits = blob.click_logits(contexts)
    values = blob.sample(20_000)
    interest = torch.cat([blob.blo.user_posterior(contexts).mean, torch.ones(2, 1)], -1)
    drawn = blob._parts.known.coefficients(values) @ interest.mT
    torch.testing.assert_close(logits.variance.sqrt().mT, drawn.std(0), atol=0.02, rtol=0.05)


def test_workers_find_what_one_does(blo: BLO, log: EventLog) -> None:
    """Two halves of the events, summed as workers do, are the whole."""
    blob = BLOB(blo, "arrowhead_normal", BanditPriors(kappa_scale=0.3))
    batch = blob.batch(log)
    guide, other = ArrowheadNormalGuide(blob.model), ArrowheadNormalGuide(blob.model)
    correlate_weights(blob.model, guide, batch)

    class Others:
        """A worker's view of one that has the second half."""

        def sum(self, own: torch.Tensor) -> torch.Tensor:
            self.sums = [*getattr(self, "sums", []), own]
            return own + others.pop(0)

    half = len(batch) // 2
    record = Others()
    others = [torch.zeros(())] * 2
    correlate_weights(blob.model, ArrowheadNormalGuide(blob.model), batch[torch.arange(half, len(batch))], record)
    others = record.sums
    correlate_weights(blob.model, other, batch[torch.arange(half)], Others())
    torch.testing.assert_close(
        other.multivariate().covariance_matrix, guide.multivariate().covariance_matrix, atol=1e-5, rtol=1e-4
    )


def test_a_shard_is_not_refused(blo: BLO, log: EventLog) -> None:
    """What is missing is the other worker, and no other guide."""
    blob = BLOB(blo, "arrowhead_normal", BanditPriors(kappa_scale=0.3))
    with pytest.raises(ValueError, match="there are no other workers"):
        workers_of(log.shard(0, 2), blob.guide)
    with pytest.raises(ValueError, match="use 'normal', 'arrowhead_normal'"):
        workers_of(log.shard(0, 2), BLOB(blo, "laplace").guide)


def test_a_fit_that_was_interrupted_stays_independent(blo: BLO, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = BLOB(blo, "arrowhead_normal", BanditPriors(kappa_scale=0.3))
    monkeypatch.setattr(fit, "fit_by_svi", lambda guide, request: _interrupted())
    guide = ArrowheadNormalGuide(blob.model)
    trace = fit_guide(guide, FitRequest(blob.model, blob.batch(log), Training(1, 8, 0.1)))
    assert not trace.attrs["correlated"]
    assert not guide.is_correlated


def test_ctrl_c_after_the_training_loses_nothing(blo: BLO, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass after it takes seconds, and what was trained may have taken hours."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(
        fit, "correlate_weights", lambda *args: [signal.raise_signal(signal.SIGINT), correlate_weights(*args)]
    )
    blob = BLOB(blo, priors=BanditPriors(kappa_scale=0.3))
    try:
        with pytest.warns(UserWarning, match="the weights' posterior: interrupted at its end"):
            blob.fit(log, num_epochs=2, progress=False, device="cpu")
    finally:
        signal.signal(signal.SIGINT, usual)
    assert blob.fitted
    assert blob.guide.is_correlated


@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning", "ignore::blob_pyro.infer.PoorFitWarning")
def test_a_joint_fit_finds_the_weights_of_what_it_trained(
    blo: BLO, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slopes and correlations are those around embeddings, encoder and means as they have ended."""
    joint = JointBLOB(fitted(blo, log))
    slope, interest, seen = joint.guide.kappa_slope.clone(), joint.batch(log).interest, []

    def noted(guide: ArrowheadNormalGuide, model: BanditModel, batch: BanditBatch, *others: Any) -> None:
        seen.append(batch)
        fit.find_weights(guide, model, batch, *others)

    monkeypatch.setattr(joint_blob, "find_weights", noted)
    trace = joint.fit_jointly(log, num_epochs=3, learning_rate=0.05, progress=False, device="cpu")
    assert trace.attrs["correlated"]
    assert not torch.equal(joint.guide.kappa_slope, slope)
    assert torch.equal(seen[0].interest, joint.batch(log).interest)
    assert not torch.allclose(seen[0].interest, interest)


def _interrupted() -> pd.DataFrame:
    trace = pd.DataFrame()
    trace.attrs["interrupted"] = True
    return trace


def test_a_curvature_that_contradicts_itself_leaves_independent_normals_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a Kronecker product stands for it: zeta would take more of the curvature by ``w_c`` than there is."""
    environment = RecoGym(100, 50, seed=223, embedding_dim=10)
    log = environment.simulate(SessionPopularity(100), 300, 3000, propensities=False)
    blo = BLO(100, 20)
    blo.fit(log, num_epochs=10, progress=False, device="cpu")
    exact = BLOB(blo)
    assert exact.fit(log, num_epochs=30, progress=False, device="cpu").attrs["correlated"]
    monkeypatch.setattr(expansion, "MOST_DIMENSIONS", 4)
    blob = BLOB(blo)
    with pytest.warns(PoorFitWarning, match=r"left as independent normals.* of that by w_c, at most 0\.95"):
        trace = blob.fit(log, num_epochs=30, progress=False, device="cpu")
    assert not trace.attrs["correlated"]
    normal = BLOB(blo, "normal")
    normal.fit(log, num_epochs=30, progress=False, device="cpu")
    histories = [[1, 2], []]
    assert torch.allclose(blob.click_logits(histories).mean, normal.click_logits(histories).mean, atol=1e-4)
    assert torch.allclose(blob.click_logits(histories).variance, normal.click_logits(histories).variance, rtol=1e-3)
