"""One clock: units, zones, order of rows, chunks and libraries do not change a log; else it is refused."""

import datetime as dt
import itertools
import uuid
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from blob_pyro import EventLog
from blob_pyro.data import LogWarning
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym
from tests.data.log_oracles import check_log
from tests.fuzzing import fuzz

NOON = pd.Timestamp("2026-03-29 12:00")
HOURS = {"views": [0, 2, 0, 5], "impressions": [1, 3, 1]}  # views at 12:00 and 14:00, an impression at 13:00
FACTOR = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
ZONES = ["Europe/Berlin", "Asia/Kolkata", "America/New_York"]


def table(name, unit, zone, library):
    """A table of the log above, with its times as this library keeps them."""
    time = pd.DatetimeIndex([NOON + pd.Timedelta(hours=h) for h in HOURS[name]]).as_unit(unit)
    if zone:
        time = time.tz_localize("UTC").tz_convert(zone)
    columns = {"user": ["a", "a", "b", "a"], "item": [0, 1, 2, 1]} if name == "views" else {
        "user": ["a", "a", "b"], "action": [0, 1, 2], "reward": [0, 1, 0]
    }  # fmt: skip
    if library == "numpy":
        return {**columns, "time": time.to_numpy()}  # which has no zones
    frame = pd.DataFrame({**columns, "time": time})
    if library == "pandas":
        return frame
    if library == "objects":
        return {**columns, "time": frame.time.astype(object).tolist()}
    if library == "arrow":
        return pa.Table.from_pandas(frame, preserve_index=False)
    lazy = library == "polars, lazy"
    polars = pl.DataFrame({**columns, "time": pl.from_pandas(pd.Series(time.as_unit("ns")))})
    if unit != "s":  # polars keeps no seconds
        polars = polars.with_columns(pl.col("time").dt.cast_time_unit(unit))
    return polars.lazy() if lazy else polars


CLOCKS = [
    (unit, None, library) for unit in FACTOR for library in ("pandas", "numpy", "arrow", "polars", "polars, lazy")
]
CLOCKS += [("us", None, "objects"), ("ns", None, "objects")]
ZONED = [(unit, zone, "pandas") for unit, zone in zip(FACTOR, itertools.cycle(ZONES))]
ZONED += [("us", ZONES[0], "polars"), ("ms", ZONES[1], "arrow"), ("us", ZONES[2], "objects")]


def expected_contexts():
    return [[0], [0, 1], [2]]


@pytest.mark.parametrize("clocks", [CLOCKS, ZONED], ids=["without a zone", "with one"])
def test_every_pair_of_units_zones_and_libraries(clocks):
    nanoseconds = [(NOON + pd.Timedelta(hours=h)).value for h in HOURS["impressions"]]
    for ours, theirs in itertools.product(clocks, clocks):
        log = EventLog.from_tables(table("views", *ours), table("impressions", *theirs))
        assert log.contexts[log.context].to_sequences() == expected_contexts(), (ours, theirs)
        assert log.time.tolist() == nanoseconds, (ours, theirs)
        assert log.clock == ("timestamp" if clocks is CLOCKS else "timestamp[UTC]")


@pytest.mark.parametrize("ours", FACTOR)
@pytest.mark.parametrize("theirs", FACTOR)
def test_every_pair_of_units_in_parquet(tmp_path, ours, theirs):
    for name, unit in (("views", ours), ("impressions", theirs)):
        pq.write_table(table(name, unit, None, "arrow"), tmp_path / f"{name}.parquet")
    log = EventLog.read_parquet(tmp_path / "views.parquet", tmp_path / "impressions.parquet")
    assert log.contexts[log.context].to_sequences() == expected_contexts()
    assert log.clock == "timestamp"


def small(views_time, impressions_time):
    """A log of two users whose times are these."""
    n, m = len(views_time), len(impressions_time)
    views = {"user": [0] * n, "time": views_time, "item": [0] * n}
    return EventLog.from_tables(
        views, {"user": [0] * m, "time": impressions_time, "action": [0] * m, "reward": [1] * m}
    )


