"""Encoders: from a view history to a Gaussian over its latent interest.

The contract, for your own: an ``nn.Module`` constructed with ``(num_items, embedding_dim)`` whose ``forward`` takes
`Histories` (``N`` of them, some perhaps empty) and returns ``loc`` and ``scale``, both ``N x K``, ``scale`` positive.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from blob_pyro.data import Histories

__all__ = ["ENCODERS", "LinearEncoder", "PrecisionEncoder"]


class LinearEncoder(nn.Module):
    """Sums one embedding row per view (Sakhi et al. 2020, section 4.1).

    ``loc = h W + b`` and ``precision = 1 + softplus(h V + c)`` for view counts ``h``, with weights of its own for
    each (the published code shares them). An empty history gets the bias.

    Args:
        num_items: ``P``.
        embedding_dim: ``K``.
    """

    def __init__(self, num_items: int, embedding_dim: int) -> None:
        super().__init__()
        self.loc_weight = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.loc_bias = nn.Parameter(torch.empty(embedding_dim))
        self.precision_weight = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.precision_bias = nn.Parameter(torch.empty(embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh start, close to the prior."""
        nn.init.normal_(self.loc_weight, std=0.1)
        nn.init.zeros_(self.loc_bias)
        nn.init.zeros_(self.precision_weight)
        nn.init.constant_(self.precision_bias, -2.0)

    def forward(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """``loc`` and ``scale``, each ``N x K``."""
        loc = histories.sum_rows(self.loc_weight) + self.loc_bias
        precision = 1 + softplus(histories.sum_rows(self.precision_weight) + self.precision_bias)
        return loc, precision.rsqrt()


class PrecisionEncoder(nn.Module):
    """Every view adds evidence: precisions add up, and the mean is weighted by them.

    ``loc = (h W + b) / (1 + T softplus(l))`` and ``precision = 1 + h softplus(V)`` for view counts ``h`` that sum
    to ``T``: the form of a Gaussian posterior after ``T`` observations, which a linear encoder cannot take (its
    mean grows without bound in ``T``).

    Args:
        num_items: ``P``.
        embedding_dim: ``K``.
    """

    def __init__(self, num_items: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.bias = nn.Parameter(torch.empty(embedding_dim))
        self.shrinkage = nn.Parameter(torch.empty(embedding_dim))
        self.evidence = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh start, close to the prior."""
        nn.init.normal_(self.weight, std=0.1)
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.shrinkage, -2.0)
        nn.init.constant_(self.evidence, -2.0)

    def forward(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """``loc`` and ``scale``, each ``N x K``."""
        views = histories.lengths.unsqueeze(-1)
        loc = (histories.sum_rows(self.weight) + self.bias) / (1 + views * softplus(self.shrinkage))
        precision = 1 + histories.sum_rows(softplus(self.evidence))
        return loc, precision.rsqrt()


ENCODERS: dict[str, Callable[[int, int], nn.Module]] = {"linear": LinearEncoder, "precision": PrecisionEncoder}
