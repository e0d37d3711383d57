"""BLO's generative story: what users view by themselves (Sakhi et al. 2020, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from blob_pyro.data.histories import Histories, LaidOutHistories
from blob_pyro.distributions import SoftmaxViews
from blob_pyro.models.priors.organic_priors import OrganicPriors
from blob_pyro.models.sites import INTEREST, ITEM_EMBEDDING, ITEM_INTERCEPT, SESSIONS, VIEWS
from blob_pyro.ops.arguments import instance_of
from blob_pyro.ops.names import unique_name
from blob_pyro.ops.row_noise import RowPlate

__all__ = ["OrganicBatch", "OrganicModel"]


@dataclass(frozen=True)
class OrganicBatch:
    """Sessions to learn from, or a random part of them.

    Attributes:
        sessions: the ``B`` sessions' views.
        num_sessions: how many sessions they stand for (``U``): the plate's size.
    """

    sessions: Histories
    num_sessions: int

    def __len__(self) -> int:
        return len(self.sessions)

    def plate(self) -> pyro.plate:
        """Make the plate that model and guide share; it weights a part of the sessions as if it were all."""
        rows = torch.arange(len(self), device=self.sessions.device)
        return RowPlate(SESSIONS, self.num_sessions, subsample=rows)

    def __getitem__(self, index: Tensor) -> OrganicBatch:
        return OrganicBatch(self.sessions[index], self.num_sessions)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the sessions for `of_tensors`: views, the session of each, lengths, and the rectangle of views."""
        return self.sessions.laid_out().tensors()

    def of_tensors(self, *tensors: Tensor) -> OrganicBatch:
        """Make a batch of sessions that have been laid out, of the same catalogue."""
        return OrganicBatch(LaidOutHistories.of(*tensors, num_items=self.sessions.num_items), self.num_sessions)


class OrganicModel(PyroModule):
    r"""Views given a latent interest per session (Sakhi et al. 2020, section 2).

    ``omega_u ~ N(0, I_K)``; every view of session ``u`` is ``~ Categorical(softmax(Psi omega_u + rho))``. Psi
    (``item_embedding``, ``P x K``) and rho (``item_intercept``, ``P``) are parameters, as in the paper, unless they
    have priors.

    Args:
        num_items: ``P``.
        embedding_dim: ``K``.
        priors: of Psi and rho; none by default.
        sparse: let Psi and rho have sparse gradients under a bound that looks at some items only.
    """

    def __init__(
        self, num_items: int, embedding_dim: int, priors: OrganicPriors | None = None, sparse: bool = False
    ) -> None:
        super().__init__(unique_name("organic_model"))  # unique: Pyro's parameter store is global
        self.num_items = num_items
        self.embedding_dim = embedding_dim
        self.priors = instance_of(OrganicPriors() if priors is None else priors, "priors", OrganicPriors)
        self.sparse = sparse
        if sparse and self.priors.any:
            raise ValueError("sparse: a prior of Psi or rho looks at every item at every step; use priors=None with it")
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.item_intercept = nn.Parameter(torch.empty(num_items))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh start: small embeddings, no popularity."""
        nn.init.normal_(self.item_embedding, std=0.1)
        nn.init.zeros_(self.item_intercept)

    def forward(self, batch: OrganicBatch) -> Tensor:
        """Run the story; the views of ``batch`` are observed.

        Returns:
            The views, ``B x longest session``, -1 where there is none.
        """
        sessions = batch.sessions
        psi = self._items(ITEM_EMBEDDING, self.item_embedding, self.priors.item_embedding)
        rho = self._items(ITEM_INTERCEPT, self.item_intercept, self.priors.item_intercept)
        standard = dist.Normal(psi.new_zeros(()), 1.0).expand([self.embedding_dim]).to_event(1)
        with batch.plate():
            omega = pyro.sample(INTEREST, standard)
            value = sessions.padded()
            views = SoftmaxViews(
                omega, psi, rho, sessions.lengths, value.shape[-1], sessions.num_views, sparse=self.sparse
            )
            result: Tensor = pyro.sample(VIEWS, views, obs=value)
            return result

    def _items(self, site: str, parameter: Tensor, prior: dist.Normal | None) -> Tensor:
        """A parameter, a parameter that is scored by its prior, or a draw."""
        if prior is None:
            return parameter
        distribution = dist.Normal(prior.loc.to(parameter), prior.scale.to(parameter))
        distribution = distribution.expand(parameter.shape).to_event(parameter.dim())
        result: Tensor = pyro.sample(site, distribution, obs=parameter if self.priors.inference == "map" else None)
        return result
