"""Top-two Thompson sampling: the best item of one posterior draw, or the best of another draw that differs."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Histories, as_candidates
from blob_pyro.data.covariates import slice_covariates
from blob_pyro.ops.arguments import number_between
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks
from blob_pyro.policies.restricted import among, categorical
from blob_pyro.policies.slates import Contexts, slates_of
from blob_pyro.policies.slates.base import RepeatableSlates
from blob_pyro.policies.thompson import ThompsonSampling

__all__ = ["TopTwoThompsonSampling", "top_two"]


class TopTwoThompsonSampling(Policy):
    r"""Plays the leader of a posterior draw, or a challenger: the first further draw's best item that is another one.

    Russo (2016, *Simple Bayesian algorithms for best arm identification*): with ``alpha_a`` the probability that ``a``
    is best, the leader is played with probability ``beta``, and an action has probability

    .. math:: p_a = \alpha_a \Big(\beta + (1 - \beta) \sum_{b \ne a} \frac{\alpha_b}{1 - \alpha_b}\Big).

    Thompson sampling spends most plays on what it believes in already; this explores on where that is all but settled.
    Where one item is best for certain there is no challenger, and it is played.

    Args:
        thompson: whose draws these are. Propensities are as exact as its own: of a mixture, ``shared_draws=M``, to
            rounding error; of full Thompson sampling they are estimates.
        beta: probability of playing the leader, in [0, 1]; 1 is Thompson sampling.

    Raises:
        TypeError: for something that is no `ThompsonSampling`.
        ValueError: for ``beta`` outside [0, 1].

    Example:
        >>> from blob_pyro.policies.top_two_thompson import top_two
        >>> top_two(torch.tensor([[0.9, 0.08, 0.02], [1.0, 0.0, 0.0]], dtype=torch.float64), 0.5).numpy().round(3)
        array([[0.498, 0.401, 0.101],
               [1.   , 0.   , 0.   ]])
    """

    _catalogue_of = "thompson"

    def __init__(self, thompson: ThompsonSampling, beta: float = 0.5) -> None:
        if not isinstance(thompson, ThompsonSampling):
            raise TypeError(f"thompson: expected a ThompsonSampling, got {thompson!r} (a {type(thompson).__name__})")
        super().__init__(thompson.items)
        self.thompson, self.beta = thompson, number_between(beta, "beta", 0, 1)

    def action_distribution(
        self, histories: Histories | Any, covariates: Any = None, candidates: Any = None
    ) -> TorchDistribution:
        """Return the distribution of the item played; see `Policy.action_distribution`.

        Args:
            histories: ``N`` of them.
            covariates: as `ThompsonSampling.action_distribution`.
            candidates: see `Policy.decide`; asking for the probability of another item is an error.
        """
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        some = as_candidates(candidates, self.items, len(history))

        def actions(part: Histories, where: slice) -> TorchDistribution:
            allowed = None if some is None else some.mask(where, part.device)
            best = self.thompson.action_distribution(part, rows(where), allowed)
            return categorical(top_two(best.probs.to(torch.float64), self.beta))

        return among(in_chunks(actions, history, self.num_items), some)

    def _slates_of(self, contexts: Contexts, num_slots: int) -> RepeatableSlates:
        """Leader and challenger are the best among the candidates, as in `action_distribution`."""
        actions = self.action_distribution(contexts.histories, contexts.covariates, contexts.allowed)
        return slates_of(actions, contexts, num_slots)

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return mean click logits, as the model's ``scores``: ``Greedy(policy)`` plays the best of them."""
        scores: Tensor = self.thompson.model.scores(self.histories(histories))  # type: ignore[attr-defined]
        return scores


def top_two(best: Tensor, beta: float) -> Tensor:
    """Compute probabilities of top-two sampling from those of being best, ``... x P``.

    Args:
        best: rows that sum to one.
        beta: probability of playing the leader.
    """
    leader = best.argmax(-1, keepdim=True)
    others = best.scatter(-1, leader, 0.0)
    rest = others.sum(-1, keepdim=True)  # 1 - best of the leader, without the cancellation
    odds = others / (1 - others)
    challenged = odds.sum(-1, keepdim=True)  # sum over all but the leader of alpha / (1 - alpha)
    first = best.gather(-1, leader)
    # Where nothing else can be best, alpha_a / rest tends to a share of nothing: the leader is played.
    lead = torch.where(rest > 0, first / rest.clamp(min=torch.finfo(best.dtype).tiny), 0.0)
    factor = (challenged - odds + lead).scatter(-1, leader, challenged)
    probs = best * (beta + (1 - beta) * factor)
    certain = torch.zeros_like(best).scatter(-1, leader, 1.0)
    return torch.where(rest > 0, probs / probs.sum(-1, keepdim=True).clamp(min=torch.finfo(best.dtype).tiny), certain)
