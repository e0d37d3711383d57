"""Tables that nobody should pass: a log means what they say, or an error names the table, the column and the row."""

import datetime as dt
import decimal
import re
import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import strategies as st

from blob_pyro import EventLog
from tests.data.log_errors import build, named
from tests.data.log_oracles import check_log, is_nan, plain_id, plain_time
from tests.fuzzing import fuzz

VIEWS, IMPRESSIONS = ("user", "time", "item"), ("user", "time", "action", "reward")
OPTIONAL = ("propensity", "position", "policy")
# --- cells of any kind ----------------------------------------------------------------------------------------------

BIG = [2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 2**70, -(2**63), -(2**63) - 1]
DAYS = st.dates(dt.date(1600, 1, 1), dt.date(2300, 1, 1)) | st.sampled_from([dt.date.min, dt.date.max])
INSTANTS = st.datetimes(dt.datetime(1677, 1, 1), dt.datetime(2263, 1, 1))
ZONES = st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30)), dt.timezone(-dt.timedelta(hours=11))])
INTEGERS = st.integers(0, 3)
TEXT = st.sampled_from(["", "a", "b", "1", "nan", "è"])
FLOATS = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, 1e-300, 1e300, float("inf"), 2.0**53])
NUMPY = st.sampled_from(
    [np.int8(1), np.uint64(2**64 - 1), np.float16(1), np.float32(0.5), np.bool_(True), np.str_("a")]
)
STRANGE_TEXT = st.sampled_from(["\x00", "\ud800", "\U0001f600"])
NOTHING = st.sampled_from([None, float("nan"), pd.NaT, pd.NA, np.datetime64("NaT", "s"), decimal.Decimal("NaN")])
OBJECTS = st.one_of(
    st.sampled_from([uuid.UUID(int=1), uuid.UUID(int=2), (1, 2), (1, "a"), frozenset({1}), b"a", decimal.Decimal(1)]),
    st.sampled_from([[1], {}, {1}, np.zeros(2), torch.tensor(1), torch.zeros(2), object, pa.scalar(1), 1j]),
)
TIMES = st.one_of(
    DAYS,
    INSTANTS,
    st.datetimes(timezones=ZONES),
    INSTANTS.map(pd.Timestamp),
    st.builds(lambda ticks, unit: np.datetime64(ticks, unit), st.integers(-(2**40), 2**40), st.sampled_from("smh")),
    st.sampled_from([dt.timedelta(1), dt.time(1), pd.Timedelta(1), pd.Timestamp.max, pd.Timestamp(1, unit="ns")]),
)
THEMES = {
    "integers": INTEGERS,
    "text": TEXT,
    "floats": FLOATS,
    "whole floats": INTEGERS.map(float),
    "booleans": st.booleans(),
    "large": st.sampled_from(BIG),
    "instants": st.datetimes(dt.datetime(1678, 1, 1), dt.datetime(2262, 1, 1)),
    "zoned": st.datetimes(dt.datetime(1678, 1, 1), dt.datetime(2262, 1, 1), timezones=ZONES),
    "days": st.dates(dt.date(1678, 1, 1), dt.date(2262, 1, 1)),
    "objects": OBJECTS,
    "uuids": st.builds(uuid.UUID, int=INTEGERS),
    "tuples": st.tuples(INTEGERS, INTEGERS),
}
ANYTHING = st.one_of(
    INTEGERS, TEXT, STRANGE_TEXT, FLOATS, st.booleans(), st.sampled_from(BIG), NUMPY, NOTHING, OBJECTS, TIMES
)
OBJECT_CONTAINERS = ["list", "tuple", "objects", "pandas objects"]
CONTAINERS = [
    "list",
    "tuple",
    "numpy",
    "objects",
    "pandas",
    "pandas objects",
    "polars",
    "arrow",
    "dictionary",
    "chunks",
]
USUAL = {
    "user": ["integers", "text", "uuids", "tuples", "whole floats"],
    "item": ["integers", "text", "uuids", "tuples", "whole floats"],
    "action": ["integers", "text", "uuids", "tuples", "whole floats"],
    "policy": ["integers", "text"],
    "time": ["integers", "whole floats", "instants", "zoned", "days"],
}


