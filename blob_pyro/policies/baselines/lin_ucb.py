"""Upper confidence bounds of a linear click rate."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blob_pyro.data import EventLog, Histories, Vocabulary
from blob_pyro.ops.arguments import number_between
from blob_pyro.policies.baselines.linear_bandits import Features, RidgePerItem

__all__ = ["LinUCB"]


class LinUCB:
    """Scores items by ``x' theta_a + alpha sqrt(x' A_a^-1 x)`` (Li et al. 2010, algorithm 1: disjoint models).

    Args:
        items: the catalogue, or its size.
        features: of a history, such as `blob_pyro.policies.baselines.ViewFactors`.
        num_features: ``D``.
        alpha: how many times ``sqrt(x' A_a^-1 x)`` is added, 0 or more. In units of a click whose standard deviation
            is 1: with click rates near .01 it is about .1.
        l2: ridge penalty.

    Example:
        >>> import torch
        >>> log = EventLog.from_tables(
        ...     impressions={"user": [1, 2, 3], "time": [0] * 3, "action": [0, 0, 1], "reward": [1, 0, 0]}, num_items=3
        ... )
        >>> model = LinUCB(3, lambda histories: torch.ones(len(histories), 1), 1, alpha=1.0)
        >>> model.update(log)
        >>> model.scores([[]])  # 1/3 + sqrt(1/3), 0 + sqrt(1/2), and 1 for what was never shown
        tensor([[0.9107, 0.7071, 1.0000]], dtype=torch.float64)
    """

    def __init__(
        self, items: Vocabulary | int, features: Features, num_features: int, alpha: float = 0.1, l2: float = 1.0
    ) -> None:
        self.ridge = RidgePerItem(items, features, num_features, l2)
        self.items = self.ridge.items
        self.alpha = number_between(alpha, "alpha", 0, float("inf"))

    def update(self, log: EventLog) -> None:
        """Learn from the impressions of a log; see `RidgePerItem.update`."""
        self.ridge.update(log)

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the upper confidence bounds, ``N x P`` float64; ValueError before any `update`."""
        mean, spread = self.ridge.predict(histories)
        return mean + self.alpha * spread
