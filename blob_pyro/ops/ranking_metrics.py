"""How well scores rank the next item: recall, discounted gain, reciprocal rank; and the likelihood of probabilities.

There is one relevant item per history, so each metric is a function of its rank. Items with equal scores share their
ranks: each metric is its expectation over a random order of the tied, so that a baseline which counts (and ties) is
neither flattered nor punished by how a sort happens to break ties. Ranking libraries take one order and many relevant
items, and none of that is needed here.

Every function returns one value per history, so that two methods can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["dcg_at_k", "log_likelihood", "mean_reciprocal_rank", "recall_at_k"]


def recall_at_k(scores: Tensor, target: Tensor, k: int) -> Tensor:
    """Whether the target is among the ``k`` best, ``N``; a probability where scores are tied.

    Args:
        scores: ``N x P``, higher is better.
        target: item numbers, ``N``.
        k: how many items are shown.

    Example:
        >>> scores = torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
        >>> recall_at_k(scores, torch.tensor([1, 1]), k=1)
        tensor([0.0000, 0.3333])
    """
    return _expected(scores, target, lambda rank: (rank <= k).to(scores.dtype), k)


def dcg_at_k(scores: Tensor, target: Tensor, k: int) -> Tensor:
    """Discounted cumulative gain of the one relevant item, ``1 / log2(rank + 1)`` within the ``k`` best, else 0; ``N``.

    The standard formula (Jarvelin and Kekalainen 2002); with one relevant item it is the normalised one too. It never
    exceeds recall. The formula printed in section 4.1 of Sakhi et al. (2020), ``(2^{r_i} - 1) / log(i + 1)`` with
    ``r_i`` an item, is not it, and their Table 2 has values above the recall beside them, which no discount can give.

    Args:
        scores: ``N x P``, higher is better.
        target: item numbers, ``N``.
        k: how many items are shown.

    Example:
        >>> dcg_at_k(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([1]), k=2)
        tensor([0.6309])
    """
    return _expected(scores, target, lambda rank: (rank <= k) / torch.log2(rank + 1), k)


def mean_reciprocal_rank(scores: Tensor, target: Tensor) -> Tensor:
    """``1 / rank`` of the target, ``N``; its mean is the mean reciprocal rank.

    Args:
        scores: ``N x P``, higher is better.
        target: item numbers, ``N``.

    Example:
        >>> mean_reciprocal_rank(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([2]))
        tensor([0.3333])
    """
    return _expected(scores, target, lambda rank: 1 / rank, 1)


def log_likelihood(probabilities: Tensor, target: Tensor) -> Tensor:
    """Log-probability of the target in nats, ``N``.

    Args:
        probabilities: ``N x P``, rows sum to one.
        target: item numbers, ``N``.

    Raises:
        ValueError: if a row is not a probability vector: scores will not do.
    """
    total = probabilities.sum(-1)
    if bool(((total - 1).abs() > 1e-3).any()) or bool((probabilities < 0).any()):
        raise ValueError("probabilities: rows must be probabilities that sum to 1; put scores through a softmax first")
    return probabilities.gather(-1, target.unsqueeze(-1)).squeeze(-1).log()


def _expected(scores: Tensor, target: Tensor, value: Callable[[Tensor], Tensor], k: int) -> Tensor:
    """Mean of a function of the rank over the ranks that the target shares with its equals."""
    if scores.dim() != 2 or target.shape != scores.shape[:1]:
        raise ValueError(
            f"target: expected one item per row of scores {tuple(scores.shape)}, got {tuple(target.shape)}"
        )
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k: must lie between 1 and the number of items {scores.shape[1]}, got {k}")
    if bool(scores.isnan().any()):
        raise ValueError("scores: must not be NaN; a rank among NaN has no meaning")
    own = scores.gather(-1, target.unsqueeze(-1))
    better, equal = (scores > own).sum(-1), (scores == own).sum(-1)  # equal counts the target itself
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=torch.float64)
    total = torch.cat([ranks.new_zeros(1), value(ranks).to(torch.float64).cumsum(0)])
    return ((total[better + equal] - total[better]) / equal).to(scores.dtype)
