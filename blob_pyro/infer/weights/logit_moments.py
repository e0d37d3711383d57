"""Mean and variance of each event's logit under a guide, and of its click."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from blob_pyro.infer.elbo import Posterior
from blob_pyro.infer.local_reparameterization.projections import SharedProjection, project
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.ops.quadrature import hermite

__all__ = ["expected_click", "logit_moments"]

_NODES = 16  # of Gauss-Hermite quadrature; slopes are 1e-7 off at a standard deviation of 1, 5e-4 at 2, 1 % at 3


def logit_moments(
    model: BanditModel, means: dict[str, Tensor], posterior: Posterior, batch: BanditBatch
) -> tuple[Tensor, Tensor]:
    """Compute the mean and the variance of each event's logit, to first order in ``w_a`` and ``w_b``.

    Args:
        model: the bandit model.
        means: of each site.
        posterior: distribution of each site that is in doubt. One of which no projection is known counts as certain.
        batch: events.

    Returns:
        Two tensors, ``N``.
    """
    with torch.enable_grad(), _Slopes(posterior) as slopes:
        mean = model.logit(means, batch)
        parts = slopes.parts
        by = torch.autograd.grad(mean.sum(), [away for _, away in parts], allow_unused=True) if parts else ()
    variance = torch.zeros_like(mean, requires_grad=False)
    shared: dict[int, Tensor] = {}  # what follows one vector's numbers, by the vector
    for (projection, _), slope in zip(parts, by):
        if slope is None:
            continue
        if isinstance(projection, SharedProjection):
            of = id(projection.multivariate)
            factor = slope.unsqueeze(-1) * projection.factor.detach()
            shared[of] = shared[of] + factor if of in shared else factor
        if projection.scale is not None:
            variance = variance + (slope * projection.scale.detach()).square()
    for factor in shared.values():
        variance = variance + factor.square().sum(-1)
    return mean.detach(), variance


class _Slopes(Messenger):
    """Answers every use of a site with its mean, and a number from there by which the logit can be derived."""

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior
        self.parts: list[tuple[dist.Normal | SharedProjection, Tensor]] = []

    def _pyro_linear(self, msg: dict[str, Any]) -> None:
        posterior = self.posterior.get(msg["name"])
        projection = None if posterior is None else project(posterior, *msg["args"][1:])
        if projection is None:
            return
        loc = projection.loc.detach()
        away = torch.zeros_like(loc, requires_grad=True)
        self.parts.append((projection, away))
        msg["value"], msg["done"] = loc + away, True


def expected_click(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    r"""Average click probability :math:`\sigma(\lambda)` and its slope :math:`\sigma'(\lambda)` over normal logits.

    Args:
        mean: of the logits.
        variance: of the logits, alike.

    Returns:
        Two tensors of the shape of ``mean``.
    """
    nodes, weights = hermite(_NODES, mean)
    scale, probability, slope = variance.sqrt(), torch.zeros_like(mean), torch.zeros_like(mean)
    for node, weight in zip(nodes.tolist(), weights.tolist()):
        at = torch.sigmoid(mean + node * scale)
        probability += weight * at
        slope += weight * at * (1 - at)
    return probability, slope
