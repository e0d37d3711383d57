"""Bouchard's bound on the log-normaliser."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blob_pyro.infer.bounds.bound import register_bound
from blob_pyro.infer.bounds.log_normalizers import bouchard, bouchard_offset
from blob_pyro.infer.bounds.sum_over_items import SumOverItems

__all__ = ["Bouchard"]


@register_bound("bouchard")
@dataclass(frozen=True)
class Bouchard(SumOverItems):
    """Bouchard's bound (Sakhi et al. 2020, section 6.1): a sum over items, quadratic in omega. No sampling of omega.

    Args:
        num_negatives: estimate the sum over the catalogue from the items that the batch has viewed, which are likely
            and weigh most, and so many others, drawn uniformly at each step; None to take all items. The cost of a step
            is then free of ``P``.
        offsets: the variational parameter ``a`` of each session as a function of the posterior's mean and variance
            (both ``B x K``): see `blob_pyro.guides.OffsetNetwork`. None for the optimum of each session, found from
            all items where nothing is sampled or there are up to 1,024; otherwise from those viewed and as many others
            (``python benchmarks/offsets.py`` says what that costs). The variational parameters ``xi`` are always
            optimal.

    Example:
        >>> from blob_pyro import BLO
        >>> blo = BLO(num_items=1000, embedding_dim=8, bound=Bouchard(num_negatives=64))
    """

    def _normalizer(self, mean: Tensor, variance: Tensor, offset: Tensor | None, weight: Tensor | None) -> Tensor:
        offset = bouchard_offset(mean, variance, weight) if offset is None else offset
        return bouchard(mean, variance, offset, weight)

    def _offset(self, mean: Tensor, variance: Tensor, weight: Tensor | None) -> Tensor:
        return bouchard_offset(mean, variance, weight)
