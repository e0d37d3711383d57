r"""Ranks in the Plackett-Luce model: items drawn one after another, each in proportion to its weight among those left.

It is the order of independent exponential times with the weights as rates (Luce 1959; Yellott 1977). At the time t an
item j has come with probability :math:`1 - e^{-w_j t}`, so the number of others that have come is Poisson-binomial and

.. math:: P(\text{rank of } i = r) = \int_0^\infty w_i e^{-w_i t}\, P(\#\{j \ne i: T_j < t\} = r - 1)\, dt.

With t = exp(x) the integrand is analytic and decays doubly exponentially to the right and exponentially to the left:
the trapezoidal rule with step h errs by about exp(-pi^2 / h). All terms are positive, so nothing cancels.
"""

import math

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.product_of_others import product_of_others

__all__ = ["plackett_luce_rank_probs", "relative_weights"]

_STEP = 0.25  # exp(-pi^2 / 0.25) = 7e-18
_LEFT = -20.0  # of ranks after the first: exp(2 x) = 4e-18
_DECAY = 45.0  # exp(-45) = 3e-20
_NODES = 100  # about as many as there are
_SMALLEST = 1e-290
_BLOCK = 1 << 19  # numbers in one of the arrays: they stay in cache


def plackett_luce_rank_probs(weight: Tensor, num_ranks: int) -> Tensor:
    """Compute the probability of every item at every rank.

    Args:
        weight: rows x A, not negative, of any unit; an item of weight 0 has no rank. Rows are float64.
        num_ranks: how many of them, 1 or more.

    Returns:
        rows x A x num_ranks, float64; ranks beyond the number of items with a weight are 0.
    """
    rate = relative_weights(weight)
    if num_ranks == 1:
        return rate.unsqueeze(-1)
    width = int((rate > 0).sum(-1).amax()) if len(rate) else 0
    if 2 * width < rate.shape[-1]:  # most items have no weight, as those that are no candidates
        some = rate.topk(width, -1)
        probs = rate.new_zeros(*rate.shape, num_ranks)
        return probs.scatter_(
            1, some.indices.unsqueeze(-1).expand(-1, -1, num_ranks), _by_parts(some.values, num_ranks)
        )
    return _by_parts(rate, num_ranks)


def _by_parts(rate: Tensor, num_ranks: int) -> Tensor:
    parts = rate.split(max(1, _BLOCK // (rate.shape[-1] * _NODES)))
    return torch.cat([_rank_probs(part, num_ranks, max(1, _BLOCK // max(1, part.numel()))) for part in parts])


def relative_weights(weight: Tensor) -> Tensor:
    """Divide weights by their sum, rows x A float64; the smallest are raised to 1e-290, beyond which time ends.

    Two items that are both less likely than that would be as likely as each other, and are then: whoever draws must
    draw with these weights.
    """
    rate = weight / weight.sum(-1, keepdim=True)
    return torch.where(rate > 0, rate.clamp(min=_SMALLEST), rate)


def _rank_probs(rate: Tensor, num_ranks: int, nodes_at_once: int) -> Tensor:
    largest = rate.sort(-1, descending=True).values
    left = largest.flip(-1).cumsum(-1).flip(-1)[:, :num_ranks]  # what the first r ranks leave, at the least
    slowest = float(left[left > 0].amin()) if len(rate) else 1.0
    num_nodes = math.ceil((math.log(_DECAY) - math.log(slowest) - _LEFT) / _STEP) + 1
    nodes = torch.arange(num_nodes, dtype=rate.dtype, device=rate.device) * _STEP + _LEFT
    total = rate.new_zeros(num_ranks, *rate.shape)
    for some in nodes.split(nodes_at_once):
        time = some.exp()[:, None, None]
        passed = -rate * time
        absent = passed.exp()
        density = (rate * _STEP * time) * absent
        others = product_of_others([absent, -torch.expm1(passed)], num_ranks)
        for rank in range(1, min(num_ranks, len(others))):
            total[rank] += (density * others[rank]).sum(0)
    total[0] = rate
    return total.movedim(0, -1)
