"""A policy that plays the largest of independent normal scores, with exact propensities that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Histories, Vocabulary, as_candidates
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks
from blob_pyro.policies.restricted import among, over_candidates
from blob_pyro.propensity import ArgmaxNormal

__all__ = ["NormalScores"]


class NormalScores(Policy):
    """Plays the item whose score is the largest in one draw of independent normal scores.

    Gradients of propensities pass to whatever locations and scales are computed from, so that such a policy can be
    trained by gradient ascent on an off-policy estimate of its value, such as `blob_pyro.ope.doubly_robust`.

    Args:
        items: the catalogue, or its size ``P``.
        scores: from ``N`` `blob_pyro.data.Histories` to locations and scales, ``N x P`` each: a function or a module.

    Raises:
        TypeError: for scores that cannot be called.
        ValueError: when it plays, for locations of another shape.

    Example:
        >>> import torch
        >>> weight = torch.tensor([0.5, 0.0, 0.0], requires_grad=True)
        >>> policy = NormalScores(3, lambda histories: (weight * histories.counts(), torch.ones(len(histories), 3)))
        >>> policy.action_distribution([[0, 0], []]).probs.detach()
        tensor([[0.6337, 0.1831, 0.1831],
                [0.3333, 0.3333, 0.3333]])
        >>> policy.action_distribution([[0, 0]]).probs[0, 0].backward()
        >>> weight.grad
        tensor([0.5786, 0.0000, 0.0000])
    """

    def __init__(self, items: Vocabulary | int, scores: Callable[[Histories], tuple[Tensor, Tensor]]) -> None:
        super().__init__(items)
        if not callable(scores):
            raise TypeError(f"scores: expected a function of Histories, got {type(scores).__name__}")
        self.normal_scores = scores

    def action_distribution(self, histories: Histories | Any, candidates: Any = None) -> TorchDistribution:
        """Return the distribution of the item played after each history, exact and differentiable.

        Args:
            histories: ``N`` of them.
            candidates: see `Policy.decide`: the best of the candidates is played; asking for the probability of
                another item is an error.
        """
        history = self.histories(histories)
        some = as_candidates(candidates, self.items, len(history))
        return among(in_chunks(over_candidates(self._actions, some), history, self.num_items), some)

    def _actions(self, histories: Histories, _: slice) -> ArgmaxNormal:
        loc, scale = self.normal_scores(histories)
        if loc.shape != (len(histories), self.num_items):
            raise ValueError(
                f"scores: gave locations of shape {tuple(loc.shape)}, expected {(len(histories), self.num_items)}"
            )
        return ArgmaxNormal(loc, scale.expand_as(loc))
