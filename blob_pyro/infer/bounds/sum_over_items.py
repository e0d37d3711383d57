"""Bounds whose normaliser is a sum over items: what Bouchard's and the log-concavity bound share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer.bounds.bound import Bound, draw_items, require_positive
from blob_pyro.infer.bounds.gaussian_logits import covariance_features, item_features
from blob_pyro.ops.row_chunks import in_row_chunks
from blob_pyro.ops.selection import distinct, is_among

__all__ = ["SumOverItems"]

Offsets = Callable[[Tensor, Tensor], Tensor]

OFFSET_ITEMS = 1024
"""Items that an offset is found from, at least: it needs no gradient, and what it is wrong by costs with its square."""


@dataclass(frozen=True)
class SumOverItems(Bound):
    """A bound whose normaliser is a sum over items of functions of the mean and variance of their logits."""

    num_negatives: int | None = None
    offsets: Offsets | None = None

    def __post_init__(self) -> None:
        require_positive(num_negatives=self.num_negatives)

    @property
    def module(self) -> nn.Module | None:
        """The network that gives the offsets, if there is one."""
        return self.offsets if isinstance(self.offsets, nn.Module) else None

    @abstractmethod
    def _normalizer(self, mean: Tensor, variance: Tensor, offset: Tensor | None, weight: Tensor | None) -> Tensor:
        """The bound on the log-normaliser, ``N``, at an offset or at its optimum: see `log_normalizers`."""

    @abstractmethod
    def _offset(self, mean: Tensor, variance: Tensor, weight: Tensor | None) -> Tensor:
        """The optimal offset, ``N``."""

    def expected_log_prob(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor:
        """Return the bound, in nats; see `Bound.expected_log_prob`."""
        features, offset = covariance_features(q), self._given_offset(views, q, value)
        psi, rho, weight = self._items(views, value, self.num_negatives)
        psi_features = item_features(psi, features.shape[-1])

        def normalizer(mean: Tensor, features: Tensor, *offset: Tensor) -> Tensor:
            distribution = torch.addmm(rho, mean, psi.mT), features @ psi_features.mT
            return self._normalizer(*distribution, offset[0] if offset else None, weight)

        given = () if offset is None else (offset,)
        count = (value >= 0).sum(-1)
        return views.linear(value, q.mean) - count * in_row_chunks(
            normalizer, q.mean, features, *given, width=4 * rho.shape[0]
        )

    @staticmethod
    def _items(views: SoftmaxViews, value: Tensor, num_negatives: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Psi, rho and how many items each row stands for: the whole catalogue, or what was viewed and a sample."""
        if num_negatives is None:
            return views.item_embedding, views.item_intercept, None
        # Shared by all sessions of the batch, so that they meet in one matrix product.
        viewed, drawn = views.viewed(value), draw_items(views, num_negatives)
        viewed, _, times = distinct(viewed, views.num_items)
        psi, rho = views.rows(torch.cat([viewed, drawn]))
        others = (views.num_items / num_negatives) * ~is_among(drawn, viewed)
        return psi, rho, torch.cat([(times > 0).to(rho), others.to(rho)])

    def _given_offset(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor | None:
        """The offset where it must not come from the items that it is used with; None to find the optimum there."""
        if self.offsets is not None:
            return self.offsets(q.mean, q.variance)
        if self.num_negatives is None:
            return None
        with torch.no_grad():  # an independent draw: the estimate stays unbiased for the bound at this offset
            number = max(self.num_negatives, OFFSET_ITEMS)
            psi, rho, weight = self._items(views, value, number if number < views.num_items else None)
            features = covariance_features(q)
            psi_features = item_features(psi, features.shape[-1])

            def offset(mean: Tensor, features: Tensor) -> Tensor:
                return self._offset(torch.addmm(rho, mean, psi.mT), features @ psi_features.mT, weight)

            return in_row_chunks(offset, q.mean, features, width=4 * rho.shape[0])
