"""`ParquetFiles`: a Parquet file or a folder of them, wherever it is, and whether it is still what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

__all__ = ["ParquetFiles"]

_FOOTER = 1 << 16  # bytes at the end of a file, which say what is in it


class ParquetFiles:
    """Files of one kind of row, in the order of their paths, with what is needed to notice that one has changed.

    Args:
        location: a path, or a URL that fsspec knows.
        label: what to call them in an error message.
        storage_options: what fsspec needs for the URL.
        known_since: when they were looked at, for an error message.
        remedy: what to do about a file that has changed since.

    Raises:
        FileNotFoundError: if nothing is there.
        ImportError: for a URL, where fsspec or what it needs for the URL is not installed.
        TypeError: for what is neither path nor URL.
        ValueError: for files that are no Parquet, naming them.
    """

    def __init__(
        self,
        location: str | Path,
        label: str,
        storage_options: Mapping[str, Any] | None = None,
        known_since: str = "the log was scanned",
        remedy: str = "scan the log again",
    ) -> None:
        self.label, self.location, self._known_since, self._remedy = label, str(location), known_since, remedy
        self._filesystem, path = _open(location, label, storage_options)
        try:
            found = pa.dataset.dataset(path, filesystem=self._filesystem, format="parquet", partitioning="hive")
            fragments = sorted(found.get_fragments(), key=lambda fragment: fragment.path)
            self._pieces = [(fragment, fragment.split_by_row_group()) for fragment in fragments]
        except FileNotFoundError as error:
            problem = f"{label}: {location} is not there; give the path or URL of a Parquet file or folder"
            raise FileNotFoundError(problem) from error
        except (pa.ArrowException, OSError, ValueError) as error:
            self._explain(path)
            raise ValueError(f"{label}: {location} cannot be read as Parquet: {error}") from None
        if not fragments:
            raise ValueError(f"{label}: {location} holds no Parquet file; give the path or URL of one, or of a folder")
        self.schema: pa.Schema = found.schema
        self._root = path
        self._partitions = [field for field in found.schema if field.name not in fragments[0].physical_schema.names]
        self.num_rows: int = sum(g.num_rows for _, pieces in self._pieces for p in pieces for g in p.row_groups)
        self._marks = {fragment.path: self._mark(fragment.path) for fragment in fragments}

    def check(self) -> None:
        """Compare the files with what they were when they were opened: size, time of change, or their footers.

        What a file system has kept of earlier answers is not believed.

        Raises:
            ValueError: naming a file that has vanished or changed.
        """
        for path in self._marks:
            self._check(path)

    def contents(self) -> list[str]:
        """Return of each file its path below the folder, its size, and a hash of its end, which says what is in it.

        Copies of the files elsewhere have the same.
        """
        found = []
        for path in self._marks:
            self._check(path)
            size, footer = self._size_and_end(path)
            found.append(f"{path.removeprefix(self._root).lstrip('/')} {size} {footer}")
        return found

    def require(self, names: Sequence[str]) -> None:
        """Refuse files of which one lacks a column, naming it.

        Args:
            names: columns that all files must have.

        Raises:
            ValueError: naming file and column.
        """
        for fragment, _ in self._pieces:
            there = [*fragment.physical_schema.names, *(field.name for field in self._partitions)]
            for name in names:
                if name not in there:
                    raise ValueError(
                        f"{self.label}: {fragment.path} has no column {name!r}; it has {', '.join(map(repr, there))}"
                    )

    def batches(
        self, names: Sequence[str], start: int = 0, stop: int | None = None, size: int = 1 << 18
    ) -> Iterator[pa.Table]:
        """Read some columns of some of the rows, in order, by way of their row groups.

        Args:
            names: of the columns.
            start: the first row, counted over all files.
            stop: the one after the last; default all.
            size: rows that are read at once, at most.

        Yields:
            Tables whose columns have the types that they have in the first file.

        Raises:
            ValueError: naming a file that has vanished, changed, or cannot be read.
        """
        stop = self.num_rows if stop is None else stop
        at = 0
        for fragment, pieces in self._pieces:
            rows = sum(group.num_rows for piece in pieces for group in piece.row_groups)
            if at + rows > start and at < stop:
                yield from self._batches_of(fragment, pieces, names, start - at, stop - at, size)
            at += rows

    def _batches_of(
        self, fragment: Any, pieces: list[Any], names: Sequence[str], start: int, stop: int, size: int
    ) -> Iterator[pa.Table]:
        """Rows of one file, counted from its first."""
        self._check(fragment.path)
        at = 0
        try:
            for piece in pieces:
                rows = sum(group.num_rows for group in piece.row_groups)
                if at + rows <= start or at >= stop:
                    at += rows
                    continue
                for batch in self._read(piece, self.schema, names, size):
                    first, last = max(start - at, 0), min(stop - at, len(batch))
                    if first < last:
                        yield pa.Table.from_batches([batch.slice(first, last - first)])
                    at += len(batch)
        except (pa.ArrowException, OSError) as error:
            self._check(fragment.path)
            raise ValueError(f"{self.label}: {fragment.path} cannot be read: {error}") from None

    @staticmethod
    def _read(piece: Any, schema: pa.Schema, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """Some columns of a row group, so many rows at a time, without reading ahead."""
        found: Iterator[pa.RecordBatch] = piece.to_batches(
            schema=schema, columns=list(names), batch_size=size, use_threads=False, batch_readahead=1,
            fragment_readahead=1,
        )  # fmt: skip
        return found

    def _explain(self, path: str) -> None:
        """Say what Arrow says in other words, where that is possible."""

    def _mark(self, path: str) -> tuple[int, str]:
        """What tells a file from what it becomes: its size, and when it was changed or, where nobody knows, its end."""
        info = self._filesystem.get_file_info(path)
        if info.type == pa.fs.FileType.NotFound:
            raise FileNotFoundError(path)
        if info.mtime_ns is not None:
            return info.size, str(info.mtime_ns)
        return self._size_and_end(path)

    def _size_and_end(self, path: str) -> tuple[int, str]:
        with self._filesystem.open_input_file(path) as file:
            size = file.size()
            file.seek(max(0, size - _FOOTER))
            return size, hashlib.sha256(file.read(_FOOTER)).hexdigest()

    def _check(self, path: str) -> None:
        _ask_again(self._filesystem, path)
        since = f"since {self._known_since}"
        try:
            now = self._mark(path)
        except FileNotFoundError:
            raise ValueError(f"{self.label}: {path} has vanished {since}; put it back, or {self._remedy}") from None
        if now != self._marks[path]:
            what = f"it had {self._marks[path][0]:,} bytes and has {now[0]:,}" if now[0] != self._marks[path][0] else (
                "it has been written again"
            )  # fmt: skip
            raise ValueError(f"{self.label}: {path} has changed {since} ({what}); {self._remedy}")


def _open(location: Any, label: str, storage_options: Mapping[str, Any] | None) -> tuple[pa.fs.FileSystem, str]:
    """The file system of a path or URL, and the path in it."""
    if not isinstance(location, (str, Path)):
        raise TypeError(f"{label}: expected the path or URL of a Parquet file or folder, got {type(location).__name__}")
    if not str(location):
        raise ValueError(f"{label}: is empty; give the path or URL of a Parquet file or folder")
    if "://" not in str(location):
        if storage_options:
            raise ValueError(f"storage_options: are for URLs, and {label} is a path, {str(location)!r}; leave them out")
        return pa.fs.LocalFileSystem(), str(Path(location).absolute())
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ImportError(f"{label}: {location} is a URL, which fsspec reads: pip install fsspec") from None
    try:
        filesystem, path = url_to_fs(str(location), **(storage_options or {}))
        filesystem.invalidate_cache()  # one object serves all who ask for the same, and remembers what was there
    except ImportError as error:  # s3fs, gcsfs, adlfs
        raise ImportError(f"{label}: to read {location}, {error}") from None
    except ValueError as error:
        raise ValueError(f"{label}: {location} is no URL that fsspec knows: {error}") from None
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), path


def _ask_again(filesystem: pa.fs.FileSystem, path: str) -> None:
    """Let fsspec forget what it knows of a file: for stores such as S3 it keeps what it once was told."""
    if isinstance(filesystem, pa.fs.PyFileSystem):
        filesystem.handler.fs.invalidate_cache(path)
