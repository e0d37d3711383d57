"""The uniform policy."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution

from blob_pyro.data import Histories
from blob_pyro.policies.base import Policy, categorical
from blob_pyro.policies.chunked import in_chunks

__all__ = ["Uniform"]


class Uniform(Policy):
    """Every item with probability ``1 / P``.

    Example:
        >>> Uniform(4).action_distribution([[0, 2]]).probs
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def action_distribution(self, histories: Histories | Any) -> TorchDistribution:
        """See `Policy.action_distribution`."""
        return in_chunks(self._actions, self.histories(histories), self.num_items)

    def _actions(self, histories: Histories, _: slice) -> TorchDistribution:
        row = categorical(torch.full((self.num_items,), 1 / self.num_items, device=histories.device))
        return row.expand((len(histories),))
