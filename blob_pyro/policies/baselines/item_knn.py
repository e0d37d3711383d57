"""Nearest neighbours among items: what is viewed in the same sessions is alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories

__all__ = ["ItemKNN", "SessionItemKNN"]


class ItemKNN:
    """Scores items by their correlation with the most recent item viewed (Sakhi et al. 2020, section 4.1).

    The correlation is that of view counts over sessions, with the identity added to the covariance "to prevent division
    by zero". The last item itself comes first: its correlation is one.

    Args:
        sessions: a log with views, or its sessions as item numbers. The ``P x P`` correlations are held in memory.

    Example:
        >>> log = EventLog.from_tables(views={"user": [1, 1, 2, 3], "time": [0, 1, 0, 0], "item": list("abcc")})
        >>> knn = ItemKNN(log)
        >>> knn.scores([["a"], []]).argmax(-1)  # nothing is known after an empty history: all scores are zero
        tensor([0, 0])
        >>> bool(knn.scores([["a"]])[0, 1] > knn.scores([["a"]])[0, 2])
        True
    """

    def __init__(self, sessions: EventLog | Histories) -> None:
        self.items, histories = _sessions(sessions)
        self.correlation = _correlation(_moments(histories, presence=False))

    def scores(self, histories: Histories | Any) -> Tensor:
        """``N x P`` correlations with each history's last item; zero after an empty one."""
        history = as_histories(histories, self.items).to(self.correlation.device)
        some = history.lengths > 0
        scores = self.correlation.new_zeros(len(history), len(self.items))
        scores[some] = self.correlation[history.items[(history.starts + history.lengths - 1)[some]]]
        return scores


class SessionItemKNN:
    """Scores items by their mean correlation with all items of the session (Sakhi et al. 2020, section 4.2.1).

    The correlation is that of presence in a session, however often viewed.

    Args:
        sessions: a log with views, or its sessions as item numbers.
    """

    def __init__(self, sessions: EventLog | Histories) -> None:
        self.items, histories = _sessions(sessions)
        self.correlation = _correlation(_moments(histories, presence=True))

    def scores(self, histories: Histories | Any) -> Tensor:
        """``N x P`` mean correlations with each history's distinct items; zero after an empty one."""
        history = as_histories(histories, self.items).to(self.correlation.device)
        present = _distinct(history)
        return present.sum_rows(self.correlation) / present.lengths.clamp(min=1).unsqueeze(-1)


def _sessions(sessions: EventLog | Histories) -> tuple[Vocabulary, Histories]:
    if isinstance(sessions, EventLog):
        sessions.require_views()
        return sessions.items, sessions.sessions
    if not isinstance(sessions, Histories):
        raise TypeError(f"sessions: expected an EventLog or its sessions as Histories, got {type(sessions).__name__}")
    if not len(sessions):
        raise ValueError("sessions: there are none, and correlations over none are not defined; pass at least one")
    return Vocabulary.numbered(sessions.num_items), sessions


def _distinct(histories: Histories) -> Histories:
    """Each history's items once, in the order of their numbers."""
    items, row = histories.flatten()
    cell = torch.unique(row * histories.num_items + items)
    lengths = torch.bincount(cell // histories.num_items, minlength=len(histories))
    return Histories.from_ragged(cell % histories.num_items, lengths, histories.num_items)


def _moments(histories: Histories, presence: bool) -> Tensor:
    """Covariance over sessions of the items' view counts (or presence), ``P x P``, from a sparse count matrix."""
    items, row = (t.cpu().numpy() for t in (_distinct(histories) if presence else histories).flatten())
    size = len(histories), histories.num_items
    counts = csr_array((np.ones(len(items)), (row, items)), shape=size)  # repeated cells add up
    mean = counts.sum(0) / size[0]
    covariance = (counts.T @ counts).toarray() / size[0] - np.outer(mean, mean)
    return torch.from_numpy(covariance).to(histories.device, torch.get_default_dtype())


def _correlation(covariance: Tensor) -> Tensor:
    covariance = covariance + torch.eye(len(covariance), device=covariance.device)
    scale = covariance.diagonal().rsqrt()
    return covariance * scale * scale.unsqueeze(-1)
