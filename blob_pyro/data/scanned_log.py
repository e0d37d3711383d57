"""`ScannedLog`: a log that stays on disk, and what of it is kept in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from blob_pyro.data.event_store import EventStore
from blob_pyro.data.histories import Histories
from blob_pyro.data.id_set import IdSet
from blob_pyro.data.log_columns import require_contrast, require_impressions, require_views
from blob_pyro.data.view_store import ViewStore
from blob_pyro.data.vocabulary import Vocabulary

__all__ = ["ScannedLog"]


class ScannedLog:
    """A log that stays on disk, of `blob_pyro.EventLog.scan_parquet`: `blob_pyro.BLOB` learns from it as from others.

    In memory are the views (twelve bytes each), the users, and which distinct contexts there are; the impressions are
    on disk, nine bytes each, and are gone with the object, or with `close`. It is a context manager, too.

    Args:
        items: the catalogue, ``P`` items.
        users: ids of all ``U`` users with a view or an impression.
        views: their ``V`` views, by user and time.
        events: context, action and reward of each of the ``N`` impressions, in the order of the files.
        context_slots: of each distinct context, which views are before it: a slot of ``views``; int64, one for each of
            the ``C`` contexts.
        times_shown: impressions of each item, ``P``.
        num_clicks: impressions with reward 1.
        clock: see `blob_pyro.data.log_columns.LogColumns`.
        buffer_size: impressions that a fit has in memory at once, at least.
        check: raises a ValueError if a file is no longer what it was.
        positions: the distinct ones that impressions are in, if the files say.

    Attributes:
        part_of: None: it is the whole.
    """

    part_of = None

    def __init__(
        self,
        items: Vocabulary,
        users: IdSet,
        views: ViewStore,
        events: EventStore,
        context_slots: np.ndarray,
        times_shown: np.ndarray,
        num_clicks: int,
        clock: str,
        buffer_size: int,
        check: Callable[[], None],
        positions: tuple[int, ...] = (),
    ) -> None:
        self.items, self.clock, self.events, self.buffer_size = items, clock, events, buffer_size
        self._users, self._views, self._slots = users, views, context_slots
        self.positions = positions
        self._times_shown, self._num_clicks, self._check = times_shown, num_clicks, check

    @cached_property
    def users(self) -> Vocabulary:
        """The user ids and their numbers: Python objects, made when they are first asked for."""
        return self._users.vocabulary()

    @property
    def num_users(self) -> int:
        """The number of users with a view or an impression."""
        return len(self._users)

    @property
    def num_items(self) -> int:
        """The number of items in the catalogue."""
        return len(self.items)

    @property
    def num_views(self) -> int:
        """The number of organic views."""
        return len(self._views.items)

    @property
    def num_impressions(self) -> int:
        """The number of bandit events."""
        return len(self.events)

    @property
    def num_contexts(self) -> int:
        """The number of distinct decision points: users, and views that they had before."""
        return len(self._slots)

    @property
    def num_clicks(self) -> int:
        """The number of impressions with reward 1."""
        return self._num_clicks

    @property
    def sessions(self) -> Histories:
        """All the views of each user who has any: what the organic model is fitted to."""
        return self._views.sessions()

    def contexts(self, start: int = 0, stop: int | None = None) -> Histories:
        """Return the views before some of the distinct decision points, which are in the order of users and lengths.

        Args:
            start: the first of them.
            stop: the one after the last; default all.
        """
        return self._views.histories(self._slots[start:stop])

    def check(self) -> None:
        """Compare the files with what they were when they were scanned.

        Raises:
            ValueError: naming one that has vanished or changed.
        """
        self._check()

    def close(self) -> None:
        """Remove the file of numbered impressions; nothing can be fitted to this object afterwards."""
        self.events.close()

    def __enter__(self) -> ScannedLog:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def require_views(self) -> None:
        """Raise a ValueError unless there is a view to learn from."""
        require_views(self.num_views)

    def require_impressions(self) -> None:
        """Raise a ValueError unless there is a bandit event to learn from."""
        require_impressions(self.num_impressions)

    def require_contrast(self) -> None:
        """Raise a ValueError where all rewards are equal, and warn of items that were never shown."""
        never = int((self._times_shown == 0).sum())
        require_contrast(self.num_clicks, self.num_impressions, never, self.num_items, stacklevel=4)

    @property
    def num_bytes(self) -> dict[str, int]:
        """Bytes in memory (views, contexts) and on disk (impressions)."""
        on_disk = self.num_impressions * self.events.dtype.itemsize
        return {"views": self._views.num_bytes, "contexts": self._slots.nbytes, "impressions on disk": on_disk}

    def __repr__(self) -> str:
        buffer = "all" if self.buffer_size >= self.num_impressions else f"{self.buffer_size:,}"
        return (
            f"ScannedLog({self.num_users:,} users, {self.num_items:,} items, {self.num_views:,} views, "
            f"{self.num_impressions:,} impressions in {self.num_contexts:,} distinct contexts, "
            f"{self.num_clicks:,} rewarded; {buffer} in the buffer)"
        )
