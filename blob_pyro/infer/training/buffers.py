"""Buffers: the rows that steps are picked from, all of them or, of a log on disk, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Batch", "Buffer", "Buffered", "WholeBuffer", "buffer_of"]


class Batch(Protocol):
    """Rows that can be learned from, counted and picked. See `blob_pyro.models.BanditBatch`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Batch: ...


class Buffer(Protocol):
    """Rows at hand, which `refills` replaces in place. See `blob_pyro.models.EventBuffer`.

    Attributes:
        batch: the rows at hand.
        num_steps: steps until they are used up.
        is_refilled: whether a pass takes more than one refill.
        changing: tensors that a refill writes to.
    """

    batch: Batch
    num_steps: int
    is_refilled: bool
    changing: Sequence[Tensor]

    def refills(self) -> Iterator[int]:
        """Go through all rows once: after each ``next`` so many of them are at hand, from position 0 on."""
        ...


@runtime_checkable
class Buffered(Protocol):
    """Rows too many to be at hand at once: they say through which buffer they are read."""

    def buffer(self, batch_size: int) -> Buffer:
        """Make a buffer that holds a whole number of steps, or all rows."""
        ...


class WholeBuffer:
    """All rows of a batch that is in memory, at hand all the time.

    Args:
        batch: the rows that are here.
        batch_size: rows of a step.
        num_rows: ``N``, those of other workers too.
    """

    is_refilled = False
    changing: Sequence[Tensor] = ()

    def __init__(self, batch: Batch, batch_size: int, num_rows: int) -> None:
        self.batch, self._num_rows = batch, num_rows
        self.num_steps = -(-num_rows // batch_size)

    def refills(self) -> Iterator[int]:
        """Say once that all rows are at hand."""
        yield self._num_rows


def buffer_of(batch: Batch, batch_size: int, num_rows: int) -> Buffer:
    """Make the buffer that a training run picks its steps from.

    Args:
        batch: all rows that are here.
        batch_size: rows of a step.
        num_rows: of all workers, where there are others.
    """
    return batch.buffer(batch_size) if isinstance(batch, Buffered) else WholeBuffer(batch, batch_size, num_rows)
