"""Tables with a row for each item, read by item number: most rows may be held by other workers."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Size, Tensor
from torch.nn.functional import embedding, embedding_bag

from blob_pyro.ops.selection import distinct

__all__ = ["Holder", "deal_out", "holder_of", "num_rows", "rows_of", "sums_of_rows", "whole_shape"]

_HOLDER = "_blob_pyro_holder"


class Holder(Protocol):
    """Knows who holds which rows of a table."""

    def num_rows(self, table: Tensor) -> int:
        """Return how many rows there are in all."""

    def fetch(self, table: Tensor, items: Tensor) -> Tensor:
        """Return rows of a table, from whoever has them; gradients go back there."""


def deal_out(table: Tensor, holder: Holder) -> None:
    """Mark a table as a part of one, whose other rows the holder knows to fetch."""
    setattr(table, _HOLDER, holder)


def holder_of(table: Tensor) -> Holder | None:
    """Return who fetches a table's rows; None where all of them are in it."""
    holder: Holder | None = getattr(table, _HOLDER, None)
    return holder


def num_rows(table: Tensor) -> int:
    """Return how many items a table is of, wherever their rows are."""
    holder = holder_of(table)
    return table.shape[0] if holder is None else holder.num_rows(table)


def whole_shape(tensor: Tensor) -> Size:
    """Return the shape of a tensor with all its rows, wherever they are."""
    return tensor.shape if holder_of(tensor) is None else Size((num_rows(tensor), *tensor.shape[1:]))


def rows_of(table: Tensor, items: Tensor, *, sparse: bool = False) -> Tensor:
    """Return the rows of some items, ``S x D``; of a table of numbers ``S``.

    Args:
        table: ``P x D`` or ``P``.
        items: ``S`` item numbers; one may come several times.
        sparse: whether the table gets a sparse gradient.
    """
    holder = holder_of(table)
    if holder is not None:
        own, place, _ = distinct(items, num_rows(table))
        return holder.fetch(table, own)[place]
    if table.dim() == 1:
        return torch.gather(table, 0, items, sparse_grad=sparse)
    return embedding(items, table, sparse=sparse)


def sums_of_rows(table: Tensor, items: Tensor, first: Tensor, *, sparse: bool = False) -> Tensor:
    """Sum rows over runs of items, ``N x D``.

    Args:
        table: ``P x D``.
        items: one run after another.
        first: where each of the ``N`` runs begins.
        sparse: whether the table gets a sparse gradient.
    """
    holder = holder_of(table)
    if not len(items):  # embedding_bag refuses these with a gradient; who shares a table asks for none of its rows
        return rows_of(table, items, sparse=sparse).sum(0).expand(len(first), -1)
    if holder is None:
        return embedding_bag(items, table, first, mode="sum", sparse=sparse)
    own, place, _ = distinct(items, num_rows(table))
    return embedding_bag(place, holder.fetch(table, own), first, mode="sum")
