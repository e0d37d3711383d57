r"""Ranks and ordered slates of independent scores, from their densities and distribution functions on a mesh.

At a threshold y each other score lies above with probability 1 - F_j(y), so the number of scores above is
Poisson-binomial and

.. math:: P(\text{i has rank } r) = \int f_i(y)\, P(\#\{j \ne i: Y_j > y\} = r - 1)\, dy.

The distribution of the number above without i is a product of what comes before i and what comes after it; all terms
are positive, so nothing cancels.
"""

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.cumulative import Distributions
from blob_pyro.propensity.kernels.mesh import NODES_PER_PANEL

_LOG_NEVER = -46.0


def _counts_before(above: Tensor, below: Tensor, num_ranks: int) -> Tensor:
    """P(k of the arms before this one are above), ... x A x num_ranks; above and below are ... x A."""
    count = torch.zeros(*above.shape[:-1], num_ranks, dtype=above.dtype, device=above.device)
    count[..., 0] = 1.0
    counts = []
    for arm in range(above.shape[-1]):
        counts.append(count)
        stay = count * below[..., arm, None]
        if num_ranks > 1:
            move = count[..., :-1] * above[..., arm, None]
            stay = torch.cat([stay[..., :1], stay[..., 1:] + move], dim=-1)
        count = stay
    return torch.stack(counts, dim=-2)


def _upper_part(scores: Distributions, num_ranks: int) -> Distributions:
    """Without the nodes below which more arms than there are ranks lie with probability 1 - 1e-20 each."""
    if num_ranks >= scores.log_cdf.shape[-1]:
        return scores
    enough = scores.log_cdf.detach().kthvalue(num_ranks + 1, dim=-1).values > _LOG_NEVER
    start = int(torch.where(enough.any(0), torch.arange(enough.shape[1], device=enough.device), enough.shape[1]).amin())
    return Distributions(*(getattr(scores, name)[:, start:] for name in scores.__dataclass_fields__))


def rank_probs(scores: Distributions, num_ranks: int) -> Tensor:
    """Compute the probability of every arm at every rank, the highest score first: rows x A x num_ranks."""
    scores = _upper_part(scores, num_ranks)
    above, below = scores.log_survival.exp(), scores.log_cdf.exp()
    before = _counts_before(above, below, num_ranks)
    after = _counts_before(above.flip(-1), below.flip(-1), num_ranks).flip(-2)
    mass = scores.log_density.exp() * scores.weights[..., None]
    ranks = [sum(before[..., k] * after[..., rank - k] for k in range(rank + 1)) for rank in range(num_ranks)]
    return torch.stack([(mass * count).sum(1) for count in ranks], dim=-1)


def ordering_log_probs(scores: Distributions, ordering: Tensor) -> Tensor:
    """Compute log P(Y_o1 > Y_o2 > ... > Y_ok > all others) for orderings rows x k, one number a row.

    Nested integration from below: first P(all others < Y_ok < y) as a function of y, then P(... < Y_o(k-1) < y), ...
    """
    chosen = torch.zeros(ordering.shape[0], scores.log_cdf.shape[-1], dtype=torch.bool, device=ordering.device)
    chosen = chosen.scatter(-1, ordering, True)
    log_below = torch.where(chosen[:, None], 0.0, scores.log_cdf).sum(-1)
    for position in range(ordering.shape[-1] - 1, -1, -1):
        index = ordering[:, None, position, None].expand(-1, scores.log_density.shape[1], 1)
        log_density = scores.log_density.gather(-1, index).squeeze(-1)
        log_integrand = log_density + log_below
        if position == 0:
            return torch.logsumexp(log_integrand + scores.weights.clamp_min(1e-300).log(), dim=-1)
        log_below = scores.log_integral_below(log_integrand, NODES_PER_PANEL)
    raise AssertionError("an ordering has at least one action")
