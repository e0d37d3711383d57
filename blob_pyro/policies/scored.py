"""Policies that rank by a model's score: greedy, epsilon-greedy, softmax."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Histories
from blob_pyro.ops.arguments import number_between, positive_number
from blob_pyro.policies.base import Policy, Scorer, categorical
from blob_pyro.policies.chunked import in_chunks, slice_covariates

__all__ = ["EpsilonGreedy", "Greedy", "Softmax"]


class _Scored(Policy):
    def __init__(self, model: Scorer) -> None:
        if isinstance(model, type) or not isinstance(model, Scorer):
            raise TypeError(
                f"model: expected a model with items and scores(histories), such as BLO or BLOB, got {model!r} "
                f"(a {type(model).__name__})"
            )
        super().__init__(model.items)
        self.model = model

    def action_distribution(self, histories: Histories | Any, covariates: Any = None) -> TorchDistribution:
        """See `Policy.action_distribution`; ``covariates`` are handed on to the model, if it asks for any."""
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        return in_chunks(lambda part, where: self._actions(part, rows(where)), history, self.num_items)

    def _actions(self, histories: Histories, covariates: Any) -> TorchDistribution:
        scores = self.model.scores(histories, *(() if covariates is None else (covariates,)))
        bad = scores.isnan() | (scores == float("inf"))
        if bad.any():
            context, item = (int(i) for i in bad.nonzero()[0])
            raise ValueError(
                f"scores: {type(self.model).__name__}.scores gave {scores[context, item].item()} for item number "
                f"{item} after history {context}; a score is finite, or -inf for what must not be played"
            )
        return categorical(self._probs(scores))

    @abstractmethod
    def _probs(self, scores: Tensor) -> Tensor:
        """``N x P`` probabilities from ``N x P`` scores."""


def _best(scores: Tensor) -> Tensor:
    """``N x P`` probabilities: the highest score takes all, ties share equally."""
    best = (scores == scores.amax(-1, keepdim=True)).to(scores.dtype)
    return best / best.sum(-1, keepdim=True)


class Greedy(_Scored):
    """The item with the highest score; ties share equally.

    Args:
        model: `blob_pyro.BLO`, `blob_pyro.BLOB`, a baseline, or anything with ``items`` and ``scores(histories)``.
    """

    def _probs(self, scores: Tensor) -> Tensor:
        return _best(scores)


class EpsilonGreedy(_Scored):
    """The best item with probability ``1 - epsilon``, else any item (the best one too) uniformly.

    Args:
        model: see `Greedy`.
        epsilon: probability of a uniform draw, in [0, 1].
    """

    def __init__(self, model: Scorer, epsilon: float = 0.1) -> None:
        super().__init__(model)
        self.epsilon = number_between(epsilon, "epsilon", 0, 1)

    def _probs(self, scores: Tensor) -> Tensor:
        return (1 - self.epsilon) * _best(scores) + self.epsilon / self.num_items


class Softmax(_Scored):
    """Items with probability proportional to ``exp(score / temperature)``.

    Args:
        model: see `Greedy`.
        temperature: positive, in the units of the score.
    """

    def __init__(self, model: Scorer, temperature: float = 1.0) -> None:
        super().__init__(model)
        self.temperature = positive_number(temperature, "temperature")

    def _probs(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores / self.temperature, -1)
