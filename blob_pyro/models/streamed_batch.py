"""`StreamedBatch`: bandit events too many for memory, as training and estimates of the ELBO take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data.event_store import BLOCK, EventStore
from blob_pyro.models.bandit import BanditBatch
from blob_pyro.ops.fingerprints import content_hash

__all__ = ["EventBuffer", "StreamedBatch"]


class StreamedBatch:
    """Bandit events on disk, with the interest of each distinct context in memory.

    Any of them can be picked, as from a `BanditBatch`, which is what comes out. Training goes through them by way of a
    `buffer`, which mixes blocks from all over the log.

    Args:
        events: ``N`` events: the row of ``interest`` of each, the item number played, and its reward.
        interest: omega of each distinct context, ``C x K``.
        interest_scale: its standard deviations, ``C x K``, or Cholesky factors, ``C x K x K``; None takes omega as it
            is. See `BanditBatch`.
        num_clicks: how many of the rewards are 1.
        buffer_size: events that are at hand at once, at least; a buffer has whole steps of them.
        check: called before each pass, without arguments; raises a ValueError if what the events were read from is no
            longer what it was.

    Attributes:
        num_events: ``N``, which the batches that are picked stand for.
    """

    def __init__(
        self,
        events: EventStore,
        interest: Tensor,
        interest_scale: Tensor | None,
        num_clicks: int,
        buffer_size: int,
        check: Callable[[], None],
    ) -> None:
        self.events, self.interest, self.interest_scale = events, interest, interest_scale
        self.num_clicks, self.buffer_size, self.check = num_clicks, buffer_size, check
        self.num_events = len(events)

    def __len__(self) -> int:
        return self.num_events

    def __getitem__(self, index: Tensor) -> BanditBatch:
        events = self.events.pick(index.cpu().numpy())
        return self._batch(*(torch.from_numpy(column).to(self.interest.device) for column in self._columns(events)))

    def buffer(self, batch_size: int) -> EventBuffer:
        """Make a buffer of ``buffer_size`` events, rounded up to whole steps, or of all events if they are fewer.

        Args:
            batch_size: events of a step.
        """
        return EventBuffer(self, batch_size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that a fit sees: events, interests, and the buffer's size, which decides on their order."""
        at_hand = min(self.buffer_size, self.num_events)
        return content_hash([self.events.fingerprint, self.interest, self.interest_scale, at_hand])

    def _columns(self, events: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        context, action = events["context"].astype(np.int64), events["action"].astype(np.int64)
        return context, action, events["reward"].astype(torch.empty(0, dtype=self.interest.dtype).numpy().dtype)

    def _batch(self, context: Tensor, action: Tensor, reward: Tensor) -> BanditBatch:
        return BanditBatch(self.interest, context, action, reward, self.num_events, interest_scale=self.interest_scale)


class EventBuffer:
    """Some events of a `StreamedBatch` at a time, each once in a pass, in blocks drawn from all over the log.

    Random numbers are torch's, from the CPU's default generator, and none are drawn where all events fit: the order of
    a pass is then that of a log in memory.

    Args:
        source: the ``N`` events.
        batch_size: events of a step, ``B``.

    Attributes:
        batch: the events at hand, of which the first so many count as `refills` says.
        size: how many there is room for: ``num_steps * B``, or ``N`` if they are fewer.
        num_steps: how many steps the events at hand are enough for.
        is_refilled: whether they are not all: where they are, a pass reads nothing.
        changing: the tensors of ``batch`` that are written to: context, action and reward, each ``size``.
    """

    def __init__(self, source: StreamedBatch, batch_size: int) -> None:
        self.num_steps = -(-min(max(source.buffer_size, batch_size), len(source)) // batch_size)
        self.size = min(self.num_steps * batch_size, len(source))
        self.is_refilled = self.size < len(source)
        self._source = source
        self._events = np.empty(self.size, dtype=source.events.dtype)
        empty = source.interest.new_empty(self.size)
        self.changing = [empty.long(), empty.long(), empty]
        self.batch = source._batch(*self.changing)
        self._is_full = False

    def refills(self) -> Iterator[int]:
        """Read all events once, a buffer at a time.

        Yields:
            How many events are at hand now: those at positions 0 to so many of ``batch``.

        Raises:
            ValueError: naming a file that is no longer what it was when the log was scanned.
        """
        events = self._source.events
        self._source.check()
        if not self.is_refilled:
            if not self._is_full:
                self._load([(0, len(events))])
                self._is_full = True
            yield self.size
            return
        blocks = torch.randperm(-(-len(events) // BLOCK)).numpy()
        for runs in events.parts(self.size, blocks):
            yield self._load(runs)

    def _load(self, runs: list[tuple[int, int]]) -> int:
        size = sum(stop - start for start, stop in runs)
        some = self._events[:size]
        self._source.events.fill(some, runs)
        for own, column in zip(self.changing, self._source._columns(some)):
            own[:size].copy_(torch.from_numpy(column))
        return size
