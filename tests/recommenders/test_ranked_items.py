"""The best of many items: one table of scores' coefficients, and an index that is never of another model."""

import sys

import numpy as np
import pytest
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.recommenders import ranked_items as module

HISTORIES = [[0, 2, 2], [], [5, 6, 7]]


@pytest.fixture(params=["normal", "matrix_normal"])
def large(request) -> BLOB:
    """A model of 500 items as it comes out of a fit, without one."""
    torch.manual_seed(0)
    blo = BLO(500, embedding_dim=4)
    blo.fits = [{"call": "none"}]
    blob = BLOB(blo, request.param)
    with torch.no_grad():
        for name, value in blob.guide.named_parameters():
            value.add_(torch.randn_like(value) if "kappa" in name or "zeta_loc" in name else 0.3)
    blob.fits = blo.fits
    return blob


def test_one_table_gives_the_same_items_and_scores(large, monkeypatch):
    some = large.recommend(HISTORIES, k=20)
    monkeypatch.setattr(module, "_LARGE", 1)
    monkeypatch.setattr(large, "ranking_logits", None)
    found = large.recommend(HISTORIES, k=20)
    assert found[["history", "rank", "item"]].equals(some[["history", "rank", "item"]])
    np.testing.assert_allclose(found.score, some.score, rtol=1e-4, atol=1e-5)
    assert len(large.recommend([], k=3)) == 0


def test_what_moves_with_the_interest_only_has_a_table(large, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 1)
    large.omega = "sample"
    some = large.recommend(HISTORIES, k=5)
    assert large._parts.known.kept("score table") is None
    assert len(some) == 15
    with pytest.raises(ValueError, match=r"method: 'approximate' needs scores that are linear in the interest"):
        large.item_index()


def test_candidates_are_looked_at_one_by_one(large, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 1)
    assert set(large.recommend(HISTORIES, k=2, candidates=[7, 9]).item) == {7, 9}
    for name, value in (("candidates", [7]), ("covariates", {"hour": [1.0, 2.0, 3.0]})):
        with pytest.raises(ValueError, match=f"method: 'approximate' takes no {name}; use 'exact'"):
            large.recommend(HISTORIES, 1, method="approximate", **{name: value})


def test_without_the_library(large, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"needs faiss.*pip install 'blob-pyro\[retrieval\]'; 'exact' needs none"):
        large.recommend(HISTORIES, method="approximate")
    with pytest.raises(ValueError, match=r"method: .*'approximate'"):
        large.recommend(HISTORIES, method="nearest")


def test_the_table_follows_the_parameters(large, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 1)
    large.recommend(HISTORIES, k=1)
    with torch.no_grad():
        large.guide.kappa_loc[17] += 100
    assert large.recommend(HISTORIES, k=1).item.tolist() == [17] * 3
