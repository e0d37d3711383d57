"""Exact P(argmax) of up to three jointly normal scores, through independent scores with the same differences.

Only the covariance of the differences matters. For three actions it has three parameters,
v_jk = Var(Y_j - Y_k), and independent scores with variances s_j, s_j + s_k = v_jk, reproduce it whenever all s_j
are at least 0. At most one can be negative: then the two differences that its action is part of are negatively
correlated, and P(X > a, Y > b) = P(X > a) - P(X > a, -Y > -b) turns each probability into one that is not.
"""

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.functions import normal_cdf
from blob_pyro.propensity.kernels.normal import argmax_normal_log_probs

# Relative to a unit variance. The square root has no derivative at 0, the probabilities have one.
_SMALLEST_VARIANCE = 1e-14
# In units of the largest variance.
_LEAST = 1e-250


def _both_exceed(a: Tensor, b: Tensor, correlation: Tensor) -> Tensor:
    """P(X > a, Y > b) for standard normals with this correlation."""
    positive = correlation >= 0
    size = correlation.abs().clamp(_SMALLEST_VARIANCE, 1 - _SMALLEST_VARIANCE)
    loc = torch.stack([torch.zeros_like(a), a, torch.where(positive, b, -b)], dim=-1)
    variance = torch.stack([size, 1 - size, 1 - size], dim=-1)
    together = argmax_normal_log_probs(loc, variance.sqrt())[..., 0].exp()
    # With -Y in place of Y the correlation is positive.
    return torch.where(positive, together, (normal_cdf(-a) - together).clamp_min(0))


def argmax_probs_of_three(loc: Tensor, covariance: Tensor) -> Tensor:
    """Compute B x 3 probabilities for loc B x 3 and covariance B x 3 x 3, to rounding error.

    A difference without variance is given a tiny one, so that equal scores share their probability.
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    probs = []
    for own in range(3):
        j, k = (other for other in range(3) if other != own)
        to_j = variance[:, own] + variance[:, j] - 2 * covariance[:, own, j]
        to_k = variance[:, own] + variance[:, k] - 2 * covariance[:, own, k]
        both = variance[:, own] - covariance[:, own, j] - covariance[:, own, k] + covariance[:, j, k]
        spread_j, spread_k = (
            to.maximum(_SMALLEST_VARIANCE**2 * (variance[:, own] + variance[:, other]).clamp_min(_LEAST)).sqrt()
            for to, other in ((to_j, j), (to_k, k))
        )
        probs.append(
            _both_exceed(
                (loc[:, j] - loc[:, own]) / spread_j, (loc[:, k] - loc[:, own]) / spread_k, both / (spread_j * spread_k)
            )
        )
    return torch.stack(probs, dim=-1)


def argmax_probs_of_two(loc: Tensor, covariance: Tensor) -> Tensor:
    """Compute B x 2 probabilities: a single normal CDF."""
    variance = covariance[:, 0, 0] + covariance[:, 1, 1] - 2 * covariance[:, 0, 1]
    gap = loc[:, 0] - loc[:, 1]
    standard = gap / variance.clamp_min(_LEAST).sqrt()
    return normal_cdf(torch.stack([standard, -standard], dim=-1))
