"""`ViewHistory`: what users have viewed so far, kept from one day's log to the next."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet
import torch

from blob_pyro.data.columns import Column
from blob_pyro.data.concatenation import concatenate
from blob_pyro.data.event_log import EventLog
from blob_pyro.data.histories import Histories
from blob_pyro.data.ids import read_ids
from blob_pyro.data.shards import fingerprint
from blob_pyro.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from blob_pyro.data.readers import Rows

__all__ = ["ViewHistory"]

_CLOCK = b"blob_pyro.view_history.clock"


class ViewHistory:
    """The views of users until now: what the next log's contexts start with.

    Nothing changes one: `append` returns another.

    Args:
        log: whose views are kept, those too that it remembers itself.

    Raises:
        ValueError: for a log without views.

    Example:
        >>> monday = EventLog.from_tables(views={"user": ["ann"], "time": [1], "item": ["tea"]})
        >>> history = ViewHistory(monday)
        >>> tuesday = EventLog.from_tables(
        ...     views={"user": ["ann"], "time": [8], "item": ["mug"]},
        ...     impressions={"user": ["ann"], "time": [9], "action": ["mug"], "reward": [1]},
        ...     history=history,
        ... )
        >>> tuesday.items.decode(tuesday.contexts.to_sequences()[0])
        ['tea', 'mug']
        >>> history.append(tuesday)
        ViewHistory(1 users, 2 items, 2 views)
    """

    def __init__(self, log: EventLog) -> None:
        views = _views_of(log)
        if views is None:
            raise ValueError("log: has no views; there is nothing to keep")
        self._log = views

    @property
    def num_views(self) -> int:
        """Views of all users."""
        return self._log.num_views

    @property
    def num_users(self) -> int:
        """Users who have viewed something."""
        return self._log.num_users

    def __repr__(self) -> str:
        return f"ViewHistory({self.num_users:,} users, {self._log.num_items:,} items, {self.num_views:,} views)"

    def fingerprint(self) -> str:
        """Hash users, items, times and views; SHA-256, 64 hexadecimal digits."""
        return fingerprint(self._log)

    def append(self, log: EventLog) -> ViewHistory:
        """Return these views and those of a later log; what both have counts once.

        Raises:
            ValueError: as `EventLog.concat`, for clocks that differ or ids of several types.
        """
        later = _views_of(log)
        return self if later is None else ViewHistory(EventLog.concat([self._log, later], duplicates="drop"))

    def histories(self, users: Iterable[Hashable], items: Vocabulary) -> Histories:
        """Look up what each user has viewed, for `blob_pyro.BLOB.recommend` or `Policy.decide`.

        Args:
            users: ids; one who is not known has viewed nothing.
            items: the catalogue to number items by, ``blob.items``.

        Returns:
            A history for each user.

        Raises:
            ValueError: for a viewed item that ``items`` lacks, or a row of ``users`` that holds no id.
        """
        log = self._log
        numbers = torch.from_numpy(items.encode(log.items.ids, "history"))
        number = torch.from_numpy(log.users.find(users, "users"))
        views = torch.bincount(log.view_user, minlength=log.num_users)
        starts, there = views.cumsum(0) - views, number >= 0
        return Histories(
            numbers[log.view_item],
            torch.where(there, starts[number], 0),
            torch.where(there, views[number], 0),
            len(items),
        )

    def rows_before(self, log: EventLog, items: Vocabulary | None) -> Rows:
        """Join the rows of a log and of what its users had viewed before it.

        Args:
            log: later than these views; those that it has too count once.
            items: the catalogue, or None for one that holds the items of both.
        """
        return concatenate([log], "keep", items, [self._log], ["log", "history"])

    def save(self, path: str | Path) -> None:
        """Write a Parquet file, in one move: whoever reads it meanwhile reads the old one.

        Raises:
            TypeError: for ids that Parquet has no type for: they are whole numbers, text or bytes.
        """
        from blob_pyro.ops.files import staged  # below in the order of imports

        log = self._log
        columns = {
            "user": _column(log.users, log.view_user, "user"),
            "time": pa.array(log.view_time.numpy()),
            "item": _column(log.items, log.view_item, "item"),
        }
        table = pa.table(columns).replace_schema_metadata({_CLOCK: log.clock.encode()})
        with staged(Path(path)) as file:
            pyarrow.parquet.write_table(table, file)

    @classmethod
    def load(cls, path: str | Path) -> ViewHistory:
        """Read what `save` wrote.

        Raises:
            ValueError: for a file that it did not write.
        """
        try:
            table = pyarrow.parquet.read_table(path)
        except pa.ArrowException as error:
            raise ValueError(f"path: {path} cannot be read as Parquet: {error}") from None
        clock = (table.schema.metadata or {}).get(_CLOCK)
        if clock is None:
            raise ValueError(f"path: {path} was not written by ViewHistory.save; read views with EventLog.read_parquet")
        columns = [Column(table.column(name), f"{path}: column {name!r}") for name in ("user", "item")]
        ids = [read_ids(column, "Drop the row") for column in columns]
        (users, user), (items, item) = ((known := Vocabulary.of(one), known.numbers_of(one)) for one in ids)
        time = torch.from_numpy(table.column("time").to_numpy().copy())
        log = EventLog.of_views(items, torch.from_numpy(item), users, torch.from_numpy(user), time, clock.decode())
        return cls(log)


def _views_of(log: EventLog) -> EventLog | None:
    """The views of a log and those that it remembers; None if there are none."""
    if not isinstance(log, EventLog):
        raise TypeError(f"log: expected an EventLog, got {log!r} (a {type(log).__name__})")
    parts = [log] if log.earlier is None else [log.earlier, log]
    user, time, item = (
        torch.cat([getattr(one, name) for one in parts]) for name in ("view_user", "view_time", "view_item")
    )
    if not len(user):
        return None
    return EventLog.of_views(*_viewed(log.items, item), *_viewed(log.users, user), time, log.clock)


def _viewed(known: Vocabulary, numbers: torch.Tensor) -> tuple[Vocabulary, torch.Tensor]:
    """Those of a vocabulary that occur, and their new numbers."""
    some, renumbered = numbers.unique(return_inverse=True)
    return Vocabulary(known.decode(some)), renumbered


def _column(known: Vocabulary, numbers: torch.Tensor, name: str) -> pa.Array:
    """Ids as an Arrow column."""
    kinds = {type(id_) for id_ in known.ids}
    if not kinds <= {int, str, bytes}:
        odd = ", ".join(sorted(kind.__name__ for kind in kinds - {int, str, bytes}))
        raise TypeError(f"{name}: Parquet has no type for ids that are {odd}; they are whole numbers, text or bytes")
    return pa.array(list(known.ids)).take(pa.array(numbers.numpy()))