def contain(values, container):
    """The values in this container, or in a list where it cannot hold them."""
    try:
        if container == "tuple":
            return tuple(values)
        if container == "numpy":
            return np.array(values)
        if container == "objects":
            array = np.empty(len(values), dtype=object)
            for n, value in enumerate(values):
                array[n] = value
            return array
        if container == "pandas":
            return pd.Series(values)
        if container == "pandas objects":
            return pd.Series(values, dtype=object)
        if container == "polars" and not panics(values):
            return pl.Series(values)
        if container == "arrow":
            return pa.array(values)
        if container == "dictionary":
            return pa.array(values).dictionary_encode()
        if container == "chunks":
            return pa.chunked_array([values[:1], values[1:]])
    except (pa.ArrowException, pl.exceptions.PolarsError, ValueError, TypeError, OverflowError, NotImplementedError):
        pass
    return values


def panics(values):
    """Whether polars' Rust may panic, which is no exception: at a Decimal among others, for one."""
    plain = (bool, int, float, str, bytes, tuple, list, dt.date, type(None))
    return not all(isinstance(value, plain) and value not in BIG for value in values)


def cells(container):
    """What a container holds, as a user would see it."""
    values = container.to_pylist() if isinstance(container, (pa.Array, pa.ChunkedArray)) else list(container)
    return [None if value is None or value is pd.NA or value is pd.NaT or is_nan(value) else value for value in values]


def frame(columns, library):
    """The columns as this library's frame, or as a dict where it cannot hold them."""
    if library in ("polars", "lazy") and any(panics(values) for values in columns.values()):
        return columns
    try:
        if library == "pandas":
            return pd.DataFrame(columns)
        if library == "polars":
            return pl.DataFrame(columns)
        if library == "lazy":
            return pl.DataFrame(columns).lazy()
        if library == "arrow":
            return pa.table(columns)
    except (pa.ArrowException, pl.exceptions.PolarsError, ValueError, TypeError, OverflowError, NotImplementedError):
        pass
    return columns


@st.composite
def column(draw, role, size, theme=None):
    """A column for a role: mostly of a kind that could be right, with now and then a cell of any kind."""
    if theme is None:
        usual = st.sampled_from(USUAL.get(role, ["integers"]))
        theme = draw(usual if draw(st.integers(0, 3)) else st.sampled_from(sorted(THEMES)))
    cell = THEMES[theme]
    if role in ("reward", "propensity") and draw(st.integers(0, 9)):
        cell = st.integers(0, 1) if role == "reward" else st.sampled_from([0.25, 0.5, 1.0])
    values = draw(st.lists(cell, min_size=size, max_size=size))
    if size and not draw(st.integers(0, 19)):
        values[draw(st.integers(0, size - 1))] = draw(ANYTHING)
    objects = theme in ("objects", "uuids", "tuples") and draw(st.integers(0, 4))
    return contain(values, draw(st.sampled_from(OBJECT_CONTAINERS if objects else CONTAINERS)))


@st.composite
def tables(draw):
    """Two tables and their originals, by column; one may be absent."""
    themes = {role: draw(st.sampled_from(USUAL[role])) for role in ("user", "item", "time")}
    themes["action"] = themes["item"]
    result = []
    for name, roles in (("views", VIEWS), ("impressions", IMPRESSIONS)):
        size = draw(st.integers(0, 6))
        optional = [role for role in OPTIONAL if name == "impressions" and draw(st.integers(0, 3)) == 0]
        shared = {role: themes.get(role) if draw(st.integers(0, 14)) else None for role in (*roles, *optional)}
        columns = {role: draw(column(role, size, theme)) for role, theme in shared.items()}
        if not draw(st.integers(0, 49)):
            columns[draw(st.sampled_from(roles))] = draw(column("time", draw(st.integers(0, 6))))
        table = frame(columns, draw(st.sampled_from(["dict", "pandas", "polars", "lazy", "arrow"])))
        shown = table.collect() if isinstance(table, pl.LazyFrame) else table
        result.append(({role: shown[role] for role in columns}, table))
    return result


