"""The amortised guide of the organic model."""

from __future__ import annotations

from itertools import count

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from blob_pyro.data import Histories
from blob_pyro.models import OrganicBatch
from blob_pyro.models.sites import INTEREST

__all__ = ["AmortizedGuide"]

_number = count()


class AmortizedGuide(PyroModule):
    """``q(omega_u) = N(loc_u, diag(scale_u^2))`` with ``loc_u, scale_u = encoder(views of u)``.

    Args:
        encoder: see `blob_pyro.guides.encoders`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(f"organic_guide_{next(_number)}")  # unique: Pyro's parameter store is global
        to_pyro_module_(encoder)
        self.encoder = encoder

    def posterior(self, histories: Histories) -> dist.Independent:
        """The distribution of omega for each history: batch ``N``, event ``K``."""
        loc, scale = self.encoder(histories)
        return dist.Normal(loc, scale).to_event(1)

    def forward(self, batch: OrganicBatch) -> Tensor:
        """Draw omega for every session of the batch, ``B x K``."""
        with batch.plate():
            return pyro.sample(INTEREST, self.posterior(batch.sessions))
