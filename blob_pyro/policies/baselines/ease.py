"""A linear autoencoder of view counts in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories, as_histories
from blob_pyro.ops.arguments import positive_number
from blob_pyro.policies.baselines.sessions import count_matrix, sessions_of

__all__ = ["EASE"]


class EASE:
    """Scores items by a ridge regression of each item's views on those of all others (Steck 2019).

    With session counts ``X`` and ``C = (X'X + l2 I)^-1``, the weights are ``B = I - C / diag(C)``: the best linear map
    from ``X`` to itself whose diagonal is zero, so that no item explains itself.

    Args:
        sessions: a log with views, or its sessions as item numbers. ``P x P`` weights are held in memory.
        l2: strength of the ridge penalty, in squared views.

    Example:
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 1, 2, 2, 3], "time": [0, 1, 0, 1, 0], "item": list("ababc")}
        ... )
        >>> EASE(log, l2=1.0).scores([["a"]]).argmax(-1)
        tensor([1])
    """

    def __init__(self, sessions: EventLog | Histories, l2: float = 100.0) -> None:
        self.items, histories = sessions_of(sessions)
        positive_number(l2, "l2")
        counts = count_matrix(histories)
        gram = torch.from_numpy((counts.T @ counts).toarray())
        inverse = torch.linalg.inv(gram + l2 * torch.eye(len(gram), dtype=gram.dtype))
        weight = -inverse / inverse.diagonal()
        self.weight = weight.fill_diagonal_(0.0).to(histories.device, torch.get_default_dtype())

    def scores(self, histories: Histories | Any) -> Tensor:
        """Predict views of each item, ``N x P``; zero after an empty history."""
        return as_histories(histories, self.items).to(self.weight.device).sum_rows(self.weight)
