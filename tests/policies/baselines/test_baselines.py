"""Baselines against NumPy and against sessions whose next item is known."""

import pytest

from blob_pyro.policies import Scorer
from blob_pyro.policies.baselines import GRU, ItemKNN, Popularity, SessionFrequency, SessionItemKNN


def test_all_are_scorers(sessions, log):
    gru = GRU(12, hidden_dim=4)
    with pytest.raises(ValueError, match="scores: the model is not fitted"):
        gru.scores([[1]])
    gru.fit(log, num_epochs=1, device="cpu", progress=False)
    for scorer in (Popularity(log), ItemKNN(log), SessionItemKNN(log), SessionFrequency(12), gru):
        assert isinstance(scorer, Scorer)
        assert scorer.scores(log.contexts[:7]).shape == (7, 12)


@pytest.mark.parametrize("log", [None, [["a"]], 3, "views"], ids=repr)
@pytest.mark.parametrize(
    ("make", "name"),
    [(Popularity, "log"), (ItemKNN, "sessions"), (SessionItemKNN, "sessions"), (lambda log: GRU(2).fit(log), "log")],
    ids=["popularity", "item", "session", "gru"],
)
def test_what_is_no_log(make, name, log):
    with pytest.raises(TypeError, match=f"{name}: expected an EventLog or its sessions as Histories, got "):
        make(log)
