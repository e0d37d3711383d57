"""Rows of tables, by item number: the same from a table at hand and from one whose rows somebody fetches."""

import pytest
import torch

from blob_pyro.ops.item_tables import deal_out, holder_of, num_rows, rows_of, sums_of_rows, whole_shape


class Elsewhere:
    """Holds the whole; what it was asked for is noted."""

    def __init__(self, whole):
        self.whole, self.asked = whole, []

    def num_rows(self, table):
        return len(self.whole)

    def fetch(self, table, items):
        self.asked.append(items.tolist())
        return self.whole[items] + 0 * table.sum()


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_rows_and_their_gradients(shape):
    whole = torch.randn(shape, dtype=torch.float64).requires_grad_()
    items = torch.tensor([5, 0, 5, 6])
    part = torch.zeros(2, *shape[1:])
    assert num_rows(whole) == 7
    assert holder_of(whole) is None
    deal_out(part, holder := Elsewhere(whole))
    assert num_rows(part) == 7
    assert tuple(whole_shape(part)) == tuple(whole_shape(whole)) == shape
    weight = torch.randn(4, *shape[1:], dtype=torch.float64)
    found = []
    for table in (whole, part):
        rows = rows_of(table, items)
        assert torch.equal(rows, whole[items])
        found.append(torch.autograd.grad((weight * rows).sum(), whole)[0])
    assert torch.equal(*found)
    assert holder.asked == [[0, 5, 6]], "each row once"
    sparse = torch.autograd.grad(rows_of(whole, items, sparse=True).sum(), whole)[0]
    assert sparse.is_sparse


def test_sums_of_rows():
    whole = torch.randn(7, 3, dtype=torch.float64)
    items, first = torch.tensor([5, 0, 5, 6, 1]), torch.tensor([0, 3, 3])
    expected = torch.stack([2 * whole[5] + whole[0], torch.zeros(3).double(), whole[6] + whole[1]])
    part = torch.zeros(2, 3)
    deal_out(part, Elsewhere(whole))
    torch.testing.assert_close(sums_of_rows(whole, items, first), expected)
    torch.testing.assert_close(sums_of_rows(part, items, first), expected)
