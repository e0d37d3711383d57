"""A few rows at a time: the same values and gradients, and no more rows at once than asked for."""

import torch

from blob_pyro.ops.row_chunks import in_row_chunks


def test_values_and_gradients_are_those_of_all_rows_at_once():
    rows = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    sizes = []

    def function(x):
        sizes.append(len(x))
        return (x @ weight).logsumexp(-1)

    whole = function(rows)
    expected = torch.autograd.grad(whole.square().sum(), (rows, weight))
    sizes.clear()
    parts = in_row_chunks(function, rows, width=5, max_elements=10)
    assert sizes == [2, 2, 2, 1]
    torch.testing.assert_close(parts, whole)
    found = torch.autograd.grad(parts.square().sum(), (rows, weight))
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)
    assert sizes == [2, 2, 2, 1] * 2 or sorted(sizes) == sorted([2, 2, 2, 1] * 2), "computed again for the gradient"


def test_what_fits_is_computed_once():
    calls = []
    in_row_chunks(lambda x: calls.append(len(x)) or x, torch.zeros(4, 2), width=2, max_elements=8)
    assert calls == [4]


def test_a_row_that_is_too_wide_is_still_one_row():
    assert in_row_chunks(lambda x: x.sum(-1), torch.ones(3, 9), width=9, max_elements=4).tolist() == [9, 9, 9]
