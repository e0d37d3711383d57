"""P(argmax) of scores that are linear in few shared normals and have no noise of their own.

Given all shared normals but the first, every score is a line in the first one: action i wins on one interval of it,
between the last crossing with a flatter line and the first crossing with a steeper one. Its probability there is a
difference of two normal CDFs, so that one factor is exact and K factors need quasi-Monte Carlo over K - 1 only.
"""

import math

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.functions import normal_cdf
from blob_pyro.propensity.kernels.qmc import normal_replicates

_BLOCK = 2**20


def measure_of_winning(ahead: Tensor, rise: Tensor) -> Tensor:
    """Compute the normal measure of where a line is the highest; identical highest lines share it.

    Args:
        ahead: how far each other line is above it at zero, ``... x A``; 0 for itself.
        rise: how much steeper it is than each, ``... x A``.

    Returns:
        ``...``.
    """
    crossing = ahead / torch.where(rise == 0, 1.0, rise)
    lower = torch.where(rise > 0, crossing, -math.inf).amax(-1)
    upper = torch.where(rise < 0, crossing, math.inf).amin(-1)
    beaten = ((rise == 0) & (ahead > 0)).any(-1)
    copies = ((rise == 0) & (ahead == 0)).sum(-1)
    # Both ends on the same side of zero are taken in the smaller tail, where nothing cancels.
    low, high = torch.where(lower > 0, -upper, lower), torch.where(lower > 0, -lower, upper)
    measure = (normal_cdf(high) - normal_cdf(low)).clamp_min(0)
    return torch.where(beaten | (upper <= lower), 0.0, measure / copies.clamp_min(1))


def argmax_probs_by_envelope(loc: Tensor, factor: Tensor, num_replicates: int, num_points: int, seed: int) -> Tensor:
    """Estimate probabilities, R x B x A replicated, for scores loc + factor z; loc B x A, factor B x A x K, K >= 1.

    The first factor column is the one that is integrated exactly: give the strongest direction first.
    """
    rank = factor.shape[-1]
    if rank == 1:
        num_replicates, num_points = 2, 1
    draws = normal_replicates(num_replicates, num_points, rank - 1, seed, loc.device)
    slope = factor[:, None, :, 0]
    per_point = loc.shape[0] * loc.shape[1] ** 2
    chunk = max(1, _BLOCK // per_point)
    results = []
    for z in draws:
        total = torch.zeros_like(loc)
        for start in range(0, num_points, chunk):
            intercept = loc[:, None, :] + torch.einsum("pk,bak->bpa", z[start : start + chunk], factor[..., 1:])
            ahead = intercept[..., None, :] - intercept[..., :, None]
            total = total + measure_of_winning(ahead, slope[..., :, None] - slope[..., None, :]).sum(1)
        results.append(total / num_points)
    return torch.stack(results)
