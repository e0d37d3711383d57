"""`ViewStore`: all users' views in some twelve bytes each, and how many of them precede an event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from blob_pyro.data.assembly import stable_order
from blob_pyro.data.histories import Histories

__all__ = ["ViewStore"]


@dataclass(frozen=True)
class ViewStore:
    """Views by user and time.

    A *slot* is a user and a number of views: what one of the user's decisions may have had before it. There are
    ``V + U`` of them, in the order of users and of lengths.

    Attributes:
        items: item number of each view, ``V`` int32.
        times: of each, ``V`` int64 or float64, in order within each user.
        offsets: first view of each user, and ``V`` at the end; ``U + 1`` int64.
        num_items: size of the catalogue.

    Example:
        >>> import numpy as np
        >>> user, time, item = np.array([1, 0, 1]), np.array([5, 3, 2]), np.array([0, 1, 2])
        >>> store = ViewStore.of(user, time, item, num_users=2, num_items=3)
        >>> store.views_before(np.array([0, 1, 1]), np.array([3, 3, 9]))  # at equal times the event comes first
        array([0, 1, 2])
    """

    items: np.ndarray
    times: np.ndarray
    offsets: np.ndarray
    num_items: int

    @classmethod
    def of(
        cls, user: np.ndarray, time: np.ndarray, item: np.ndarray, num_users: int, num_items: int, tick: int = 1
    ) -> ViewStore:
        """Put views in order, stably.

        Args:
            user: numbers below ``num_users``, ``V``.
            time: of each.
            item: numbers below ``num_items``.
            num_users: ``U``.
            num_items: size of the catalogue.
            tick: divides every time.
        """
        offsets = np.zeros(num_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(user, minlength=num_users), out=offsets[1:])
        order = stable_order(user, time, tick) if len(user) else np.zeros(0, dtype=np.int64)
        return cls(item[order].astype(np.int32, copy=False), time[order], offsets, num_items)

    @property
    def num_slots(self) -> int:
        """Users and views together."""
        return len(self.items) + len(self.offsets) - 1

    @property
    def views_per_user(self) -> np.ndarray:
        """The number of views of each user, ``U``."""
        return np.diff(self.offsets)

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        return self.items.nbytes + self.times.nbytes + self.offsets.nbytes

    def views_before(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Count the views of each event's user that are strictly earlier: a search by halves, all events at once.

        Args:
            user: of each event, ``N``.
            time: of each, on the views' clock.
        """
        first = self.offsets[user]
        low, high = first.copy(), self.offsets[user + 1]
        if len(self.items):
            for _ in range(int((high - low).max(initial=0)).bit_length()):
                middle = (low + high) >> 1
                earlier = (self.times[np.minimum(middle, len(self.times) - 1)] < time) & (low < high)
                np.copyto(low, middle + 1, where=earlier)
                np.copyto(high, middle, where=~earlier)
        result: np.ndarray = low - first
        return result

    def slots(self, user: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Number the slots of some users and lengths, ``N`` int64."""
        result: np.ndarray = self.offsets[user] + user + length
        return result

    def histories(self, slots: np.ndarray) -> Histories:
        """Return the views of some slots, ``N``; they share storage.

        Args:
            slots: in increasing order, so that their views lie together.
        """
        firsts = self.offsets[:-1] + np.arange(len(self.offsets) - 1)
        user = np.searchsorted(firsts, slots, side="right") - 1
        length, start = slots - firsts[user], self.offsets[user]
        low, high = (int(start.min()), int((start + length).max())) if len(slots) else (0, 0)
        views = torch.from_numpy(self.items[low:high].astype(np.int64))
        starts, lengths = (torch.from_numpy(values.astype(np.int64, copy=False)) for values in (start - low, length))
        return Histories(views, starts, lengths, self.num_items)

    def sessions(self) -> Histories:
        """Return all views of each user who has any."""
        lengths = self.views_per_user
        views = torch.from_numpy(self.items.astype(np.int64))
        return Histories.from_ragged(views, torch.from_numpy(lengths[lengths > 0]), self.num_items)
