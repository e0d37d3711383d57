"""The index of items: exact where every cell is looked at, honest about its recall, never of another model."""

import numpy as np
import pytest
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.recommenders import ranked_items as module

pytest.importorskip("faiss")
HISTORIES = [[0, 2, 2], [], [5, 6, 7]]


@pytest.fixture
def large() -> BLOB:
    """A model of 500 items as it comes out of a fit, without one."""
    torch.manual_seed(0)
    blo = BLO(500, embedding_dim=4)
    blo.fits = [{"call": "none"}]
    blob = BLOB(blo)
    with torch.no_grad():
        for name, value in blob.guide.named_parameters():
            value.add_(torch.randn_like(value) if "kappa" in name or "zeta_loc" in name else 0.3)
    blob.fits = blo.fits
    return blob


def test_all_cells_are_exact(large):
    exact = large.recommend(HISTORIES, k=20)
    index = large.item_index(recall=1.0, num_lists=9)
    assert index.probed.num_probes <= 9
    some = index.search(module.with_one(large.blo.embed(HISTORIES)), 20, num_probes=9, multiple=25)
    assert some[1].flatten().tolist() == exact.item.tolist()
    np.testing.assert_allclose(some[0].flatten(), exact.score, rtol=1e-4, atol=1e-5)


def recall(exact, found):
    return np.mean([len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist())]) / exact.shape[1]


def test_recall_is_that_of_other_queries(large):
    index = large.item_index(recall=0.9)
    queries = module.with_one(large.blo.embed(module.made_up_users(500, 1)))
    exact = (queries @ index.table.mT).topk(100).indices

    found = index.search(queries, 100)[1]
    share = recall(exact, found)
    assert abs(share - index.probed.recall) < 0.05
    assert share > 0.85


def test_exact_products_decide_among_enough_candidates():
    """The best by numbers of four bits are not the best: as many candidates are taken as it needs."""
    source = torch.Generator().manual_seed(1)
    table, queries, others = (torch.randn(size, 32, generator=source) for size in (3000, 128, 64))
    index = module.ItemIndex.build(table, queries, recall=0.95, num_lists=20)
    exact = (others @ table.mT).topk(100).indices
    assert index.probed.multiple > 1
    assert recall(exact, index.search(others, 100)[1]) > 0.94
    score, item = index.search(others, 100, multiple=1)
    assert recall(exact, item) < 0.93
    torch.testing.assert_close(score, (others @ table.mT).gather(1, item), rtol=1e-5, atol=1e-5)


def test_more_items_than_the_cells_looked_at_hold(large):
    index = large.item_index()
    score, item = index.search(torch.randn(4, 5), 500, num_probes=1)
    assert all(sorted(row) == list(range(500)) for row in item.tolist())
    assert bool((score.diff() <= 0).all())


def test_never_of_another_model(large, tmp_path):
    path = tmp_path / "index.safetensors"
    first = large.item_index()
    assert large.item_index() is first
    large.recommend(HISTORIES, method="approximate")
    assert large.item_index() is first
    saved = large.item_index(path)
    again = large.item_index(path)
    assert again is not saved
    assert torch.equal(again.cell, saved.cell)
    assert again.probed == saved.probed
    with torch.no_grad():
        large.guide.kappa_loc[17] += 100
    assert large.recommend(HISTORIES, 1, method="approximate").item.tolist() == [17] * 3
    before = path.read_bytes()
    large.item_index(path)
    assert path.read_bytes() != before
    before = path.read_bytes()
    large.item_index(path, num_lists=7)  # nor one that was made otherwise
    assert path.read_bytes() != before
    assert len(large.item_index(path, num_lists=7).centroids) == 7
    assert large.recommend(HISTORIES, 1, method="approximate").item.tolist() == [17] * 3


def test_a_file_that_is_none(large, tmp_path):
    path = tmp_path / "index.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"index: .* cannot be read as an index of items"):
        large.item_index(path)
