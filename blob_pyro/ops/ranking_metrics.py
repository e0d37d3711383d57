"""Metrics of how well scores rank the next item: recall, discounted gain, reciprocal rank, log-likelihood.

There is one relevant item per history, so each metric is a function of its rank. Items with equal scores share their
ranks: each metric is its expectation over a random order of the tied, so that a baseline which counts (and ties) is
neither flattered nor punished by how a sort happens to break ties. Ranking libraries take one order and many relevant
items, and none of that is needed here.

Every function returns one value per history, so that two methods can be compared in pairs: of the dtype of the scores,
or of the default dtype where the scores are counts. All refuse, with a TypeError or ValueError that names argument and
row, what has no rank: scores that are NaN or no matrix, targets that are not one item number of the catalogue a row,
and a ``k`` that is no whole number between 1 and the number of items.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.renamed import renamed_in_module

__all__ = ["dcg_at_k", "log_likelihood", "recall_at_k", "reciprocal_rank"]


def recall_at_k(scores: Tensor, target: Tensor, k: int) -> Tensor:
    """Say whether the target is among the ``k`` best, ``N``; a probability where scores are tied.

    Args:
        scores: ``N x P``, higher is better.
        target: item numbers, ``N``.
        k: how many items are shown.

    Example:
        >>> scores = torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
        >>> recall_at_k(scores, torch.tensor([1, 1]), k=1)
        tensor([0.0000, 0.3333])
    """
    return _expected(scores, target, lambda rank: rank <= k, k)


def dcg_at_k(scores: Tensor, target: Tensor, k: int) -> Tensor:
    """Compute the gain of the one relevant item, ``1 / log2(rank + 1)`` within the ``k`` best, else 0; ``N``.

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


def reciprocal_rank(scores: Tensor, target: Tensor) -> Tensor:
    """Return ``1 / rank`` of the target, ``N``; its mean is the mean reciprocal rank.

    Args:
        scores: ``N x P``, higher is better.
        target: item numbers, ``N``.

    Example:
        >>> reciprocal_rank(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([2]))
        tensor([0.3333])
    """
    return _expected(scores, target, lambda rank: 1 / rank, 1)


def log_likelihood(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return the log-probability of the target in nats, ``N``.

    Args:
        probabilities: ``N x P``, rows sum to one.
        target: item numbers, ``N``.

    Raises:
        ValueError: if a row is not a probability vector: scores will not do.
    """
    _check(probabilities, target, "probabilities")
    wrong = ~((probabilities.sum(-1) - 1).abs() <= 1e-3) | (probabilities < 0).any(-1)  # so that NaN is wrong too
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"probabilities: rows must be probabilities that sum to 1, row {row} sums to "
            f"{float(probabilities[row].sum()):g}, its least is {float(probabilities[row].amin()):g}; put scores "
            f"through a softmax first"
        )
    return probabilities.gather(-1, target.unsqueeze(-1)).squeeze(-1).log()


def _expected(scores: Tensor, target: Tensor, value: Callable[[Tensor], Tensor], k: int) -> Tensor:
    """Mean of a function of the rank over the ranks that the target shares with its equals."""
    _check(scores, target, "scores")
    whole_number(k, "k")
    if k > scores.shape[1]:
        raise ValueError(f"k: must lie between 1 and the number of items {scores.shape[1]}, got {k}")
    missing = scores.isnan().any(-1)
    if bool(missing.any()):
        row = int(missing.nonzero()[0])
        raise ValueError(f"scores: must not be NaN, row {row} has one; a rank among NaN has no meaning")
    own = scores.gather(-1, target.unsqueeze(-1))
    better, equal = (scores > own).sum(-1), (scores == own).sum(-1)  # equal counts the target itself
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=torch.float64)
    total = torch.cat([ranks.new_zeros(1), value(ranks).to(torch.float64).cumsum(0)])
    dtype = scores.dtype if scores.is_floating_point() else torch.get_default_dtype()  # counts are scores too
    return ((total[better + equal] - total[better]) / equal).to(dtype)


def _check(scores: Tensor, target: Tensor, name: str) -> None:
    """Refuse what is no matrix of numbers with one item a row, naming ``name`` or the target."""
    for argument, tensor in ((name, scores), ("target", target)):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{argument}: expected a tensor, got {type(tensor).__name__}; put it through torch.as_tensor"
            )
    if scores.dim() != 2:
        raise ValueError(f"{name}: expected a matrix, histories x items, got shape {tuple(scores.shape)}")
    if scores.is_complex():
        raise TypeError(f"{name}: expected real numbers, got {scores.dtype}")
    if target.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"target: expected item numbers of dtype int64, got {target.dtype}")
    if target.shape != scores.shape[:1]:
        raise ValueError(
            f"target: expected one item per row of {name} {tuple(scores.shape)}, got {tuple(target.shape)}"
        )
    if target.device != scores.device:
        raise ValueError(f"target: is on {target.device}, {name} on {scores.device}; move one of them")
    outside = (target < 0) | (target >= scores.shape[1])
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"target: expected item numbers between 0 and {scores.shape[1] - 1}, got {int(target[row])} at row {row}"
        )


__getattr__ = renamed_in_module(__name__, {"mean_reciprocal_rank": "reciprocal_rank"}, globals())
