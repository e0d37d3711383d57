r"""Confidence sequences for the mean of terms that are bounded from below only (Waudby-Smith et al. 2022).

Let :math:`\xi_1, \xi_2, \ldots \ge 0` with conditional means :math:`\mu_t = E[\xi_t \mid \text{past}]`, and let the
prediction :math:`\hat\xi_{t-1} \in [0, 1]` depend on the past alone. With :math:`S_t = \sum_i (\xi_i - \mu_i)` and
:math:`V_t = \sum_i (\xi_i - \hat\xi_{i-1})^2`,

.. math:: \exp\{\lambda S_t - \psi(\lambda) V_t\}, \quad \psi(\lambda) = -\log(1 - \lambda) - \lambda,
          \quad 0 \le \lambda < 1

is a non-negative supermartingale (Fan, Grama and Liu 2015): Ville's inequality turns it into a lower bound that
holds at all times at once, whatever the largest term may be. Importance-weighted rewards ``w r`` with ``r >= 0`` are
such terms; neither a bound on the weights nor a constant logging policy is needed.

Two ways to choose :math:`\lambda`:

- *mixture*: integrate over a truncated gamma density of :math:`1 - \lambda`. The bound is on the **running average of
  the conditional means**, which may change with time (Waudby-Smith et al. 2022, section 3; the gamma-exponential
  mixture of Howard et al. 2021, proposition 9).
- *plug-in*: :math:`\lambda_t` predicted from the past, for terms of **one constant mean**, at a fixed number of rows
  (Waudby-Smith and Ramdas 2024, theorem 2 and section 3.2; Waudby-Smith et al. 2022, section 2.3).

References:
    I. Waudby-Smith, L. Wu, A. Ramdas, N. Karampatziakis, P. Mineiro. "Anytime-valid off-policy inference for
    contextual bandits". arXiv:2210.10768 (2022).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

__all__ = ["DEFAULT_VARIANCE", "lower_confidence_sequence", "lower_mixture_bound", "lower_plug_in_bound"]

DEFAULT_VARIANCE = 500.0
"""The sum of squared terms at which the mixture is tightest. Chosen before the data: it must not depend on them."""


def lower_mixture_bound(terms: Tensor, alpha: float, variance: float = DEFAULT_VARIANCE) -> float:
    """Compute the lower bound on the average of the conditional means of all terms, valid at any time: see the module.

    Args:
        terms: ``N``, not negative, in the order in which they were seen.
        alpha: probability of ever being wrong.
        variance: the sum of squared deviations at which the bound is tightest; chosen without looking at the terms.
    """
    return float(lower_confidence_sequence(terms, alpha, np.array([terms.shape[0]]), variance)[0])


def lower_confidence_sequence(
    terms: Tensor, alpha: float, times: np.ndarray, variance: float = DEFAULT_VARIANCE
) -> np.ndarray:
    """Compute the lower bound after each of ``times`` rows; all of them hold together with probability ``1 - alpha``.

    Args:
        terms: ``N``, not negative, in the order in which they were seen.
        alpha: probability that any of them is wrong.
        times: increasing numbers of rows, 1 to ``N``.
        variance: see `lower_mixture_bound`.
    """
    sums = terms.cumsum(0)
    deviations = (terms - _predictions(terms, sums)).square_().cumsum_(0)
    at = torch.as_tensor(times - 1, device=terms.device)
    total, spread = sums[at].cpu().numpy(), deviations[at].cpu().numpy()
    result: np.ndarray = (total - _mixture_boundary(spread, alpha, variance)) / times
    return result


def lower_plug_in_bound(terms: Tensor, alpha: float) -> float:
    """Compute the lower bound on the one mean of all terms, at this number of rows only: see the module.

    Args:
        terms: ``N``, not negative; each has the same mean given those before it.
        alpha: probability of being wrong.
    """
    rows = terms.shape[0]
    guess = _predictions(terms, terms.cumsum(0))
    squares = (terms - guess).square()
    number = torch.arange(1, rows + 1, dtype=torch.float64, device=terms.device)
    spread = (0.25 + squares.cumsum(0)) / (number + 1)
    before = torch.cat([spread.new_tensor([0.25]), spread[:-1]])
    rate = (2 * math.log(1 / alpha) / (rows * before)).sqrt().clamp_(max=0.75)
    cost = -torch.log1p(-rate) - rate
    weighed = (rate * terms).sum() - math.log(1 / alpha) - (cost * squares).sum()
    return float(weighed / rate.sum())


def _predictions(terms: Tensor, sums: Tensor) -> Tensor:
    """Of each term from those before it: their mean with one half added, at most 1."""
    number = torch.arange(1, terms.shape[0] + 1, dtype=torch.float64, device=terms.device)
    return ((sums - terms + 0.5) / number).clamp_(max=1.0)


def _mixture_boundary(spread: np.ndarray, alpha: float, variance: float) -> np.ndarray:
    r"""The sum ``S`` at which the mixture reaches ``1 / alpha``, by bisection, for each ``V``.

    The mixture is :math:`\frac{\rho^\rho}{\gamma(\rho, \rho)} e^{S + V} z^{-a} \gamma(a, z)` with ``a = V + rho`` and
    ``z = S + V + rho``, increasing in ``S``.
    """
    odds = math.log(1 / alpha)
    rho = variance / (2 * odds + math.log1p(2 * odds))
    shape = spread + rho
    constant = rho * math.log(rho) - special.gammaln(rho) - math.log(special.gammainc(rho, rho))

    def log_mixture(total: np.ndarray) -> np.ndarray:
        z = total + shape
        tail = special.gammaln(shape) + np.log(special.gammainc(shape, z))
        result: np.ndarray = constant + total + spread - shape * np.log(z) + tail
        return result

    low, high = np.zeros_like(spread), np.full_like(spread, 1.0)
    while (short := log_mixture(high) < odds).any():
        high = np.where(short, 2 * high, high)
    for _ in range(60):
        middle = (low + high) / 2
        below = log_mixture(middle) < odds
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high
