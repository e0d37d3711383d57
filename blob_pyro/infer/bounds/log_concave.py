"""The log-concavity bound."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blob_pyro.infer.bounds.bound import register_bound
from blob_pyro.infer.bounds.log_normalizers import log_concave, log_concave_offset
from blob_pyro.infer.bounds.sum_over_items import SumOverItems

__all__ = ["LogConcave"]


@register_bound("log_concave")
@dataclass(frozen=True)
class LogConcave(SumOverItems):
    """The log-concavity bound, ``log z <= phi z - log phi - 1`` (Sakhi et al. 2020, section 6.2). No sampling of omega.

    At the optimal ``phi`` and with all items it is Jensen's inequality, ``E log z <= log E z``.

    Args:
        num_negatives: as in `Bouchard`. With few of them the noise is that of an importance-sampled normaliser.
        offsets: ``-log phi`` of each session; as in `Bouchard`.
    """

    def _normalizer(self, mean: Tensor, variance: Tensor, offset: Tensor | None, weight: Tensor | None) -> Tensor:
        return log_concave(mean, variance, offset, weight)

    def _offset(self, mean: Tensor, variance: Tensor, weight: Tensor | None) -> Tensor:
        return log_concave_offset(mean, variance, weight)
