"""`largest_inner_products` against NumPy's sort of all products."""

import numpy as np
import pytest
import torch

from blob_pyro.ops import inner_products as module
from blob_pyro.ops.inner_products import largest_inner_products


@pytest.mark.parametrize(("rows", "k"), [(1, 1), (5, 5), (129, 1), (777, 100), (1000, 7)])
@pytest.mark.parametrize("at_once", [1 << 22, 1 << 10], ids=["whole", "chunks"])
def test_as_a_sort_of_all(rows, k, at_once, monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", at_once)
    source = torch.Generator().manual_seed(rows)
    queries = torch.randn(300, 9, generator=source, dtype=torch.float64)
    table = torch.randn(rows, 9, generator=source, dtype=torch.float64) * torch.rand(rows, 1, generator=source) * 10
    product, row = largest_inner_products(queries, table, k)
    everything = queries.numpy() @ table.numpy().T
    order = np.argsort(-everything, -1)[:, :k]
    np.testing.assert_array_equal(row, order)
    np.testing.assert_allclose(product, np.take_along_axis(everything, order, -1), rtol=1e-12, atol=1e-12)


def test_no_queries():
    product, row = largest_inner_products(torch.zeros(0, 2), torch.zeros(5, 2), 3)
    assert product.shape == row.shape == (0, 3)


def test_equal_rows_are_found_once_each():
    _, row = largest_inner_products(torch.ones(1, 2), torch.ones(40, 2), 40)
    assert sorted(row[0].tolist()) == list(range(40))
