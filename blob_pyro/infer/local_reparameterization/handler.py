"""Local reparameterisation as an effect handler (Kingma et al. 2015; Sakhi et al. 2020, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from blob_pyro.infer.elbo import Posterior
from blob_pyro.infer.local_reparameterization.projections import SharedProjection, project

__all__ = ["LocalReparameterization"]


class LocalReparameterization(Messenger):
    """Draws each event's *projection* of a Gaussian site instead of the site itself.

    For a sum of per-event log-likelihoods the ELBO depends only on the distribution of each event's logit, so drawing
    those
    distributions independently leaves its expectation unchanged and cuts its variance: the noise of different events no
    longer adds up. Sites that are parts of one Gaussian vector are drawn together, event by event: what they share is
    drawn once per event. A site whose posterior has no registered projection keeps its sampled value: so do those of
    Pyro's ``AutoMultivariateNormal`` and ``AutoLowRankMultivariateNormal``, which deal their vector out as point masses
    that do not say where in it they lie. Guides "full" and "low_rank" are these families with the projection.

    Args:
        posterior: the guide's distribution of each site, by name; see `GuidedELBO`.
    """

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior
        self._shared: dict[int, Tensor] = {}

    def _pyro_linear(self, msg: dict[str, Any]) -> None:
        posterior = self.posterior.get(msg["name"])
        distribution = None if posterior is None else project(posterior, *msg["args"][1:])
        if distribution is None:
            return
        msg["value"] = (
            self._draw(distribution) if isinstance(distribution, SharedProjection) else distribution.rsample()
        )
        msg["done"] = True

    def _draw(self, distribution: SharedProjection) -> Tensor:
        shared = self._shared.get(id(distribution.multivariate))
        if shared is None:
            shared = self._shared[id(distribution.multivariate)] = torch.randn_like(distribution.factor)
        value = distribution.loc + (distribution.factor * shared).sum(-1)
        return (
            value if distribution.scale is None else value + distribution.scale * torch.randn_like(distribution.scale)
        )
