"""The parts of an organic model: what they are, whose answers they may give, and what they learn from."""

import pytest
import torch

from blob_pyro import BLO
from blob_pyro.data import Histories
from blob_pyro.recommenders.interest_model_parts import OrganicParts, sessions_of


def test_logits_are_psi_omega_and_rho(blo):
    parts = OrganicParts(blo.model, blo.guide, None, blo.items)
    interest = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    expected = torch.stack([blo.model.item_embedding @ omega + blo.model.item_intercept for omega in interest])
    assert torch.allclose(parts.logits(interest), expected, atol=1e-6)
    assert parts.trained() == [blo.model, blo.guide]


def test_a_model_trained_by_hand_may_answer(log):
    blo = BLO(log.num_items, embedding_dim=3)
    assert repr(blo) == "BLO(12 items, embedding_dim=3, not fitted)"
    with pytest.raises(ValueError, match="scores: the model is not fitted; call fit"):
        blo.scores([[0]])
    blo.mark_fitted(log)
    assert blo.fits == [{"call": "mark_fitted", "num_rows": len(log.sessions)}]
    assert blo.items == log.items
    assert blo.scores([[0]]).shape == (1, 12)


def test_parameters_that_are_not_finite_may_not_answer(log):
    blo = BLO(log.num_items, embedding_dim=3)
    with torch.no_grad():
        blo.model.item_embedding[2, 1] = float("nan")
    with pytest.raises(ValueError, match="mark_fitted"):
        blo.mark_fitted(log)
    assert not blo.fitted


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ([[0]], TypeError, "log: expected an EventLog or Histories, got a list"),
        (Histories.from_sequences([[0]], 5), ValueError, "log: has 5 items, but this model was made with num_items=12"),
        (Histories.from_sequences([], 12), ValueError, "log: has no sessions"),
    ],
)
def test_what_is_no_log_of_the_catalogue(given, kind, message):
    with pytest.raises(kind, match=message):
        BLO(12, embedding_dim=3).mark_fitted(given)


def test_sessions_of_a_log_are_its_own(log):
    assert sessions_of(log) is log.sessions
    assert sessions_of(log.contexts) is log.contexts
