"""The guide of the organic model: amortised over interests, and over items where they have a posterior."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from blob_pyro.data import Histories
from blob_pyro.models import OrganicBatch, OrganicModel
from blob_pyro.models.sites import INTEREST, ITEM_EMBEDDING, ITEM_INTERCEPT
from blob_pyro.ops.names import unique_name

__all__ = ["AmortizedGuide", "ItemGuide"]


class AmortizedGuide(PyroModule):
    """``q(omega_u) = N(loc_u, diag(scale_u^2))``, or with a full covariance; ``loc_u, scale_u = encoder(views of u)``.

    Args:
        encoder: see `blob_pyro.guides.encoders`.
        items: draws the model's item sites, where its priors ask for a posterior of them.
    """

    def __init__(self, encoder: nn.Module, items: ItemGuide | None = None) -> None:
        super().__init__(unique_name("organic_guide"))  # unique: Pyro's parameter store is global
        self.encoder = encoder
        self.items = items

    def posterior(self, histories: Histories) -> TorchDistribution:
        """Return the distribution of omega for each history: batch ``N``, event ``K``."""
        loc, scale = self.encoder(histories)
        if scale.dim() == 3:
            return dist.MultivariateNormal(loc, scale_tril=scale)
        return dist.Normal(loc, scale).to_event(1)

    def forward(self, batch: OrganicBatch) -> Tensor:
        """Draw omega for every session of the batch, ``B x K``, after the items where they are random."""
        if self.items is not None:
            self.items()
        with batch.plate():
            result: Tensor = pyro.sample(INTEREST, self.posterior(batch.sessions))
            return result


class ItemGuide(PyroModule):
    """Independent normals on every entry of Psi and rho that has a prior.

    Their means are the model's own parameters: what reads ``model.item_embedding`` reads the posterior mean.

    Args:
        model: whose items it covers.
    """

    START = 0.05
    """Standard deviations start here: the noise of items that know nothing yet would drown the sessions."""

    def __init__(self, model: OrganicModel) -> None:
        super().__init__(unique_name("item_guide"))
        self._model = (model,)  # in a tuple: the parameters are the model's, to be saved once
        self._sites = {
            site: name
            for site, name in ((ITEM_EMBEDDING, "item_embedding"), (ITEM_INTERCEPT, "item_intercept"))
            if getattr(model.priors, name) is not None
        }
        for name in self._sites.values():
            setattr(self, f"{name}_scale", self._start(getattr(model, name)))

    def _start(self, parameter: Tensor) -> PyroParam:
        return PyroParam(torch.full_like(parameter, self.START, requires_grad=False), constraints.positive)

    def reset_parameters(self) -> None:
        """Put all offsets back to where they started."""
        for name in self._sites.values():
            setattr(self, f"{name}_scale", torch.full_like(getattr(self._model[0], name).detach(), self.START))

    def forward(self) -> dict[str, Tensor]:
        """Draw the item sites."""
        draws = {}
        for site, name in self._sites.items():
            loc = getattr(self._model[0], name)
            posterior = dist.Normal(loc, getattr(self, f"{name}_scale")).to_event(loc.dim())
            draws[site] = pyro.sample(site, posterior)
        return draws
