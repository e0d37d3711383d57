"""Thompson sampling from a Bayesian logistic regression on features of the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import EventLog, Histories, Vocabulary, as_candidates
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks
from blob_pyro.policies.logistic_regression import BayesianLogisticRegression
from blob_pyro.policies.restricted import among, over_candidates

__all__ = ["LogisticThompsonSampling"]


class LogisticThompsonSampling(Policy):
    """Plays each item with the probability that its logit is the largest, under a logistic regression's posterior.

    It is a model, too: ``Greedy(policy)`` ranks by its mean logits, and `blob_pyro.ope.evaluate` takes it as a reward
    model. For contexts that are no view histories use `blob_pyro.policies.BayesianLogisticRegression` by itself.

    Args:
        items: the catalogue, or its size ``P``.
        features: from ``N`` `blob_pyro.data.Histories` to features: ``N x D`` of the context, where each item has
            weights of its own (``regression.num_actions`` is ``P``); ``N x P x D`` of context and item, where they are
            shared (``num_actions`` is None).
        regression: what is known of the weights; `update` changes it in place.

    Raises:
        ValueError: for a regression over another number of actions.
        TypeError: for features that are no function, or what is no regression.

    Example:
        >>> def features(histories):
        ...     return torch.cat([torch.ones(len(histories), 1), histories.counts()], -1)
        >>> policy = LogisticThompsonSampling(3, features, BayesianLogisticRegression(num_features=4, num_actions=3))
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 1, 2], "time": [0, 1, 0], "item": [0, 1, 2]},
        ...     impressions={"user": [1, 2], "time": [2, 3], "action": [0, 1], "reward": [1, 0]},
        ...     num_items=3,
        ... )
        >>> policy.update(log)
        >>> policy.action_distribution([[0, 1], []]).probs.argmax(-1)
        tensor([0, 0])
    """

    def __init__(
        self,
        items: Vocabulary | int,
        features: Callable[[Histories], Tensor],
        regression: BayesianLogisticRegression,
    ) -> None:
        super().__init__(items)
        if not callable(features):
            raise TypeError(f"features: expected a function of Histories, got {type(features).__name__}")
        if not isinstance(regression, BayesianLogisticRegression):
            raise TypeError(f"regression: expected a BayesianLogisticRegression, got {type(regression).__name__}")
        if regression.num_actions not in (None, self.num_items):
            raise ValueError(
                f"regression: has {regression.num_actions} actions, expected {self.num_items}, one per item, or None "
                "for shared weights"
            )
        self.features, self.regression = features, regression

    def update(self, log: EventLog) -> None:
        """Take all impressions of a log into account, as one batch: what is known so far is the prior.

        Args:
            log: impressions that the regression has not seen, over this policy's catalogue.

        Raises:
            ValueError: for a log without impressions or of another catalogue, or features that do not fit.
        """
        log.require_impressions()
        if log.items != self.items:
            raise ValueError(f"log: is over {log.items}, expected this policy's {self.items}")
        if self.regression.num_actions is not None:
            features = self._features(log.contexts)[log.context.to(self._device)]
            return self.regression.update(features, log.reward, log.action)
        order = torch.argsort(log.context, stable=True)
        played, step = [], self._contexts_at_once()
        for start in range(0, len(log.contexts), step):
            part = self._features(log.contexts[start : start + step])
            mine = order[(log.context[order] >= start) & (log.context[order] < start + step)]
            played.append(part[(log.context[mine] - start).to(part.device), log.action[mine].to(part.device)])
        return self.regression.update(torch.cat(played), log.reward[order])

    def action_distribution(self, histories: Histories | Any, candidates: Any = None) -> TorchDistribution:
        """Return the distribution of the item played; exact where each item has weights of its own.

        Args:
            histories: ``N`` of them.
            candidates: see `Policy.decide`: the best of the candidates is played; asking for the probability of
                another item is an error.
        """
        history = self.histories(histories)
        some = as_candidates(candidates, self.items, len(history))
        at_once = self._contexts_at_once() * self.num_items
        return among(in_chunks(over_candidates(self._actions, some), history, self.num_items, at_once), some)

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the mean logits of all items, ``N x P``."""
        return self.regression.logits(self._features(self.histories(histories)))[0]

    def click_probabilities(self, histories: Histories | Any) -> Tensor:
        """Return the click probabilities averaged over the posterior, ``N x P``."""
        return self.regression.click_probabilities(self._features(self.histories(histories)))

    def _actions(self, histories: Histories, _: slice) -> TorchDistribution:
        return self.regression.action_distribution(self._features(histories))

    def _features(self, histories: Histories) -> Tensor:
        with torch.no_grad():
            x = torch.as_tensor(self.features(histories))
        of_items = () if self.regression.num_actions is not None else (self.num_items,)
        expected = (len(histories), *of_items, self.regression.num_features)
        if x.shape != expected:
            raise ValueError(
                f"features: gave shape {tuple(x.shape)} for {len(histories)} histories, expected {expected}"
            )
        return x.to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.regression.loc.device

    def _contexts_at_once(self) -> int:
        """So many contexts that their features, or their probabilities, are no large matrix."""
        width = self.num_items * (1 if self.regression.num_actions is not None else self.regression.num_features)
        return max(1, MAX_ELEMENTS // width)
