"""The parts of a click model, replaced as a whole, and the bandit events that they take."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories, ScannedLog, Vocabulary
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.ops.modules import require_finite
from blob_pyro.posteriors.guide_posterior import GuidePosterior
from blob_pyro.recommenders.blo import BLO
from blob_pyro.recommenders.covariates import decision_points
from blob_pyro.recommenders.scanned import require_scannable, streamed_batch

__all__ = ["ClickModelParts", "ClickParts"]


class ClickParts(NamedTuple):
    """The parts that answer, replaced as a whole: another thread sees the old or the new, and never half of each."""

    blo: BLO
    known: GuidePosterior


class ClickModelParts:
    """An organic model, a bandit model and a guide of it, which are replaced together; and whether they are fitted.

    Attributes:
        omega: "mean" or "sample": see `blob_pyro.BLOB`.
        interest: "encoder" or "newton", likewise.
        fits: settings of every fit and update.
    """

    omega: Literal["mean", "sample"]
    interest: Literal["encoder", "newton"]
    fits: list[dict[str, Any]]
    _parts: ClickParts

    @property
    def blo(self) -> BLO:
        """The organic model, which nothing but this object changes."""
        return self._parts.blo

    @property
    def model(self) -> BanditModel:
        """The bandit model, over the items as ``blo`` has them."""
        return self._parts.known.model

    @property
    def guide(self) -> nn.Module:
        """The guide. Setting another one leaves it to you to say that it is fitted: see `mark_fitted`."""
        return self._parts.known.guide

    @guide.setter
    def guide(self, guide: nn.Module) -> None:
        self._parts = ClickParts(self.blo, GuidePosterior(self.model, guide))

    @property
    def fitted(self) -> bool:
        """True after a fit; ``fits`` has the settings of it and of every update since."""
        return bool(self.fits)

    def mark_fitted(self, log: EventLog) -> None:
        """Say that you have trained ``guide`` yourself, by Pyro's own means, and that the model may answer from it.

        Args:
            log: what it was trained on; recorded in ``fits`` is how many events that were.

        Raises:
            ValueError: if the log is none of this catalogue's bandit events, or a parameter is not finite.

        Example:
            >>> import pyro
            >>> from blob_pyro import BLO, BLOB
            >>> from blob_pyro.infer import GuidedELBO, LocalReparameterization
            >>> log = EventLog.from_tables(
            ...     views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")},
            ...     impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": list("cab"), "reward": [1, 0, 0]},
            ... )
            >>> blo = BLO(log.num_items, embedding_dim=2)
            >>> trace = blo.fit(log, num_epochs=5, progress=False)
            >>> blob = BLOB(blo)
            >>> elbo = GuidedELBO(LocalReparameterization)
            >>> svi = pyro.infer.SVI(blob.model, blob.guide, pyro.optim.Adam({"lr": 0.1}), elbo)
            >>> losses = [svi.step(blob.batch(log)) for _ in range(20)]
            >>> blob.mark_fitted(log)
            >>> blob.scores([["a"]]).shape
            torch.Size([1, 3])
        """
        log = self._known_log(log)
        require_finite({"model": self.model, "guide": self.guide}, "mark_fitted")
        self.fits = [*self.fits, {"call": "mark_fitted", "num_rows": log.num_impressions}]

    def _require_fitted(self, call: str) -> None:
        if not self.fitted:
            raise ValueError(
                f"{call}: the model is not fitted; call fit(log) first, or mark_fitted(log) if you have trained its "
                "guide yourself. What the prior says, prior_click_rates(histories) tells"
            )

    def __repr__(self) -> str:
        guide = getattr(self, "guide_name", None) or type(self.guide).__name__
        events = sum(fit.get("num_rows", 0) for fit in getattr(self, "fits", []))
        state = "not fitted" if not self.fitted else f"fitted to {events:,} impressions" if events else "fitted"
        size = f"{self.num_items:,} items, embedding_dim={self.model.embedding_dim}"
        return f"{type(self).__name__}({size}, guide {guide!r}, {state})"

    def _repr_html_(self) -> str:
        fits = getattr(self, "fits", [])
        converged = fits[-1].get("converged") if fits else None
        figures = {
            "items": self.num_items,
            "embedding_dim": self.model.embedding_dim,
            "guide": getattr(self, "guide_name", None) or type(self.guide).__name__,
            "sites": ", ".join(self.model.site_priors()),
            "terms": ", ".join(map(repr, self.model.terms)) or "none",
            "omega": self.omega,
            "fits and updates": len(fits),
            "impressions": sum(fit.get("num_rows", 0) for fit in fits),
            "the last one converged": "not known" if converged is None else "yes" if converged else "no",
        }
        return pd.DataFrame({type(self).__name__: figures}).to_html()

    @property
    def items(self) -> Vocabulary:
        """The catalogue, as the log had it."""
        return self.blo.items

    @property
    def num_items(self) -> int:
        """The number of items in the catalogue, ``P``."""
        return self.blo.num_items

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return self.model.item_embedding.device

    def batch(self, log: EventLog, covariates: Any = None) -> BanditBatch:
        """Put the log's bandit events on this model's device, as ``model`` and ``guide`` take them.

        Every distinct context is embedded once, from all the user's views before the decision.

        Args:
            log: with bandit events over the organic model's catalogue.
            covariates: of each user, ``log.num_users x F`` in the order of ``log.users``, for `UserCovariates`; those
                of `EventCovariates` are read from the log. Events that differ in one are contexts of their own.

        Raises:
            ValueError: if the log has no bandit events, its items are not the organic model's, or covariates are
                missing or misshapen.
        """
        return self._batch(self._parts, log, covariates)

    def _known_log(self, log: EventLog) -> EventLog:
        """Check a log, and number its items as the model does: its catalogue may be a part of the model's."""
        if not isinstance(log, EventLog):
            raise TypeError(
                f"log: expected an EventLog, got a {type(log).__name__}; make one with EventLog.from_tables(...)"
            )
        log.require_impressions()
        if log.items == self.items:
            return log
        if new := self._new_items(log):
            raise ValueError(
                f"log: {len(new):,} of its {log.num_items:,} items are not among the {self.num_items:,} that the "
                f"organic model knows, {new[0]!r} for one; let them start from their prior, "
                'update(log, new_items="prior") or extend(items), fit a BLO to a log with them, or leave their rows out'
            )
        return log.with_items(self.items)

    def _learnable(self, log: EventLog | ScannedLog) -> EventLog | ScannedLog:
        """Check a log that is to be learned from, in memory or on disk."""
        if not isinstance(log, ScannedLog):
            return self._known_log(log)
        require_scannable(log, self.items, self.model, self.guide)
        return log

    def _events(self, parts: ClickParts, log: EventLog | ScannedLog, covariates: Any) -> BanditBatch | StreamedBatch:
        """The events of such a log, as training takes them."""
        if not isinstance(log, ScannedLog):
            return self._batch(parts, log, covariates)
        return streamed_batch(log, lambda some: self._interest(parts.blo, some), covariates, parts.known.device)

    def _new_items(self, log: EventLog) -> list[Hashable]:
        """The items of a log that the model does not know."""
        known = set(self.items.ids)
        return [item for item in log.items.ids if item not in known]

    def _batch(self, parts: ClickParts, log: EventLog, covariates: Any) -> BanditBatch:
        if not isinstance(log, EventLog) or log.items != parts.blo.items:  # whose parts may be those of a fit to come
            log = self._known_log(log)
        device = parts.known.device
        points = decision_points(parts.known.model, log, covariates)
        action, reward, context, history = (
            t.to(device) for t in (log.action, log.reward, points.context, points.history)
        )
        interest, scale = self._interest(parts.blo, log.contexts)
        if points.covariates is not None:
            interest, scale = interest[history], None if scale is None else scale[history]
        rows = None if points.covariates is None else points.covariates.to(device)
        reward = reward.to(interest.dtype)
        return BanditBatch(interest, context, action, reward, log.num_impressions, rows, scale)

    def _interest(self, blo: BLO, histories: Histories) -> tuple[Tensor, Tensor | None]:
        """Posterior mean of omega, and its scale (or Cholesky factor) if it is to be propagated."""
        if self.omega == "mean":
            return blo.embed(histories, method=self.interest), None
        posterior = blo.user_posterior(histories, self.interest)
        return posterior.mean, getattr(posterior, "scale_tril", posterior.stddev)
