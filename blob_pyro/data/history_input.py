"""Histories read from what a user holds: sequences of item ids in any library, or a matrix of view counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse
import torch
from torch import Tensor

from blob_pyro.data.columns import Column, as_values, is_beyond_arrow, is_missing_value
from blob_pyro.data.vocabulary import Vocabulary

__all__ = ["Ragged", "from_count_matrix", "from_sequences", "is_count_matrix"]

Ragged = tuple[Tensor, Tensor]
"""Item numbers one history after another, and the length of each history; both int64."""

_MAX_COUNT = 2**31 - 1
_EMPTY = {"histories": "a user who has viewed nothing has an empty history, []"}
_GIVE = "give it at least one id"
_SHAPE = "expected Histories, a list of id sequences or a count matrix"


def is_count_matrix(histories: Any) -> bool:
    """Say whether these are view counts: a tensor, array or sparse matrix; but not an array of Python sequences."""
    if isinstance(histories, np.ndarray):
        return histories.dtype.kind != "O" or histories.ndim != 1
    return isinstance(histories, Tensor) or scipy.sparse.issparse(histories)


def from_count_matrix(counts: Any, num_items: int | None = None) -> tuple[Tensor, Tensor, int]:
    """Return item numbers, lengths and ``num_items`` of an ``N x num_items`` matrix of view counts, dense or sparse.

    Raises:
        ValueError: for another shape, or a count that is negative, not whole or above 2**31 - 1; with row and column.
        TypeError: for a matrix of something else than numbers.
    """
    shape = tuple(counts.shape)
    if len(shape) != 2 or (num_items is not None and shape[1] != num_items):
        raise ValueError(
            f"histories: a count matrix must be N x {num_items or 'num_items'} (num_items), got {shape}; "
            "pass sequences of item ids as a list of lists"
        )
    if isinstance(counts, np.ndarray) or scipy.sparse.issparse(counts):
        if counts.dtype.kind not in "biuf":
            raise TypeError(
                f"histories: a count matrix holds numbers, got {counts.dtype} values; "
                "pass sequences of item ids as a list of lists"
            )
    elif counts.is_complex():
        raise TypeError(f"histories: a count matrix holds numbers, got {counts.dtype} values")
    row, column, count = _nonzero(counts)
    value = count.to(torch.float64)
    bad = ~((value >= 0) & (value == value.round()) & (value <= _MAX_COUNT))
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise ValueError(
            f"histories: counts must be whole and not negative (at most {_MAX_COUNT:,}), got {count[at].item()} "
            f"at row {int(row[at])}, column {int(column[at])}"
        )
    views = value.to(torch.int64)
    lengths = torch.zeros(shape[0], dtype=torch.int64, device=row.device).index_add_(0, row, views)
    return column.repeat_interleave(views), lengths, shape[1]


def _nonzero(counts: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of the nonzero entries, by row and column; NaN is not zero."""
    if scipy.sparse.issparse(counts):
        coordinates = scipy.sparse.coo_array(counts, copy=True)
        coordinates.sum_duplicates()
        order = np.lexsort((coordinates.col, coordinates.row))
        row, column, value = (
            torch.from_numpy(np.ascontiguousarray(part[order])) for part in
            (coordinates.row.astype(np.int64), coordinates.col.astype(np.int64), _wide(coordinates.data))
        )  # fmt: skip
    elif isinstance(counts, Tensor) and counts.layout != torch.strided:
        entries = counts.detach().to_sparse_coo().coalesce()
        (row, column), value = entries.indices(), entries.values()
    else:
        dense = counts.detach() if isinstance(counts, Tensor) else torch.from_numpy(np.ascontiguousarray(_wide(counts)))
        if not dense.dtype.is_floating_point and dense.dtype != torch.int64:
            dense = dense.to(torch.int64)
        row, column = dense.nonzero().unbind(-1)
        return row, column, dense[row, column]
    some = value != 0
    return row[some], column[some], value[some]


def _wide(values: np.ndarray) -> np.ndarray:
    """Counts in a type that torch has and that keeps them: unsigned integers beyond int64 become float64."""
    values = np.asarray(values)
    if values.dtype.kind == "f" or (values.dtype.kind == "u" and values.dtype.itemsize == 8):
        return values.astype(np.float64)
    return values.astype(np.int64)