@fuzz(drawn=tables(), ordinary=200)
def test_tables_of_anything(drawn):
    (views, views_frame), (played, played_frame) = drawn
    log, error = build(lambda: EventLog.from_tables(views_frame, played_frame))
    if error is not None:
        row = named(error)
        if row is not None:
            assert row < max(len(values) for values in (*views.values(), *played.values()))
        return
    assert log.clock in ("number", "date", "timestamp", "timestamp[UTC]")
    views = {role: cells(values) for role, values in views.items()}
    played = {role: cells(values) for role, values in played.items()}
    for values in (*views.values(), *played.values()):
        assert None not in values  # nothing that is missing is in a log
    view_rows = zip(map(plain_id, views["user"]), map(plain_time, views["time"]), map(plain_id, views["item"]))
    play_rows = zip(
        map(plain_id, played["user"]),
        map(plain_time, played["time"]),
        map(plain_id, played["action"]),
        played["reward"],
    )
    check_log(log, list(view_rows), list(play_rows))
    for role in ("propensity", "position"):
        if role in played:
            assert sorted(getattr(log, role).tolist()) == sorted(played[role])
    if played.get("policy"):
        assert sorted(map(str, log.policies.decode(log.policy))) == sorted(str(plain_id(p)) for p in played["policy"])


# --- one fault in a good log ----------------------------------------------------------------------------------------

SIZE = 5
GOOD = {
    "views": {"user": ["a", "b", "a", "c", "a"], "time": [0, 1, 2, 3, 9], "item": [0, 1, 2, 1, 1]},
    "impressions": {
        "user": ["a", "b", "a", "d", "a"],
        "time": [1, 2, 3, 4, 5],
        "action": [0, 1, 2, 1, 1],
        "reward": [0, 1, 0, 1, 0],
        "propensity": [0.5, 0.25, 1.0, 0.5, 1.0],
        "position": [1, 2, 3, 1, 2],
        "policy": ["x", "y", "x", "x", "y"],
        "propensity_error": [0.0, 0.01, 1e-12, 0.0, 0.0],
        "score": [-1.5, 0.0, 2.0, 1e9, 3],
        "policy_version": ["1a", "1b", "1a", "1a", "1b"],
    },
}
CELL_FAULTS = {  # what no row of the column may hold
    "user": [None, float("nan"), 7, 7.5, True, ("a",), [1], {}, "\ud800", np.bool_(True), torch.tensor(1)],
    "item": [None, float("nan"), "0", 0.5, True, (0,), [1], -1, 3, 2**70, torch.tensor(1)],
    "time": [None, float("nan"), float("inf"), "1", dt.date(2026, 1, 1), dt.datetime(2026, 1, 1), dt.timedelta(1),
             dt.time(1), 2**70],
    "reward": [None, float("nan"), 2, -1, 0.5, 1 + 1e-12, 2**70, "1", [1]],
    "propensity": [None, float("nan"), 0, 1.5, -0.5, "0.5", float("inf"), True, 2**2000],
    "position": [None, 0.5, "1", float("inf"), [1], 2**70],
    "policy": [None, float("nan"), 1, [1]],
    "propensity_error": [-1e-300, float("inf"), "0.1", [1], True, 2**2000],
    "score": [float("inf"), float("-inf"), "0.1", [1], True, 2**2000],
    "policy_version": [None, float("nan"), 1, [1]],
}  # fmt: skip
CELL_FAULTS["action"] = CELL_FAULTS["item"]
MAY_BE_EMPTY = {"propensity_error", "score"}  # an error that nobody knows, a policy without a score
COLUMN_FAULTS = {  # what the column may not be
    "lists": lambda values: pa.array([[1]] * SIZE),
    "structs": lambda values: pa.array([{"a": 1}] * SIZE),
    "maps": lambda values: pa.array([[("a", 1)]] * SIZE, pa.map_(pa.string(), pa.int64())),
    "two dimensions": lambda values: np.zeros((SIZE, 2)),
    "no dimension": lambda values: np.array(1),
    "a matrix of torch": lambda values: torch.zeros(SIZE, 1),
    "short": lambda values: values[:-1],
    "text": lambda values: "abcde",
    "a number": lambda values: 3,
    "nothing": lambda values: None,
    "a set": lambda values: set(range(SIZE)),
    "a generator": lambda values: (value for value in values),
    "periods": lambda values: pd.period_range("2026", periods=SIZE, freq="D"),
    "intervals": lambda values: pd.interval_range(0, SIZE),
    "complex": lambda values: np.ones(SIZE, complex),
    "nulls": lambda values: pa.nulls(SIZE),
    "records": lambda values: np.zeros(SIZE, [("a", int)]),
    "a frame": lambda values: pd.DataFrame({"a": values}),
}


