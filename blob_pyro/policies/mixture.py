"""Several policies, one of which is picked at random for each decision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution

from blob_pyro.data import Histories, Vocabulary, as_candidates
from blob_pyro.data.covariates import slice_covariates
from blob_pyro.ops.arguments import number_between
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks
from blob_pyro.policies.restricted import among, categorical
from blob_pyro.policies.slates import Contexts, MixtureSlates, Slates

__all__ = ["Mixture"]

_ROUNDING = 1e-6


class Mixture(Policy):
    """Plays one of several policies, picked at random for each decision: a share of traffic, a floor under exploration.

    Its propensities are the weighted sums of those of its policies, whichever of them it was that acted: as exact as
    theirs. In several slots the whole slate is one policy's.

    Args:
        policies: one or more, over the same catalogue.
        weights: probabilities of the policies, which sum to 1; equal by default. A policy of weight 0 is never played.

    Raises:
        TypeError: for what is no policy, or no number.
        ValueError: for no policies, policies over different catalogues, or weights that are no probabilities.

    Example:
        >>> from blob_pyro.policies import SessionPopularity, Uniform
        >>> Mixture([SessionPopularity(3, 0.0), Uniform(3)], [0.75, 0.25]).action_distribution([[2]]).probs
        tensor([[0.0833, 0.0833, 0.8333]], dtype=torch.float64)
    """

    _catalogue_of = "policies"

    def __init__(self, policies: Sequence[Policy], weights: Iterable[float] | None = None) -> None:
        if isinstance(policies, Policy) or not isinstance(policies, Sequence):
            raise TypeError(f"policies: expected a list of policies, got a {type(policies).__name__}")
        if not policies:
            raise ValueError("policies: there are none; pass one at least")
        for number, policy in enumerate(policies):
            if not isinstance(policy, Policy):
                raise TypeError(f"policies[{number}]: expected a Policy, got {policy!r} (a {type(policy).__name__})")
            if policy.items != policies[0].items:
                raise ValueError(
                    f"policies[{number}]: is over {policy.items!r}, and policies[0] over {policies[0].items!r}; build "
                    "them for one catalogue"
                )
        super().__init__(policies[0].items)
        self.policies = tuple(policies)
        self.weights = _weights(weights, len(policies))

    def _followed(self, known: Vocabulary, owner: Any) -> Vocabulary:
        first, *others = (policy.items for policy in owner)
        for number, items in enumerate(others, 1):
            if items is not first and items != first:
                raise ValueError(
                    f"policies[{number}]: is over {items!r} by now, and policies[0] over {first!r}; make it anew"
                )
        return known if first == known else first

    def __repr__(self) -> str:
        parts = ", ".join(f"{w:g} {p!r}" for w, p in zip(self.weights, self.policies, strict=True))
        return f"Mixture({parts})"

    def action_distribution(
        self, histories: Histories | Any, covariates: Any = None, candidates: Any = None
    ) -> TorchDistribution:
        """Return the distribution of the item played after each history; see `Policy.action_distribution`.

        Args:
            histories: ``N`` of them.
            covariates: handed on to the policies.
            candidates: see `Policy.decide`; asking for the probability of another item is an error.
        """
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        some = as_candidates(candidates, self.items, len(history))

        def actions(part: Histories, where: slice) -> TorchDistribution:
            allowed = None if some is None else some.mask(where, part.device)
            slates = self._slates(Contexts(part, allowed, rows(where), where.start), 1)
            every = torch.arange(self.num_items, device=part.device).expand(len(part), -1)
            return categorical(slates.rank_probs(every).squeeze(-1))

        return among(in_chunks(actions, history, self.num_items), some)

    def _slates(self, contexts: Contexts, num_slots: int) -> Slates:
        played = [(p, w) for p, w in zip(self.policies, self.weights, strict=True) if w]
        return MixtureSlates([p._slates(contexts, num_slots) for p, _ in played], [w for _, w in played])


def _weights(weights: Any, size: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / size,) * size
    if isinstance(weights, (str, bytes, dict)) or not isinstance(weights, Iterable):
        raise TypeError(f"weights: expected a number for each policy, got {weights!r}")
    given = [
        number_between(w.item() if hasattr(w, "item") else w, f"weights[{n}]", 0, 1) for n, w in enumerate(weights)
    ]
    if len(given) != size:
        raise ValueError(f"weights: there are {len(given)} for {size} policies; pass one for each")
    total = sum(given)
    if abs(total - 1) > _ROUNDING:
        raise ValueError(f"weights: must sum to 1, and sum to {total:g}; divide them by their sum")
    return tuple(w / total for w in given)
