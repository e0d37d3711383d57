r"""P(argmax) of actions that win at so few of the points of a sample that it does not know them.

Scores are :math:`\mathrm{loc} + F z`, without noise of their own. A sample of n points is silent about an action of
probability below 1 / n: it says 0, with an error of 0. Here such an action gets points of its own, drawn around the
likeliest z at which it wins,

.. math:: z^* = \arg\min |z|^2 \;\text{ subject to }\; (f_i - f_j)^T z \ge \mathrm{loc}_j - \mathrm{loc}_i \;\forall j,

and weighted by the ratio of the two densities: importance sampling, unbiased whatever :math:`z^*` is (Owen 2013, *Monte
Carlo theory, methods and examples*, chapter 9). The quadratic programme is solved in its dual, one multiplier at a time
(Hildreth 1957, *A quadratic programming procedure*), the one that gains most. As in
`blob_pyro.propensity.kernels.envelope` the first factor is integrated exactly, and points are of the others.
"""

import math

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.envelope import measure_of_winning
from blob_pyro.propensity.kernels.functions import normal_cdf

_STEPS = 64
_BLOCK = 2**20
_FARTHEST = 37.0  # beyond so many standard deviations there is less than 1e-300


def pairwise_bound(loc: Tensor, factor: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """Find what no probability exceeds, the smallest of P(Y_i >= Y_j) over rivals j: B x A, exact; no gradients."""
    loc, factor = loc.detach(), factor.detach()
    own = torch.zeros_like(loc) if diagonal is None else diagonal.detach()
    alike = torch.eye(loc.shape[-1], dtype=torch.bool, device=loc.device)
    ahead = loc[..., :, None] - loc[..., None, :]
    square = factor.square().sum(-1)
    spread = (square[..., :, None] + square[..., None, :] - 2 * factor @ factor.mT).clamp_min(0)
    # What is left of equal factors is rounding: they count as equal where no larger spread would.
    spread = torch.where(spread <= 1e-14 * (square[..., :, None] + square[..., None, :]), 0.0, spread)
    spread = (spread + own[..., :, None] + own[..., None, :]).masked_fill(alike, 0.0).sqrt()
    z = torch.where(spread > 0, ahead / spread, torch.where(ahead < 0, -math.inf, math.inf))
    return normal_cdf(z).amin(-1)


def _nearest_wins(loc: Tensor, factor: Tensor, action: Tensor) -> Tensor:
    """M x K: for each problem (m x A, m x A x K) near the likeliest z at which ``action`` (m) wins."""
    row = torch.arange(len(action), device=loc.device)
    slope = factor[row, action, None] - factor
    gap = loc - loc[row, action, None]
    norm = slope.square().sum(-1).sqrt()
    slope = slope / torch.where(norm > 0, norm, 1.0)[..., None]
    gap = torch.where(norm > 0, gap / torch.where(norm > 0, norm, 1.0), -math.inf)
    z = loc.new_zeros(len(action), factor.shape[-1])
    multiplier = torch.zeros_like(loc)
    for _ in range(_STEPS):
        step = torch.maximum(gap - (slope @ z[..., None]).squeeze(-1), -multiplier)
        best = step.abs().argmax(-1)
        size = step[row, best]
        multiplier[row, best] += size
        z = z + size[:, None] * slope[row, best]
    return z


def _measure(intercept: Tensor, slope: Tensor, action: Tensor) -> Tensor:
    """M x p: the normal measure of where line ``action`` (m) is the highest; lines m x p x A, slopes m x A."""
    row = torch.arange(len(action), device=slope.device)
    rise = (slope[row, action, None] - slope)[:, None]
    ahead = intercept - intercept.gather(-1, action[:, None, None].expand(-1, intercept.shape[1], 1))
    return measure_of_winning(ahead, rise)


def rare_winner_probs(loc: Tensor, factor: Tensor, action: Tensor, draws: Tensor) -> Tensor:
    """Estimate single probabilities in replicates, from points around where each action is likeliest to win.

    Args:
        loc: m x A, one problem for each action asked for.
        factor: m x A x K, the strongest direction first.
        action: m, int64.
        draws: R x n x (K - 1) standard normals.

    Returns:
        R x m, differentiable in ``loc`` and ``factor``; the points are not.
    """
    replicates, points, _ = draws.shape
    chunk = max(1, _BLOCK // (replicates * points * loc.shape[-1]))
    parts = []
    for some in torch.arange(len(action), device=loc.device).split(chunk):
        mine, own, played = loc[some], factor[some], action[some]
        with torch.no_grad():
            center = _nearest_wins(mine, own, played)
            near = center.isfinite().all(-1) & (center.square().sum(-1) < _FARTHEST**2)
            center = torch.where(near[:, None], center, 0.0)[:, 1:]
            offset = draws.flatten(0, 1)
            log_weight = -(center @ offset.mT) - 0.5 * center.square().sum(-1, keepdim=True)
        at = center[:, None] + offset
        measure = _measure(mine[:, None] + at @ own[..., 1:].mT, own[..., 0], played)
        value = (measure * log_weight.exp()).unflatten(-1, (replicates, points)).mean(-1)
        parts.append(torch.where(near[:, None], value, 0.0))
    return torch.cat(parts).mT
