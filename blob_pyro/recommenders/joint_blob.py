"""`JointBLOB`: organic and bandit model trained on both signals at once."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pandas as pd
import torch
from torch import nn

from blob_pyro.data import EventLog
from blob_pyro.guides.arrowhead import ArrowheadNormalGuide
from blob_pyro.guides.registry import guide_name
from blob_pyro.infer import GuidedELBO, LocalReparameterization, NotFiniteError, Training, train, warn_unless_converged
from blob_pyro.infer.weights.fit import find_weights
from blob_pyro.models import BanditPriors
from blob_pyro.models.joint import JointBatch, JointModel
from blob_pyro.ops.arguments import true_or_false
from blob_pyro.ops.device import default_device
from blob_pyro.ops.gradients import ordinary, with_gradients
from blob_pyro.ops.modules import own_copies
from blob_pyro.ops.seeds import check_seed, seeded
from blob_pyro.posteriors.guide_posterior import GuidePosterior
from blob_pyro.recommenders.blo import BLO
from blob_pyro.recommenders.blob import BLOB
from blob_pyro.recommenders.blob_fit import take
from blob_pyro.recommenders.click_model_parts import ClickParts
from blob_pyro.recommenders.covariates import decision_points

__all__ = ["JointBLOB"]


class JointBLOB(BLOB):
    """BLOB whose item embeddings and encoder learn from clicks too (the future work of Sakhi et al. 2020).

    Starts from a fitted `BLOB`, of which it takes a copy. Afterwards it is a BLOB: it answers, plays and is saved as
    one. ``JointBLOB.load`` loads it, and so does ``BLOB.load``, as a JointBLOB.

    Args:
        blob: fitted, with a guide that SVI trains.

    Raises:
        ValueError: if ``blob`` is not fitted, propagates omega or has it from elsewhere than the encoder, has a guide
            without parameters, or normalises its embeddings.

    Example:
        >>> from blob_pyro import BLO
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")},
        ...     impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": list("cab"), "reward": [1, 0, 0]},
        ... )
        >>> blo = BLO(log.num_items, embedding_dim=2)
        >>> trace = blo.fit(log, num_epochs=5, progress=False)
        >>> blob = BLOB(blo)
        >>> trace = blob.fit(log, num_epochs=5, progress=False)
        >>> joint = JointBLOB(blob)
        >>> trace = joint.fit_jointly(log, num_epochs=2, progress=False)
        >>> joint.scores([["a"]]).shape
        torch.Size([1, 3])
    """

    def __init__(self, blob: BLOB) -> None:
        if not isinstance(blob, BLOB):
            raise TypeError(f"blob: expected a fitted BLOB, got {blob!r} (a {type(blob).__name__})")
        if not blob.fitted:
            raise ValueError("blob: is not fitted; call blob.fit(log) first: the joint fit starts from there")
        if blob.omega != "mean":
            raise ValueError("blob: propagates omega; the joint model takes it at its mean, use omega='mean'")
        if blob.interest != "encoder":
            raise ValueError("blob: takes interests by Newton's method; the joint model trains the encoder, use "
                             "interest='encoder'")  # fmt: skip
        if not any(True for _ in blob.guide.parameters()):
            raise ValueError(f"blob: its guide {guide_name(blob.guide)} has nothing for SVI to train; use 'normal'")
        super().__init__(blob.blo, blob._recipe, blob.model.priors, jitter=blob.model.jitter)
        self._parts, self.fits = self._parts_like(blob.blo, blob), deepcopy(blob.fits)
        JointModel(self.blo.model, self.model, self.blo.guide.encoder)  # says what is wrong now rather than later

    @staticmethod
    def _parts_like(blo: BLO, blob: BLOB) -> ClickParts:
        """The bandit model of ``blob``, over the items of ``blo``, and its guide: copies, as they now are."""
        model, guide = own_copies(blob.model, blob.guide, argument="guide", shared=[blob.model.item_embedding])
        model.to(blo.device), guide.to(blo.device)
        model.item_embedding = blo.model.item_embedding.detach()
        model.item_intercept = blo.model.item_intercept.detach()
        return ClickParts(blo, GuidePosterior(model, guide))

    @classmethod
    def _assemble(cls, blo: BLO, guide: str | Callable[..., Any], priors: BanditPriors | None, **options: Any) -> BLOB:
        joint = cls.__new__(cls)
        BLOB.__init__(joint, blo, guide, priors, **options)
        return joint

    def fit_jointly(
        self,
        log: EventLog,
        *,
        seed: int = 0,
        num_epochs: int = 20,
        batch_size: int = 4096,
        learning_rate: float = 0.003,
        covariates: Any = None,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Go on from the present fit, on views and clicks together.

        Args:
            log: with views and bandit events over the model's catalogue.
            seed: of the order of rows and of the noise.
            num_epochs: passes over the events; sessions come in proportion.
            batch_size: events per step.
            learning_rate: peak of Adam's one-cycle schedule; small, for everything moves at once.
            covariates: see `BLOB.batch`.
            device: where to train; default CUDA where there is one.
            progress: whether to show a progress bar.

        What stops it early leaves the model as `BLOB.fit` says.

        Returns:
            One row per epoch: ``epoch``, ``elbo`` (nats of views and clicks, per event), ``seconds``,
            ``learning_rate``. ``attrs["converged"]`` and ``attrs["convergence"]`` as `BLOB.fit`.

        Warns:
            ConvergenceWarning: if the fit has not arrived.

        Raises:
            ValueError: as `BLOB.batch`, and if the log has no views.
        """
        device, seed = default_device(device), check_seed(seed)
        true_or_false(progress, "progress")
        training = Training(num_epochs, batch_size, learning_rate)
        log = self._known_log(log)
        log.require_views()
        log.require_whole("JointBLOB.fit_jointly")
        with with_gradients():
            blo = self.blo.frozen(device, anew=True)  # trained here, and by nobody else ever after
            fresh = self._parts_like(blo, self)
            bandit, guide = fresh.known.model, fresh.known.guide
            contexts = decision_points(bandit, log, covariates).histories(log)
            batch = ordinary(JointBatch(blo.batch(log), self._batch(fresh, log, covariates), contexts.to(device)))
            model = JointModel(blo.model, bandit, blo.guide.encoder)
            assert blo.bound is not None, "a fitted BLO has a bound"
            elbo = GuidedELBO(blo.bound, LocalReparameterization)
            both = _Both(blo.guide, guide)
            if isinstance(guide, ArrowheadNormalGuide):
                guide.to_mean_field()
            fits = [*self.fits, training.record("fit_jointly", seed, len(batch))]
            with seeded(seed, device):
                try:
                    trace = train(model, both, elbo, batch, training, progress=progress, description="BLOB, jointly")
                except NotFiniteError as error:
                    model.update_bandit_items()
                    if isinstance(guide, ArrowheadNormalGuide):
                        guide.share_nothing()
                    take(self, fresh, error.trace, fits)
                    raise
                model.update_bandit_items()
                if isinstance(guide, ArrowheadNormalGuide):
                    find_weights(guide, bandit, self._batch(fresh, log, covariates), trace)
                take(self, fresh, trace, fits)
        if not trace.attrs["interrupted"]:
            warn_unless_converged(trace, what="JointBLOB.fit_jointly")
        return trace


class _Both(nn.Module):
    """The guides of the two stories; not a PyroModule, which would rename their parameters."""

    def __init__(self, organic: nn.Module, bandit: nn.Module) -> None:
        super().__init__()
        self.organic, self.bandit = organic, bandit

    def forward(self, batch: JointBatch) -> None:
        self.organic(batch.sessions)
        self.bandit(batch.events)
