r"""Rank probabilities of independent normal scores of similar scales, on one grid for all of a row's scores.

As `blob_pyro.propensity.kernels.ranks`, :math:`P(\text{rank } r) = \int f_i(y) P(\#\{j \ne i: Y_j > y\} = r - 1) dy`,
by the trapezoidal rule, whose error falls exponentially: the integrand is entire and vanishes at both ends. The grid is
halved until it changes nothing. Scores whose scales differ so much that this takes too many points are left out: the
meshes of `blob_pyro.propensity.RankNormal` resolve each of them by itself.
"""

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.functions import normal_cdf
from blob_pyro.propensity.kernels.product_of_others import product_of_others

__all__ = ["normal_rank_probs"]

_REACH = 8.5  # standard deviations: 1e-17
_FEWEST, _MOST = 32, 4096  # nodes
_ENOUGH = 1e-9  # a change of a halved grid that is this small leaves an error of about its square
_BLOCK = 1 << 19  # numbers in one of the arrays: they stay in cache


def normal_rank_probs(loc: Tensor, scale: Tensor, num_ranks: int) -> tuple[Tensor, Tensor]:
    """Compute the probability of every score at every rank, the largest first.

    Args:
        loc: rows x A, float64.
        scale: rows x A, positive.
        num_ranks: 1 to A.

    Returns:
        rows x A x num_ranks, to about 1e-14; and for each row whether that has been reached.
    """
    unit = scale.amax(-1, keepdim=True)
    loc, scale = (loc - loc.amax(-1, keepdim=True)) / unit, scale / unit
    high = (loc + _REACH * scale).amax(-1, keepdim=True)
    lows = loc - _REACH * scale
    low = lows.topk(min(num_ranks + 1, lows.shape[-1]), -1).values[:, -1:]  # below it too many are certainly above
    probs = loc.new_full((*loc.shape, num_ranks), torch.nan)
    open_rows, nodes = torch.arange(len(loc), device=loc.device), _FEWEST
    total = _sums(loc, scale, low, high, num_ranks, nodes, 0.0)
    while len(open_rows) and nodes < _MOST:
        more = _sums(loc, scale, low, high, num_ranks, nodes, 0.5)
        halved = (total + more) / 2
        done = (halved - total).abs().amax((-2, -1)) < _ENOUGH
        probs[open_rows[done]] = halved[done]
        rest = ~done
        open_rows, nodes, total = open_rows[rest], 2 * nodes, halved[rest]
        loc, scale, low, high = (part[rest] for part in (loc, scale, low, high))
    return probs, ~probs.isnan().any(-1).any(-1)


def _sums(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor, num_ranks: int, nodes: int, shift: float) -> Tensor:
    """The rule with so many nodes at ``shift`` of a step after the panels' left ends: rows x A x num_ranks."""
    place = (torch.arange(nodes, dtype=loc.dtype, device=loc.device) + shift) / nodes
    at_once = max(1, _BLOCK // (loc.shape[-1] * nodes))
    parts = [torch.zeros(0, loc.shape[-1], num_ranks, dtype=loc.dtype, device=loc.device)]
    for mean, sd, left, right in zip(*(part.split(at_once) for part in (loc, scale, low, high))):
        total = mean.new_zeros(num_ranks, *mean.shape)
        for some in place.split(max(1, _BLOCK // max(1, mean.numel()))):
            y = left + (right - left) * some[:, None, None]
            z = (y - mean) / sd
            others = product_of_others([normal_cdf(z), normal_cdf(-z)], num_ranks)
            mass = (-0.5 * z.square()).exp() * ((right - left) / (nodes * _ROOT_TWO_PI * sd))
            for rank, count in enumerate(others):
                total[rank] += (mass * count).sum(0)
        parts.append(total.movedim(0, -1))
    return torch.cat(parts)


_ROOT_TWO_PI = 2.5066282746310002
