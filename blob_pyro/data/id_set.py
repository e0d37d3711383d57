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
        self._table: np.ndarray | None = None
        self._is_sorted = True

    def add(self, ids: Ids) -> None:
        """Take the ids of a chunk.

        Raises:
            ValueError: for ids of several types, naming both columns; or of a type that is no integer, text or bytes.
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
        elif ids.arrow_type != self._first.arrow_type:
            kinds = " and ".join(
                f"{one.describe()} ({one.arrow_type}) in {one.column.where}" for one in (self._first, ids)
            )
            raise ValueError(f"ids have different types: {kinds}. Cast them to one, integers or text")
        self._pending.append(ids.distinct)
        self._is_sorted = False
        if sum(map(len, self._pending)) > max(_PENDING, 0 if self._known is None else len(self._known)):
            self._merge()

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
        if isinstance(ids.distinct, list) or ids.arrow_type != known.type:
            return np.full(len(ids.row), -1)
        if known.type == pa.int64():
            number = self._numbers_of_integers(ids.distinct.to_numpy(zero_copy_only=False))
        else:
            number = pc.fill_null(pc.index_in(ids.distinct, value_set=known), -1).to_numpy().astype(np.int64)
        result: np.ndarray = number[ids.row]
        return result

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
        self._known = pc.unique(pa.chunked_array(arrays))
        self._pending = []
