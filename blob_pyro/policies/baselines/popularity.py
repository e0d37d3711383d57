"""The same items for everyone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories

__all__ = ["Popularity"]


class Popularity:
    """Scores an item by its organic views in a log, whatever the history.

    Args:
        log: a log with views, or its sessions as item numbers.

    Example:
        >>> log = EventLog.from_tables(views={"user": [1, 1, 2], "time": [0, 1, 0], "item": ["mug", "tea", "tea"]})
        >>> Popularity(log).scores([["mug"]])
        tensor([[1., 2.]])
    """

    def __init__(self, log: EventLog | Histories) -> None:
        if not isinstance(log, EventLog | Histories):
            raise TypeError(f"log: expected an EventLog or its sessions as Histories, got {type(log).__name__}")
        if isinstance(log, EventLog):
            log.require_views()
        self.items = log.items if isinstance(log, EventLog) else Vocabulary.numbered(log.num_items)
        viewed = log.view_item if isinstance(log, EventLog) else log.flatten()[0]
        self.views = torch.bincount(viewed, minlength=log.num_items).to(torch.get_default_dtype())

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return all users' view counts, ``N x P``, one row as the other."""
        history = as_histories(histories, self.items)
        return self.views.to(history.device).expand(len(history), -1)
