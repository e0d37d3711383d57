"""Thompson sampling among the items that may be the best given the draw, beside that among all of them."""

import pytest
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.models import BanditBatch
from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies.slates import contending as contending_module
from blob_pyro.policies.slates.contending import ContendingSlates, contending
from blob_pyro.policies.thompson_actions import ConditionalThompsonActions
from blob_pyro.propensity import ArgmaxNormal

HISTORIES = [[0, 2, 2], [], [5, 6, 7]]


@pytest.fixture(scope="module", params=["normal", "laplace"])
def blob(request) -> BLOB:
    """A model of 2,000 items as it comes out of a fit, without one, or a fit of 200: some items are hardly known."""
    torch.manual_seed(0)
    blo = BLO(2000 if request.param == "normal" else 200, embedding_dim=4)
    blo.fits = [{"call": "none"}]
    blob = BLOB(blo, request.param)
    blob.fits = blo.fits
    if request.param == "laplace":
        fit_laplace(blob.guide, blob.model, events(), progress=False)
        return blob
    with torch.no_grad():
        blob.guide.kappa_loc += 0.5 * torch.randn(2000)
        blob.guide.kappa_scale = torch.where(torch.arange(2000) % 7 == 0, 0.8, 0.02 + 0.2 * torch.rand(2000))
    return blob


def events() -> BanditBatch:
    """Clicks that say something of every number that items share, and not the same of every item."""
    action = (200 * torch.rand(20_000).pow(1.5)).long()
    context, interest = torch.arange(len(action)) % 500, torch.randn(500, 4)
    rate = (torch.randn(200)[action] + 0.5 * interest[context, action % 4] - 2).sigmoid()
    return BanditBatch(interest, context, action, torch.bernoulli(rate), len(action))


@pytest.fixture(scope="module")
def drawn(blob) -> tuple:
    logits = blob.ranking_logits(HISTORIES)
    shared = torch.randn(3, logits.num_factors, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return logits, shared


def test_propensities_are_those_among_all_items(drawn):
    logits, shared = drawn
    slates = ContendingSlates(logits, shared, 1e-9, 1, None)
    whole = ConditionalThompsonActions(logits, shared).probs
    for row, valid in enumerate(slates.valid):
        items = slates.number[row, valid]
        found = ArgmaxNormal(slates.loc[row, valid], slates.scale[row, valid]).probs
        assert len(items) < 0.8 * logits.event_shape[0]
        assert float((found - whole[row, items]).abs().sum() + 1 - whole[row, items].sum()) <= 2e-9
    assert bool((slates.left_out <= 1e-9).all())


def test_rounding_is_less_than_what_is_allowed_for(drawn):
    logits, shared = drawn
    assert logits.interest.dtype == torch.float32
    off = (logits.given_shared(shared).double() - logits.double().given_shared(shared)).abs().amax(-1)
    assert bool((off <= logits.rounding(shared)).all())
    assert bool((logits.rounding(shared) < 1e-2).all())


def test_decisions_are_logged_with_the_propensity_among_all(blob, drawn):
    policy = ThompsonSampling(blob, propensity="conditional", mass_left_out=1e-9)
    frame = policy.decide(HISTORIES, seed=4)
    logits = drawn[0]
    shared = torch.randn(3, logits.num_factors, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    whole = ConditionalThompsonActions(logits, shared).probs
    expected = whole[torch.arange(3), torch.tensor(frame.action.tolist())]
    torch.testing.assert_close(torch.tensor(frame.propensity.to_numpy()), expected, rtol=0, atol=1e-9)
    assert (frame.propensity_error == 0).all()
    assert len(policy.decide([], seed=4)) == 0
    slates = policy.decide(HISTORIES, slots=3, candidates=[*range(50)], seed=4)
    assert slates.action.max() < 50
    assert not slates.duplicated(["user", "action"]).any()


def test_played_as_often_as_probable(blob, drawn):
    logits, shared = drawn
    slates = ContendingSlates(logits[:1], shared[:1], 1e-6, 1, None)
    source = torch.Generator().manual_seed(2)
    played = torch.cat([slates.draw(source) for _ in range(2000)]).flatten()
    probs = ConditionalThompsonActions(logits[:1], shared[:1]).probs[0]
    top = probs.topk(3).indices
    share = (played[:, None] == top).double().mean(0)
    torch.testing.assert_close(share, probs[top], rtol=0, atol=0.05)


def test_contexts_that_are_drawn_together_keep_their_places(drawn, monkeypatch):
    """What is logged of each context is of its own draw, also where others have more candidates."""
    logits, shared = drawn
    monkeypatch.setattr(contending_module, "_ALIKE", 2)
    allowed = torch.rand(3, logits.event_shape[0], generator=torch.Generator().manual_seed(3)) < torch.tensor(
        [[0.9], [0.1], [0.5]]
    )
    slates = ContendingSlates(logits, shared, 1e-9, 1, allowed)
    item, propensity, error = slates.draw_known(torch.Generator().manual_seed(5))
    whole = ConditionalThompsonActions(logits, shared).restrict(allowed).probs
    torch.testing.assert_close(propensity, whole.gather(1, item), rtol=0, atol=1e-9)
    assert len(propensity.unique()) == 3
    assert bool(allowed.gather(1, item).all())
    assert not error.any()
    assert torch.equal(slates.draw(torch.Generator().manual_seed(5)), item)


def test_never_among_what_may_not_be_played(drawn):
    logits, shared = drawn
    allowed = (torch.arange(logits.event_shape[0]) < 60).expand(3, -1)
    found = contending(logits, shared, 1e-9, 1, allowed)
    assert int(found.number.max()) < 60


def test_what_does_not_go_together(blob):
    with pytest.raises(ValueError, match=r"mass_left_out: is a probability, below 1, and goes with propensity='cond"):
        ThompsonSampling(blob, mass_left_out=1e-9)
    with pytest.raises(ValueError, match=r"got 1.5 with 'conditional'"):
        ThompsonSampling(blob, propensity="conditional", mass_left_out=1.5)
    with pytest.raises(ValueError, match="mass_left_out: must be positive and finite"):
        ThompsonSampling(blob, propensity="conditional", mass_left_out=0.0)
    with pytest.raises(ValueError, match="given_draw: with mass_left_out each decision has candidates of its own"):
        ThompsonSampling(blob, propensity="conditional", mass_left_out=1e-9).given_draw(HISTORIES, seed=0)
