"""The largest of very many inner products, without the matrix of all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.ops.row_chunks import MAX_ELEMENTS

__all__ = ["largest_inner_products"]

_GROUP = 16  # rows of the table that stand for one another until the best groups are known
_QUERIES = 256


def largest_inner_products(queries: Tensor, table: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` rows of a table with the largest inner products with each query, exactly.

    The ``k`` largest numbers lie in the ``k`` groups with the largest maxima: what is kept of ``P`` products is their
    groups' maxima, and only those groups are looked at again. Memory does not grow with ``N``.

    Args:
        queries: ``N x F``.
        table: ``P x F``.
        k: 1 to ``P``.

    Returns:
        The products in falling order and the rows they are of, ``N x k`` each.

    Example:
        >>> largest_inner_products(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), k=2)
        (tensor([[4., 3.]]), tensor([[1, 0]]))
    """
    found = [(queries.new_zeros(0, k), torch.zeros(0, k, dtype=torch.int64, device=queries.device))]
    found += [_largest(some, table, k) for some in queries.split(_QUERIES)] if len(queries) else []
    product, row = (torch.cat(parts) for parts in zip(*found))
    return product, row


def _largest(queries: Tensor, table: Tensor, k: int) -> tuple[Tensor, Tensor]:
    num_rows = len(table)
    size = max(1, min(_GROUP, num_rows // (2 * k)))
    at_once = max(1, MAX_ELEMENTS // (len(queries) * size)) * size
    maxima = []
    for part in table.split(at_once):
        product = queries @ part.mT
        if rest := -len(part) % size:
            product = torch.nn.functional.pad(product, (0, rest), value=-torch.inf)
        maxima.append(product.view(len(queries), -1, size).amax(-1))
    groups = torch.cat(maxima, -1).topk(k, -1, sorted=False).indices
    row = (groups.unsqueeze(-1) * size + torch.arange(size, device=groups.device)).flatten(1)
    found = []
    for some, query in zip(*(t.split(max(1, MAX_ELEMENTS // row.shape[1] // table.shape[1])) for t in (row, queries))):
        near = table[some.clamp(max=num_rows - 1)]
        product = (near @ query.unsqueeze(-1)).squeeze(-1).masked_fill(some >= num_rows, -torch.inf)
        best = product.topk(k, -1)
        found.append((best.values, some.gather(1, best.indices)))
    product, row = (torch.cat(parts) for parts in zip(*found))
    return product, row
