"""Psi has one owner; what is refused or fails leaves a model as it was; unfitted models do not answer."""

import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal, init_to_sample

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.infer import GuidedELBO, LocalReparameterization
from blob_pyro.policies import Greedy, ThompsonSampling
from blob_pyro.recommenders.joint_blob import JointBLOB

HISTORIES = [[0, 0, 1], [], [5, 3]]
QUICK = {"num_epochs": 2, "progress": False, "device": "cpu"}
FIXED = BanditPriors(kappa_scale=0.3)


def fitted(blo, log, guide="normal", **options):
    blob = BLOB(blo, guide, FIXED)
    blob.fit(log, **{**QUICK, **options})
    return blob


def test_another_fit_of_the_organic_model_changes_nothing(log):
    blo = BLO(12, embedding_dim=3)
    blo.fit(log, **QUICK)
    blob = fitted(blo, log)
    before, rows = blob.scores(HISTORIES), blob.batch(log).interest
    blo.fit(log, seed=7, **QUICK)
    assert torch.equal(blob.scores(HISTORIES), before)
    assert torch.equal(blob.batch(log).interest, rows)
    with pytest.raises(ValueError, match=r"fit: this BLO belongs to a BLOB.*fit the BLO that it was made from"):
        blob.blo.fit(log, **QUICK)
    with pytest.raises(ValueError, match=r"to: this BLO belongs to a BLOB.*blob.to\(device\)"):
        blob.blo.to("cpu")


def test_psi_is_there_once(blo, log):
    blob = fitted(blo, log)
    psi = blob.blo.model.item_embedding
    assert blob.model.item_embedding.data_ptr() == psi.data_ptr()
    assert blo.model.item_embedding.data_ptr() != psi.data_ptr()
    assert BLOB(blob.blo).blo is blob.blo


def test_a_fit_after_a_joint_fit_stands_on_the_new_items(blo, log):
    joint = JointBLOB(fitted(blo, log))
    joint.fit_jointly(log, learning_rate=0.1, **QUICK)
    moved = joint.blo.model.item_embedding.detach().clone()
    assert (moved - blo.model.item_embedding).abs().max() > 0.05
    joint.fit(log, **QUICK)
    assert torch.equal(joint.blo.model.item_embedding, moved)
    assert torch.equal(joint.model.item_embedding, moved)
    assert torch.allclose(joint.model.whitening @ joint.model.whitening.mT, moved.mT @ moved / 12, atol=1e-5)
    again = fitted(joint.blo, log)
    assert torch.equal(again.scores(HISTORIES), joint.scores(HISTORIES))


class Random(AutoNormal):
    def __init__(self, model):
        super().__init__(model, init_loc_fn=init_to_sample)


def test_a_random_start_is_the_seed_s(blo, log, short_starts):
    torch.manual_seed(1)
    first = fitted(blo, log, Random, seed=5)
    torch.manual_seed(2)
    second, third = fitted(blo, log, Random, seed=5), fitted(blo, log, Random, seed=6)
    assert torch.equal(first.scores(HISTORIES), second.scores(HISTORIES))
    assert not torch.equal(first.scores(HISTORIES), third.scores(HISTORIES))
    first.fit(log, seed=6, **QUICK)
    assert torch.equal(first.scores(HISTORIES), third.scores(HISTORIES))


UNFITTED = {
    "scores": lambda b: b.scores(HISTORIES),
    "click_logits": lambda b: b.click_logits(HISTORIES),
    "ranking_logits": lambda b: b.ranking_logits(HISTORIES),
    "click_probabilities": lambda b: b.click_probabilities(HISTORIES),
    "click_intervals": lambda b: b.click_intervals(HISTORIES),
    "posterior": lambda b: b.posterior(),
    "sample": lambda b: b.sample(3),
    "beta_hat": lambda b: b.beta_hat,
    "to_inference_data": lambda b: b.to_inference_data(),
    "Greedy": lambda b: Greedy(b).action_distribution(HISTORIES),
    "Thompson": lambda b: ThompsonSampling(b).action_distribution(HISTORIES),
}
UNFITTED_ORGANIC = {
    "user_posterior": lambda b: b.user_posterior(HISTORIES),
    "embed": lambda b: b.embed(HISTORIES),
    "predict_next": lambda b: b.predict_next(HISTORIES),
    "scores": lambda b: b.scores(HISTORIES),
    "Greedy": lambda b: Greedy(b).action_distribution(HISTORIES),
}


