"""One clock for the whole log: whatever unit, zone and library its times came in.

Timestamps become nanoseconds since 1970 in int64, exactly, which reaches from 1677-09-21 to 2262-04-11; those with a
zone are instants, so two zones are one clock. Numbers stay numbers: int64 exactly, or float64. What cannot be put in
order with certainty is refused: a date against a timestamp, a time with a zone against one without, a number against
either. Seconds against milliseconds, both as numbers, cannot be told apart here; see `log_warnings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blob_pyro.data.columns import Column

__all__ = [
    "DATE",
    "NUMBER",
    "TIMESTAMP",
    "UTC",
    "Times",
    "beside_fractions",
    "one_clock",
    "read_times",
    "require_same_clock",
]

NUMBER, DATE, TIMESTAMP, UTC = "number", "date", "timestamp", "timestamp[UTC]"

_DESCRIPTIONS = {
    NUMBER: "numbers",
    DATE: "dates",
    TIMESTAMP: "timestamps without a zone",
    UTC: "timestamps with a zone",
}
_NANOSECONDS = {"D": 86_400 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_RANGE = "timestamps are nanoseconds in int64, from 1677-09-21 to 2262-04-11"
_MISSING = "Drop the row or give it a time: the order of events decides what a policy had seen"
_MEND = "Drop the row or mend its time"
_PARSE = "times are numbers or timestamps. Parse it first (pandas: pd.to_datetime; polars: str.to_datetime)"


@dataclass(frozen=True)
class Times:
    """The times of a column.

    Attributes:
        values: int64 or float64, ``N``; nanoseconds since 1970 unless the clock is a number.
        clock: ``"number"``, ``"date"``, ``"timestamp"`` (without a zone) or ``"timestamp[UTC]"``.
        tick: every value is a multiple of it.
    """

    values: np.ndarray
    clock: str
    tick: int = 1


def read_times(column: Column) -> Times:
    """Read the times of a column, exactly.

    Raises:
        ValueError: naming the row, for a time that is missing, not finite, or outside the range; or naming the type,
            for what is no time, such as a duration.
    """
    column.require(_MISSING)
    if column.arrow is None:
        return _from_objects(column)
    values, kind = column.arrow, column.arrow.type
    if pa.types.is_null(kind):
        return Times(np.zeros(0, dtype=np.int64), NUMBER)
    if pa.types.is_timestamp(kind):
        return _nanoseconds(column, pc.cast(values, pa.int64()), kind.unit, TIMESTAMP if kind.tz is None else UTC)
    if pa.types.is_date32(kind):
        return _nanoseconds(column, pc.cast(pc.cast(values, pa.int32()), pa.int64()), "D", DATE)
    if pa.types.is_date64(kind):
        return _nanoseconds(column, pc.cast(values, pa.int64()), "ms", DATE)
    if kind == pa.uint64():
        numbers = values.to_numpy()
        column.fail(numbers > np.uint64(2**63 - 1), "a time must be below 2**63", _MEND)
        return Times(numbers.astype(np.int64), NUMBER)
    if pa.types.is_integer(kind):
        return Times(pc.cast(values, pa.int64()).to_numpy(), NUMBER)
    if pa.types.is_floating(kind):
        return _finite(column, column.floats("", ""))
    _refuse(column, kind)
    raise AssertionError("unreachable")


def one_clock(first: Column, second: Column) -> tuple[Times, Times]:
    """Put the times of two columns on one clock: integers beside fractions become float64, if exactly.

    Raises:
        ValueError: if the two have different clocks.
    """
    a, b = read_times(first), read_times(second)
    if not len(a.values) or not len(b.values):
        return a, b
    require_same_clock(a.clock, first.where, b.clock, second.where)
    if a.values.dtype != b.values.dtype:
        a, b = beside_fractions(a, first, second.where), beside_fractions(b, second, first.where)
    return a, b


def require_same_clock(clock: str, where: str, other: str, other_where: str) -> None:
    """Refuse two clocks in one log.

    Args:
        clock: of some times.
        where: these are, for the error message.
        other: the clock of other times.
        other_where: those are.

    Raises:
        ValueError: if the two clocks differ, saying what to do.
    """
    if clock != other:
        raise ValueError(
            f"{where} holds {_DESCRIPTIONS[clock]}, and {other_where} {_DESCRIPTIONS[other]}; "
            f"use one clock in both. {_remedy({clock, other})}"
        )


def beside_fractions(times: Times, column: Column, other_where: str) -> Times:
    """Turn numbers into float64, which other times of the log are.

    Args:
        times: of the column.
        column: where they were read.
        other_where: where the fractions are.

    Raises:
        ValueError: naming the row of an integer that float64 cannot hold.
    """
    if times.values.dtype == np.float64:
        return times
    inexact = (times.values > 2**53) | (times.values < -(2**53))
    column.fail(
        inexact, f"a time beyond 2**53 cannot be put in order with the float64 of {other_where}",
        "Cast both columns to integers",
    )  # fmt: skip
    return Times(times.values.astype(np.float64), NUMBER)


def _remedy(clocks: set[str]) -> str:
    if NUMBER in clocks:
        return "Turn the numbers into timestamps (pandas: pd.to_datetime(..., unit='s')), or the other way round"
    if DATE in clocks:
        return "A date does not say when in the day: give both tables timestamps, or cast both to dates"
    return "Say which zone the others are in (pandas: dt.tz_localize; polars: dt.replace_time_zone)"


def _nanoseconds(column: Column, ticks: pa.ChunkedArray, unit: str, clock: str) -> Times:
    factor = _NANOSECONDS[unit]
    values = ticks.to_numpy()
    if factor > 1:
        limit = (2**63 - 1) // factor
        column.fail((values > limit) | (values < -limit), f"a time is out of range: {_RANGE}", _MEND)
        values = values * factor
    return Times(values, clock, factor)


def _finite(column: Column, values: np.ndarray) -> Times:
    column.fail(~np.isfinite(values), "a time must be finite", _MEND)
    return Times(values, NUMBER)


def _refuse(column: Column, kind: object) -> None:
    name = str(kind)
    if name.startswith(("duration", "timedelta", "month_interval", "month_day_nano", "Timedelta")):
        hint = "a duration does not say since when. Add it to a starting point, or cast it to a number"
    elif name.startswith("time"):
        hint = "a time of day does not say which day. Combine it with its date"
    elif name.startswith("decimal") or name == "Decimal":
        hint = "times are int64 or float64 numbers, or timestamps. Cast it"
    else:
        hint = _PARSE
    raise ValueError(f"{column.where} has type {name}; {hint}")


def _from_objects(column: Column) -> Times:
    """Times that are Python objects: one pass, or more where they are dates of mixed kinds."""
    kinds, values = column.python_types, column.values
    if not kinds:
        return Times(np.zeros(0, dtype=np.int64), NUMBER)
    if all(issubclass(t, (int, np.integer)) and t is not bool for t in kinds):
        try:
            return Times(np.array(values, dtype=np.int64), NUMBER)
        except OverflowError:
            column.fail(np.array([not -(2**63) <= v < 2**63 for v in values]), "a time must fit int64", _MEND)
    if all(issubclass(t, (int, np.integer, float, np.floating)) and t is not bool for t in kinds):
        whole = np.array([isinstance(v, (int, np.integer)) and abs(int(v)) > 2**53 for v in values])
        column.fail(whole, "an integer beyond 2**53 cannot stand among floats", "Cast the column to integers")
        return _finite(column, np.array(values, dtype=np.float64))
    if all(issubclass(t, (date, np.datetime64)) for t in kinds):
        clocks = [_clock(v) for v in values]
        other = np.array([clock != clocks[0] for clock in clocks])
        if other.any():
            second = clocks[int(other.argmax())]
            problem = f"{_DESCRIPTIONS[second]} among {_DESCRIPTIONS[clocks[0]]}"
            column.fail(other, problem, f"Use one clock. {_remedy({second, clocks[0]})}")
        nanoseconds = [_object_to_nanoseconds(v) for v in values]
        outside = np.array([n is None or not -(2**63) < n < 2**63 for n in nanoseconds])
        column.fail(outside, f"a time is out of range: {_RANGE}", _MEND)
        return Times(np.array(nanoseconds, dtype=np.int64), clocks[0])
    first = type(values[0])
    mixed = np.array([type(v) is not first for v in values])
    if len({_family(t) for t in kinds}) > 1:
        column.fail(mixed, f"times have different types, {column.describe_type()}", "Use one clock")
    for t in kinds:
        if issubclass(t, (time, timedelta, np.timedelta64, Decimal)):
            _refuse(column, "timedelta" if issubclass(t, (timedelta, np.timedelta64)) else t.__name__)
    _refuse(column, column.describe_type())
    raise AssertionError("unreachable")


def _family(kind: type) -> str:
    return "number" if issubclass(kind, (int, float, np.integer, np.floating)) and kind is not bool else kind.__name__


def _clock(value: object) -> str:
    if isinstance(value, datetime):
        return TIMESTAMP if value.tzinfo is None else UTC
    if isinstance(value, np.datetime64):
        return DATE if np.datetime_data(value.dtype)[0] in "YMWD" else TIMESTAMP
    return DATE


def _object_to_nanoseconds(value: date | np.datetime64) -> int | None:
    """Nanoseconds since 1970 as a Python integer, which cannot overflow; None where that is no whole number."""
    if isinstance(value, np.datetime64):
        unit, count = np.datetime_data(value.dtype)
        if unit in ("Y", "M", "W"):
            unit, count, ticks = "D", 1, int(value.astype("datetime64[D]").astype(np.int64))
        else:
            ticks = int(value.astype(np.int64))
        factor = {**_NANOSECONDS, "h": 3600 * 10**9, "m": 60 * 10**9}.get(unit)
        return None if factor is None else ticks * count * factor
    days = (date(value.year, value.month, value.day) - date(1970, 1, 1)).days if value.year <= 9999 else 10**7
    if not isinstance(value, datetime):
        return days * _NANOSECONDS["D"]
    seconds = days * 86_400 + value.hour * 3600 + value.minute * 60 + value.second
    offset = value.utcoffset() or timedelta(0)
    microseconds = seconds * 10**6 + value.microsecond - offset // timedelta(microseconds=1)
    return microseconds * 1000 + getattr(value, "nanosecond", 0)
