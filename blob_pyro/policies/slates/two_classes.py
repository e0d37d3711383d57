"""Slates of two classes of items: mostly the first, in proportion to weights; sometimes the second, uniformly."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.policies.slates.base import SequentialSlates
from blob_pyro.propensity.kernels.plackett_luce import plackett_luce_rank_probs

__all__ = ["TwoClassSlates"]


class TwoClassSlates(SequentialSlates):
    """Every slot exploits with probability ``1 - epsilon`` and explores otherwise; an empty class leaves no choice.

    Exploiting shows an item with a weight, in proportion to the weights of those that are left; exploring shows one of
    the others that are left, uniformly. Which of the two a slot does depends on how many of each are left, and on
    nothing else about them: the slots are a Markov chain, and who is the k-th of a class is independent of it.

    Args:
        weight: ``n x P`` not negative.
        allowed: ``n x P`` booleans, which items may be shown; of these there are ``num_slots`` at least.
        num_slots: ``L``.
        epsilon: in [0, 1].
    """

    def __init__(self, weight: Tensor, allowed: Tensor, num_slots: int, epsilon: float) -> None:
        super().__init__(num_slots, weight.shape[-1])
        self.weight = weight.to(torch.float64) * allowed
        self.allowed, self.epsilon = allowed, epsilon

    def mask(self) -> Tensor:
        """Mark the items that may be chosen, ``n x P`` booleans; see `SequentialSlates.mask`."""
        return self.allowed

    def next_probs(self, left: Tensor) -> Tensor:
        """Return the probability of every item to fill the next slot; see `SequentialSlates.next_probs`."""
        weight, others = self.weight * left, (left & (self.weight == 0)).to(torch.float64)
        exploit, explore = weight.sum(-1, keepdim=True), others.sum(-1, keepdim=True)
        epsilon = self._epsilon(exploit, explore)
        return (1 - epsilon) * weight / exploit.clamp(min=1e-300) + epsilon * others / explore.clamp(min=1)

    def _epsilon(self, exploit: Tensor, explore: Tensor) -> Tensor:
        """Probability of exploring, where so much is left of each class."""
        epsilon = torch.tensor(self.epsilon, dtype=torch.float64, device=explore.device)
        return torch.where(exploit <= 0, 1.0, torch.where(explore <= 0, 0.0, epsilon))

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot; see `Slates.rank_probs`."""
        weighted = self.weight > 0
        others = (self.allowed & ~weighted).sum(-1).to(torch.float64)
        exploits, explores = self._turns(weighted.sum(-1).to(torch.float64), others)
        some = torch.where(weighted.any(-1, keepdim=True), self.weight, self.allowed.to(torch.float64))
        order = plackett_luce_rank_probs(some, self.num_slots)  # P(item is the k-th of those with a weight)
        order = order.gather(1, items.unsqueeze(-1).expand(-1, -1, self.num_slots))
        exploited = torch.einsum("nck,nkr->ncr", order, exploits)
        explored = explores.unsqueeze(1) / others.clamp(min=1)[:, None, None]
        probs = torch.where(weighted.gather(1, items).unsqueeze(-1), exploited, explored)
        return probs * self.allowed.gather(1, items).unsqueeze(-1)

    def _turns(self, weighted: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """P(slot r shows the k-th item with a weight), ``n x L x L`` (k, r); P(slot r explores), ``n x L``."""
        shown = torch.arange(self.num_slots + 1, device=weighted.device)  # with a weight, so far
        state = weighted.new_zeros(len(weighted), self.num_slots + 1)
        state[:, 0] = 1
        exploits, explores = [], []
        for slot in range(self.num_slots):
            epsilon = self._epsilon(weighted[:, None] - shown, others[:, None] - (slot - shown))
            exploit, explore = state * (1 - epsilon), state * epsilon
            exploits.append(exploit[:, :-1])
            explores.append(explore.sum(-1))
            state = explore + torch.nn.functional.pad(exploit[:, :-1], (1, 0))
        return torch.stack(exploits, -1), torch.stack(explores, -1)
