"""Columns of ids: the distinct ids, and which of them each row has.

An id is an integer, text, bytes, or any other hashable Python object (a `uuid.UUID`, a tuple, a date). A float column
of whole numbers, as pandas makes of integers beside missing values, holds the integers; other floats and booleans are
refused, because ``1``, ``1.0`` and ``True`` are equal to Python and would become one id. Categories are the values
that they stand for.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from blob_pyro.data.columns import Column

__all__ = ["Ids", "read_ids"]

_NAMES = {int: "integers", str: "text", bytes: "bytes"}
_PLAIN = "Cast it to integers or text"
_WHOLE_BELOW = 2**53


@dataclass(frozen=True)
class Ids:
    """The ids of a column.

    Attributes:
        column: where they were read.
        distinct: each id that occurs, once, in no particular order: an Arrow array of int64, uint64, large_string or
            large_binary, or a list of other objects.
        row: for each row the position of its id in ``distinct``; ``N``.
        kinds: the Python types of the ids; one, except in a list of mixed objects; none in an empty column.
    """

    column: Column
    distinct: pa.Array | list[Hashable]
    row: np.ndarray
    kinds: frozenset[type]

    @cached_property
    def objects(self) -> list[Hashable]:
        """The distinct ids as Python objects."""
        return self.distinct if isinstance(self.distinct, list) else self.distinct.to_pylist()

    @property
    def arrow_type(self) -> pa.DataType | None:
        """The type of ``distinct``, if Arrow has one."""
        return None if isinstance(self.distinct, list) else self.distinct.type

    def describe(self) -> str:
        """Say what kind of ids these are, for an error message."""
        return describe_kinds(self.kinds)


def describe_kinds(kinds: frozenset[type]) -> str:
    """Name the types of ids, for an error message."""
    return " and ".join(sorted(_NAMES.get(kind, kind.__name__) for kind in kinds))


def read_ids(column: Column, remedy: str, *, mixed: bool = False) -> Ids:
    """Read the ids of a column.

    Args:
        column: of ids.
        remedy: what to do about a row without an id.
        mixed: whether ids of several types may stand side by side.

    Raises:
        ValueError: naming the row, if one has no id, an id of another type than the rows before it, or an id that
            is a float, a boolean or a thing that cannot be hashed.
    """
    if isinstance(column.values, list):
        return _read_objects(column, remedy, mixed)
    return _read_arrow(column, remedy)


def _read_arrow(column: Column, remedy: str) -> Ids:
    values = column.values
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    uuid = str(kind) == "extension<arrow.uuid>"
    if uuid:
        values = pa.chunked_array([chunk.storage for chunk in values.chunks], type=kind.storage_type)
    elif isinstance(kind, pa.BaseExtensionType) or pa.types.is_nested(kind) or pa.types.is_boolean(kind):
        raise ValueError(f"{column.where} has type {kind}, which is not one of ids. {_PLAIN}")
    distinct, row = _encode(values)
    if str(kind) == "string_view":  # for which Arrow has few functions
        distinct = distinct.cast(pa.large_string())
    column.fail(_picked(distinct.is_null(nan_is_null=not pa.types.is_float16(kind)), row), "a value is missing", remedy)
    distinct, row = _only_used(distinct, row)
    if uuid:
        return _objects(column, pa.ExtensionArray.from_storage(kind, distinct), row)
    if pa.types.is_floating(kind):
        numbers = distinct.to_numpy(zero_copy_only=False).astype(np.float64)
        fraction = ~((numbers == np.floor(numbers)) & (np.abs(numbers) < _WHOLE_BELOW))
        column.fail(fraction[row], "an id that is a float must be a whole number below 2**53", _PLAIN)
        distinct = pa.array(numbers.astype(np.int64))
    elif pa.types.is_integer(kind):
        if kind != pa.uint64() or not len(distinct) or pc.max(distinct).as_py() < 2**63:
            distinct = distinct.cast(pa.int64())
    elif str(kind) in ("string", "large_string", "string_view"):
        return Ids(column, distinct.cast(pa.large_string()), row, _one(str, distinct))
    elif str(kind) in ("binary", "large_binary", "binary_view") or pa.types.is_fixed_size_binary(kind):
        return Ids(column, distinct.cast(pa.large_binary()), row, _one(bytes, distinct))
    elif pa.types.is_null(kind):
        distinct = distinct.cast(pa.int64())
    else:
        return _objects(column, distinct, row)
    return Ids(column, distinct, row, _one(int, distinct))


def _one(kind: type, distinct: pa.Array) -> frozenset[type]:
    return frozenset({kind} if len(distinct) else ())


def _objects(column: Column, distinct: pa.Array, row: np.ndarray) -> Ids:
    """Ids that Arrow has a type for and we have none: dates, timestamps, decimals, UUIDs."""
    try:
        objects = distinct.to_pylist()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{column.where} has ids that Python cannot hold ({error}). {_PLAIN}") from None
    return Ids(column, objects, row, frozenset(map(type, objects)))


def _encode(values: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Distinct values of a column and where each row's is among them: a null has a row of its own."""
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    elif values.num_chunks > 1:
        values = values.unify_dictionaries()
    if not values.num_chunks:
        return pa.array([], values.type.value_type), np.zeros(0, dtype=np.int64)
    codes = [_codes(chunk.indices) for chunk in values.chunks]
    dictionary = values.chunk(0).dictionary
    row = codes[0] if len(codes) == 1 else np.concatenate(codes)
    if values.null_count:
        row = np.where(row < 0, len(dictionary), row)
        dictionary = pa.concat_arrays([dictionary, pa.nulls(1, dictionary.type)])
    return dictionary, row


