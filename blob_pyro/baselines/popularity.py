"""The same items for everyone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories, as_histories

__all__ = ["Popularity"]


class Popularity:
    """Scores an item by its organic views in a log, whatever the history.

    Args:
        log: a log with views.

    Example:
        >>> log = EventLog.from_tables(views={"user": [1, 1, 2], "time": [0, 1, 0], "item": ["mug", "tea", "tea"]})
        >>> Popularity(log).scores([["mug"]])
        tensor([[1., 2.]])
    """

    def __init__(self, log: EventLog) -> None:
        log.require_views()
        self.items = log.items
        self.views = torch.bincount(log.view_item, minlength=log.num_items).to(torch.get_default_dtype())

    def scores(self, histories: Histories | Any) -> Tensor:
        """``N x P`` view counts, one row as the other."""
        history = as_histories(histories, self.items)
        return self.views.to(history.device).expand(len(history), -1)
