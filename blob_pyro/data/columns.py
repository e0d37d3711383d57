"""A column of values, whatever library it came from, and how an error speaks of it.

This is the one place that reads values from outside: `as_values` turns what a frame, a dict, a tensor or a list holds
into an Arrow column, or into a plain list where the values are Python objects (pandas calls those ``object``); `Column`
knows the table, the name and the row. What the values mean is said in `times` and `ids`, and in `schema`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

__all__ = ["Column", "as_values", "is_beyond_arrow", "is_missing_value"]

Values = Any
"""A `pyarrow.ChunkedArray`, or a list of Python objects."""

_UNITS = {"Y": "D", "M": "D", "W": "D", "D": "D", "h": "s", "m": "s", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}
"""NumPy's units of time, and the unit that Arrow knows and that holds each exactly."""


class Column:
    """Values with a name for error messages.

    Args:
        values: an Arrow column, or a list of Python objects.
        where: what to call the column, ``"views: column 'item'"``.
        place: what to call one row of it; by default ``where`` and the row's number.
    """

    def __init__(self, values: Values, where: str, place: Callable[[int], str] | None = None) -> None:
        self.values, self.where = values, where
        self.place = place or (lambda row: f"{where}, row {row}")

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def arrow(self) -> pa.ChunkedArray | None:
        """The values with categories written out, or None where they are Python objects."""
        if isinstance(self.values, list):
            return None
        column = self.values
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return column

    @cached_property
    def python_types(self) -> set[type]:
        """The types of a list's values: one pass, in C."""
        return set(map(type, self.values))

    def describe_type(self) -> str:
        """Name the type of the values, for an error message."""
        if isinstance(self.values, list):
            return " and ".join(sorted(t.__name__ for t in self.python_types)) or "nothing"
        return str(self.values.type)

    def value(self, row: int) -> str:
        """Return the value of a row, for an error message."""
        value = self.values[row]
        if isinstance(value, pa.Scalar):
            try:
                value = value.as_py()
            except (ValueError, OverflowError):  # a timestamp that Python cannot hold
                value = value.cast(pa.int64()).as_py()
        if isinstance(value, np.generic):
            value = value.item()
        return str(value) if isinstance(value, date) else reprlib.repr(value)

    def missing(self) -> np.ndarray:
        """Mark the values that are None, NaN, NaT or null."""
        if self.arrow is None:
            if not any(map(_may_be_missing, self.python_types)):
                return np.zeros(len(self), dtype=bool)
            return np.fromiter(map(is_missing_value, self.values), dtype=bool, count=len(self))
        column = self.arrow
        if pa.types.is_float16(column.type):
            result: np.ndarray = np.isnan(column.to_numpy().astype(np.float64))
            return result
        result = pc.is_null(column, nan_is_null=True).to_numpy()
        return result

    def require(self, remedy: str) -> None:
        """Refuse values that are missing."""
        arrow = self.arrow
        if arrow is None or arrow.null_count or pa.types.is_floating(arrow.type) or pa.types.is_null(arrow.type):
            self.fail(self.missing(), "a value is missing", remedy)

    def fail(self, bad: np.ndarray, problem: str, remedy: str) -> None:
        """Raise a ValueError for the first true entry of ``bad``, if there is one."""
        if bad.any():
            row, count = int(bad.argmax()), int(bad.sum())
            more = f" ({count:,} such rows)" if count > 1 else ""
            raise ValueError(f"{self.place(row)}: {problem}, got {self.value(row)}{more}. {remedy}")

    def floats(self, what: str, remedy: str, *, booleans: bool = False) -> np.ndarray:
        """Read numbers as float64, NaN where one is missing.

        Args:
            what: what the values are, for an error message: ``"a reward is 0 or 1"``.
            remedy: what to do about a value that is no number.
            booleans: whether True and False are numbers here.

        Raises:
            ValueError: if the column does not hold numbers; with the row, where it holds Python objects.
        """
        column = self.arrow
        if column is None:
            numbers = tuple({int, float, np.integer, np.floating, Decimal} | ({bool, np.bool_} if booleans else set()))
            odd = {t for t in self.python_types if not issubclass(t, numbers) or (t is bool and not booleans)}
            if odd:
                wrong = [type(v) in odd and not is_missing_value(v) for v in self.values]
                self.fail(np.array(wrong, dtype=bool), what, remedy)
            try:
                return np.array([float("nan") if is_missing_value(v) else v for v in self.values], dtype=np.float64)
            except OverflowError:
                too_large = np.array([not is_missing_value(v) and abs(v) > 2**1023 for v in self.values])
                self.fail(too_large, what, remedy)
                raise
        kind = column.type
        if pa.types.is_null(kind):
            return np.full(len(column), np.nan)
        if pa.types.is_float16(kind):
            result: np.ndarray = column.to_numpy().astype(np.float64)
            return result
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_decimal(kind)
            or (booleans and pa.types.is_boolean(kind))
        ):
            raise ValueError(f"{self.where} has type {kind}; {what}. {remedy}")
        values = pc.cast(column, pa.float64(), safe=False)
        result = (pc.fill_null(values, float("nan")) if values.null_count else values).to_numpy()
        return result


