"""Slates of the best items that are left, with some exploration in every slot."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.policies.slates.base import SequentialSlates, require_slots

__all__ = ["EpsilonGreedySlates", "best_of"]

_FEW = 8  # items that are compared with all others one after another, rather than all sorted


def best_of(scores: Tensor) -> Tensor:
    """Return ``n x P`` probabilities: the highest score takes all, ties share equally."""
    best = (scores == scores.amax(-1, keepdim=True)).to(scores.dtype)
    return best / best.sum(-1, keepdim=True)


class EpsilonGreedySlates(SequentialSlates):
    """Every slot holds the best item that is left; with probability ``epsilon`` any that is left, uniformly.

    How likely an item is in a slot depends on how many better items there are, and on how many of these are gone: a
    Markov chain with a state for each slot above. Ties share equally, which is as if they were put into a random order
    beforehand: an item is then at each of the places of its tie with the same probability.

    Args:
        scores: ``n x P``; -inf for what is not shown.
        num_slots: ``L``.
        epsilon: in [0, 1].
        first: number of the first context, for errors.

    Raises:
        ValueError: for fewer items that may be shown than slots, naming the context.
    """

    def __init__(self, scores: Tensor, num_slots: int, epsilon: float, first: int = 0) -> None:
        super().__init__(num_slots, scores.shape[-1])
        self.scores, self.epsilon = scores, epsilon
        self.size = self.mask().sum(-1).to(torch.float64)
        require_slots(self.size, num_slots, first, "the others have a score of -inf; ask for fewer slots")

    def mask(self) -> Tensor:
        """Mark the items that may be chosen, ``n x P`` booleans; see `SequentialSlates.mask`."""
        return self.scores > -torch.inf

    def next_probs(self, left: Tensor) -> Tensor:
        """Return the probability of every item to fill the next slot; see `SequentialSlates.next_probs`."""
        best = best_of(self.scores.masked_fill(~left, -torch.inf).to(torch.float64))
        any_item = left.to(torch.float64)
        return (1 - self.epsilon) * best + self.epsilon * any_item / any_item.sum(-1, keepdim=True)

    def fill(self, uniform: Tensor) -> Tensor:
        """Fill slots by uniform numbers; see `SequentialSlates.fill`: without exploration they decide ties alone."""
        if self.epsilon > 0:
            return super().fill(uniform)
        top = self.scores.topk(min(self.num_slots + 1, self.num_items), -1)
        slates = top.indices[:, : self.num_slots]
        tied = (top.values[:, 1:] == top.values[:, :-1]).any(-1)
        if bool(tied.any()):
            some = EpsilonGreedySlates(self.scores[tied], self.num_slots, 0.0)
            slates = slates.index_put((tied,), SequentialSlates.fill(some, uniform[tied]))
        return slates

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot; see `Slates.rank_probs`."""
        score = self.scores.gather(1, items)
        if items.shape[1] <= _FEW:
            better = torch.stack([(self.scores > one[:, None]).sum(-1) for one in score.unbind(1)], 1)
            equal = torch.stack([(self.scores == one[:, None]).sum(-1) for one in score.unbind(1)], 1)
        else:
            ordered = self.scores.sort(-1).values
            above = torch.searchsorted(ordered, score, right=True)
            better = self.num_items - above
            equal = above - torch.searchsorted(ordered, score)
        place = torch.arange(self.num_slots, device=items.device)
        among = (place >= better.unsqueeze(-1)) & (place < (better + equal).unsqueeze(-1))
        early, late = self._by_place()
        probs = torch.einsum("ncj,njr->ncr", among.to(torch.float64), early)
        probs = probs + (equal - among.sum(-1)).unsqueeze(-1) * late.unsqueeze(1)
        return torch.where((score > -torch.inf).unsqueeze(-1), probs / equal.unsqueeze(-1), 0.0)

    def _by_place(self) -> tuple[Tensor, Tensor]:
        """Probability to be in each slot of the item with ``j`` better ones, ``n x L x L``; of others, ``n x L``."""
        slots, exploit = self.num_slots, self.size.new_tensor(1 - self.epsilon)
        place = torch.arange(slots, device=self.size.device)[:, None]
        gone = torch.arange(slots + 1, device=self.size.device)  # of the better ones
        waits = self.size.new_zeros(len(self.size), slots, slots + 1)  # not shown yet, and so many better ones are gone
        waits[..., 0] = 1
        out_of_reach = self.size.new_ones(len(self.size))
        early, late = [], []
        for slot in range(slots):
            explore = (self.epsilon / (self.size - slot))[:, None, None]
            mine = torch.where(place == gone, exploit, 0.0) + explore
            early.append((waits * mine).sum(-1))
            late.append(out_of_reach * explore.flatten())
            out_of_reach = out_of_reach - late[-1]
            ahead = (place - gone).clamp(min=0)
            a_better_one = torch.where(ahead > 0, exploit, 0.0) + explore * ahead
            worse = explore * (self.size[:, None, None] - slot - 1 - ahead).clamp(min=0)
            stays, moves = waits * worse, waits * a_better_one
            waits = stays + torch.nn.functional.pad(moves[..., :-1], (1, 0))
        return torch.stack(early, -1), torch.stack(late, -1)