@st.composite
def spoilt(draw):
    """A good log with one fault: the tables, the table and column of the fault, and its row if it has one."""
    table = draw(st.sampled_from(["views", "impressions"]))
    role = draw(st.sampled_from(sorted(GOOD[table])))
    data = {name: dict(columns) for name, columns in GOOD.items()}
    if draw(st.booleans()):
        row = draw(st.integers(0, SIZE - 1))
        values = list(GOOD[table][role])
        values[row] = draw(st.sampled_from(CELL_FAULTS[role]))
        data[table][role] = draw(st.sampled_from([list, tuple, lambda v: contain(v, "objects"), pd_objects]))(values)
    else:
        row = None
        faults = sorted(COLUMN_FAULTS.keys() - ({"nulls"} if role in MAY_BE_EMPTY else set()))
        data[table][role] = COLUMN_FAULTS[draw(st.sampled_from(faults))](GOOD[table][role])
    return data, table, role, row


def pd_objects(values):
    return contain(values, "pandas objects")


@fuzz(case=spoilt(), ordinary=300)
def test_one_fault_is_found_and_named(case):
    data, table, role, row = case
    log, error = build(lambda: EventLog.from_tables(data["views"], data["impressions"], num_items=3))
    assert log is None
    assert f"{table}: column {role!r}" in str(error), str(error)
    if row is not None:
        # where the first row is of another type than the rest, it is the second that differs from it
        found = named(error)
        assert found == row or (row == 0 and found == 1), str(error)


ARGUMENTS = {
    "num_items": [0, -1, 1.5, "3", True, 2**70, float("nan"), [3], np.int64(0)],
    "items": [[], "abc", b"abc", 3, [None], [True], [0.5], [[1]], [1, 1], {1: 2}, [1, 1.0], ["a", "a"],
              pd.DataFrame({"a": [1]}), np.zeros((2, 2)), [float("nan")], (0,), [0, 1, "2"]],
    "columns": [3, "item", [], {"sku": "item"}, {"reward": None}, {"views.reward": "reward"}, {1: "item"},
                {"item": ["a"]}, {"user": "time"}, {"propensity": "nowhere"}, {"impressions.item": "item"},
                {"position": "reward"}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ARGUMENTS.items() for value in values])
def test_arguments_that_are_none(name, value):
    kwargs = {name: value}
    with pytest.raises((ValueError, TypeError)) as caught:
        EventLog.from_tables({**GOOD["views"], "sku": [1] * SIZE}, GOOD["impressions"], **kwargs)
    assert re.match(rf"{name}(\[\d+\])?: |(views|impressions): (missing )?column ", str(caught.value)), str(
        caught.value
    )


def test_names_that_occur_twice():
    twice = pd.DataFrame([[1, 2, 3, 4]], columns=["user", "time", "item", "item"])
    for table in (twice, pa.Table.from_arrays([pa.array([1])] * 4, names=["user", "time", "item", "item"])):
        with pytest.raises(ValueError, match="views: column 'item' occurs 2 times"):
            EventLog.from_tables(table)
    unused = pd.DataFrame([[1, 2, 3, 4, 5]], columns=["user", "time", "item", "other", "other"])
    assert EventLog.from_tables(unused).num_views == 1


def test_the_users_names_are_said():
    with pytest.raises(ValueError, match=r"views: column 'sku' \(item\), row 1: a value is missing"):
        EventLog.from_tables({"user": [1, 1], "time": [1, 2], "sku": ["a", None]}, columns={"item": "sku"})


def test_only_the_columns_needed_are_read():
    class Columns(dict):
        def __getitem__(self, name):
            assert name != "unused"
            return super().__getitem__(name)

    assert EventLog.from_tables(Columns(GOOD["views"], unused=[object()])).num_views == SIZE
    lazy = pl.LazyFrame(GOOD["views"]).with_columns(unused=pl.col("user").map_elements(fail, return_dtype=pl.Int64))
    assert EventLog.from_tables(lazy).num_views == SIZE


def fail(_):
    raise AssertionError("an unused column was computed")
