"""The recurrent network: what order it learns, whose ids it knows, what it refuses."""

import pytest
import torch

from blob_pyro import EventLog
from blob_pyro.data import Histories
from blob_pyro.policies.baselines import GRU


@pytest.fixture(scope="module")
def gru():
    """Views go round in a circle of seven, from a random start."""
    starts = torch.randint(7, (120,), generator=torch.Generator().manual_seed(0)).tolist()
    sessions = Histories.from_sequences([[(s + t) % 7 for t in range(1 + s)] for s in starts] + [[]], num_items=7)
    gru = GRU(7, hidden_dim=16)
    history = gru.fit(sessions, num_epochs=40, batch_size=30, learning_rate=0.03, device="cpu", progress=False)
    return gru, history, sessions


def test_gru_learns_an_order_that_counts_cannot_tell(gru):
    gru, history, _ = gru
    scores = gru.scores([[0, 1, 2], [4, 5], [6]])
    assert scores.argmax(-1).tolist() == [3, 6, 0]
    assert torch.allclose(scores.exp().sum(-1), torch.ones(3))
    assert history.elbo.iloc[-1] > history.elbo.iloc[0] + 2


def test_gru_s_likelihood_is_that_of_its_own_predictions(gru):
    """One view at a time, each predicted from those before it."""
    gru, _, sessions = gru
    some = sessions[:3]
    expected = sum(gru.scores([views[:t]])[0, v].item() for views in some.to_sequences() for t, v in enumerate(views))
    frozen = GRU(7, hidden_dim=16)
    frozen.model.load_state_dict(gru.model.state_dict())
    frozen.model.reset_parameters = lambda: None
    history = frozen.fit(some, num_epochs=1, learning_rate=1e-9, device="cpu", progress=False)
    assert history.elbo.iloc[0] * 3 == pytest.approx(expected, rel=1e-4)


def test_gru_knows_the_log_s_ids():
    log = EventLog.from_tables(views={"user": [1, 1, 2], "time": [0, 1, 0], "item": ["tea", "mug", "mug"]})
    gru = GRU(2, hidden_dim=4)
    gru.fit(log, num_epochs=1, device="cpu", progress=False)
    assert gru.scores([["tea", "mug"], []]).shape == (2, 2)
    with pytest.raises(ValueError, match="log: has 2 items, but this model has num_items=3"):
        GRU(3).fit(log)


GRU_ARGUMENTS = {
    "no units": (lambda: GRU(3, 0), ValueError, "hidden_dim: must be 1 or more, got 0"),
    "half a unit": (lambda: GRU(3, 2.5), TypeError, "hidden_dim: expected a whole number, got 2.5"),
    "no embedding": (lambda: GRU(3, 4, 0), ValueError, "embedding_dim: must be 1 or more, got 0"),
    "negative embedding": (lambda: GRU(3, 4, -1), ValueError, "embedding_dim: must be 1 or more, got -1"),
    "no sessions": (lambda: GRU(2).fit(Histories.from_sequences([], 2)), ValueError, "log: has no views"),
    "no views": (lambda: GRU(2).fit(Histories.from_sequences([[], []], 2)), ValueError, "log: has no views"),
}


@pytest.mark.parametrize(("make", "error", "message"), GRU_ARGUMENTS.values(), ids=GRU_ARGUMENTS.keys())
def test_arguments_of_the_gru(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_validation_of_the_gru_is_over_its_catalogue(sessions):
    with pytest.raises(TypeError, match="validation: expected sessions as Histories, got list"):
        GRU(5).fit(sessions, validation=[[1]])
    with pytest.raises(ValueError, match="validation: has 9 items, but this model has num_items=5"):
        GRU(5).fit(sessions, validation=Histories.from_sequences([[1]], 9))


def test_gru_of_no_histories():
    gru = GRU(5, hidden_dim=2)
    gru.fit(Histories.from_sequences([[1, 4], [0]], 5), num_epochs=1, device="cpu", progress=False)
    assert gru.scores([]).shape == (0, 5)
