"""`ParquetTable`: a Parquet file or a folder of them, wherever it is, read a few row groups at a time."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset

from blob_pyro.data import schema
from blob_pyro.data.columns import Column
from blob_pyro.data.parquet_files import ParquetFiles

__all__ = ["ParquetTable"]

CHUNK = 1 << 18
"""Rows that are read at once, about."""


class ParquetTable(ParquetFiles):
    """Files of one table, with what is needed to say whether they are still what they were.

    Args:
        location: a path, or a URL that fsspec knows.
        table: "views" or "impressions".
        columns: the user's names of the columns: see `blob_pyro.EventLog.from_tables`.
        storage_options: what fsspec needs for the URL.

    Raises:
        FileNotFoundError: if nothing is there.
        ImportError: for a URL, where fsspec or what it needs for the URL is not installed.
        TypeError: for what is neither path nor URL.
        ValueError: for files that are no Parquet, lack a column or have it twice, naming them.
    """

    def __init__(
        self,
        location: str | Path,
        table: str,
        columns: Mapping[str, Hashable | None],
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.columns = columns
        super().__init__(location, table, storage_options)
        self._names = self._check_columns()

    def holds_fractions(self, role: str) -> bool:
        """Say whether a column is one of floats in any file.

        Args:
            role: the schema's name of the column.
        """
        name = self._names[role]
        fields = (self._schema(fragment).field(name) for fragment, _ in self._pieces)
        return any(pa.types.is_floating(field.type) for field in fields)

    def chunks(self, roles: Iterable[str]) -> Iterator[dict[str, Column]]:
        """Read some columns of all rows, in order, in chunks of some 250,000 rows that lie in one file.

        Args:
            roles: the schema's names of the columns; those that the files lack are left out.

        Yields:
            Columns by role, which know file, row group and row of each value.

        Raises:
            ValueError: naming a file that has vanished, changed, or cannot be read.
        """
        wanted = {role: self._names[role] for role in roles if role in self._names}
        for fragment, pieces in self._pieces:
            schema_, label = self._schema(fragment), f"{self.label}: {fragment.path}"
            batches: list[pa.RecordBatch] = []
            starts: list[tuple[int, int, int]] = []
            rows = 0
            self._check(fragment.path)
            try:
                for piece in pieces:
                    offset = 0
                    for batch in self._read(piece, schema_, list(wanted.values()), CHUNK):
                        if not len(batch):
                            continue
                        batches.append(batch)
                        starts.append((rows, piece.row_groups[0].id, offset))
                        rows, offset = rows + len(batch), offset + len(batch)
                        if rows >= CHUNK:
                            yield _columns(batches, starts, wanted, label)
                            batches, starts, rows = [], [], 0
            except (pa.ArrowException, OSError) as error:
                self._check(fragment.path)
                raise ValueError(f"{label} cannot be read: {error}") from None
            if batches:
                yield _columns(batches, starts, wanted, label)

    def _explain(self, path: str) -> None:
        """Say what Arrow says in other words: of a file that has a column twice."""
        with contextlib.suppress(pa.ArrowException, OSError):
            apart = pa.dataset.dataset(path, filesystem=self._filesystem, format="parquet", schema=pa.schema([]))
            for fragment in apart.get_fragments():
                empty = fragment.physical_schema.empty_table()
                schema.read_table(empty, self.label, self.columns, f"{self.label}: {fragment.path}")

    def _schema(self, fragment: Any) -> pa.Schema:
        return pa.schema([*fragment.physical_schema, *self._partitions])

    def _check_columns(self) -> dict[str, str]:
        """Names of the columns by role, which all files have, once each."""
        names: dict[str, str] = {}
        for number, (fragment, _) in enumerate(self._pieces):
            label = f"{self.label}: {fragment.path}"
            empty = self._schema(fragment).empty_table()
            here = schema.read_table(empty, self.label, self.columns, label)
            required, optional, _ = schema.column_names(self.label, self.columns)
            if not number:
                names = {role: str({**required, **optional}[role]) for role in here}
            elif different := set(names) ^ set(here):
                role = sorted(different)[0]
                first = f"{self.label}: {self._pieces[0][0].path}"
                has, lacks = (label, first) if role in here else (first, label)
                raise ValueError(
                    f"{lacks} lacks column {role!r}, which {has} has; write it to all files of the table, or leave it "
                    f"out with columns={{{role!r}: None}}"
                )
        return names


def _columns(
    batches: list[pa.RecordBatch], starts: list[tuple[int, int, int]], wanted: Mapping[str, str], label: str
) -> dict[str, Column]:
    table, begins = pa.Table.from_batches(batches), [start for start, _, _ in starts]

    def column(role: str, name: str) -> Column:
        where = f"{label}: column {name!r}" + ("" if role == name else f" ({role})")

        def place(row: int) -> str:
            start, group, offset = starts[bisect_right(begins, row) - 1]
            return f"{where}, row group {group}, row {offset + row - start:,}"

        return Column(table.column(name), where, place)

    return {role: column(role, name) for role, name in wanted.items()}
