"""Actions of contexts that come back, some more often than others."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["sample_each"]

# Scores drawn at once from a distribution of which nothing else is known: it may draw one per item and action.
_SCORES_AT_ONCE = 1 << 23


def sample_each(distribution: TorchDistribution, counts: Tensor, num_items: int) -> Tensor:
    """Draw from a policy's distribution, ``counts[n]`` independent times for context ``n``.

    A distribution may have a faster way of its own, a method ``sample_each(counts)``; others are sampled for all
    contexts as often as for the one that needs most.

    Args:
        distribution: over items, with ``batch_shape`` ``(N,)``.
        counts: ``N`` int64, 0 or more.
        num_items: size of the catalogue.

    Returns:
        Item numbers, ``counts.sum()`` int64: all of the first context, then all of the second, and so on.
    """
    own = getattr(distribution, "sample_each", None)
    if own is not None:
        result: Tensor = own(counts)
        return result
    width = int(counts.max()) if len(counts) else 0
    block = max(1, _SCORES_AT_ONCE // (num_items * max(len(counts), 1)))
    blocks = [distribution.sample((min(block, width - at),)) for at in range(0, width, block)]
    if not blocks:
        return torch.zeros(0, dtype=torch.int64, device=counts.device)
    drawn = torch.cat(blocks).to(counts.device)
    return drawn.mT[torch.arange(width, device=counts.device) < counts.unsqueeze(-1)]
