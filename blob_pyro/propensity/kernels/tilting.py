r"""The exponential tilting of Gaussian orthant probabilities that bounds the weights of their sample.

Separation of variables draws z_k from N(0, 1) below :math:`b_k(z) = (l_k - \sum_{j<k} L_{kj} z_j) / L_{kk}`, whatever
the conditions to come. Drawn from :math:`N(\mu_k, 1)` instead, a point has the weight :math:`e^{\psi(z, \mu)}`,

.. math:: \psi(z, \mu) = \sum_k \mu_k^2 / 2 - \mu_k z_k + \log\Phi(b_k(z) - \mu_k),

unbiased for any :math:`\mu`; the :math:`\mu` of the saddle point :math:`\min_\mu \max_z \psi` makes its maximum least
(Z. I. Botev, "The normal law under linear restrictions: simulation and estimation via minimax tilting", 2017).

With :math:`t = b - \mu`, :math:`h = \varphi(t) / \Phi(t)` and :math:`U = \mathrm{diag}(L)^{-1} L` the saddle point has
:math:`\mu = (I - U)^T h`, and what is left is one equation,

.. math:: t + h(t) = \mathrm{diag}(L)^{-1} l + U U^T h(t),

that of the minimum of a strictly convex function of h: Newton's steps, halved where they do not descend, find it.
"""

import math

import torch
from torch import Tensor

_STEPS = 16
# Of each equation, in units of its own coefficient.
_SOLVED = 1e-8
# Farther than this many deviations below a bound, or beyond it, nothing is left to tilt.
_HOPELESS, _VOID = -38.0, 1e8


def inverse_mills_ratio(t: Tensor) -> Tensor:
    """Compute the density over the distribution function of a standard normal, to rounding error in both tails."""
    result: Tensor = math.sqrt(2 / math.pi) / torch.special.erfcx(t * -math.sqrt(0.5))
    return result


def _objective(t: Tensor, h: Tensor, limit: Tensor, gram: Tensor) -> Tensor:
    """N: the convex function of h whose gradient is minus the residual."""
    linear: Tensor = (limit - t - 0.5 * h) * h + torch.special.log_ndtr(t)
    return 0.5 * (h * _times(gram, h)).sum(-1) + linear.sum(-1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None]).squeeze(-1)


def _newton_step(residual: Tensor, slope: Tensor, gram: Tensor) -> Tensor:
    """Solve (I - S + G S) x = residual for diagonal 0 < S <= 1, through the symmetric (I - S) + S^1/2 G S^1/2."""
    root = slope.sqrt()
    symmetric = torch.diag_embed(1 - slope) + root[..., :, None] * gram * root[..., None, :]
    factor, _ = torch.linalg.cholesky_ex(symmetric)
    return torch.cholesky_solve((root * residual)[..., None], factor).squeeze(-1) / root


def _slope(t: Tensor, h: Tensor) -> Tensor:
    """Minus the derivative of the inverse Mills ratio."""
    return (h * (t + h)).clamp(1e-12, 1.0)


def _expected_path(limit: Tensor, unit: Tensor) -> Tensor:
    """The t at which nothing is tilted and each variable is at its mean, given those before it at theirs."""
    t, h = torch.zeros_like(limit), torch.zeros_like(limit)
    for step in range(limit.shape[-1]):
        t[:, step] = limit[:, step] + (unit[:, step, :step] * h[:, :step]).sum(-1)
        h[:, step] = inverse_mills_ratio(t[:, step])
    return t


def _saddle(limit: Tensor, unit: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """The t that solve t + h(t) = limit + gram h(t), N x d, and whether they do, N."""
    scale = gram.diagonal(dim1=-2, dim2=-1).sqrt() + limit.abs()
    # From elsewhere, a constant say, the steps can fail to arrive where scores differ in scale by 1e3.
    t = _expected_path(limit, unit)
    h = inverse_mills_ratio(t)
    value = _objective(t, h, limit, gram)
    size = torch.ones_like(value)
    solved = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(_STEPS):
        residual = t + h - limit - _times(gram, h)
        solved = (residual.abs() <= _SOLVED * scale).all(-1)
        # On a device looking costs more than steps.
        if limit.device.type == "cpu" and bool(solved.all()):
            break
        new = t - size[:, None] * _newton_step(residual, _slope(t, h), gram)
        of_new = inverse_mills_ratio(new)
        reached = _objective(new, of_new, limit, gram)
        descends = reached <= value + 1e-13 * value.abs()
        t = torch.where(descends[:, None], new, t)
        h = torch.where(descends[:, None], of_new, h)
        value = torch.where(descends, reached, value)
        size = torch.where(descends, (2 * size).clamp_max(1.0), size / 4)
    return t, solved


def minimax_tilt(limit: Tensor, factor: Tensor) -> Tensor:
    """Find the shifts of the saddle point.

    Args:
        limit: N x d, upper limits.
        factor: N x d x d, lower Cholesky factors, in the order in which variables are drawn.

    Returns:
        N x d, the last of each being 0; 0 throughout where the equations could not be solved or no probability is
        left. Differentiable once: by the implicit function theorem, as one more step of Newton's.
    """
    pivot = factor.diagonal(dim1=-2, dim2=-1)
    unit = factor / pivot[..., None]
    gram, own = unit @ unit.mT, (limit / pivot).clamp(-_VOID, _VOID)
    with torch.no_grad():
        t, solved = _saddle(own, unit, gram)
        h = inverse_mills_ratio(t)
        slope = _slope(t, h)
        usable = solved & ((limit / factor.square().sum(-1).sqrt()).amin(-1) > _HOPELESS)
    if factor.requires_grad or limit.requires_grad:
        residual = t + h - own - _times(gram, h)
        h = h + slope * _newton_step(residual, slope, gram.detach())
    below = unit - torch.diag_embed(torch.ones_like(pivot))
    return torch.where(usable[:, None], -_times(below.mT, h), 0.0)
