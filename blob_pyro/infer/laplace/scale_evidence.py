r"""The evidence of kappa's scale by the Gaussian that has been found at one value of it.

With ``kappa ~ N(m, V)`` in the posterior at the scale ``s_0``, and independent ``N(c, s^2)`` before any event,

.. math:: \frac{p(\text{clicks} \mid s)}{p(\text{clicks} \mid s_0)}
    = E_{N(m, V)} \frac{N(\kappa; c, s^2)}{N(\kappa; c, s_0^2)},

which is an integral of Gaussians. That the posterior is one at ``s_0`` is Laplace's approximation; that it is the same
Gaussian times the ratio of the priors at ``s`` is exact for a likelihood that is Gaussian from one mode to the other.
All else in the vector is integrated over too, events of earlier fits count as the last ones do, and nothing is fitted
again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal

__all__ = ["ScaleEvidence"]


class ScaleEvidence:
    """The log evidence of scales, in units of that at the scale where a Gaussian was found.

    Args:
        gaussian: the posterior at that scale.
        kappa: where its numbers are in the vector.
        prior_loc: their mean before any event, ``P``.
        scale: their standard deviation then, where the Gaussian was found, in logits.
    """

    def __init__(
        self, gaussian: ArrowheadNormal | BlockArrowheadNormal, kappa: slice, prior_loc: Tensor, scale: float
    ) -> None:
        self.scale = scale
        self.away = gaussian.loc[kappa] - prior_loc
        self.common = gaussian.common_factor[kappa]  # P x R
        self.own = (gaussian.variance[kappa] - self.common.square().sum(-1)).clamp(min=0)

    def at(self, scale: float) -> float:
        """Compute it at another scale, in nats; minus infinity where kappa would be wider than its prior allows.

        Args:
            scale: in logits.
        """
        delta = scale**-2 - self.scale**-2
        diagonal = 1 + delta * self.own  # of I + delta V, but for what items share
        if float(diagonal.min()) <= 0:
            return -math.inf
        weighted = self.common / diagonal.unsqueeze(-1)
        inner = torch.eye(self.common.shape[-1]).to(weighted) + delta * self.common.mT @ weighted
        factor, info = torch.linalg.cholesky_ex(inner)
        if int(info):
            return -math.inf
        shared = weighted.mT @ self.away
        solved = torch.cholesky_solve(shared.unsqueeze(-1), factor).squeeze(-1)
        square = (self.away.square() / diagonal).sum() - delta * shared @ solved  # away' (I + delta V)^-1 away
        log_det = diagonal.log().sum() + 2 * factor.diagonal().log().sum()
        return len(self.away) * math.log(self.scale / scale) - 0.5 * float(log_det + delta * square)
