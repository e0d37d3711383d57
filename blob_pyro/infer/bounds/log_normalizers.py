r"""Upper bounds on the expected log-normaliser of a softmax with Gaussian logits.

For independent sums over ``p`` of any distribution of the logits ``x_p`` with mean ``m_p`` and variance ``s_p^2``:

Bouchard (2007; Sakhi et al. 2020, section 6.1), for any ``a`` and ``xi_p > 0``:

.. math:: E \log \sum_p e^{x_p} \le a + \sum_p \Big[ \tfrac12 (m_p - a - \xi_p) + \log(1 + e^{\xi_p})
    + \lambda(\xi_p) \big( (m_p - a)^2 + s_p^2 - \xi_p^2 \big) \Big],
    \quad \lambda(\xi) = \frac{1}{2 \xi} \Big( \sigma(\xi) - \tfrac12 \Big)

Log-concavity (section 6.2), for any ``phi = e^{-a}``: :math:`E \log z \le e^{-a} E z + a - 1`.

Both are sums over items, so a sum over some items drawn at random, each times a ``weight`` that makes up for those
not drawn, is unbiased for them, as long as ``a`` does not depend on the draw. The optimal ``xi_p`` is known for each
item by itself; the optimal ``a`` depends on the whole sum: the functions named ``*_offset`` find it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = [
    "bouchard",
    "bouchard_derivatives",
    "bouchard_offset",
    "bouchard_slope",
    "curvature",
    "log_concave",
    "log_concave_offset",
]


def curvature(xi: Tensor) -> Tensor:
    r"""Compute :math:`\lambda(\xi) = \tanh(\xi / 2) / (4 \xi)`, which tends to 1/8 at zero.

    Source: Jaakkola and Jordan (2000); Sakhi et al. 2020, section 6.1.
    """
    xi = xi.clamp(min=1e-4)  # the limit is reached to double precision
    return torch.tanh(0.5 * xi) / (4 * xi)


def bouchard(mean: Tensor, variance: Tensor, offset: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute Bouchard's bound at the optimal ``xi``, in closed form for any offset (Sakhi et al. 2020, section 6.1).

    The optimum enters as a constant: by the envelope theorem the gradient is that of the optimised bound.

    Args:
        mean: of the logits, ``N x S``.
        variance: of the logits, ``N x S``.
        offset: ``a``, ``N``.
        weight: how many items each of the ``S`` stands for, ``S``; one if not given.

    Returns:
        ``N``, in nats: at least the expected log-normaliser.
    """
    distance = mean - offset.unsqueeze(-1)
    second_moment = distance.square() + variance
    xi = second_moment.detach().sqrt()
    # softplus(xi) - xi / 2 = softplus(-xi) + xi / 2, without the difference of large numbers
    terms = 0.5 * (distance + xi) + softplus(-xi) + curvature(xi) * (second_moment - xi.square())
    return offset + _sum(terms, weight)


@torch.no_grad()
def bouchard_offset(
    mean: Tensor, variance: Tensor, weight: Tensor | None = None, start: Tensor | None = None, num_steps: int = 20
) -> Tensor:
    r"""Find the offset ``a`` that makes Bouchard's bound tightest, ``N``; takes no gradient, and needs none.

    With the optimal ``xi`` put in, the bound is convex in ``a`` with derivative :math:`1 - R(a)`,
    :math:`R(a) = \sum_p [1/2 - 2 \lambda(\xi_p) (a - m_p)]`: a sum of falling sigmoids, nearly exponential or
    polynomial in its tail, so Newton's method on :math:`\log R(a) = 0` is safe and takes a handful of steps.

    Args:
        mean: of the logits, ``N x S``.
        variance: of the logits, ``N x S``.
        weight: how many items each of the ``S`` stands for, ``S``; one if not given.
        start: where to start, ``N``.
        num_steps: Newton steps at most; on the CPU they end where none moves an offset by more than a thousandth, which
            the last of them, converging quadratically, has made a millionth. On a device looking would cost more than
            a step.

    Returns:
        ``N``.
    """
    offset = log_concave_offset(mean, variance.clamp(max=1.0), weight) if start is None else start
    for _ in range(num_steps):
        rest, decline = bouchard_slope(mean, variance, offset, weight)
        step = (rest * rest.clamp(min=1e-30).log() / decline).clamp(-10, 10)
        offset = offset + step
        if step.device.type == "cpu" and (not step.numel() or float(step.abs().max()) < 1e-3):
            break
    return offset


def bouchard_slope(
    mean: Tensor, variance: Tensor, offset: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute ``R(a)`` of `bouchard_offset`, one less the bound's derivative, and ``-R'(a)``; each ``N``."""
    rest, decline, _ = bouchard_derivatives(mean - offset.unsqueeze(-1), variance)
    return _sum(rest, weight), _sum(decline, weight).clamp(min=1e-30)


def bouchard_derivatives(distance: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return derivatives of the term that an item adds to Bouchard's bound, at the optimal ``xi``.

    Args:
        distance: of the logit's mean from the offset, ``m - a``.
        variance: of the logit, of the same shape.

    Returns:
        The first derivative in ``m``, :math:`1/2 + 2 \lambda(\xi) (m - a)`, a rising sigmoid; the second, with ``xi``
        following; and :math:`2 \lambda(\xi)`, which is what the second would be if ``xi`` stood still, and larger.
    """
    squares = distance.square()
    xi = (squares + variance).clamp_(min=1e-8).sqrt_()
    half = torch.tanh(0.5 * xi).mul_(0.5)
    slope = half / xi  # 2 lambda
    change = half.square_().sub_(0.25).add_(slope).mul_(squares).div_(xi.square_())
    return 0.5 + slope * distance, slope - change, slope


def log_concave(mean: Tensor, variance: Tensor, offset: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Compute the log-concavity bound, at an offset or, without one, at its optimum: ``log sum_p E e^{x_p}``.

    Source: Sakhi et al. 2020, section 6.2.

    Args:
        mean: of the logits, ``N x S``.
        variance: of the logits, ``N x S``.
        offset: ``a = -log phi``, ``N``.
        weight: how many items each of the ``S`` stands for, ``S``; one if not given.

    Returns:
        ``N``, in nats: at least the expected log-normaliser.
    """
    log_mean = log_concave_offset(mean, variance, weight)
    return log_mean if offset is None else (log_mean - offset).exp() + offset - 1


def log_concave_offset(mean: Tensor, variance: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the optimal offset of the log-concavity bound, ``log E sum_p e^{x_p}`` for Gaussian logits, ``N``."""
    log_expectation = mean + 0.5 * variance
    return (log_expectation if weight is None else log_expectation + weight.log()).logsumexp(-1)


def _sum(terms: Tensor, weight: Tensor | None) -> Tensor:
    return terms.sum(-1) if weight is None else terms @ weight
