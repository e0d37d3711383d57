"""Slates of items drawn without replacement in proportion to weights."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.policies.slates.base import RepeatableSlates, SequentialSlates, require_slots
from blob_pyro.propensity.kernels.plackett_luce import plackett_luce_rank_probs, relative_weights

__all__ = ["PlackettLuceSlates"]


class PlackettLuceSlates(SequentialSlates, RepeatableSlates):
    """Every slot holds one of the items that are left, in proportion to their weights (Luce 1959, Plackett 1975).

    Args:
        weight: ``n x P``, not negative; what has none is not shown.
        num_slots: ``L``.
        first: number of the first context, for errors.

    Raises:
        ValueError: for fewer items with a weight than slots, naming the context.
    """

    def __init__(self, weight: Tensor, num_slots: int, first: int = 0) -> None:
        super().__init__(num_slots, weight.shape[-1])
        self.weight = relative_weights(weight.to(torch.float64))
        require_slots(self.mask().sum(-1), num_slots, first, "the others have probability 0; ask for fewer slots")

    def repeated(self, kind: Tensor) -> PlackettLuceSlates:
        """Repeat contexts, each like one of these; see `RepeatableSlates.repeated`."""
        return PlackettLuceSlates(self.weight[kind], self.num_slots)

    def mask(self) -> Tensor:
        """Mark the items that may be chosen, ``n x P`` booleans; see `SequentialSlates.mask`."""
        return self.weight > 0

    def next_probs(self, left: Tensor) -> Tensor:
        """Return every item's probability to fill the next slot, not normalised."""
        return self.weight * left

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot; see `Slates.rank_probs`."""
        of_all = plackett_luce_rank_probs(self.weight, self.num_slots)
        return of_all.gather(1, items.unsqueeze(-1).expand(-1, -1, self.num_slots))
