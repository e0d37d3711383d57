"""Histories and vocabularies: ragged, shared, and the same whatever form they came in."""

import numpy as np
import pytest
import torch

from blob_pyro.data import Histories, Vocabulary, as_histories

SEQUENCES = [[3, 1, 1], [], [0], [4, 3, 2, 1, 0]]


@pytest.fixture
def histories():
    return Histories.from_sequences(SEQUENCES, num_items=5)


def test_counts(histories):
    expected = [[seq.count(i) for i in range(5)] for seq in SEQUENCES]
    assert histories.counts().tolist() == expected


def test_padded(histories):
    assert histories.padded().tolist() == [s + [-1] * (5 - len(s)) for s in SEQUENCES]


def test_sum_rows_with_gradient(histories):
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    expected = histories.counts(torch.float64) @ weight
    assert torch.allclose(histories.sum_rows(weight), expected)
    assert torch.autograd.gradcheck(histories.sum_rows, weight)
    assert histories[[1]].sum_rows(weight).tolist() == [[0, 0, 0]]


def test_picking_rows_shares_storage(histories):
    some = histories[torch.tensor([3, 0, 3])]
    assert some.to_sequences() == [SEQUENCES[3], SEQUENCES[0], SEQUENCES[3]]
    assert some.views.data_ptr() == histories.views.data_ptr()


def test_overlapping_prefixes():
    shared = Histories(torch.tensor([5, 6, 7]), torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3]), 8)
    assert shared.to_sequences() == [[5], [5, 6], [5, 6, 7]]


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_count_matrix_round_trip(histories, make):
    back = as_histories(make(histories.counts(torch.int64).tolist()), Vocabulary.numbered(5))
    assert torch.equal(back.counts(), histories.counts())


def test_ids_are_mapped_inside():
    items = Vocabulary(["tea", "mug", ("a", "tuple")])
    assert as_histories([["mug", ("a", "tuple")], []], items).to_sequences() == [[1, 2], []]


BAD = {
    "unknown id": ([["tea"], ["cup"]], ValueError, r"histories\[1\]\[0\]: unknown id, got 'cup'"),
    "one history": (["tea"], TypeError, r"histories\[0\]: expected a sequence of item ids"),
    "text": ("tea", TypeError, "expected Histories, a list"),
    "wide counts": (np.ones((2, 4)), ValueError, r"must be N x 2 \(num_items\)"),
    "fraction": (np.asarray([[1.0, 0], [0, 0.5]]), ValueError, "got 0.5 at row 1, column 1"),
    "negative": (torch.tensor([[1, -2]]), ValueError, "got -2 at row 0, column 1"),
    "other size": (Histories.from_sequences([[4]], 5), ValueError, "a catalogue of 5 items, expected 2"),
}


@pytest.mark.parametrize(("value", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_histories(value, error, message):
    with pytest.raises(error, match=message):
        as_histories(value, Vocabulary(["tea", "mug"]))


def test_the_old_name_of_views_still_works():
    histories = Histories.from_sequences([[2, 0], [1]], num_items=3)
    with pytest.warns(DeprecationWarning, match="'items' is now called 'views'"):
        assert histories.items is histories.views


def test_laid_out_histories_are_the_same_histories():
    h = Histories(torch.tensor([4, 0, 2, 2, 1]), torch.tensor([0, 0, 3, 1]), torch.tensor([3, 0, 2, 4]), 5)
    laid_out = h.laid_out()
    assert laid_out.to_sequences() == h.to_sequences() == [[4, 0, 2], [], [2, 1], [0, 2, 2, 1]]
    assert (laid_out.num_views, laid_out.longest) == (9, 4)
    assert torch.equal(laid_out.padded(), h.padded())
    assert torch.equal(laid_out.counts(), h.counts())
    assert laid_out[torch.tensor([3, 0])].to_sequences() == [[0, 2, 2, 1], [4, 0, 2]]
    weight = torch.randn(5, 2)
    assert torch.equal(laid_out.sum_rows(weight), h.sum_rows(weight))
