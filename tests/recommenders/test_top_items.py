"""`recommend`: the highest scores of all items or of candidates, by the catalogue's ids, whatever the chunks."""

import numpy as np
import pandas as pd
import pytest
import torch

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.recommenders import top_items as module

HISTORIES = [[0, 2, 2], [], [5, 6, 7]]


@pytest.mark.parametrize("model", ["blo", "blob"])
@pytest.mark.parametrize("at_once", [1 << 22, 24], ids=["whole", "chunks"])
def test_the_highest_scores(model, at_once, request, monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", at_once)
    model = request.getfixturevalue(model)
    frame = model.recommend(HISTORIES, k=4)
    assert list(frame.columns) == ["history", "rank", "item", "score"]
    expected = model.scores(HISTORIES).topk(4)
    assert frame.history.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert frame["rank"].tolist() == [1, 2, 3, 4] * 3
    assert frame.item.tolist() == expected.indices.flatten().tolist()
    np.testing.assert_allclose(frame.score, expected.values.flatten(), rtol=1e-5)
    assert len(model.recommend(HISTORIES)) == 30
    assert len(model.recommend([], k=3)) == 0


@pytest.mark.parametrize("at_once", [1 << 22, 24], ids=["whole", "chunks"])
def test_candidates_alone(blob, at_once, monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", at_once)
    scores = blob.scores(HISTORIES)
    frame = blob.recommend(HISTORIES, k=2, candidates=[[3, 1, 4], [5], [2, 6, 7, 8]])
    for n, some in enumerate([[3, 1, 4], [5], [2, 6, 7, 8]]):
        best = sorted(some, key=lambda item: -scores[n, item])[:2]
        assert frame[frame.history == n].item.tolist() == best
        assert frame[frame.history == n]["rank"].tolist() == list(range(1, len(best) + 1))
    assert set(blob.recommend(HISTORIES, candidates=[7, 9]).item) == {7, 9}


def test_ids_are_the_catalogues(tmp_path):
    ids = ["tea", "mug", "pot"]
    log = EventLog.from_tables(
        views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": ["tea", "mug", "pot", "tea"]},
        impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": ["pot", "tea", "mug"], "reward": [1, 0, 0]},
    )
    blo = BLO(3, embedding_dim=2)
    blo.fit(log, num_epochs=30, progress=False, device="cpu")
    blob = BLOB(blo, guide="laplace")
    blob.fit(log, progress=False, device="cpu")
    frame = blob.recommend([["tea"], []], k=3)
    assert [sorted(part) for part in frame.item.to_numpy().reshape(2, 3).tolist()] == [sorted(ids)] * 2
    frame.to_parquet(tmp_path / "top.parquet")
    assert pd.read_parquet(tmp_path / "top.parquet").item.tolist() == frame.item.tolist()


BAD = {
    "k": (lambda m: m.recommend(HISTORIES, k=13), ValueError, "k: must lie between 1 and num_items=12, got 13"),
    "no k": (lambda m: m.recommend(HISTORIES, k=0), ValueError, "k: must be 1 or more, got 0"),
    "k's type": (lambda m: m.recommend(HISTORIES, k=1.5), TypeError, "k: expected a whole number, got 1.5"),
    "a history": (lambda m: m.recommend([[0], [99]]), ValueError, r"histories\[1\]\[0\]: an id is outside 0..11"),
    "a candidate": (
        lambda m: m.recommend(HISTORIES, candidates=[[1], [2, 99], [3]]), ValueError, r"candidates\[1\]\[1\]: an id",
    ),
    "no candidates": (lambda m: m.recommend(HISTORIES, candidates=[[1], [], [3]]), ValueError, r"candidates\[1\]: is"),
    "covariates": (
        lambda m: m.recommend(HISTORIES, covariates=torch.zeros(2, 1)), ValueError, "covariates: expected 3 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("ask", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(ask, kind, message, blob):
    with pytest.raises(kind, match=message):
        ask(blob)


def test_a_model_that_is_not_fitted(blo):
    for model in (BLO(12, embedding_dim=2), BLOB(blo)):
        with pytest.raises(ValueError, match="recommend: the model is not fitted; call fit"):
            model.recommend(HISTORIES)
