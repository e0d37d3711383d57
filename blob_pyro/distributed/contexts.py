"""`ContextFiles`: contexts that wait for an answer, in Parquet files of any size, read a part at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blob_pyro.data import ViewHistory, Vocabulary
from blob_pyro.data.columns import Column
from blob_pyro.data.parquet_files import ParquetFiles

__all__ = ["ContextFiles", "Contexts", "Part"]

_ROLES = ("user", "time", "history", "candidates", "item")


@dataclass(frozen=True)
class Part:
    """Contexts that are answered together, and where they are.

    Attributes:
        number: of the part, from 0.
        first: the number of its first context.
        size: how many contexts it has.
        start: its first row, counted over all files.
        stop: the row after its last.
    """

    number: int
    first: int
    size: int
    start: int
    stop: int

    def __str__(self) -> str:
        """Say which contexts these are, for an error message."""
        return f"contexts {self.first:,} to {self.first + self.size - 1:,}, rows {self.start:,} to {self.stop - 1:,}"


@dataclass(frozen=True)
class Contexts:
    """Contexts of a part: ``n`` of them.

    Attributes:
        user: their users' ids, an Arrow column.
        histories: what `blob_pyro.data.as_histories` takes.
        candidates: a list of ids for each, or None.
        time: of each decision, an Arrow column, or None.
        covariates: columns by name, or None.
    """

    user: pa.ChunkedArray
    histories: Any
    candidates: list[Any] | None
    time: pa.ChunkedArray | None
    covariates: dict[str, pa.ChunkedArray] | None


class ContextFiles:
    """A file or a folder of Parquet, in the order of paths and rows, in one of three forms.

    - ``user`` and ``history``, a list of item ids, oldest first: a row is a context;
    - ``user`` alone, and a `ViewHistory` that says what users have viewed: a row is a context;
    - ``user`` and ``item``, and ``time`` where there is one: a row is a *view*, and a user is a context. Rows are in
      the order of users and, for each, of time, over all files, so that a user's views can be told to be all there.

    A row that is a context may have ``candidates``, a list of item ids, ``time``, and covariates besides.

    Args:
        location: a path, or a URL that fsspec knows.
        history: views, where the files have none.
        columns: the user's names by these.
        covariates: names of columns.
        storage_options: what fsspec needs for the URL.

    Attributes:
        request: the last three arguments, for one who opens the same files elsewhere.

    Raises:
        ValueError: naming the file and what it lacks, or has twice.
        FileNotFoundError: if nothing is there.
    """

    def __init__(
        self,
        location: str | Path,
        history: ViewHistory | None,
        columns: Mapping[str, str] | None = None,
        covariates: Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        names = dict(columns or {})
        if unknown := sorted(set(names) - set(_ROLES)):
            raise ValueError(f"columns: unknown key {unknown[0]!r}; the names of contexts are {', '.join(_ROLES)}")
        self._names = {role: names.get(role, role) for role in _ROLES}
        self.history, self._covariates = history, tuple(covariates)
        self.request = {"columns": names, "covariates": self._covariates, "storage_options": storage_options}
        remedy = "start again, with another output folder"
        self.files = ParquetFiles(location, "contexts", storage_options, "the contexts were counted", remedy)
        there = {role for role in _ROLES if self._names[role] in self.files.schema.names}
        if lacking := {role for role in names if role not in there}:
            role = sorted(lacking)[0]
            raise ValueError(f"columns: {location} has no column {names[role]!r} ({role}); {self._has()}")
        self.are_views = self._are_views(there)
        if self.are_views and self._covariates:
            raise ValueError("covariates: are of contexts, and these files hold views; write a row for each context")
        roles = {"user", "item", "time"} if self.are_views else {"user", "time", "history", "candidates"}
        self._there = [role for role in _ROLES if role in roles & there]
        self.files.require([*(self._names[role] for role in self._there), *self._covariates])

    @property
    def says_time(self) -> bool:
        """True where a context says when it is decided in."""
        return not self.are_views and "time" in self._there

    def contents(self) -> str:
        """Hash what is in the files: their names, sizes and ends; alike for copies of them."""
        return hashlib.sha256("\n".join(self.files.contents()).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Say what is read, as plain values: two that say the same read the same of the same files."""
        return {"names": {role: self._names[role] for role in self._there}, "covariates": list(self._covariates)}

    def _has(self) -> str:
        return f"it has {', '.join(map(repr, self.files.schema.names))}"

    def _are_views(self, there: set[str]) -> bool:
        where = self.files.location
        if "user" not in there:
            raise ValueError(f"contexts: {where} has no column {self._names['user']!r}; {self._has()}")
        if "history" in there and self.history is not None:
            raise ValueError(f"history: {where} has a column 'history' of its own; leave history out, or the column")
        if "history" in there or self.history is not None:
            return False
        if "item" not in there:
            raise ValueError(
                f"contexts: {where} has no column {self._names['history']!r}; pass --history (history=), which "
                f"says what users have viewed, or views, with a column 'item', in the order of users; {self._has()}"
            )
        return True

    def parts(self, rows: int) -> list[Part]:
        """Divide the contexts into parts; of files of views this reads users and times, once.

        Args:
            rows: contexts of a part; the last may have fewer.

        Raises:
            ValueError: for a view that is out of order, naming its row.
        """
        if self.are_views:
            starts, num_contexts = self._starts_of_users(rows)
        else:
            num_contexts = self.files.num_rows
            starts = list(range(0, num_contexts, rows))
        stops = [*starts[1:], self.files.num_rows]
        return [
            Part(number, number * rows, min(rows, num_contexts - number * rows), start, stop)
            for number, (start, stop) in enumerate(zip(starts, stops))
        ]

    def _starts_of_users(self, rows: int) -> tuple[list[int], int]:
        """The first row of every user whose number is a multiple of ``rows``, and the number of users."""
        names = [self._names[role] for role in ("user", "time") if role in self._there]
        last: pa.Table | None = None
        starts: list[int] = []
        num_users = at = 0
        for table in self.files.batches(names):
            beside = table if last is None else pa.concat_tables([last, table])
            skipped = beside.num_rows - table.num_rows
            changes = self._changes(beside, at - skipped)
            begins = np.flatnonzero(changes if last is not None else np.append(True, changes)) + at
            of_part = begins[(num_users + np.arange(len(begins))) % rows == 0]
            starts += of_part.tolist()
            num_users, at, last = num_users + len(begins), at + table.num_rows, table.slice(table.num_rows - 1)
        return starts, num_users

    def _changes(self, table: pa.Table, first: int) -> np.ndarray:
        """Mark each row but the first whose user is not that of the row before; refuse rows out of order."""
        user = self._without_missing(table, "user", first)
        if not (pa.types.is_integer(user.type) or _is_text(user.type)):
            raise ValueError(
                f"contexts: column {self._names['user']!r} of {self.files.location} has type {user.type}; users of "
                "views are whole numbers or text, which have an order"
            )
        ends = (user.slice(0, len(user) - 1), user.slice(1))
        falls = pc.less(ends[1], ends[0]).to_numpy()
        if falls.any():
            row = int(falls.argmax()) + 1
            raise ValueError(
                f"contexts: row {first + row:,} of {self.files.location} has user {user[row].as_py()!r} after user "
                f"{user[row - 1].as_py()!r}; a user's views lie together, to be answered once: sort the rows by "
                "user and time over all files (text by its code points), which are read in the order of their paths"
            )
        changes: np.ndarray = pc.not_equal(*ends).to_numpy()
        if "time" in self._there:
            time = self._without_missing(table, "time", first)
            before = pc.less(time.slice(1), time.slice(0, len(time) - 1)).to_numpy() & ~changes
            if before.any():
                row = int(before.argmax()) + 1
                raise ValueError(
                    f"contexts: row {first + row:,} of {self.files.location} is earlier, {time[row].as_py()}, than the "
                    f"view of user {user[row].as_py()!r} before it, {time[row - 1].as_py()}; sort by user and time"
                )
        return changes

    def _without_missing(self, table: pa.Table, role: str, first: int) -> pa.ChunkedArray:
        name, where = self._names[role], self.files.location
        column = Column(table.column(name), f"contexts: column {name!r}", lambda row: _place(where, name, first + row))
        column.require("Fill it, or drop the row")
        assert column.arrow is not None, "it came from Arrow"
        return column.arrow

    def read(self, part: Part, items: Vocabulary) -> Contexts:
        """Read the contexts of a part.

        Args:
            part: of `parts`.
            items: the catalogue to number items by, where a `ViewHistory` says what users have viewed.

        Raises:
            ValueError: naming a file that has vanished, changed or cannot be read, or a row without a user.
        """
        names = [*(self._names[role] for role in self._there), *self._covariates]
        tables = list(self.files.batches(names, part.start, part.stop))
        table = pa.concat_tables(tables) if tables else self.files.schema.empty_table().select(names)
        user = self._without_missing(table, "user", part.start)
        if self.are_views:
            return self._of_views(table, user, part)
        columns = {role: table.column(self._names[role]) for role in self._there}
        candidates = columns["candidates"].to_pylist() if "candidates" in columns else None
        covariates = {name: table.column(name) for name in self._covariates} or None
        histories = columns["history"] if self.history is None else self.history.histories(user, items)
        return Contexts(user, histories, candidates, columns.get("time"), covariates)

    def _of_views(self, table: pa.Table, user: pa.ChunkedArray, part: Part) -> Contexts:
        item = self._without_missing(table, "item", part.start).combine_chunks()
        begins = np.flatnonzero(np.append(True, self._changes(table, part.start)))
        views = pa.LargeListArray.from_arrays(pa.array(np.append(begins, len(user)), pa.int64()), item)
        return Contexts(user.take(pa.array(begins)), pa.chunked_array([views]), None, None, None)


def _is_text(kind: pa.DataType) -> bool:
    return any(getattr(pa.types, f"is_{name}")(kind) for name in ("string", "large_string", "binary", "large_binary"))


def _place(where: str, name: str, row: int) -> str:
    return f"contexts: row {row:,} of {where}, column {name!r}"
