"""Nearest neighbours among items: what is viewed in the same sessions is alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories, as_histories
from blob_pyro.policies.baselines.sessions import count_matrix, distinct, sessions_of

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
        self.items, histories = sessions_of(sessions)
        self.correlation = _correlation(_moments(histories, presence=False))

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return correlations with each history's last item, ``N x P``; zero after an empty one."""
        history = as_histories(histories, self.items).to(self.correlation.device)
        some = history.lengths > 0
        scores = self.correlation.new_zeros(len(history), len(self.items))
        scores[some] = self.correlation[history.views[(history.starts + history.lengths - 1)[some]]]
        return scores


class SessionItemKNN:
    """Scores items by their mean correlation with all items of the session (Sakhi et al. 2020, section 4.2.1).

    The correlation is that of presence in a session, however often viewed.

    Args:
        sessions: a log with views, or its sessions as item numbers.
    """

    def __init__(self, sessions: EventLog | Histories) -> None:
        self.items, histories = sessions_of(sessions)
        self.correlation = _correlation(_moments(histories, presence=True))

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return mean correlations with each history's distinct items, ``N x P``; zero after an empty one."""
        history = as_histories(histories, self.items).to(self.correlation.device)
        present = distinct(history)
        return present.sum_rows(self.correlation) / present.lengths.clamp(min=1).unsqueeze(-1)


def _moments(histories: Histories, presence: bool) -> Tensor:
    """Covariance over sessions of the items' view counts (or presence), ``P x P``, from a sparse count matrix."""
    counts = count_matrix(distinct(histories) if presence else histories)
    size = counts.shape
    mean = counts.sum(0) / size[0]
    covariance = (counts.T @ counts).toarray() / size[0] - np.outer(mean, mean)
    return torch.from_numpy(covariance).to(histories.device, torch.get_default_dtype())


def _correlation(covariance: Tensor) -> Tensor:
    covariance = covariance + torch.eye(len(covariance), device=covariance.device)
    scale = covariance.diagonal().rsqrt()
    return covariance * scale * scale.unsqueeze(-1)
