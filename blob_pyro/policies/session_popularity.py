"""Session popularity, RecoGym's logging policy: mostly what the user viewed."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Histories, Vocabulary, as_candidates
from blob_pyro.ops.arguments import number_between
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks
from blob_pyro.policies.restricted import among, categorical
from blob_pyro.policies.slates import Contexts, TwoClassSlates

__all__ = ["SessionPopularity"]


class SessionPopularity(Policy):
    """Mostly what the user viewed, in proportion to how often; sometimes something else.

    With probability ``1 - epsilon`` an item of the history, in proportion to its views; with probability
    ``epsilon`` an item that is *not* in the history, uniformly. This is RecoGym's ``OrganicUserEventCounterAgent``
    with ``exploit_explore``, the logging policy of Sakhi et al. (2020, section 4.2.1). After an empty history every
    item is equally likely; where everything has been viewed there is nothing to explore. Of items that are no
    candidates it knows nothing: neither are they explored, nor is their share left over.

    Args:
        items: the catalogue, or its size.
        epsilon: probability of exploring, in [0, 1].

    Example:
        >>> SessionPopularity(4, epsilon=0.4).action_distribution([[0, 2, 2]]).probs
        tensor([[0.2000, 0.2000, 0.4000, 0.2000]])
    """

    def __init__(self, items: Vocabulary | int, epsilon: float = 0.3) -> None:
        super().__init__(items)
        self.epsilon = number_between(epsilon, "epsilon", 0, 1)

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
                return self._actions(part)
            slates = self._slates(Contexts(part, some.mask(where, part.device)), 1)
            return categorical(slates.next_probs(slates.mask()).to(torch.get_default_dtype()))

        return among(in_chunks(actions, history, self.num_items), some)

    def _actions(self, histories: Histories) -> TorchDistribution:
        (num_contexts, num_items), (item, row) = (len(histories), self.num_items), histories.flatten()
        cell, viewed = row * num_items + item, histories.lengths.to(torch.float64)
        counts = cell.new_zeros(num_contexts * num_items).scatter_add_(0, cell, torch.ones_like(cell))
        fresh = (num_items - counts.view(num_contexts, num_items).count_nonzero(-1)).to(torch.float64)  # not viewed
        explore = torch.where(viewed == 0, 1.0, torch.where(fresh == 0, 0.0, viewed.new_tensor(self.epsilon)))
        dtype = torch.get_default_dtype()
        probs = (explore / fresh.clamp(min=1)).to(dtype).unsqueeze(-1).repeat(1, num_items)
        share = (1 - explore).to(torch.float64).index_select(0, row) * counts.index_select(0, cell)
        share /= viewed.index_select(0, row)
        probs.view(-1).index_copy_(0, cell, share.to(dtype))  # an item viewed twice is written twice, with the same
        return categorical(probs)

    def _slates(self, contexts: Contexts, num_slots: int) -> TwoClassSlates:
        return TwoClassSlates(contexts.histories.counts(torch.float64), contexts.mask, num_slots, self.epsilon)

    def _scores(self, contexts: Contexts) -> Tensor:
        return contexts.histories.counts(torch.float64)
