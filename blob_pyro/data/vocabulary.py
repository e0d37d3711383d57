"""Ids outside, numbers inside: the two-way mapping between a log's ids and ``0 .. n - 1``."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Sequence, Set
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blob_pyro.data.columns import Column, as_values
from blob_pyro.data.ids import Ids, describe_kinds, read_ids

__all__ = ["Vocabulary"]

_MAX_SIZE = 2**31 - 1


class Vocabulary:
    """An ordered set of distinct ids; the id at position ``i`` has the number ``i``.

    Args:
        ids: distinct ids in the order of their numbers: integers, text, or other hashable objects. A set has no
            order; its ids are sorted.

    Raises:
        ValueError: if there is no id, one occurs twice, or one is missing, a boolean, a float that is not whole, or
            cannot be hashed.
        TypeError: if ``ids`` is not a collection of ids.

    Example:
        >>> items = Vocabulary(["apple", "pear", "plum"])
        >>> items.encode(["plum", "apple"]).tolist()
        [2, 0]
        >>> items.decode([1, 1])
        ['pear', 'pear']
    """

    def __init__(self, ids: Iterable[Hashable], argument: str = "ids") -> None:
        if isinstance(ids, range) and ids == range(len(ids)) and len(ids):
            self.ids: Sequence[Hashable] = ids
            return
        read = read_ids(_in_a_row(ids, argument), "Leave it out", mixed=True)
        if not len(read.row):
            raise ValueError(f"{argument}: there are none; a catalogue has at least one id")
        self.ids = tuple(read.objects[n] for n in read.row.tolist())
        if len(self._numbers) < len(self.ids):
            numbers: Any = self._numbers  # of equal ids, the last one's
            twice = next(id_ for n, id_ in enumerate(self.ids) if numbers[id_] != n)
            raise ValueError(f"{argument}: {twice!r} occurs more than once; ids must be distinct")

    @classmethod
    def numbered(cls, size: int, argument: str = "num_items") -> Vocabulary:
        """Make the vocabulary of ids that already are the integers ``0 .. size - 1``.

        Raises:
            TypeError: if ``size`` is not an integer.
            ValueError: if ``size`` is below 1, or above 2**31 - 1.
        """
        if isinstance(size, (bool, np.bool_)) or not isinstance(size, (int, np.integer)):
            raise TypeError(f"{argument}: must be an integer, got {size!r}")
        if not 1 <= size <= _MAX_SIZE:
            raise ValueError(f"{argument}: must lie between 1 and {_MAX_SIZE:,}, got {size}")
        return cls(range(int(size)))

    @classmethod
    def of(cls, *columns: Ids) -> Vocabulary:
        """Make a vocabulary of all ids of some columns, sorted where they can be: the order of rows does not matter.

        Raises:
            ValueError: naming the columns, if their ids are of different types.
        """
        some = [ids for ids in columns if ids.kinds]
        if len({ids.kinds for ids in some}) > 1:
            kinds = " and ".join(f"{ids.describe()} in {ids.column.where}" for ids in some)
            raise ValueError(f"ids have different types: {kinds}. Cast them to one, integers or text")
        self = cls.__new__(cls)
        arrow_types = {ids.arrow_type for ids in some}
        if len(arrow_types) == 1 and None not in arrow_types:
            values = pc.unique(pa.chunked_array([ids.distinct for ids in some]))
            self.ids = tuple(values.take(pc.sort_indices(values)).to_pylist())
        else:
            distinct = list(dict.fromkeys(id_ for ids in some for id_ in ids.objects))
            with contextlib.suppress(TypeError):  # ids without an order keep that of first appearance
                cast(list[Any], distinct).sort()
            self.ids = tuple(distinct)
        return self

    @classmethod
    def union(cls, vocabularies: Sequence[Vocabulary], names: Sequence[str]) -> tuple[Vocabulary, list[np.ndarray]]:
        """Make a vocabulary of all ids of some vocabularies, sorted where they can be.

        Args:
            vocabularies: one or more.
            names: what to call each in an error message.

        Returns:
            The union, and for each vocabulary the numbers that its ids have there, int64.

        Raises:
            ValueError: naming two of them, if their ids are of different types.
        """
        if all(vocabulary.is_numbered for vocabulary in vocabularies):
            return max(vocabularies, key=len), [np.arange(len(vocabulary)) for vocabulary in vocabularies]
        columns = [
            read_ids(_in_a_row(vocabulary.ids, name), "Leave it out", mixed=True)
            for vocabulary, name in zip(vocabularies, names)
        ]
        union = cls.of(*columns)
        if union._kinds == {int} and tuple(union.ids) == tuple(range(len(union))):
            union = cls.numbered(len(union))
        return union, [union.numbers_of(ids) for ids in columns]

    def extended(self, ids: Iterable[Hashable], argument: str = "items") -> Vocabulary:
        """Make a vocabulary in which further ids follow these, in their order: nobody's number changes.

        Args:
            ids: new ones, distinct, of the same type; a set's are sorted.
            argument: what to call them in an error message.

        Raises:
            ValueError: naming the first that is known already, occurs twice, or is of another type.

        Example:
            >>> Vocabulary(["pear", "apple"]).extended(["fig"]).ids
            ('pear', 'apple', 'fig')
        """
        new = Vocabulary(ids, argument)
        if odd := [id_ for id_ in new.ids if type(id_) not in self._kinds]:
            raise ValueError(
                f"{argument}: known ids are {self._describe()}, and {odd[0]!r} is a {type(odd[0]).__name__}; cast it"
            )
        known = self._numbers
        if twice := [id_ for id_ in new.ids if id_ in known]:
            raise ValueError(
                f"{argument}: {twice[0]!r} is known already ({len(twice):,} of {len(new):,} are); give new ones alone"
            )
        ids = (*self.ids, *new.ids)
        return Vocabulary.numbered(len(ids)) if ids == tuple(range(len(ids))) else Vocabulary(ids, argument)

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
        """True where every id is its own number."""
        return isinstance(self.ids, range)

    @cached_property
    def _numbers(self) -> dict[Hashable, int] | range:
        return self.ids if isinstance(self.ids, range) else {id_: n for n, id_ in enumerate(self.ids)}

    @cached_property
    def _kinds(self) -> frozenset[type]:
        return frozenset({int}) if self.is_numbered else frozenset(map(type, self.ids))

    def encode(self, ids: Any, argument: str = "ids") -> np.ndarray:
        """Return the numbers of ids.

        Args:
            ids: known ids, any length: a list, an array, a Series, a tensor.
            argument: what to call ``ids`` in an error message.

        Returns:
            ``len(ids)`` array of int64.

        Raises:
            ValueError: naming the first id that is not in the vocabulary, and its position.
        """
        return self.look_up(_in_a_row(ids, argument))

    def find(self, ids: Any, argument: str = "ids") -> np.ndarray:
        """Return the numbers of ids, -1 for those that are not in the vocabulary; ``len(ids)`` int64.

        Args:
            ids: of any type that ids may have, any length.
            argument: what to call ``ids`` in an error message.

        Raises:
            ValueError: naming the first row that holds no id.
        """
        return self.numbers_of(read_ids(_in_a_row(ids, argument), "Give it an id", mixed=True))

    def look_up(self, column: Column, problem: str = "", remedy: str = "") -> np.ndarray:
        """Look up the numbers of a column's ids, ``N`` int64.

        Args:
            column: of ids.
            problem: what an id is that is not in the vocabulary, for an error message.
            remedy: what to do about it.

        Raises:
            ValueError: naming the first row whose id is missing, of another type, or not in the vocabulary.
        """
        ids = read_ids(column, "Drop it, or give it an id", mixed=len(self._kinds) > 1)
        known = self._describe()
        strange = {kind for kind in ids.kinds if not issubclass(kind, tuple(self._kinds))}
        if strange:
            wrong = np.fromiter((type(id_) in strange for id_ in ids.objects), dtype=bool)
            kinds = f"{column.where} holds {describe_kinds(frozenset(strange))}"
            column.fail(wrong[ids.row], f"ids are {known}, and {kinds}", remedy or "Cast them")
        numbers = self._numbers_of(ids)
        unknown = numbers < 0
        if unknown.any():
            outside = f"an id is outside 0..{len(self) - 1} (num_items={len(self)})"
            default = outside if self.is_numbered else "unknown id"
            column.fail(unknown[ids.row], problem or default, remedy or f"Ids are {known}")
        result: np.ndarray = numbers[ids.row]
        return result

    def numbers_of(self, ids: Ids) -> np.ndarray:
        """Return the number of each row's id, -1 where it is not in the vocabulary; ``N`` int64."""
        result: np.ndarray = self._numbers_of(ids)[ids.row]
        return result

    def _numbers_of(self, ids: Ids) -> np.ndarray:
        """The number of each distinct id, -1 where it is not in the vocabulary."""
        distinct = ids.distinct
        if isinstance(distinct, pa.Array) and distinct.type != pa.uint64():
            if isinstance(self.ids, range):
                values = distinct.to_numpy(zero_copy_only=False)
                return np.where((values >= 0) & (values < len(self)), values, -1)
            if len(distinct) > 64 and len(self._kinds) == 1:
                try:
                    known = pa.array(self.ids, distinct.type)
                    result: np.ndarray = (
                        pc.fill_null(pc.index_in(distinct, value_set=known), -1).to_numpy().astype(np.int64)
                    )
                    return result
                except (OverflowError, UnicodeEncodeError):  # the vocabulary holds larger integers
                    pass
        if isinstance(self._numbers, range):
            integers = cast(list[int], ids.objects)
            return np.array([n if 0 <= n < len(self) else -1 for n in integers], dtype=np.int64)
        numbers = self._numbers
        return np.fromiter((numbers.get(id_, -1) for id_ in ids.objects), dtype=np.int64, count=len(ids.objects))

    def _describe(self) -> str:
        if self.is_numbered:
            return f"integers 0..{len(self) - 1}"
        return f"{describe_kinds(self._kinds)}, {len(self)} of them, from {self.ids[0]!r} to {self.ids[-1]!r}"

    def decode(self, numbers: Any) -> Any:
        """Return the ids of numbers, in the same order and shape.

        Args:
            numbers: a collection, a tensor or an array of any shape, lists in lists, or one number.

        Returns:
            A list of ids; lists in lists for more dimensions; an id for one number.

        Raises:
            ValueError: naming the first number outside ``0 .. n - 1``, such as the -1 that pads a history.

        Example:
            >>> Vocabulary(["a", "b", "c"]).decode([[0, 2], [1, 1]])
            [['a', 'c'], ['b', 'b']]
        """
        if isinstance(numbers, (list, tuple)) and any(isinstance(row, (list, tuple)) for row in numbers):
            return [self.decode(row) for row in numbers]
        if isinstance(numbers, (int, np.integer)) and not isinstance(numbers, bool):
            return self.decode([numbers])[0]
        if getattr(numbers, "ndim", 1) == 0:
            return self.decode(numbers.reshape(1))[0]
        if getattr(numbers, "ndim", 1) > 1:
            return self._decode_array(np.asarray(numbers.cpu() if hasattr(numbers, "cpu") else numbers))
        column = _in_a_row(numbers, "numbers")
        return [self.ids[n] for n in Vocabulary.numbered(len(self)).look_up(column).tolist()]

    def _decode_array(self, numbers: np.ndarray) -> list[Any]:
        outside = np.argwhere((numbers < 0) | (numbers >= len(self)))
        if len(outside):
            where = ", ".join(map(str, outside[0].tolist()))
            raise ValueError(
                f"numbers[{where}]: a number is outside 0..{len(self) - 1}, got {numbers[tuple(outside[0])]}; item "
                f"numbers are counted from 0, and there are {len(self)}"
            )
        if numbers.size == 0:
            return cast(list[Any], numbers.tolist())
        ids: list[Any] = self.decode(numbers.reshape(-1))
        for size in numbers.shape[:0:-1]:
            ids = [ids[start : start + size] for start in range(0, len(ids), size)]
        return ids

    def column(self, numbers: Any) -> np.ndarray:
        """Return the ids of numbers as a column of a frame: int64 where all ids are such integers, else Python objects.

        Args:
            numbers: an array or a tensor on the CPU, all of them in ``0 .. n - 1``.

        Example:
            >>> Vocabulary([30, 10, 20]).column(np.array([2, 2, 0]))
            array([20, 20, 30])
        """
        where = np.asarray(numbers)
        if self.is_numbered:
            return where.astype(np.int64)
        result: np.ndarray = self._as_array[where]
        return result

    @cached_property
    def _as_array(self) -> np.ndarray:
        if self._kinds == {int} and all(-(2**63) <= cast(int, id_) < 2**63 for id_ in self.ids):
            return np.array(self.ids, dtype=np.int64)
        ids = np.empty(len(self), dtype=object)
        ids[:] = self.ids
        return ids


def _in_a_row(ids: Any, argument: str) -> Column:
    """A collection of ids as a column whose rows are called ``argument[3]``."""
    if isinstance(ids, Set):
        try:
            ids = sorted(ids)
        except TypeError:
            raise ValueError(f"{argument}: a set of these ids has no order; pass a list") from None
    elif isinstance(ids, Iterable) and not isinstance(ids, Sequence) and not hasattr(ids, "__len__"):
        ids = list(ids)
    elif isinstance(ids, dict):
        raise TypeError(f"{argument}: expected a list of ids, got a dict; pass list(...) of its keys")
    return Column(as_values(ids, argument), argument, lambda row: f"{argument}[{row}]")
