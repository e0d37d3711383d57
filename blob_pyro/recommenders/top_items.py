"""The items with the highest scores after each history, as a frame of ids, a few histories at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from blob_pyro.data import Histories, Vocabulary, as_candidates, as_histories
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.row_chunks import MAX_ELEMENTS

__all__ = ["at_most", "found_items", "top_items"]

_HISTORIES_AT_ONCE = 1 << 12


def top_items(
    scores: Callable[[Histories, slice], Tensor], items: Vocabulary, histories: Any, k: int, candidates: Any
) -> pd.DataFrame:
    """Find the ``k`` items with the highest scores after each history; see `blob_pyro.BLOB.recommend`.

    Args:
        scores: of some histories, and which of them these are: ``n x P``.
        items: the catalogue.
        histories: ``N``, in any form that `blob_pyro.data.as_histories` takes.
        k: how many, at most as many as there are items.
        candidates: see `blob_pyro.data.as_candidates`.

    Raises:
        ValueError: naming argument and row.
    """
    k = at_most(k, items)
    history = as_histories(histories, items)
    some = as_candidates(candidates, items, len(history))
    size = max(1, MAX_ELEMENTS // len(items))
    found = [(torch.zeros(0, k), torch.zeros(0, k, dtype=torch.int64))]
    for start in range(0, len(history), size):
        rows = slice(start, min(start + size, len(history)))
        with torch.no_grad():
            score = scores(history[rows], rows)
            if some is not None:
                score = score.masked_fill(~some.mask(rows, score.device), -torch.inf)
            top = score.topk(k, -1)
        found.append((top.values.cpu(), top.indices.cpu()))
    return _frame(found, items)


def at_most(k: Any, items: Vocabulary) -> int:
    """Check how many items are asked for."""
    number: int = whole_number(k, "k")
    if number > len(items):
        raise ValueError(f"k: must lie between 1 and num_items={len(items)}, got {k}")
    return number


def found_items(
    find: Callable[[Histories], tuple[Tensor, Tensor]], items: Vocabulary, histories: Histories
) -> pd.DataFrame:
    """Put what is found for each history into a frame, as `top_items`, a few thousand histories at a time.

    Args:
        find: from ``n`` histories to scores in falling order and item numbers, ``n x k`` each.
        items: the catalogue.
        histories: ``N``.
    """
    parts = [slice(start, start + _HISTORIES_AT_ONCE) for start in range(0, max(1, len(histories)), _HISTORIES_AT_ONCE)]
    with torch.no_grad():
        return _frame([tuple(t.cpu() for t in find(histories[part])) for part in parts], items)


def _frame(found: Sequence[tuple[Tensor, ...]], items: Vocabulary) -> pd.DataFrame:
    score, item = (torch.cat(parts) for parts in zip(*found))
    shown = (score > -torch.inf).numpy()  # fewer than k, where there are fewer candidates
    context, rank = np.nonzero(shown)
    return pd.DataFrame(
        {
            "history": context,
            "rank": rank + 1,
            "item": items.column(item.numpy()[shown]),
            "score": score.numpy()[shown].astype(np.float64),
        }
    )
