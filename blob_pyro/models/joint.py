"""Both stories at once: one Psi that explains what users view and what they click (Sakhi et al. 2020, section 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from blob_pyro.data import Histories
from blob_pyro.models.bandit import BanditBatch, BanditModel
from blob_pyro.models.item_factors import ItemFactors, whitening
from blob_pyro.models.organic import OrganicBatch, OrganicModel

__all__ = ["JointBatch", "JointModel"]


@dataclass(frozen=True)
class JointBatch:
    """Sessions and bandit events, or a random part of both: rows are events, and sessions come in proportion.

    Attributes:
        sessions: what users view.
        events: what they click; its ``interest`` is not used.
        contexts: the views before each distinct context of the events.
        context: row of ``contexts`` for each event, on the CPU: only the host can find the distinct ones without
            waiting for a device. Read off ``events`` if not given.
    """

    sessions: OrganicBatch
    events: BanditBatch
    contexts: Histories
    context: Tensor = None  # type: ignore[assignment] # never None once constructed

    def __post_init__(self) -> None:
        if self.context is None:
            object.__setattr__(self, "context", self.events.context.cpu())

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: Tensor) -> JointBatch:
        num_sessions = len(self.sessions)
        share = max(1, round(num_sessions * len(index) / len(self)))
        picked = torch.randperm(num_sessions, device=index.device)[:share]
        context = self.context[index.cpu()]
        return replace(self, sessions=self.sessions[picked], events=self.events[index], context=context)


class JointModel(nn.Module):
    """Views and clicks, given one set of item embeddings and one encoder.

    The bandit story takes omega at the mean that the encoder gives for the views before the event, and Psi as it now
    is: clicks train both. The whitening ``L`` follows Psi.

    Args:
        organic: the organic story; its Psi and rho are trained.
        bandit: the bandit story; its own copy of Psi is not used until `update_bandit_items`.
        encoder: histories to a Gaussian: see `blob_pyro.guides.encoders`.

    Raises:
        ValueError: for `BanditPriors.normalize_embeddings`: a Psi that moves has no fixed norms.
    """

    def __init__(self, organic: OrganicModel, bandit: BanditModel, encoder: nn.Module) -> None:
        super().__init__()  # not a PyroModule, which would rename its parts' parameters
        if bandit.priors.normalize_embeddings:
            raise ValueError("normalize_embeddings: a Psi that is trained has no fixed norms; use the default, False")
        self.organic, self.bandit, self.encoder = organic, bandit, encoder

    @property
    def item_factors(self) -> ItemFactors:
        """The organic story's items, with the graph; a whitening that does not exist is NaN, and so is the loss."""
        psi = self.organic.item_embedding
        return ItemFactors(psi, whitening(psi, self.bandit.jitter, check=False))

    def forward(self, batch: JointBatch) -> tuple[Tensor, Tensor]:
        """Run both stories; views and clicks are observed.

        Returns:
            Views and clicks.
        """
        views = self.organic(batch.sessions)
        seen, context = torch.unique(batch.context, return_inverse=True)
        interest, _ = self.encoder(batch.contexts[seen])
        context, covariates = context.to(interest.device), _rows(batch.events, seen.to(interest.device))
        events = replace(batch.events, interest=interest, context=context, covariates=covariates)
        return views, self.bandit(events, self.item_factors)

    def update_bandit_items(self) -> None:
        """Copy the items as they are now into the bandit story."""
        with torch.no_grad():
            embedding, factor = self.item_factors
            self.bandit.item_embedding.copy_(embedding)
            self.bandit.whitening.copy_(factor)
            self.bandit.item_intercept.copy_(self.organic.item_intercept)


def _rows(events: BanditBatch, seen: Tensor) -> Tensor | None:
    return None if events.covariates is None else events.covariates[seen]
