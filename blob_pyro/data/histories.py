"""Ragged view histories: what each user had viewed, in time order."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data.history_input import from_count_matrix, from_sequences, is_count_matrix
from blob_pyro.data.vocabulary import Vocabulary

__all__ = ["Histories", "LaidOutHistories", "as_histories"]


@dataclass(frozen=True)
class Histories:
    """``N`` sequences of item numbers that may share storage.

    History ``n`` is ``views[starts[n] : starts[n] + lengths[n]]``, oldest view first. Histories that are prefixes
    of one another (all of a user's decision points) share one run of ``views``, so a log costs what its views
    cost. A history may be empty.

    Attributes:
        views: numbers of the items viewed, in ``0 .. num_items - 1``, one-dimensional int64.
        starts: position of each history's first view, ``N``, int64.
        lengths: views in each history, ``N``, int64.
        num_items: size ``P`` of the catalogue.
        lengths_on_host: ``lengths`` on the CPU, where Python can look at them without waiting for a device; read off
            it when they are first needed, if not given. `to`, and picking by an index on the CPU, pass them on.

    Example:
        >>> h = Histories.from_sequences([[2, 0, 2], [], [1]], num_items=3)
        >>> len(h), h.lengths.tolist()
        (3, [3, 0, 1])
        >>> h.counts().tolist()
        [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        >>> h[[2, 0]].to_sequences()
        [[1], [2, 0, 2]]
    """

    views: Tensor
    starts: Tensor
    lengths: Tensor
    num_items: int
    _lengths_on_host: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def items(self) -> Tensor:
        """The views under their old name, for one version more."""
        message = "Histories: 'items' is now called 'views'; the old name goes in the next version"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.views

    @property
    def lengths_on_host(self) -> Tensor:
        """The lengths on the CPU, read off the device once."""
        if self._lengths_on_host is None:
            object.__setattr__(self, "_lengths_on_host", self.lengths.cpu())
        assert self._lengths_on_host is not None
        return self._lengths_on_host

    @property
    def num_views(self) -> int:
        """The number of views in all histories."""
        return int(self.lengths_on_host.sum())

    @property
    def longest(self) -> int:
        """The number of views in the longest history; 0 if there are none."""
        return int(self.lengths_on_host.max()) if len(self) else 0

    @classmethod
    def from_ragged(cls, views: Tensor, lengths: Tensor, num_items: int) -> Histories:
        """Make histories of views laid one after another: ``views`` holds ``lengths.sum()`` of them."""
        return cls(views, lengths.cumsum(0) - lengths, lengths, num_items)

    @classmethod
    def from_sequences(cls, sequences: Sequence[Sequence[int]], num_items: int) -> Histories:
        """Make histories of sequences of item *numbers*.

        Raises:
            ValueError: for a number outside ``0 .. num_items - 1``, naming history and position.
        """
        return cls.from_ragged(*from_sequences(sequences, Vocabulary.numbered(num_items)), num_items)

    @classmethod
    def from_counts(cls, counts: Tensor) -> Histories:
        """Make histories of an ``N x P`` matrix of view counts; the order of views is not known and is by item.

        Args:
            counts: whole numbers of any type, dense or sparse; booleans say viewed once, or not.

        Raises:
            ValueError: for a count that is negative, not whole or above 2**31 - 1, naming its row and column.
        """
        return cls.from_ragged(*from_count_matrix(counts))

    def __len__(self) -> int:
        return self.starts.shape[0]

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Histories:
        if not isinstance(index, slice):
            index = torch.as_tensor(index)
        on_host = isinstance(index, slice) or index.device.type == "cpu"
        lengths = self.lengths_on_host[index] if on_host else None
        at = index if isinstance(index, slice) else index.to(self.device)
        return Histories(self.views, self.starts[at], self.lengths[at], self.num_items, lengths)

    @property
    def device(self) -> torch.device:
        """The device that the tensors are on."""
        return self.views.device

    def to(self, device: torch.device | str | None) -> Histories:
        """Move to another device; returns the same histories there."""
        views, starts, lengths = (t.to(device) for t in (self.views, self.starts, self.lengths))
        return Histories(views, starts, lengths, self.num_items, self.lengths_on_host)

    def flatten(self) -> tuple[Tensor, Tensor]:
        """Return the views of all histories, one after another.

        Returns:
            ``views`` (``lengths.sum()``) and ``row`` of the same shape: the history that each view belongs to.
        """
        row = torch.arange(len(self), device=self.device)
        row = row.repeat_interleave(self.lengths, output_size=self.num_views)
        shift = self.starts - (self.lengths.cumsum(0) - self.lengths)  # the same for all views of a history
        place = torch.arange(row.shape[0], device=self.device).add_(shift.index_select(0, row))
        return self.views.index_select(0, place), row

    def padded(self) -> Tensor:
        """Return the histories as a rectangle: ``N x max(lengths)`` item numbers, -1 after the last view of each."""
        views, row = self.flatten()
        first = self.lengths.cumsum(0) - self.lengths
        within = torch.arange(row.shape[0], device=self.device) - first[row]
        padded = torch.full((len(self), self.longest), -1, dtype=torch.int64, device=self.device)
        padded[row, within] = views
        return padded

    def counts(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Count each history's views of each item, ``N x num_items``."""
        views, row = self.flatten()
        cell = row * self.num_items + views
        counts = torch.zeros(len(self) * self.num_items, dtype=torch.int64, device=self.device)
        return counts.scatter_add_(0, cell, torch.ones_like(cell)).view(len(self), self.num_items).to(dtype)

    def sum_rows(self, weight: Tensor) -> Tensor:
        """Sum the rows of ``weight`` over each history's views.

        Args:
            weight: ``num_items x D``.

        Returns:
            ``N x D``; zero for an empty history. Never forms an ``N x num_items`` matrix.
        """
        views, _ = self.flatten()
        offsets = self.lengths.cumsum(0) - self.lengths
        if views.numel() == 0:  # embedding_bag refuses an empty input with a gradient
            return weight.new_zeros(len(self), weight.shape[1])
        return torch.nn.functional.embedding_bag(views, weight, offsets, mode="sum")

    def laid_out(self) -> LaidOutHistories:
        """Copy the views, one history after another, with all that `flatten` and `padded` would compute."""
        views, row = self.flatten()
        return LaidOutHistories.of(views, row, self.lengths, self.padded(), num_items=self.num_items)

    def to_sequences(self) -> list[list[int]]:
        """Return plain lists of item numbers."""
        views, _ = self.flatten()
        return [part.tolist() for part in views.cpu().split(self.lengths_on_host.tolist())]


@dataclass(frozen=True)
class LaidOutHistories(Histories):
    """Histories whose views lie one after another, and whose sizes are those of tensors: nothing is read to know them.

    Attributes:
        row: the history that each view belongs to, int64.
        rectangle: see `Histories.padded`.
    """

    row: Tensor = field(kw_only=True, repr=False, compare=False)
    rectangle: Tensor = field(kw_only=True, repr=False, compare=False)

    @classmethod
    def of(cls, views: Tensor, row: Tensor, lengths: Tensor, rectangle: Tensor, *, num_items: int) -> LaidOutHistories:
        """Make histories of what `tensors` returns."""
        starts = lengths.cumsum(0) - lengths
        return cls(views, starts, lengths, num_items, row=row, rectangle=rectangle)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return views, the history of each, lengths, and the rectangle."""
        return self.views, self.row, self.lengths, self.rectangle

    @property
    def num_views(self) -> int:
        """The number of views in all histories."""
        return self.views.shape[0]

    @property
    def longest(self) -> int:
        """The number of views in the longest history; 0 if there are none."""
        return self.rectangle.shape[1]

    def flatten(self) -> tuple[Tensor, Tensor]:
        """Return the views, and the history that each belongs to; see `Histories.flatten`."""
        return self.views, self.row

    def padded(self) -> Tensor:
        """Return the histories as a rectangle; see `Histories.padded`."""
        return self.rectangle


def as_histories(histories: Any, items: Vocabulary) -> Histories:
    """Make `Histories` of whatever a user holds.

    Args:
        histories: `Histories` (for example ``log.contexts`` or ``log.sessions``); sequences of item *ids*, as a list
            or tuple of lists, tuples, arrays, tensors or Series, a pandas Series or object array of these, a polars
            Series or an Arrow array of lists; or an ``N x num_items`` matrix of view counts: a tensor or array of
            whole numbers or booleans, or a sparse one of SciPy or torch.
        items: the catalogue that ids are looked up in.

    Raises:
        ValueError: for an unknown or missing id, or one of another type (naming the history and the position), a
            catalogue of another size, or a count that is none (naming row and column).
        TypeError: for anything else.
    """
    num_items = len(items)
    if isinstance(histories, Histories):
        if histories.num_items != num_items:
            raise ValueError(f"histories: come from a catalogue of {histories.num_items} items, expected {num_items}")
        return histories
    if is_count_matrix(histories):
        return Histories.from_ragged(*from_count_matrix(histories, num_items))
    return Histories.from_ragged(*from_sequences(histories, items), num_items)
