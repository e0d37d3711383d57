"""The parts of an organic model that answers: what they are, and whether they may."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories, ScannedLog, Vocabulary
from blob_pyro.guides import AmortizedGuide
from blob_pyro.infer import Bound
from blob_pyro.models import OrganicModel
from blob_pyro.ops.memory import require_memory
from blob_pyro.ops.modules import require_finite

__all__ = ["InterestModelParts", "OrganicParts", "sessions_of"]


class OrganicParts(NamedTuple):
    """The parts that answer, replaced as a whole: another thread sees the old or the new, and never half of each."""

    model: OrganicModel
    guide: AmortizedGuide
    bound: Bound | None
    items: Vocabulary

    def trained(self) -> list[nn.Module]:
        """Return the modules that training changes: model, guide, and the bound's own if it has one."""
        own = None if self.bound is None else self.bound.module
        return [self.model, self.guide, *([] if own is None else [own])]

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return self.model.item_embedding.device

    def logits(self, interest: Tensor) -> Tensor:
        """Return ``Psi omega + rho``, ``N x P``."""
        return torch.addmm(self.model.item_intercept, interest, self.model.item_embedding.mT)


class InterestModelParts:
    """An organic model, its guide and its catalogue, and whether they are fitted.

    Attributes:
        embedding_dim: ``K``.
        fits: settings of the fit.
    """

    embedding_dim: int
    fits: list[dict[str, Any]]
    _parts: OrganicParts

    @property
    def num_items(self) -> int:
        """The number of items in the catalogue, ``P``."""
        return len(self._parts.items)

    @property
    def model(self) -> OrganicModel:
        """The generative story, with its parameters."""
        return self._parts.model

    @property
    def guide(self) -> AmortizedGuide:
        """The encoder, as a guide of the model."""
        return self._parts.guide

    @property
    def items(self) -> Vocabulary:
        """The catalogue, as the log had it."""
        return self._parts.items

    @items.setter
    def items(self, items: Vocabulary) -> None:
        self._parts = self._parts._replace(items=items)

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return self._parts.device

    @property
    def fitted(self) -> bool:
        """True after a fit; ``fits`` has the settings of each."""
        return bool(self.fits)

    def mark_fitted(self, log: EventLog | Histories) -> None:
        """Say that you have trained ``model`` and ``guide`` yourself, by Pyro's own means, and that they may answer.

        Args:
            log: what they were trained on, whose catalogue becomes the model's; recorded in ``fits`` is how many
                sessions that were.

        Raises:
            ValueError: if the log has no views or another number of items, or a parameter is not finite.
        """
        items = self._catalogue(log)
        require_finite({"model": self.model, "guide": self.guide}, "mark_fitted")
        self.items = items
        self.fits = [*self.fits, {"call": "mark_fitted", "num_rows": len(sessions_of(log))}]

    def __repr__(self) -> str:
        state = "fitted" if self.fitted else "not fitted"
        return f"{type(self).__name__}({self.num_items:,} items, embedding_dim={self.model.embedding_dim}, {state})"

    def _repr_html_(self) -> str:
        encoder = type(self.guide.encoder).__name__
        fits = {"items": self.num_items, "embedding_dim": self.model.embedding_dim, "encoder": encoder}
        fits |= {"fits": len(self.fits), "sessions": sum(fit.get("num_rows", 0) for fit in self.fits)}
        return pd.DataFrame({type(self).__name__: fits}).to_html()

    def _require_fitted(self, call: str) -> None:
        if not self.fitted:
            raise ValueError(
                f"{call}: the model is not fitted; call fit(log) first, or mark_fitted(log) if you have trained model "
                "and guide yourself"
            )

    def _require_memory(self, num_histories: int, what: str, remedy: str) -> None:
        num_bytes = 2 * num_histories * self.num_items * self.model.item_intercept.element_size()
        shape = f"{num_histories:,} histories x {self.num_items:,} items"
        require_memory(num_bytes, f"{what} of {shape}", remedy, self.device)

    def _catalogue(self, log: EventLog | ScannedLog | Histories, argument: str = "log") -> Vocabulary:
        if not isinstance(log, (EventLog, ScannedLog, Histories)):
            raise TypeError(
                f"{argument}: expected an EventLog or Histories, got a {type(log).__name__}; make one with "
                "EventLog.from_tables(...)"
            )
        if log.num_items != self.num_items:
            raise ValueError(
                f"{argument}: has {log.num_items} items, but this model was made with num_items={self.num_items}"
            )
        if not isinstance(log, Histories):
            log.require_views()
            return log.items
        if not len(log):
            raise ValueError(f"{argument}: has no sessions; the organic model needs some")
        return self.items if argument == "validation" else Vocabulary.numbered(self.num_items)


def sessions_of(log: EventLog | ScannedLog | Histories) -> Histories:
    """Return the sessions to learn from."""
    return log if isinstance(log, Histories) else log.sessions
