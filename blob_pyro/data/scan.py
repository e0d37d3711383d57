"""The passes over Parquet files that make a `ScannedLog`: ids, views, impressions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from blob_pyro.data import clock, schema
from blob_pyro.data.columns import Column
from blob_pyro.data.event_store import EventStore
from blob_pyro.data.id_set import IdSet
from blob_pyro.data.ids import read_ids
from blob_pyro.data.log_warnings import warn_of_empty, warn_of_ends
from blob_pyro.data.parquet_table import ParquetTable
from blob_pyro.data.readers import NO_ITEM, NO_USER, given_catalogue, look_up_items
from blob_pyro.data.scanned_log import ScannedLog
from blob_pyro.data.view_store import ViewStore
from blob_pyro.data.vocabulary import Vocabulary

__all__ = ["scan_parquet"]

_ITEM = {"views": "item", "impressions": "action"}
_POSITION = "a position is a whole number"
_MANY = 10_000  # positions, which are row numbers then: no more are noted


def scan_parquet(
    views: str | Path | None,
    impressions: str | Path | None,
    columns: Mapping[str, Hashable | None],
    num_items: int | None,
    items: Iterable[Hashable] | None,
    buffer_size: int,
    scratch: str | Path | None,
    storage_options: Mapping[str, Any] | None,
) -> ScannedLog:
    """Read files of any size, a few row groups at a time: see `blob_pyro.EventLog.scan_parquet`."""
    if isinstance(buffer_size, bool) or not isinstance(buffer_size, Integral):
        raise TypeError(f"buffer_size: expected a whole number of impressions, got {buffer_size!r}")
    if buffer_size < 1:
        raise ValueError(f"buffer_size: must be at least 1, got {buffer_size}")
    if impressions is None:
        raise ValueError("impressions: a scanned log is for many of them; read views alone with EventLog.read_parquet")
    given = given_catalogue(num_items, items)
    viewed = None if views is None else ParquetTable(views, "views", columns, storage_options)
    played = ParquetTable(impressions, "impressions", columns, storage_options)
    tables = [played] if viewed is None else [played, viewed]
    if not sum(table.num_rows for table in tables):
        raise ValueError("log: the tables have no rows; check the query or filter that made them")
    return _Scan(viewed, played, tables, given).log(int(buffer_size), scratch)


class _Scan:
    """What the passes find out one after another."""

    def __init__(
        self,
        views: ParquetTable | None,
        impressions: ParquetTable,
        tables: list[ParquetTable],
        given: Vocabulary | None,
    ) -> None:
        self.views, self.impressions, self.tables, self.given = views, impressions, tables, given
        self.users, self.items = IdSet(), IdSet()
        for table in tables:
            self._collect_ids(table)
        self.catalogue = self.items.vocabulary() if given is None else given
        self.clock = _Clock(tables)

    def _collect_ids(self, table: ParquetTable) -> None:
        item = _ITEM[table.label]
        for chunk in table.chunks(["user"] if self.given is not None else ["user", item]):
            self.users.add(read_ids(chunk["user"], NO_USER))
            if self.given is None:
                self.items.add(read_ids(chunk[item], NO_ITEM))

    def log(self, buffer_size: int, scratch: str | Path | None) -> ScannedLog:
        """Number views, then impressions."""
        views = self._view_store()
        ends = [views.times.min().item(), views.times.max().item()] if len(views.items) else []
        events = EventStore(self.impressions.num_rows, views.num_slots, scratch)
        try:
            return self._with_events(views, events, ends, buffer_size)
        except BaseException:
            events.close()
            raise

    def _view_store(self) -> ViewStore:
        size = 0 if self.views is None else self.views.num_rows
        user = np.empty(size, dtype=np.int32 if len(self.users) < 2**31 else np.int64)
        time, item = np.empty(size, dtype=self.clock.dtype), np.empty(size, dtype=np.int32)
        at = 0
        for chunk in () if self.views is None else self.views.chunks(["user", "time", "item"]):
            rows = slice(at, at := at + len(chunk["user"]))
            user[rows] = self._numbers(self.users, chunk["user"], NO_USER)
            time[rows] = self.clock.read(chunk["time"])
            item[rows] = self._items(chunk["item"])
        return ViewStore.of(user, time, item, len(self.users), len(self.catalogue), self.clock.tick)

    def _with_events(self, views: ViewStore, events: EventStore, ends: list[Any], buffer_size: int) -> ScannedLog:
        roles = ["user", "time", "action", "reward", *schema.OPTIONAL_IMPRESSION_COLUMNS]
        occurs, shown = np.zeros(views.num_slots, dtype=bool), np.zeros(len(self.catalogue), dtype=np.int64)
        positions: set[int] = set()
        num_viewers = num_empty = num_clicks = 0
        first, last = np.inf, -np.inf
        for chunk in self.impressions.chunks(roles):
            user, time = self._numbers(self.users, chunk["user"], NO_USER), self.clock.read(chunk["time"])
            action, reward = self._items(chunk["action"]), schema.rewards(chunk["reward"])
            _check_optional(chunk)
            if "position" in chunk:
                found = schema.integers(chunk["position"], _POSITION)
                positions.update(np.unique(found).tolist() if len(positions) < _MANY else ())
            length = views.views_before(user, time)
            slot = views.slots(user, length)
            events.append(slot, action, reward)
            occurs[slot] = True
            shown += np.bincount(action, minlength=len(shown))
            num_clicks += int(reward.sum(dtype=np.float64))
            first, last = min(first, time.min().item()), max(last, time.max().item())
            has_views = views.offsets[user + 1] > views.offsets[user]
            num_viewers += int(has_views.sum())
            num_empty += int((has_views & (length == 0)).sum())
        slots = np.flatnonzero(occurs)
        number = np.cumsum(occurs, dtype=np.int32 if len(occurs) < 2**31 else np.int64) - 1
        events.finish(number)
        compact = slots.astype(np.int32) if len(occurs) < 2**31 else slots
        self._warn(views, [*ends, first, last], num_viewers, num_empty)
        return ScannedLog(
            self.catalogue, self.users, views, events, compact, shown, num_clicks, self.clock.name, buffer_size,
            self._check, tuple(sorted(positions)),
        )  # fmt: skip

    def _warn(self, views: ViewStore, ends: list[Any], num_viewers: int, num_empty: int) -> None:
        num_events = self.impressions.num_rows
        rows = min(len(views.items), num_events)
        if not (rows and warn_of_ends(rows, ends, self.clock.name, stacklevel=6)):
            warn_of_empty(views.views_per_user, num_events, num_viewers, num_empty, stacklevel=6)

    def _numbers(self, known: IdSet, column: Column, remedy: str) -> np.ndarray:
        numbers = known.numbers_of(read_ids(column, remedy))
        column.fail(numbers < 0, "an id that was not there when the file was first read", "Scan the log again")
        return numbers

    def _items(self, column: Column) -> np.ndarray:
        if self.given is None:
            return self._numbers(self.items, column, NO_ITEM)
        return look_up_items(self.given, column)

    def _check(self) -> None:
        for table in self.tables:
            table.check()


class _Clock:
    """The one clock of all chunks."""

    def __init__(self, tables: list[ParquetTable]) -> None:
        self.fractions = next((t for t in tables if t.num_rows and t.holds_fractions("time")), None)
        self.dtype = np.dtype(np.int64 if self.fractions is None else np.float64)
        self.name, self.where, self.tick = clock.NUMBER, "", 0

    def read(self, column: Column) -> np.ndarray:
        """Read the times of a chunk, on the clock of all others."""
        times = clock.read_times(column)
        if not self.where:
            self.name, self.where = times.clock, column.where
        clock.require_same_clock(self.name, self.where, times.clock, column.where)
        if self.fractions is not None and times.clock == clock.NUMBER:
            times = clock.beside_fractions(times, column, f"{self.fractions.label}: {self.fractions.location}")
        self.tick = int(np.gcd(self.tick, times.tick))
        return times.values


def _check_optional(chunk: Mapping[str, Column]) -> None:
    """Refuse what an `EventLog` would refuse, in columns that a fit does not look at."""
    checks: dict[str, Callable[[Column], Any]] = {
        "propensity": schema.propensities,
        "propensity_error": schema.errors,
        "score": schema.scores,
        "policy": lambda column: read_ids(column, "Name the policy, or leave the column out"),
        "policy_version": lambda column: read_ids(column, "Give the policy's version, or leave the column out"),
    }
    for role, check in checks.items():
        if role in chunk:
            check(chunk[role])