def stamps(unit, *ticks):
    return pa.array(ticks, pa.timestamp(unit))


DAY, LATER = dt.date(2026, 1, 1), dt.datetime(2026, 1, 2)
ZONED_NOON = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
REFUSED = {
    "date and timestamp": ([DAY], [LATER], "views: column 'time' holds dates, and impressions: column "
                           "'time' timestamps .*use one clock.*give both tables timestamps"),
    "naive and zoned": ([LATER], [ZONED_NOON], "timestamps without a zone, and .* with a zone; use one clock in "
                        "both. .*tz_localize"),
    "number and timestamp": ([1], [LATER], "holds numbers, and .*pd.to_datetime"),
    "naive and zoned in one": ([1, 1], [ZONED_NOON, LATER], "impressions: column 'time', row 1: timestamps without a "
                               "zone among timestamps with a zone"),
    "date and timestamp in one": ([1], [DAY, LATER], "'time', row 1: timestamps without a zone among"),
    "duration": ([dt.timedelta(1)], [1], "views: column 'time' has type timedelta; a duration does not say since when"),
    "duration in Arrow": (pa.array([1], pa.duration("s")), [1], "has type duration.s.; a duration does not say since"),
    "duration in NumPy": (np.array([1], "timedelta64[s]"), [1], "a duration does not say since when"),
    "time of day": ([dt.time(1)], [1], "has type time; a time of day does not say which day"),
    "time of day in Arrow": (pa.array([1], pa.time32("s")), [1], "has type time32.s.; a time of day"),
    "text": (["2026-01-01"], [1], "has type str; times are numbers or timestamps. Parse it first"),
    "text in Arrow": (pa.array(["2026-01-01"]), [1], "has type string; times are numbers or timestamps. Parse it"),
    "decimal": (pa.array([1], pa.decimal128(5, 1)), [1], "has type decimal128.5, 1.; times are int64 or float64"),
    "boolean": (np.array([True]), [1], "has type bool; times are numbers"),
    "lists": (pa.array([[1]]), [1], "views: column 'time' has type list"),
    "above the range": (stamps("s", 0, 9223372037), [LATER], "views: column 'time', row 1: a time is out of range: "
                        ".*1677-09-21 to 2262-04-11, got 2262-04-11 23:47:17"),
    "below the range": (stamps("ms", 0, -9223372036855), [LATER], "row 1: a time is out of range"),
    "far outside": (stamps("us", 2**63 - 1), [LATER], "row 0: a time is out of range: .*got 9223372036854775807"),
    "date outside": ([dt.date(9999, 12, 31)], [DAY], "views: column 'time', row 0: a time is out of range"),
    "object outside": ([LATER, dt.datetime(1, 1, 1)], [LATER], "row 1: a time is out of range"),
    "hours outside": (np.array([2**62], "datetime64[h]"), [LATER], "row 0: a time is out of range"),
    "picoseconds": (np.array([1], "datetime64[ps]"), [LATER], "kept to the nanosecond"),
    "uint64": (np.array([1, 2**63], np.uint64), [1], "views: column 'time', row 1: a time must be below 2..63"),
    "2**70": ([1, 2**70], [1], "views: column 'time', row 1: a time must fit int64"),
    "integers beyond float64": ([2**53 + 1], [0.5], "views: column 'time', row 0: a time beyond 2..53"),
    "the same in one column": ([0.5, 2**60], [1], "views: column 'time', row 1: an integer beyond 2..53"),
    "infinite": (np.array([0.0, -np.inf]), [1], "views: column 'time', row 1: a time must be finite"),
    "NaT": (np.array(["2026-01-01", "NaT"], "datetime64[s]"), [LATER], "'time', row 1: a value is missing"),
    "NaT among objects": ([LATER, pd.NaT], [LATER], "views: column 'time', row 1: a value is missing"),
    "null type": (pa.nulls(1), [1], "views: column 'time', row 0: a value is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("views", "impressions", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_put_in_order(views, impressions, message):
    with pytest.raises(ValueError, match=message):
        small(views, impressions)


EXACT = {
    "nanoseconds": (stamps("ns", 5), [pd.Timestamp(6)], [5], [6]),
    "the ends of the range": (stamps("s", -9223372036, 9223372036), stamps("ns", 2**63 - 1),
                              [-9223372036 * 10**9, 9223372036 * 10**9], [2**63 - 1]),
    "int64 extremes": ([-(2**63), 2**63 - 1], [2**63 - 1], [-(2**63), 2**63 - 1], [2**63 - 1]),
    "neighbours beyond float64": ([2**53, 2**53 + 1], [2**53 + 1], [2**53, 2**53 + 1], [2**53 + 1]),
    "integers and fractions": ([1, 2], [1.5], [1, 2], [1.5]),
    "half precision": (np.array([1.5], np.float16), np.array([2], np.uint8), [1.5], [2]),
    "dates": ([DAY], np.array(["2026-01-02"], "datetime64[D]"), [20454 * 86400 * 10**9], [20455 * 86400 * 10**9]),
    "weeks and hours": (np.array([1], "datetime64[h]"), np.array([2], "datetime64[m]"), [3600 * 10**9], [120 * 10**9]),
    "other byte order": (np.array([7], ">i8"), np.array([9], ">i2"), [7], [9]),
    "categories": (pd.Categorical([3, 1]), [2], [1, 3], [2]),
}  # fmt: skip


@pytest.mark.parametrize(("views", "impressions", "first", "second"), EXACT.values(), ids=EXACT.keys())
def test_times_are_exact(views, impressions, first, second):
    log = small(views, impressions)
    assert log.view_time.tolist() == first
    assert log.time.tolist() == second
    seen = [sum(view < time for view in first) for time in second]
    assert log.contexts[log.context].lengths.tolist() == seen


# --- metamorphic ----------------------------------------------------------------------------------------------------

SECONDS = st.integers(-(2**31), 2**31)


@st.composite
def two_logs(draw):
    """A log whose rows have distinct times, and the same log in another guise."""
    users = draw(st.sampled_from([["ann", "bob", "eve"], [3, 1, 2], [uuid.UUID(int=n) for n in (5, 1, 9)]]))
    times = draw(st.lists(SECONDS, min_size=1, max_size=14, unique=True))
    split = draw(st.integers(0, len(times)))
    views = [(draw(st.sampled_from(users)), t, draw(st.integers(0, 3))) for t in times[:split]]
    played = [
        (draw(st.sampled_from(users)), t, draw(st.integers(0, 3)), draw(st.integers(0, 1))) for t in times[split:]
    ]
    temporal = draw(st.booleans())
    zoned = draw(st.booleans())
    guises = []
    for rows, names in ((views, ("user", "time", "item")), (played, ("user", "time", "action", "reward"))):
        rows = draw(st.permutations(rows))
        columns = {name: [row[n] for row in rows] for n, name in enumerate(names)}
        if temporal:
            unit = draw(st.sampled_from(sorted(FACTOR)))
            ticks = pa.array([t * 10**9 // FACTOR[unit] for t in columns["time"]], pa.int64())
            columns["time"] = ticks.cast(pa.timestamp(unit, draw(st.sampled_from(ZONES)) if zoned else None))
        guises.append(dress(columns, draw(st.sampled_from(GUISES)), draw(st.integers(0, len(rows)))))
    factor = 10**9 if temporal else 1
    scale = [[(row[0], row[1] * factor, *row[2:]) for row in rows] for rows in (views, played)]
    return guises, scale


GUISES = ["dict", "arrow", "chunks", "pandas", "polars", "lazy", "batch", "categories"]


def dress(columns, guise, cut):
    """Columns as a table of some library, cut in chunks at ``cut``."""
    time = columns["time"]
    if guise == "dict":
        return columns
    if guise == "pandas":
        time = time.to_pandas() if isinstance(time, pa.Array) else time
        return pd.DataFrame({**columns, "time": time})
    if isinstance(columns["user"][0] if columns["user"] else 0, uuid.UUID):
        return {**columns, "user": pd.Series(columns["user"], dtype=object)}
    if guise in ("polars", "lazy"):
        frame = pl.DataFrame({**columns, "time": pl.Series(time) if isinstance(time, list) else pl.from_arrow(time)})
        return frame.lazy() if guise == "lazy" else frame
    table = pa.table(columns)
    if guise == "batch":
        return table.combine_chunks().to_batches()[0] if len(table) else table
    if guise == "categories":
        return table.set_column(0, "user", table["user"].dictionary_encode())
    return pa.concat_tables([table[:cut], table[cut:]]) if guise == "chunks" else table


@fuzz(logs=two_logs(), ordinary=200)
def test_a_log_is_the_same_in_every_guise(logs):
    (views, played), (view_rows, played_rows) = logs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LogWarning)
        log = EventLog.from_tables(views, played)
    check_log(log, view_rows, played_rows)


# --- odd logs -------------------------------------------------------------------------------------------------------


def rows(views_time, impressions_time, viewers=1, players=1, first_player=0):
    views = {"user": np.arange(len(views_time)) % viewers, "time": views_time, "item": np.zeros(len(views_time), int)}
    n = len(impressions_time)
    user = first_player + np.arange(n) % players
    return views, {"user": user, "time": impressions_time, "action": np.zeros(n, int), "reward": np.arange(n) % 2}


SECOND = 1_700_000_000 + np.arange(40) * 60
ODD = {
    "seconds and milliseconds": (rows(SECOND, SECOND * 1000),
                                 "every view precedes every impression: views lie between 1,700,000,000 and "
                                 "1,700,002,340, impressions between 1,700,000,000,000 and .*units may differ"),
    "milliseconds and seconds": (rows(SECOND * 1000, SECOND), "every view follows every impression"),
    "three rows of each": (rows(SECOND[:3], SECOND[:3] * 1000.0), "every view precedes every impression"),
    "two periods": (rows(SECOND.astype("datetime64[s]"), (SECOND + 10**6).astype("datetime64[s]")),
                    "every view precedes every impression: views lie between 2023-11-14T22:13:20.000000000 and"),
    "empty histories": (rows(np.append(SECOND + 2000, 0), SECOND[:30] + 1990, viewers=30, players=30),
                        "29 of 30 impressions of users with views have an empty history"),
    "other users": (rows(SECOND, SECOND, viewers=4, players=5, first_player=100),
                    "none of the 40 impressions belongs to a user with a view, and there are 40 views of 4 users"),
}  # fmt: skip


@pytest.mark.parametrize(("tables", "message"), ODD.values(), ids=ODD.keys())
def test_odd_logs_warn_with_figures(tables, message):
    with pytest.warns(LogWarning, match=message) as caught:
        EventLog.from_tables(*tables)
    assert {warning.filename for warning in caught} == {__file__}


HEALTHY = {
    "interleaved": rows(SECOND, SECOND + 30),
    "a few rows, views first": rows(np.arange(5), np.arange(5) + 6),
    "mostly new users": rows(SECOND, SECOND + 30, viewers=2, players=40),
    "one view": rows(SECOND[:1], SECOND * 1000),
    "no views": rows(SECOND[:0], SECOND),
    "no impressions": rows(SECOND, SECOND[:0]),
}


@pytest.mark.parametrize("tables", HEALTHY.values(), ids=HEALTHY.keys())
def test_healthy_logs_do_not_warn(tables):
    EventLog.from_tables(*tables)  # warnings are errors


def test_simulated_logs_do_not_warn():
    for seed in range(6):
        for num_users in (1, 2, 30):
            environment = RecoGym(num_items=5, seed=seed)
            log = environment.simulate(SessionPopularity(5), num_users=num_users, num_organic_users=3)
            assert log.clock == "number"
