"""Actions of contexts that come back, some more often than others."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["log_prob_each", "log_prob_in_a_rectangle", "sample_each"]

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


def log_prob_each(distribution: TorchDistribution, counts: Tensor, actions: Tensor) -> Tensor:
    """Return the log-propensities of actions laid out as `sample_each` draws them.

    A distribution may have a faster way of its own, a method ``log_prob_each(counts, actions)``.

    Args:
        distribution: over items, with ``batch_shape`` ``(N,)``.
        counts: ``N`` int64, 0 or more.
        actions: item numbers, ``counts.sum()`` int64: all of the first context, then all of the second, and so on.

    Returns:
        ``counts.sum()`` float64, at most 0.
    """
    own = getattr(distribution, "log_prob_each", None)
    found = log_prob_in_a_rectangle(distribution, counts, actions) if own is None else own(counts, actions)
    return found.to(torch.float64).clamp(max=0.0)  # quadrature may exceed a certain action's 1 by rounding


def log_prob_in_a_rectangle(distribution: TorchDistribution, counts: Tensor, actions: Tensor) -> Tensor:
    """Compute what `log_prob_each` returns by the distribution's ``log_prob``.

    What that takes has the contexts along its last dimension: their actions on top of each other. The places that are
    left over hold actions of the same context: a policy may know the probabilities of no others.
    """
    first = counts.cumsum(0) - counts
    context = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    depth = torch.arange(len(actions), device=counts.device) - first[context]
    if bool((counts == 0).any()):
        played = distribution.sample().to(counts.device).repeat(int(counts.max()), 1)
    else:
        played = actions[first].repeat(int(counts.max()), 1)
    played[depth, context] = actions
    found: Tensor = distribution.log_prob(played)
    return found.to(counts.device)[depth, context]
