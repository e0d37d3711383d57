"""The variational parameter of an analytic bound, amortised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["OffsetNetwork"]


class OffsetNetwork(nn.Module):
    """``a`` of `blob_pyro.infer.Bouchard`, or ``-log phi`` of `blob_pyro.infer.LogConcave`, for every session.

    The end of section 6.2 of Sakhi et al. (2020) amortises them by an auto-encoder of the views. Given Psi and rho the
    best value depends on the views only through the posterior of omega, so that is what this network reads: one
    layer of softplus units, since the log-normaliser that it tracks is a smooth convex function of the mean.

    Args:
        num_items: ``P``: where it starts is ``log P``, the offset of a catalogue of equals.
        embedding_dim: ``K``.
        num_hidden: units.

    Example:
        >>> from blob_pyro import BLO
        >>> from blob_pyro.infer import Bouchard
        >>> blo = BLO(1000, 8, bound=Bouchard(num_negatives=64, offsets=OffsetNetwork(1000, 8)))
    """

    def __init__(self, num_items: int, embedding_dim: int, num_hidden: int = 32) -> None:
        super().__init__()
        self.start = math.log(num_items)
        self.hidden = nn.Linear(2 * embedding_dim, num_hidden)
        self.offset = nn.Linear(num_hidden, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh start at ``log P``."""
        self.hidden.reset_parameters()
        nn.init.zeros_(self.offset.weight)
        nn.init.constant_(self.offset.bias, self.start)

    def forward(self, loc: Tensor, variance: Tensor) -> Tensor:
        """Return offsets, ``N``, for posterior means and variances, each ``N x K``."""
        result: Tensor = self.offset(softplus(self.hidden(torch.cat([loc, variance.log()], -1)))).squeeze(-1)
        return result
