"""Ids outside, numbers inside: the two-way mapping between a log's ids and ``0 .. n - 1``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Vocabulary"]


class Vocabulary:
    """An ordered set of distinct ids; the id at position ``i`` has the number ``i``.

    Args:
        ids: distinct hashable ids, in the order of their numbers.

    Raises:
        ValueError: if an id occurs twice.

    Example:
        >>> items = Vocabulary(["apple", "pear", "plum"])
        >>> items.encode(["plum", "apple"]).tolist()
        [2, 0]
        >>> items.decode([1, 1])
        ['pear', 'pear']
    """

    def __init__(self, ids: Iterable[Hashable]) -> None:
        self.ids: Sequence[Hashable] = ids if isinstance(ids, range) else tuple(ids)
        if len(self._numbers) != len(self.ids):
            seen: set[Hashable] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise ValueError(f"ids: {twice!r} occurs more than once; ids must be distinct")

    @classmethod
    def numbered(cls, size: int) -> Vocabulary:
        """The identity: ids that already are the integers ``0 .. size - 1``."""
        return cls(range(size))

    @classmethod
    def from_arrow(cls, *columns: pa.ChunkedArray) -> Vocabulary:
        """All distinct non-null values of the columns, sorted, so that the order of rows does not matter."""
        values = pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks]))
        return cls(pc.take(values, pc.sort_indices(values)).to_pylist())

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and tuple(self.ids) == tuple(other.ids)

    def __hash__(self) -> int:
        return hash(tuple(self.ids))

    def __repr__(self) -> str:
        if self.is_numbered:
            return f"Vocabulary.numbered({len(self)})"
        head = ", ".join(map(repr, self.ids[:3]))
        return f"Vocabulary([{head}{', ...' if len(self) > 3 else ''}], {len(self)} ids)"

    @property
    def is_numbered(self) -> bool:
        """Whether every id is its own number."""
        return isinstance(self.ids, range)

    @cached_property
    def _numbers(self) -> dict[Hashable, int] | range:
        return self.ids if isinstance(self.ids, range) else {id_: n for n, id_ in enumerate(self.ids)}

    def encode(self, ids: Sequence[Hashable], argument: str = "ids") -> np.ndarray:
        """Numbers of ids.

        Args:
            ids: known ids, any length.
            argument: what to call ``ids`` in an error message.

        Returns:
            ``len(ids)`` array of int64.

        Raises:
            ValueError: naming the first id that is not in the vocabulary, and its position.
        """
        if isinstance(self.ids, range):
            return self._encode_numbered(ids, argument)
        try:
            numbers: Any = self._numbers
            return np.fromiter((numbers[i] for i in ids), dtype=np.int64, count=len(ids))
        except KeyError as error:
            raise ValueError(
                f"{argument}: unknown id {error.args[0]!r} at position {list(ids).index(error.args[0])}; "
                f"this model knows {len(self)} ids, from {self.ids[0]!r} to {self.ids[-1]!r}"
            ) from None

    def _encode_numbered(self, ids: Sequence[Hashable], argument: str) -> np.ndarray:
        values = np.asarray(ids)
        if values.size == 0:
            return np.zeros(0, dtype=np.int64)
        if values.dtype.kind not in "iu":
            raise ValueError(f"{argument}: ids are the integers 0 to {len(self) - 1}, got {values.dtype} values")
        outside = (values < 0) | (values >= len(self))
        if outside.any():
            at = int(outside.argmax())
            raise ValueError(
                f"{argument}: id {values[at]} at position {at} is outside 0..{len(self) - 1} (num_items={len(self)})"
            )
        return values.astype(np.int64, copy=False)

    def encode_arrow(self, column: pa.ChunkedArray) -> np.ndarray:
        """Numbers of an Arrow column's values; -1 where a value is unknown or null."""
        if isinstance(self.ids, range):
            values = pc.cast(column, pa.int64()).to_numpy()
            return np.where((values >= 0) & (values < len(self)), values, -1)
        known = pa.array(self.ids)
        if known.type != column.type:
            column = pc.cast(column, known.type)
        return pc.fill_null(pc.index_in(column, value_set=known, skip_nulls=True), -1).to_numpy().astype(np.int64)

    def decode(self, numbers: Iterable[int]) -> list[Hashable]:
        """Ids of numbers, in the same order."""
        return [self.ids[int(n)] for n in numbers]
