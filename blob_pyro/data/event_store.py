"""`EventStore`: the numbered impressions of a log on disk, nine bytes each, read in any order of blocks."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["EventStore"]

BLOCK = 4096
"""Events that are read together: a pass goes through blocks in any order."""
_ROWS = 1 << 20


class EventStore:
    """Context, action and reward of each impression, in a file of its own folder, which goes with the object.

    Args:
        num_events: how many are to be written, ``N``.
        num_contexts: an upper bound of the numbers of contexts.
        folder: where the file's folder is made; None for the system's folder of temporary files.

    Raises:
        OSError: if the disk has too little room, naming folder and bytes; if nothing can be written there.
    """

    def __init__(self, num_events: int, num_contexts: int, folder: str | Path | None = None) -> None:
        context = "<i4" if num_contexts < 2**31 else "<i8"
        self.dtype = np.dtype([("context", context), ("action", "<i4"), ("reward", "u1")])
        self.num_events = num_events
        self.fingerprint = ""
        root = Path(tempfile.gettempdir() if folder is None else folder)
        if not root.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"scratch: {root} is no folder; make it, or name another", str(root))
        self._needed, free = num_events * self.dtype.itemsize, shutil.disk_usage(root).free
        if free < self._needed:
            raise self._full(root, f"{free:,} are free")
        self.folder = Path(tempfile.mkdtemp(prefix="blob_pyro-scan-", dir=root))
        self.path = self.folder / "events"
        self.path.touch()
        self.close = weakref.finalize(self, shutil.rmtree, self.folder, True)

    def __len__(self) -> int:
        return self.num_events

    def append(self, context: np.ndarray, action: np.ndarray, reward: np.ndarray) -> None:
        """Write further events at the end.

        Raises:
            OSError: if the disk is full; nothing of the store is left then.
        """
        events = np.empty(len(action), dtype=self.dtype)
        events["context"], events["action"], events["reward"] = context, action, reward
        try:
            with self.path.open("ab") as file:
                file.write(events.data)
        except OSError as error:
            self.close()
            if error.errno != errno.ENOSPC:
                raise
            raise self._full(self.folder.parent, "the disk is full") from error

    def finish(self, number: np.ndarray) -> None:
        """Give contexts their final numbers, and take the fingerprint of all events: SHA-256.

        Args:
            number: the new number of each old one.
        """
        digest = hashlib.sha256(str(self.dtype).encode())
        with self.path.open("r+b") as file:
            for start in range(0, self.num_events, _ROWS):
                file.seek(start * self.dtype.itemsize)
                events = np.fromfile(file, self.dtype, min(_ROWS, self.num_events - start))
                events["context"] = number[events["context"]]
                file.seek(start * self.dtype.itemsize)
                file.write(events.data)
                digest.update(events.data)
        self.fingerprint = digest.hexdigest()

    def fill(self, events: np.ndarray, runs: list[tuple[int, int]]) -> None:
        """Read runs of events, one after another, into an array of the store's ``dtype``.

        Args:
            events: as long as the runs are together.
            runs: first event of each, and the one after its last.
        """
        self._require_open()
        at = 0
        view = memoryview(events.view(np.uint8).reshape(-1).data)
        with self.path.open("rb", buffering=0) as file:
            for start, stop in runs:
                size = (stop - start) * self.dtype.itemsize
                file.seek(start * self.dtype.itemsize)
                while size:
                    count = file.readinto(view[at : at + size])
                    if not count:
                        raise OSError(f"scratch: {self.path} has been cut short; scan the log again")
                    at, size = at + count, size - count

    def pick(self, rows: np.ndarray) -> np.ndarray:
        """Read events by their numbers, in any order; ``len(rows)`` of the store's ``dtype``."""
        self._require_open()
        if not len(rows):
            return np.empty(0, dtype=self.dtype)
        start, stop = int(rows.min()), int(rows.max()) + 1
        if stop - start == len(rows) and (np.diff(rows) == 1).all():
            events = np.empty(len(rows), dtype=self.dtype)
            self.fill(events, [(start, stop)])
            return events
        result: np.ndarray = np.memmap(self.path, self.dtype, "r")[rows]
        return np.array(result)

    def parts(self, num_rows: int, blocks: np.ndarray) -> Iterator[list[tuple[int, int]]]:
        """Split a pass over all events into parts of ``num_rows`` each, the last with what is left.

        Args:
            num_rows: of a part.
            blocks: every block once, in the order in which they are to be read: ``ceil(N / BLOCK)``.

        Yields:
            The runs of each part: see `fill`.
        """
        runs: list[tuple[int, int]] = []
        room = num_rows
        for block in blocks.tolist():
            start, stop = block * BLOCK, min((block + 1) * BLOCK, self.num_events)
            while start < stop:
                end = min(stop, start + room)
                runs.append((start, end))
                room -= end - start
                start = end
                if not room:
                    yield runs
                    runs, room = [], num_rows
        if runs:
            yield runs

    def _require_open(self) -> None:
        if not self.path.exists():
            raise ValueError(f"scratch: {self.path} is gone: the scanned log was closed, or swept; scan the log again")

    def _full(self, folder: Path, what: str) -> OSError:
        return OSError(
            errno.ENOSPC,
            f"scratch: {self.num_events:,} numbered events take {self._needed:,} bytes, and {what}; name another "
            "folder with scratch=...",
            str(folder),
        )
