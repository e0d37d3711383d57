"""Candidates: the items that a decision may choose among, as they are in stock or may be shown to a user."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from blob_pyro.data.columns import as_values
from blob_pyro.data.history_input import from_sequences
from blob_pyro.data.vocabulary import Vocabulary

__all__ = ["Candidates", "as_candidates"]

_SHAPE = (
    "expected ids that all contexts share, a sequence of ids for each context, or booleans: num_items of them, or "
    "contexts x num_items"
)
_NESTED = (list, Set, np.ndarray, Tensor, pd.Series, pa.Array, pa.ChunkedArray, pa.ListScalar, pa.LargeListScalar)


@dataclass(frozen=True)
class Candidates:
    """A set of items for each of ``N`` contexts, or one for all of them; no set is empty.

    Attributes:
        numbers: item numbers, one set after another, increasing in each; int64.
        sizes: items in each set: ``N``, or one where the set is shared; int64.
        num_contexts: ``N``.
        num_items: size ``P`` of the catalogue.
    """

    numbers: Tensor
    sizes: Tensor
    num_contexts: int
    num_items: int

    @property
    def shared(self) -> bool:
        """True where all contexts have the same set."""
        return len(self.sizes) != self.num_contexts or self.num_contexts == 1

    def mask(self, rows: slice, device: torch.device | None = None) -> Tensor:
        """Return the items that some of the contexts may choose, ``n x P`` booleans; one repeated row, where shared."""
        size = len(range(*rows.indices(self.num_contexts)))
        if self.shared:
            one = torch.zeros(self.num_items, dtype=torch.bool, device=device)
            one[self.numbers.to(device)] = True
            return one.expand(size, -1)
        ends = self.sizes.cumsum(0)
        sizes = self.sizes[rows]
        first = int(ends[rows.start] - sizes[0]) if size else 0
        numbers = self.numbers[first : first + int(sizes.sum())]
        mask = torch.zeros(size, self.num_items, dtype=torch.bool, device=device)
        mask[torch.arange(size).repeat_interleave(sizes).to(device), numbers.to(device)] = True
        return mask

    def outside(self, items: Tensor, rows: slice = slice(None)) -> Tensor:
        """Mark the items that are no candidates of the context that they stand in, booleans of the shape of ``items``.

        Args:
            items: item numbers, ``... x n``, one for each of some contexts.
            rows: which contexts; all by default.
        """
        known, at = self.numbers, items.cpu()
        if not self.shared:
            row = torch.arange(self.num_contexts)
            known = known + row.repeat_interleave(self.sizes) * self.num_items
            at = at + row[rows] * self.num_items
        place = torch.searchsorted(known, at.contiguous()).clamp(max=len(known) - 1)
        return (known[place] != at).to(items.device)

    def require(self, size: int, argument: str) -> None:
        """Refuse sets of fewer than ``size`` items.

        Raises:
            ValueError: naming the first such context.
        """
        short = self.sizes < size
        if bool(short.any()):
            row = int(short.nonzero()[0])
            which = "the candidates are" if self.shared else f"candidates[{row}] holds"
            raise ValueError(
                f"{argument}: {size} different items are asked for, and {which} {int(self.sizes[row])}; ask for fewer, "
                "or decide for these contexts by themselves"
            )


def as_candidates(candidates: Any, items: Vocabulary, num_contexts: int) -> Candidates | None:
    """Make `Candidates` of whatever a user holds; None, which is all items, stays None.

    Args:
        candidates: `Candidates`; ids that all contexts share (a list, set, array, tensor, Series or Arrow array); a
            collection of such, one for each context; or booleans, ``num_items`` of them or ``N x num_items``. What
            occurs twice in a set is in it.
        items: the catalogue that ids are looked up in.
        num_contexts: ``N``.

    Raises:
        ValueError: for an id that is unknown, missing or of another type, or a set that is empty, naming context and
            position; for another number of contexts or items.
        TypeError: for anything else.

    Example:
        >>> stock = as_candidates([["tea", "mug"], ["pot"]], Vocabulary(["tea", "mug", "pot"]), 2)
        >>> stock.mask(slice(0, 2)).tolist()
        [[True, True, False], [False, False, True]]
    """
    if candidates is None:
        return None
    num_items = len(items)
    if isinstance(candidates, Candidates):
        if candidates.num_items != num_items:
            raise ValueError(f"candidates: come from a catalogue of {candidates.num_items} items, expected {num_items}")
        _require_contexts(candidates.num_contexts, num_contexts)
        return candidates
    if isinstance(candidates, (str, bytes, dict, pd.DataFrame)):
        raise TypeError(f"candidates: {_SHAPE}; got a {type(candidates).__name__}")
    mask = _booleans(candidates)
    if mask is not None:
        return _of_mask(mask, num_contexts, num_items)
    nested = _is_nested(candidates, items)
    if nested is None:
        return _shared(items.encode(candidates, "candidates"), num_contexts, num_items)
    _require_contexts(len(nested), num_contexts)
    flat, lengths = from_sequences(nested, items, "candidates")
    empty = lengths == 0
    if bool(empty.any()):
        raise _empty(int(empty.nonzero()[0]))
    row = torch.arange(num_contexts).repeat_interleave(lengths)
    distinct = torch.unique(row * num_items + flat)
    sizes = torch.bincount(distinct // num_items, minlength=num_contexts)
    return Candidates(distinct % num_items, sizes, num_contexts, num_items)


def _shared(numbers: np.ndarray, num_contexts: int, num_items: int) -> Candidates:
    if not len(numbers):
        raise ValueError("candidates: there are none, and nothing can be chosen; pass None to choose among all items")
    distinct = torch.from_numpy(np.unique(numbers).astype(np.int64))
    return Candidates(distinct, torch.tensor([len(distinct)]), num_contexts, num_items)


def _of_mask(mask: Tensor, num_contexts: int, num_items: int) -> Candidates:
    if mask.dim() not in (1, 2) or mask.shape[-1] != num_items:
        raise ValueError(
            f"candidates: booleans must be {num_items} (num_items) or {num_contexts} x {num_items}, got shape "
            f"{tuple(mask.shape)}"
        )
    if mask.dim() == 1:
        return _shared(mask.nonzero().squeeze(-1).numpy(), num_contexts, num_items)
    _require_contexts(len(mask), num_contexts)
    sizes = mask.sum(-1)
    if bool((sizes == 0).any()):
        raise _empty(int((sizes == 0).nonzero()[0]))
    return Candidates(mask.nonzero()[:, 1], sizes, num_contexts, num_items)


def _require_contexts(found: int, num_contexts: int) -> None:
    if found != num_contexts:
        raise ValueError(f"candidates: there are {found} sets of them for {num_contexts} histories; pass one for each")


def _empty(row: int) -> ValueError:
    return ValueError(
        f"candidates[{row}]: is empty, and nothing can be chosen; leave this context out, or give it an item"
    )


def _booleans(candidates: Any) -> Tensor | None:
    """A matrix or vector of booleans; None for anything else."""
    if isinstance(candidates, Tensor):
        return candidates.detach().cpu() if candidates.dtype == torch.bool else None
    if isinstance(candidates, np.ndarray):
        return torch.from_numpy(np.array(candidates)) if candidates.dtype == np.bool_ else None
    if isinstance(candidates, pd.Series):
        plain = candidates.to_numpy()
        return torch.from_numpy(np.array(plain)) if plain.dtype == np.bool_ else None
    if isinstance(candidates, (list, tuple)) and len(candidates):
        first = candidates[0]
        if isinstance(first, (bool, np.bool_)) and all(isinstance(one, (bool, np.bool_)) for one in candidates):
            return torch.tensor(list(map(bool, candidates)))
        rows = [one if isinstance(one, list) else None for one in candidates]
        if all(row and all(type(one) is bool for one in row) for row in rows):
            lengths = {len(row) for row in rows if row is not None}
            if len(lengths) > 1:
                raise ValueError(f"candidates: rows of booleans have {min(lengths)} to {max(lengths)} entries")
            return torch.tensor(rows)
    return None


def _is_nested(candidates: Any, items: Vocabulary) -> Any:
    """The sets of each context, as something that has a length and is a sequence; None for ids of one shared set."""
    if isinstance(candidates, Tensor):
        return candidates.tolist() if candidates.dim() == 2 else None
    if isinstance(candidates, np.ndarray):
        if candidates.ndim == 2:
            return candidates.tolist()
        candidates = candidates.tolist() if candidates.dtype.kind == "O" else candidates
    if isinstance(candidates, Set):
        return None
    if not isinstance(candidates, Sequence):
        values = as_values(candidates, "candidates") if not isinstance(candidates, np.ndarray) else candidates
        if isinstance(values, pa.ChunkedArray):
            return values if pa.types.is_nested(values.type) and not pa.types.is_struct(values.type) else None
        candidates = values
    nested = _NESTED if tuple in set(map(type, items.ids[:1])) else (*_NESTED, tuple)
    if not any(isinstance(one, nested) and getattr(one, "ndim", 1) for one in candidates):
        return None
    return [list(one) if isinstance(one, Set) else one for one in candidates]
