"""The uniform policy."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution

from blob_pyro.data import Histories, as_candidates
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks
from blob_pyro.policies.restricted import among, categorical
from blob_pyro.policies.slates import Contexts, EpsilonGreedySlates, Slates

__all__ = ["Uniform"]


class Uniform(Policy):
    """Every item with probability ``1 / P``, or every candidate of ``A`` with probability ``1 / A``.

    Example:
        >>> Uniform(4).action_distribution([[0, 2]]).probs
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def action_distribution(self, histories: Histories | Any, candidates: Any = None) -> TorchDistribution:
        """Return the distribution of the item played after each history; see `Policy.action_distribution`.

        Args:
            histories: ``N`` of them.
            candidates: see `Policy.decide`; asking for the probability of another item is an error.
        """
        history = self.histories(histories)
        some = as_candidates(candidates, self.items, len(history))

        def actions(part: Histories, where: slice) -> TorchDistribution:
            if some is None:
                row = categorical(torch.full((self.num_items,), 1 / self.num_items, device=part.device))
                return row.expand((len(part),))
            allowed = some.mask(where, part.device).to(torch.get_default_dtype())
            return categorical(allowed / allowed.sum(-1, keepdim=True))

        return among(in_chunks(actions, history, self.num_items), some)

    def _slates(self, contexts: Contexts, num_slots: int) -> Slates:
        equal = torch.where(contexts.mask, 0.0, -torch.inf)
        return EpsilonGreedySlates(equal, num_slots, 1.0, contexts.first)  # nothing but exploration