@pytest.mark.parametrize("call", UNFITTED.values(), ids=UNFITTED.keys())
def test_unfitted_bandit_models_refuse(blo, call):
    blob = BLOB(blo)
    with pytest.raises(ValueError, match=r"not fitted; call fit\(log\) first, or mark_fitted\(log\)"):
        call(blob)
    assert blob.prior_click_rates(HISTORIES, num_samples=2).shape == (2, 3, 12)


@pytest.mark.parametrize("call", UNFITTED_ORGANIC.values(), ids=UNFITTED_ORGANIC.keys())
def test_unfitted_organic_models_refuse(call):
    with pytest.raises(ValueError, match=r"not fitted; call fit\(log\) first, or mark_fitted\(log\)"):
        call(BLO(12, 2))


def test_a_guide_trained_by_hand_answers_once_it_is_said_to_be(blo, log):
    blob = BLOB(blo, priors=FIXED)
    svi = SVI(blob.model, blob.guide, pyro.optim.Adam({"lr": 0.1}), GuidedELBO(LocalReparameterization))
    batch = blob.batch(log)
    for _ in range(3):
        svi.step(batch)
    blob.mark_fitted(log)
    first = blob.scores(HISTORIES)
    svi.step(batch)
    assert not torch.equal(blob.scores(HISTORIES), first)  # what is kept of the posterior is kept for one state
    with torch.no_grad():
        next(blob.guide.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"mark_fitted: guide.* is not finite"):
        blob.mark_fitted(log)


BAD = {
    "epochs": ({"num_epochs": 2.5}, TypeError, "num_epochs: expected a whole number, got 2.5"),
    "no epochs": ({"num_epochs": 0}, ValueError, "num_epochs: must be 1 or more, got 0"),
    "batch": ({"batch_size": "8"}, TypeError, "batch_size: expected a whole number, got '8'"),
    "bool": ({"batch_size": True}, TypeError, "batch_size: expected a whole number, got True"),
    "rate": ({"learning_rate": float("nan")}, ValueError, "learning_rate: must be positive and finite, got nan"),
    "rate type": ({"learning_rate": "fast"}, TypeError, "learning_rate: expected a number, got 'fast'"),
    "seed": ({"seed": -1}, ValueError, "seed: must be between 0"),
    "seed type": ({"seed": 0.5}, TypeError, "seed: expected a whole number"),
    "device": ({"device": "gpu"}, ValueError, "device: 'gpu' cannot be used here"),
    "device type": ({"device": 3}, TypeError, "device: expected a torch.device or its name, got 3"),
    "progress": ({"progress": "yes"}, TypeError, "progress: expected True or False"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("kind", ["BLO", "BLOB", "JointBLOB"])
def test_a_refused_fit_leaves_the_model_as_it_was(blo, blob, log, kind, options, error, message):
    model = {"BLO": blo, "BLOB": blob}.get(kind) or JointBLOB(blob)
    fit = model.fit_jointly if kind == "JointBLOB" else model.fit
    before, fits = model.scores(HISTORIES), list(model.fits)
    with pytest.raises(error, match=message):
        fit(log, **{**QUICK, **options})
    assert torch.equal(model.scores(HISTORIES), before)
    assert model.fits == fits


@pytest.mark.parametrize("kind", ["BLO", "BLOB"])
def test_what_is_no_log_is_named(blo, blob, kind):
    with pytest.raises(TypeError, match=r"log: expected an EventLog.*got a dict; make one with EventLog.from_tables"):
        {"BLO": blo, "BLOB": blob}[kind].fit({"views": []}, **QUICK)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_fits_work_where_gradients_are_switched_off(log, context):
    def answers():
        blo = BLO(12, embedding_dim=2)
        blo.fit(log, **QUICK)
        blob = fitted(blo, log)
        blob.update(log, num_epochs=1, progress=False)
        return blob.scores(HISTORIES)

    expected = answers()
    with context():
        found = answers()
    assert torch.equal(found.clone(), expected)
