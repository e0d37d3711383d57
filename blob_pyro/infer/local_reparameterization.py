"""Local reparameterisation as an effect handler (Kingma et al. 2015; Sakhi et al. 2020, section 3.2)."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger

from blob_pyro.infer.elbo import Posterior
from blob_pyro.infer.projections import project_bilinear, project_broadcast, project_gather

__all__ = ["LocalReparameterization"]


class LocalReparameterization(Messenger):
    """Draws each event's *projection* of a Gaussian site instead of the site itself.

    For a sum of per-event log-likelihoods the ELBO depends only on the marginal law of each event's logit, so
    drawing those laws independently leaves its expectation unchanged and cuts its variance: the noise of different
    events no longer adds up. A site whose posterior has no registered projection keeps its sampled value.

    Args:
        posterior: the guide's distribution of each site, by name; see `GuidedELBO`.
    """

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior

    def _answer(self, msg: dict[str, Any], project: Any) -> None:
        posterior = self.posterior.get(msg["name"])
        projected = None if posterior is None else project(posterior, *msg["args"][1:])
        if projected is not None:
            msg["value"] = projected.rsample()
            msg["done"] = True

    def _pyro_bilinear(self, msg: dict[str, Any]) -> None:
        self._answer(msg, project_bilinear)

    def _pyro_gather(self, msg: dict[str, Any]) -> None:
        self._answer(msg, project_gather)

    def _pyro_broadcast(self, msg: dict[str, Any]) -> None:
        self._answer(msg, project_broadcast)
