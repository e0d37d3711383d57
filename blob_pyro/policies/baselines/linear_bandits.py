"""A ridge regression of clicks for every item: what `LinUCB` and `LinTS` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.ops.arguments import positive_number, whole_number

__all__ = ["Features", "RidgePerItem"]

Features = Callable[[Histories], Tensor]
"""From ``N`` histories to ``N x D`` numbers."""


class RidgePerItem:
    """A ridge regression per item: ``A = l2 I + sum x x'``, ``b = sum click x`` over impressions, ``theta = A^-1 b``.

    Args:
        items: the catalogue, or its size.
        features: of a history, such as `blob_pyro.policies.baselines.ViewFactors`.
        num_features: ``D``; ``P x D x D`` numbers are held in memory.
        l2: ridge penalty.
    """

    def __init__(self, items: Vocabulary | int, features: Features, num_features: int, l2: float = 1.0) -> None:
        if not callable(features):
            raise TypeError(f"features: expected a function from Histories to N x D numbers, got {features!r}")
        self.items = items if isinstance(items, Vocabulary) else Vocabulary.numbered(items)
        self.features, self.num_features = features, whole_number(num_features, "num_features")
        eye = torch.eye(num_features, dtype=torch.float64)
        self.precision = (positive_number(l2, "l2") * eye).repeat(len(self.items), 1, 1)
        self.response = torch.zeros(len(self.items), num_features, dtype=torch.float64)
        self.num_impressions = 0

    def update(self, log: EventLog) -> None:
        """Learn from new impressions, beside those known.

        Raises:
            TypeError: for what is no log.
            ValueError: for another catalogue, or no impressions.
        """
        if not isinstance(log, EventLog):
            raise TypeError(f"log: expected an EventLog with impressions, got {type(log).__name__}")
        if log.items != self.items:
            raise ValueError(f"log: has {log.num_items} items that are not this model's {len(self.items)}")
        log.require_impressions()
        context = self._features(log.contexts)
        order = log.action.argsort(stable=True)
        counts = torch.bincount(log.action, minlength=len(self.items))
        for item, rows in enumerate(order.split(counts.tolist())):
            x, click = context[log.context[rows]], log.reward[rows].to(torch.float64)
            self.precision[item] += x.mT @ x
            self.response[item] += click @ x
        self.num_impressions += log.num_impressions

    def predict(self, histories: Histories | Any) -> tuple[Tensor, Tensor]:
        """Predict ``x' theta`` and ``sqrt(x' A^-1 x)`` of every item, ``N x P`` float64 each.

        Raises:
            ValueError: if nothing has been learned yet.
        """
        if not self.num_impressions:
            raise ValueError("scores: nothing has been learned yet; call update(log) first")
        x = self._features(as_histories(histories, self.items))
        tril = torch.linalg.cholesky(self.precision)
        theta = torch.cholesky_solve(self.response.unsqueeze(-1), tril).squeeze(-1)
        whitened = torch.linalg.solve_triangular(tril, x.mT.expand(len(self.items), -1, -1), upper=False)  # P x D x N
        return x @ theta.mT, whitened.square().sum(1).sqrt().mT

    def _features(self, histories: Histories) -> Tensor:
        x = self.features(histories)
        wanted = (len(histories), self.num_features)
        if not isinstance(x, Tensor) or x.shape != wanted:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"features: expected a tensor {wanted}, one row a history, got {got}")
        return x.to("cpu", torch.float64)
