"""JointBLOB: both signals reach the items, and the result is a BLOB."""

from dataclasses import replace

import pytest
import torch
from pyro import poutine

from blob_pyro import BLOB, BanditPriors, EventLog
from blob_pyro.infer import GuidedELBO, LocalReparameterization
from blob_pyro.models.joint import JointBatch, JointModel
from blob_pyro.models.sites import CLICK, INTEREST, VIEWS
from blob_pyro.recommenders.joint_blob import JointBLOB, _Both
from blob_pyro.serialization import SavedModelError

HISTORIES = [[0, 0, 1], [], [5, 3]]


@pytest.fixture(scope="module")
def warm(blo, log):
    blob = BLOB(blo, priors=BanditPriors(w_a=0.5, kappa_scale=0.3))
    blob.fit(log, num_epochs=20, batch_size=1024, progress=False, device="cpu")
    return blob


def joint_loss(blob, log, seed=0):
    torch.manual_seed(seed)
    model = JointModel(blob.blo.model, blob.model, blob.blo.guide.encoder)
    batch = JointBatch(blob.blo.batch(log), blob.batch(log), log.contexts)
    return GuidedELBO(blob.blo.bound, LocalReparameterization).differentiable_loss(
        model, _Both(blob.blo.guide, blob.guide), batch
    )


def test_the_joint_loss_is_the_sum_of_the_two(warm, log):
    """At the warm start nothing is new: views by themselves, clicks at the encoder's omega."""
    with torch.no_grad():
        both = torch.stack([joint_loss(warm, log, s) for s in range(40)])
        views = GuidedELBO(warm.blo.bound)
        clicks = GuidedELBO(LocalReparameterization)
        apart = torch.stack(
            [
                views.differentiable_loss(warm.blo.model, warm.blo.guide, warm.blo.batch(log))
                + clicks.differentiable_loss(warm.model, warm.guide, warm.batch(log))
                for _ in range(40)
            ]
        )
    error = ((both.var() + apart.var()) / 40).sqrt()
    assert abs(both.mean() - apart.mean()) < 4 * error


def test_clicks_reach_items_and_encoder(warm, log):
    """Without a session, Psi and the encoder still get gradients; those of zeta's factor L flow through Psi."""
    joint = JointBLOB(warm)
    model = JointModel(joint.blo.model, joint.model, joint.blo.guide.encoder)
    batch = JointBatch(joint.blo.batch(log), joint.batch(log), log.contexts)
    values = {n: d.mean for n, d in joint.posterior().items()}
    interest, _ = joint.blo.guide.encoder(log.contexts)
    events = replace(batch.events, interest=interest)
    joint.model.logit(values, events, model.item_factors).sum().backward()
    for parameter in (joint.blo.model.item_embedding, joint.blo.guide.encoder.weight):
        assert torch.isfinite(parameter.grad).all()
        assert (parameter.grad != 0).all(-1).any()


def test_it_improves_on_the_warm_start_and_is_a_blob(warm, log, tmp_path):
    joint = JointBLOB(warm)
    before = {k: v.clone() for k, v in warm.blo.model.state_dict().items()}
    with torch.no_grad():
        start = torch.stack([joint_loss(joint, log, s) for s in range(20)]).mean()
    history = joint.fit_jointly(log, num_epochs=30, batch_size=1024, learning_rate=0.01, progress=False, device="cpu")
    assert len(history) == 30
    with torch.no_grad():
        end = torch.stack([joint_loss(joint, log, s) for s in range(20)]).mean()
    assert end < start - 5
    assert all(torch.equal(v, before[k]) for k, v in warm.blo.model.state_dict().items())
    assert not torch.equal(joint.blo.model.item_embedding, warm.blo.model.item_embedding)
    psi = joint.blo.model.item_embedding.detach()
    assert torch.equal(joint.model.item_embedding, psi)
    assert torch.allclose(joint.model.whitening @ joint.model.whitening.mT, psi.mT @ psi / 12, atol=1e-5)
    joint.save(tmp_path / "model")
    for cls in (JointBLOB, BLOB):
        back = cls.load(tmp_path / "model", device="cpu")
        assert type(back) is JointBLOB
        assert torch.equal(back.scores(HISTORIES), joint.scores(HISTORIES))
    back.fit_jointly(log, num_epochs=1, progress=False, device="cpu")
    warm.save(tmp_path / "warm")
    with pytest.raises(SavedModelError, match=r"holds a BLOB; load it with BLOB\.load"):
        JointBLOB.load(tmp_path / "warm")


def test_what_it_refuses(blo, warm, log):
    with pytest.raises(ValueError, match="blob: is not fitted"):
        JointBLOB(BLOB(blo))
    normalised = BLOB(blo, priors=BanditPriors(normalize_embeddings=True))
    laplace = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3))
    elsewhere = BLOB(blo, interest="newton")
    elsewhere.mark_fitted(log)
    with pytest.raises(ValueError, match=r"blob: takes interests by Newton's method; .* use interest='encoder'"):
        JointBLOB(elsewhere)
    sampled = BLOB(blo, omega="sample")
    for blob in (normalised, laplace, sampled):
        blob.fits = [{"call": "fit"}]
    with pytest.raises(ValueError, match="normalize_embeddings: a Psi that is trained"):
        JointBLOB(normalised)
    with pytest.raises(ValueError, match="guide 'laplace' has nothing for SVI to train"):
        JointBLOB(laplace)
    with pytest.raises(ValueError, match="use omega='mean'"):
        JointBLOB(sampled)
    silent = EventLog.from_tables(impressions={"user": [1], "time": [0], "action": [3], "reward": [1]}, num_items=12)
    with pytest.raises(ValueError, match="has no organic views"):
        JointBLOB(warm).fit_jointly(silent, progress=False, device="cpu")


def test_a_part_counts_as_the_whole_in_both_stories(warm, log):
    """A quarter of the events and of the sessions, each with the weight of all: the plates' scales."""
    whole = JointBatch(warm.blo.batch(log), warm.batch(log), log.contexts)
    part = whole[torch.arange(0, len(whole), 4)]
    assert len(part.sessions) == pytest.approx(len(whole.sessions) / 4, abs=1)
    model = JointModel(warm.blo.model, warm.model, warm.blo.guide.encoder)
    nodes = poutine.trace(model).get_trace(part).nodes
    assert float(nodes[VIEWS]["scale"]) == pytest.approx(len(whole.sessions) / len(part.sessions))
    assert float(nodes[INTEREST]["scale"]) == pytest.approx(len(whole.sessions) / len(part.sessions))
    assert float(nodes[CLICK]["scale"]) == pytest.approx(len(whole) / len(part))
