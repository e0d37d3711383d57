"""Thompson sampling of a linear click rate."""

from __future__ import annotations

from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import EventLog, Histories, Vocabulary
from blob_pyro.ops.arguments import positive_number
from blob_pyro.policies.base import Policy
from blob_pyro.policies.baselines.linear_bandits import Features, RidgePerItem
from blob_pyro.policies.chunked import in_chunks
from blob_pyro.propensity import ArgmaxNormal

__all__ = ["LinTS"]


class LinTS(Policy):
    """Plays the item with the largest draw from ``Normal(x' theta_a, noise^2 x' A_a^-1 x)`` (Agrawal & Goyal 2013).

    Items have models of their own, so their draws are independent and propensities exact. ``Greedy(policy)`` ranks by
    the means.

    Args:
        items: the catalogue, or its size.
        features: of a history, such as `blob_pyro.policies.baselines.ViewFactors`.
        num_features: ``D``.
        noise: standard deviation of a click given the features; with click rates near .01 it is about .1.
        l2: ridge penalty: the prior of a weight has standard deviation ``noise / sqrt(l2)``.

    Example:
        >>> import torch
        >>> log = EventLog.from_tables(
        ...     impressions={"user": [1, 2, 3], "time": [0] * 3, "action": [0, 0, 1], "reward": [1, 0, 0]}, num_items=2
        ... )
        >>> policy = LinTS(2, lambda histories: torch.ones(len(histories), 1), 1, noise=0.5)
        >>> policy.update(log)
        >>> policy.action_distribution([[]]).probs  # of two normals
        tensor([[0.7674, 0.2326]], dtype=torch.float64)
    """

    def __init__(
        self, items: Vocabulary | int, features: Features, num_features: int, noise: float = 0.1, l2: float = 1.0
    ) -> None:
        super().__init__(items)
        self.ridge = RidgePerItem(self.items, features, num_features, l2)
        self.noise = positive_number(noise, "noise")

    def update(self, log: EventLog) -> None:
        """Learn from the impressions of a log; see `RidgePerItem.update`."""
        self.ridge.update(log)

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the mean click rates, ``N x P`` float64; ValueError before any `update`."""
        return self.ridge.predict(self.histories(histories))[0]

    def action_distribution(self, histories: Histories | Any) -> TorchDistribution:
        """Return the distribution of the item played after each history; see `Policy.action_distribution`."""
        return in_chunks(self._actions, self.histories(histories), self.num_items)

    def _actions(self, histories: Histories, _: slice) -> ArgmaxNormal:
        mean, spread = self.ridge.predict(histories)
        return ArgmaxNormal(mean, self.noise * spread)
