"""Policies that rank by a model's score: greedy, epsilon-greedy, softmax."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor

from blob_pyro.data import Histories, as_candidates
from blob_pyro.data.covariates import slice_covariates
from blob_pyro.ops.arguments import number_between, positive_number
from blob_pyro.policies.base import Policy, Scorer
from blob_pyro.policies.chunked import in_chunks
from blob_pyro.policies.restricted import among, categorical
from blob_pyro.policies.slates import Contexts, EpsilonGreedySlates, PlackettLuceSlates, Slates
from blob_pyro.policies.slates.epsilon_greedy import best_of

__all__ = ["EpsilonGreedy", "Greedy", "Softmax"]


class _Scored(Policy):
    _catalogue_of = "model"

    def __init__(self, model: Scorer) -> None:
        if isinstance(model, type) or not isinstance(model, Scorer):
            raise TypeError(
                f"model: expected a model with items and scores(histories), such as BLO or BLOB, got {model!r} "
                f"(a {type(model).__name__})"
            )
        super().__init__(model.items)
        self.model = model

    def action_distribution(
        self, histories: Histories | Any, covariates: Any = None, candidates: Any = None
    ) -> TorchDistribution:
        """See `Policy.action_distribution`.

        Args:
            histories: ``N`` of them.
            covariates: handed on to the model, if it asks for any.
            candidates: see `Policy.decide`; asking for the probability of another item is an error.
        """
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        some = as_candidates(candidates, self.items, len(history))

        def actions(part: Histories, where: slice) -> TorchDistribution:
            allowed = None if some is None else some.mask(where, part.device)
            scores = self._playable(Contexts(part, allowed, rows(where), where.start))
            return self._actions(scores)

        return among(in_chunks(actions, history, self.num_items), some)

    def _scores(self, contexts: Contexts) -> Tensor:
        more = () if contexts.covariates is None else (contexts.covariates,)
        scores = self.model.scores(contexts.histories, *more)
        if tuple(scores.shape) != (len(contexts), self.num_items):
            raise ValueError(
                f"scores: {type(self.model).__name__}.scores gave shape {tuple(scores.shape)}, expected "
                f"{(len(contexts), self.num_items)}, a number for each context and item"
            )
        bad = scores.isnan() | (scores == float("inf"))
        if bad.any():
            context, item = (int(i) for i in bad.nonzero()[0])
            raise ValueError(
                f"scores: {type(self.model).__name__}.scores gave {scores[context, item].item()} for item number "
                f"{item} after history {contexts.first + context}; a score is finite, or -inf for what must not be "
                "played"
            )
        return scores

    def _playable(self, contexts: Contexts) -> Tensor:
        """Scores, -inf for what is no candidate; every context has an item that may be played."""
        scores = self._scores(contexts)
        if contexts.allowed is not None:
            scores = scores.masked_fill(~contexts.allowed.to(scores.device), -torch.inf)
        nothing = (scores == -torch.inf).all(-1)
        if bool(nothing.any()):
            raise ValueError(
                f"scores: {type(self.model).__name__}.scores gave -inf for all items that may be played after history "
                f"{contexts.first + int(nothing.nonzero()[0])}; one of them at least must be finite"
            )
        return scores

    @abstractmethod
    def _actions(self, scores: Tensor) -> TorchDistribution:
        """The distribution from ``n x P`` scores, -inf for what is not played."""


class Greedy(_Scored):
    """The item with the highest score; ties share equally.

    Args:
        model: `blob_pyro.BLO`, `blob_pyro.BLOB`, a baseline, or anything with ``items`` and ``scores(histories)``.
    """

    def _actions(self, scores: Tensor) -> TorchDistribution:
        return categorical(best_of(scores))

    def _slates(self, contexts: Contexts, num_slots: int) -> Slates:
        return EpsilonGreedySlates(self._playable(contexts), num_slots, 0.0, contexts.first)


class EpsilonGreedy(_Scored):
    """The best item with probability ``1 - epsilon``, else any item (the best one too) uniformly.

    Any item that may be played: what is no candidate, or has a score of -inf, is not explored either.

    Args:
        model: see `Greedy`.
        epsilon: probability of a uniform draw, in [0, 1].
    """

    def __init__(self, model: Scorer, epsilon: float = 0.1) -> None:
        super().__init__(model)
        self.epsilon = number_between(epsilon, "epsilon", 0, 1)

    def _actions(self, scores: Tensor) -> TorchDistribution:
        any_item = (scores > -torch.inf).to(scores.dtype)
        explored = any_item / any_item.sum(-1, keepdim=True)
        return categorical((1 - self.epsilon) * best_of(scores) + self.epsilon * explored)

    def _slates(self, contexts: Contexts, num_slots: int) -> Slates:
        return EpsilonGreedySlates(self._playable(contexts), num_slots, self.epsilon, contexts.first)


class Softmax(_Scored):
    """Items with probability proportional to ``exp(score / temperature)``.

    Differentiable in the scores, where the model is, and in the temperature, where it is a tensor.

    Args:
        model: see `Greedy`.
        temperature: positive, in the units of the score.

    Example:
        >>> from blob_pyro.policies.baselines import SessionFrequency
        >>> temperature = torch.tensor(0.5, requires_grad=True)
        >>> actions = Softmax(SessionFrequency(2), temperature).action_distribution([[1]])
        >>> actions.log_prob(torch.tensor([1])).sum().backward()
        >>> actions.probs, temperature.grad
        (tensor([[0.1192, 0.8808]], grad_fn=<SoftmaxBackward0>), tensor(-0.4768))
    """

    def __init__(self, model: Scorer, temperature: float | Tensor = 1.0) -> None:
        super().__init__(model)
        if isinstance(temperature, Tensor) and temperature.dim() == 0:
            positive_number(float(temperature.detach()), "temperature")
            self.temperature: float | Tensor = temperature
        else:
            self.temperature = positive_number(temperature, "temperature")

    def _actions(self, scores: Tensor) -> TorchDistribution:
        # by logarithms: the smallest probabilities have derivatives, too
        return Categorical(logits=self._logits(scores), validate_args=None if len(scores) else False)

    def _logits(self, scores: Tensor) -> Tensor:
        possible = scores > -torch.inf
        relative = torch.where(possible, scores, 0.0) / self.temperature  # -inf has no derivative in the temperature
        return torch.log_softmax(relative.masked_fill(~possible, -torch.inf), -1)

    def _slates(self, contexts: Contexts, num_slots: int) -> Slates:
        with torch.no_grad():
            weight = self._logits(self._playable(contexts).to(torch.float64)).exp()
        return PlackettLuceSlates(weight, num_slots, contexts.first)