def _codes(indices: pa.Array) -> np.ndarray:
    if indices.type != pa.int32():
        indices = indices.cast(pa.int64())
    result: np.ndarray = (indices.fill_null(-1) if indices.null_count else indices).to_numpy(zero_copy_only=False)
    return result


def _picked(which: pa.Array, row: np.ndarray) -> np.ndarray:
    """A property of the distinct values, at the rows; nothing is looked up where none has it."""
    which = which.to_numpy(zero_copy_only=False)
    result: np.ndarray = which[row] if which.any() else which
    return result


def _only_used(distinct: pa.Array, row: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Without the values that no row has, such as the categories that a filter left empty."""
    used = np.zeros(len(distinct), dtype=bool)
    used[row] = True
    if used.all():
        return distinct, row
    return distinct.filter(pa.array(used)), (np.cumsum(used) - 1)[row]


def _read_objects(column: Column, remedy: str, mixed: bool) -> Ids:
    column.require(remedy)
    kinds = {t: _kind(t) for t in column.python_types}
    refused = {t for t, kind in kinds.items() if _is_refused(kind) or (kind is float and len(kinds) > 1)}
    if refused:
        wrong = np.array([type(v) in refused for v in column.values])
        column.fail(wrong, "an id is not a boolean, a float among others, a tensor or a NumPy time", _PLAIN)
    distinct_kinds = frozenset(kinds.values())
    if len(distinct_kinds) > 1 and not mixed:
        first = kinds[type(column.values[0])]
        other = np.array([kinds[type(v)] is not first for v in column.values])
        column.fail(other, f"ids have different types, {describe_kinds(distinct_kinds)}", _PLAIN)
    if distinct_kinds <= {int} or any(distinct_kinds == {kind} for kind in (str, bytes, float)):
        kind = next(iter(distinct_kinds), int)
        try:
            values = pa.array(column.values, pa.large_string() if kind is str else None)
            return _read_arrow(Column(pa.chunked_array([values]), column.where, column.place), remedy)
        except OverflowError:  # integers of any size are ids
            column = Column([int(v) for v in column.values], column.where, column.place)
        except UnicodeEncodeError:
            bad = np.array([not _is_unicode(v) for v in column.values])
            column.fail(bad, "text must be valid Unicode, without lone surrogates", "Mend or drop the row")
            raise
    numbers: dict[tuple[type, Hashable], int] = {}  # by type as well: 1 and Decimal(1) are equal
    try:
        codes = (numbers.setdefault((kinds[type(v)], v), len(numbers)) for v in column.values)
        row = np.fromiter(codes, dtype=np.int64, count=len(column))
    except TypeError:
        bad = np.array([not _is_hashable(v) for v in column.values])
        column.fail(bad, "an id must be hashable", _PLAIN)
        raise
    return Ids(column, [id_ for _, id_ in numbers], row, distinct_kinds)


def _kind(kind: type) -> type:
    """The type that ids are compared by: NumPy's scalars are Python's."""
    if issubclass(kind, Tensor):
        return Tensor
    for ours, theirs in ((bool, np.bool_), (int, np.integer), (float, np.floating), (str, np.str_), (bytes, np.bytes_)):
        if kind is ours or issubclass(kind, theirs):
            return ours
    return kind


def _is_refused(kind: type) -> bool:
    """Whether values of this type hash alike, or unlike, for reasons that have nothing to do with ids."""
    return kind is bool or issubclass(kind, (Tensor, np.generic))


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