def as_values(raw: Any, where: str) -> Values:
    """Make an Arrow column, or a list of Python objects, of whatever holds a column.

    Args:
        raw: a NumPy array or tensor of one dimension; a Series of pandas or polars; an Arrow array; a list, tuple or
            range; anything that exports an Arrow array or stream.
        where: what to call it in an error message.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it has another number of dimensions than one, or holds what Arrow cannot.
    """
    try:
        return _as_values(raw, where)
    except (pa.ArrowException, NotImplementedError, OverflowError, UnicodeError) as error:
        raise ValueError(f"{where} cannot be read ({error}); convert it to numbers, text or timestamps first") from None


def _as_values(raw: Any, where: str) -> Values:
    if isinstance(raw, (list, tuple, range)):
        return list(raw)
    if isinstance(raw, pa.ChunkedArray):
        return raw if not _is_run_end_encoded(raw.type) else pc.run_end_decode(raw)
    if isinstance(raw, pa.Array):
        return _as_values(pa.chunked_array([raw]), where)
    if isinstance(raw, Tensor):
        if raw.is_sparse or raw.ndim != 1:
            raise ValueError(f"{where}: expected one dimension, got a tensor of shape {tuple(raw.shape)}")
        raw = raw.detach().cpu().numpy()
    if isinstance(raw, np.ndarray):
        return _from_numpy(raw, where)
    if isinstance(raw, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        if getattr(raw, "ndim", 1) != 1 or isinstance(raw, pd.MultiIndex):
            raise ValueError(f"{where}: expected one dimension, got {type(raw).__name__}")
        if raw.dtype == object:
            return list(raw)
        if isinstance(raw.dtype, pd.SparseDtype):
            return _from_numpy(np.asarray(raw), where)
        converted = pa.array(raw, from_pandas=True)
        return converted if isinstance(converted, pa.ChunkedArray) else pa.chunked_array([converted])
    if is_beyond_arrow(raw):
        return raw.to_list()
    if isinstance(raw, (str, bytes, dict, set, frozenset)) or hasattr(raw, "columns"):
        raise TypeError(f"{where}: expected a column of values, got {type(raw).__name__}")
    if hasattr(raw, "to_arrow"):  # polars: its stream had times wrong up to 1.32, and none of a column before 1.3
        converted = raw.to_arrow()
        return converted if isinstance(converted, pa.ChunkedArray) else pa.chunked_array([converted])
    if hasattr(raw, "__arrow_c_stream__"):
        column = pa.chunked_array(raw)
        return column.cast(pa.large_string()) if str(column.type) == "string_view" else column
    if hasattr(raw, "__arrow_c_array__"):
        return pa.chunked_array([pa.array(raw)])
    if isinstance(raw, Sequence):
        return list(raw)
    raise TypeError(f"{where}: expected a column of values, got {type(raw).__name__}")


def is_beyond_arrow(raw: Any) -> bool:
    """Say whether a polars Series holds values that Arrow has no type for: Python objects, integers of 128 bits."""
    kind = str(getattr(raw, "dtype", ""))
    return hasattr(raw, "to_list") and hasattr(raw, "to_arrow") and ("Object" in kind or "Int128" in kind)


def _from_numpy(array: np.ndarray, where: str) -> Values:
    if array.ndim != 1:
        raise ValueError(f"{where}: expected one dimension, got an array of shape {array.shape}")
    if array.dtype.kind == "O":
        return array.tolist()
    if array.dtype.kind == "M":
        array = _whole_units(array, where)
    if array.dtype == np.float16:  # exactly so, and older releases of Arrow cannot encode it
        array = array.astype(np.float32)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    mask = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    return pa.chunked_array([pa.array(np.asarray(array), mask=mask, from_pandas=True)])


def _whole_units(array: np.ndarray, where: str) -> np.ndarray:
    """The same times in a unit that Arrow knows: weeks as days, hours as seconds; all exactly."""
    unit, count = np.datetime_data(array.dtype)
    if unit not in _UNITS:
        if np.isnat(np.asarray(array)).all():
            return array.astype("datetime64[ns]")
        raise ValueError(f"{where} has type {array.dtype}; times are kept to the nanosecond: cast it to datetime64[ns]")
    if count == 1 and unit == _UNITS[unit]:
        return array
    finer_type = f"datetime64[{_UNITS[unit]}]"
    try:
        finer = array.astype(finer_type)
        lost = np.asarray((finer.astype(array.dtype) != array) & ~np.isnat(array))
    except OverflowError:  # from NumPy 2.5 on, which does not say where; before, the numbers wrap around
        lost = np.array([_overflows(time, finer_type) for time in np.asarray(array)])
    Column(list(np.asarray(array)), where).fail(lost, "a time is out of range", "Drop the row or mend its time")
    return finer


def _overflows(time: np.datetime64, finer_type: str) -> bool:
    try:
        time.astype(finer_type)
    except OverflowError:
        return True
    return False


def is_missing_value(value: Any) -> bool:
    """Say whether a Python object means that there is no value: None, pandas' NA and NaT, NaN of any kind."""
    return value is None or value is pd.NA or (_may_be_missing(type(value)) and bool(value != value))


def _may_be_missing(kind: type) -> bool:
    missing = (float, np.floating, np.datetime64, np.timedelta64, Decimal, datetime, type(None), type(pd.NA), complex)
    return issubclass(kind, missing)


def _is_run_end_encoded(kind: pa.DataType) -> bool:
    return bool(getattr(pa.types, "is_run_end_encoded", lambda _: False)(kind))
