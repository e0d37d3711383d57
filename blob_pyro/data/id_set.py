"""`IdSet`: the distinct ids of a column that is read in chunks, and their numbers once all are known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blob_pyro.data.columns import Column
from blob_pyro.data.ids import Ids
from blob_pyro.data.vocabulary import Vocabulary

__all__ = ["IdSet"]

_PENDING = 1 << 20
_DENSE = 8  # a table of numbers may be so many times as long as there are ids


class IdSet:
    """Distinct ids, collected; then sorted and numbered as `Vocabulary.of` does.

    Example:
        >>> import pyarrow as pa
        >>> from blob_pyro.data.ids import read_ids
        >>> chunks = [read_ids(Column(pa.chunked_array([ids]), "user"), "") for ids in ([30, 10], [20, 10])]
        >>> users = IdSet()
        >>> for ids in chunks:
        ...     users.add(ids)
        >>> [users.numbers_of(ids).tolist() for ids in chunks]
        [[2, 0], [1, 0]]
    """

    def __init__(self) -> None:
        self._known: pa.Array | None = None
        self._pending: list[pa.Array] = []
        self._first: Ids | None = None
        self._below_zero, self._unsigned = "", ""  # where such integers were first seen
        self._table: np.ndarray | None = None
        self._is_sorted = True

    def add(self, ids: Ids) -> None:
        """Take the ids of a chunk.

        Raises:
            ValueError: for ids of several types, naming both columns, integers below 0 and of 2**63 or more among them,
                which Arrow has no type for; or of a type that is no integer, text or bytes.
        """
        if not ids.kinds:
            return
        if isinstance(ids.distinct, list):
            raise ValueError(
                f"{ids.column.where} has ids that are {ids.describe()}; a log that is scanned has ids that are "
                "integers, text or bytes. Cast them, or read the log with EventLog.read_parquet"
            )
        if self._first is None:
            self._first = Ids(Column([], ids.column.where), ids.distinct[:0], ids.row[:0], ids.kinds)
        elif ids.kinds != self._first.kinds:
            kinds = " and ".join(
                f"{one.describe()} ({one.arrow_type}) in {one.column.where}" for one in (self._first, ids)
            )
            raise ValueError(f"ids have different types: {kinds}. Cast them to one, integers or text")
        if pa.types.is_integer(ids.distinct.type):
            self._note_range(ids)
        self._pending.append(ids.distinct)
        self._is_sorted = False
        if sum(map(len, self._pending)) > max(_PENDING, 0 if self._known is None else len(self._known)):
            self._merge()

    def _note_range(self, ids: Ids) -> None:
        if ids.arrow_type == pa.uint64():
            self._unsigned = self._unsigned or ids.column.where
        elif pc.min(ids.distinct).as_py() < 0:
            self._below_zero = self._below_zero or ids.column.where
        if self._unsigned and self._below_zero:
            raise ValueError(
                f"ids: integers of 2**63 or more in {self._unsigned} and integers below 0 in {self._below_zero}, which "
                "no column of a log that is scanned holds. Cast both to text, or read the log with "
                "EventLog.read_parquet"
            )

    def __len__(self) -> int:
        return len(self.sorted)

    @property
    def sorted(self) -> pa.Array:
        """All ids, in increasing order."""
        if not self._is_sorted:
            self._merge()
            self._known = self._known.take(pc.sort_indices(self._known))  # type: ignore[union-attr]
            self._is_sorted, self._table = True, None
        return pa.array([], pa.int64()) if self._known is None else self._known

    def vocabulary(self) -> Vocabulary:
        """Return the ids as a vocabulary; Python objects all."""
        if self._first is None:
            return Vocabulary.of()
        ids = self.sorted
        return Vocabulary.of(Ids(self._first.column, ids, np.zeros(0, dtype=np.int64), self._first.kinds))

    def numbers_of(self, ids: Ids) -> np.ndarray:
        """Return the number of each row's id, -1 where it has not been taken; ``N`` int64."""
        known = self.sorted
        if not len(ids.row):
            return np.zeros(0, dtype=np.int64)
        if self._first is None or isinstance(ids.distinct, list) or ids.kinds != self._first.kinds:
            return np.full(len(ids.row), -1)
        distinct, result = ids.distinct, np.full(len(ids.distinct), -1)
        if distinct.type == known.type:
            result = self._numbers_of(distinct)
        else:  # int64 and uint64: integers from 0 to 2**63 - 1 are of both
            of_both = (distinct.to_numpy(zero_copy_only=False).astype(np.int64) >= 0).nonzero()[0]
            result[of_both] = self._numbers_of(distinct.take(pa.array(of_both)).cast(known.type))
        found: np.ndarray = result[ids.row]
        return found

    def _numbers_of(self, ids: pa.Array) -> np.ndarray:
        known = self.sorted
        if known.type == pa.int64():
            return self._numbers_of_integers(ids.to_numpy(zero_copy_only=False))
        number: np.ndarray = pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy().astype(np.int64)
        return number

    def _numbers_of_integers(self, ids: np.ndarray) -> np.ndarray:
        known = self.sorted.to_numpy(zero_copy_only=False)
        low, high = int(known[0]), int(known[-1])
        if high - low < max(_PENDING, _DENSE * len(known)):
            if self._table is None:
                self._table = np.full(high - low + 1, -1, dtype=np.int32 if len(known) < 2**31 else np.int64)
                self._table[known - low] = np.arange(len(known))
            inside = (ids >= low) & (ids <= high)
            return np.where(inside, self._table[np.where(inside, ids - low, 0)], -1).astype(np.int64)
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, at, -1)

    def _merge(self) -> None:
        arrays = self._pending if self._known is None else [self._known, *self._pending]
        if self._unsigned:
            arrays = [array.cast(pa.uint64()) for array in arrays]
        self._known = pc.unique(pa.chunked_array(arrays))
        self._pending = []