def from_sequences(histories: Any, items: Vocabulary, argument: str = "histories") -> Ragged:
    """Return item numbers and lengths of sequences of item ids.

    Args:
        histories: a list, tuple or Series of sequences; an Arrow array or polars Series of lists.
        items: the catalogue that ids are looked up in.
        argument: what to call ``histories`` in an error message.

    Raises:
        ValueError: for an id that is unknown, missing or of another type, naming history and position.
        TypeError: if it is not a collection of sequences.
    """
    if isinstance(histories, (str, bytes, pd.DataFrame, pd.Index)):
        raise TypeError(f"{argument}: {_SHAPE}, got {type(histories).__name__}")
    if hasattr(histories, "to_arrow") and not isinstance(histories, pd.Series):  # polars
        histories = histories.to_list() if is_beyond_arrow(histories) else histories.to_arrow()
    if isinstance(histories, (pa.Array, pa.ChunkedArray)):
        return _from_arrow(histories, items, argument)
    if isinstance(histories, pd.Series):
        if isinstance(histories.dtype, pd.ArrowDtype):
            return _from_arrow(pa.array(histories), items, argument)
        histories = histories.tolist()
    elif isinstance(histories, np.ndarray):
        histories = histories.tolist()
    if not isinstance(histories, Sequence):
        raise TypeError(f"{argument}: {_SHAPE}, got {type(histories).__name__}")
    parts = [_one(sequence, f"{argument}[{n}]") for n, sequence in enumerate(histories)]
    lengths = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    ends = np.cumsum(lengths.numpy())
    ids = [id_ for part in parts for id_ in part]
    if any(issubclass(kind, Tensor) for kind in set(map(type, ids))):
        ids = [id_.item() if isinstance(id_, Tensor) and id_.ndim == 0 else id_ for id_ in ids]
    flat = Column(ids, argument, lambda row: _place(row, ends, argument))
    return torch.from_numpy(items.look_up(flat).astype(np.int64)), lengths


def _place(row: int, ends: np.ndarray, argument: str) -> str:
    history = int(np.searchsorted(ends, row, side="right"))
    return f"{argument}[{history}][{row - (int(ends[history - 1]) if history else 0)}]"


def _one(sequence: Any, where: str) -> list[Any]:
    """One history as a list of ids."""
    if type(sequence) is list:
        return sequence
    if is_missing_value(sequence):
        raise ValueError(f"{where}: is missing, got {sequence!r}; {_EMPTY.get(where.split('[')[0], _GIVE)}")
    if isinstance(sequence, (Tensor, np.ndarray)):
        if sequence.ndim != 1:
            raise ValueError(f"{where}: expected one dimension, got shape {tuple(sequence.shape)}")
        if not len(sequence):
            return []  # of any type: an empty tensor is one of floats
    elif isinstance(sequence, (str, bytes)) or not (
        isinstance(sequence, (Sequence, pd.Series, pa.Array, pa.ChunkedArray)) or hasattr(sequence, "to_arrow")
    ):
        raise TypeError(f"{where}: expected a sequence of item ids, got {sequence!r}; wrap one history in a list")
    values = as_values(sequence, where)
    return values if isinstance(values, list) else values.to_pylist()


def _from_arrow(histories: pa.Array | pa.ChunkedArray, items: Vocabulary, argument: str) -> Ragged:
    """Lists as Arrow keeps them: one column of ids, and lengths."""
    column = pa.chunked_array([histories]) if isinstance(histories, pa.Array) else histories
    if pa.types.is_null(column.type):  # no histories, or missing ones, have no type
        column = pa.chunked_array([pa.nulls(len(column), pa.list_(pa.int64()))])
    kind = column.type
    if not any(getattr(pa.types, f"is_{name}", bool)(kind) for name in ("list", "large_list", "fixed_size_list")):
        raise TypeError(f"{argument}: expected lists of item ids, got an Arrow column of {kind}; {_SHAPE}")
    missing = column.is_null().to_numpy()
    if missing.any():
        raise ValueError(f"{argument}[{int(missing.argmax())}]: is missing, got None; {_EMPTY.get(argument, _GIVE)}")
    lengths = pa.compute.list_value_length(column).cast(pa.int64()).to_numpy()
    chunks = [chunk.flatten() for chunk in column.chunks]
    flat = pa.chunked_array(chunks, type=kind.value_type)
    ends = np.cumsum(lengths)
    numbers = items.look_up(Column(as_values(flat, argument), argument, lambda row: _place(row, ends, argument)))
    return torch.from_numpy(numbers.astype(np.int64)), torch.from_numpy(np.array(lengths))
