"""`JointBLOB`: organic and bandit model trained on both signals at once."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pandas as pd
import torch
from torch import nn

from blob_pyro.data import EventLog
from blob_pyro.infer import GuidedELBO, LocalReparameterization, Training, train
from blob_pyro.models import BanditPriors
from blob_pyro.models.joint import JointBatch, JointModel
from blob_pyro.ops.device import default_device
from blob_pyro.ops.seeds import seeded
from blob_pyro.recommenders.blo import BLO
from blob_pyro.recommenders.blob import BLOB
from blob_pyro.recommenders.covariates import decision_points

__all__ = ["JointBLOB"]


class JointBLOB(BLOB):
    """BLOB whose item embeddings and encoder learn from clicks too (the future work of Sakhi et al. 2020).

    Starts from a fitted `BLOB`, of which it takes a copy. Afterwards it is a BLOB: it answers, plays and is saved as
    one. ``JointBLOB.load`` loads it, and so does ``BLOB.load``, as a JointBLOB.

    Args:
        blob: fitted, with a guide that SVI trains.

    Raises:
        ValueError: if ``blob`` is not fitted, propagates omega, has a guide without parameters, or normalises its
            embeddings.

    Example:
        >>> from blob_pyro import BLO
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")},
        ...     impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": list("cab"), "reward": [1, 0, 0]},
        ... )
        >>> blo = BLO(log.num_items, embedding_dim=2)
        >>> history = blo.fit(log, num_epochs=5, progress=False)
        >>> blob = BLOB(blo)
        >>> history = blob.fit(log, num_epochs=5, progress=False)
        >>> joint = JointBLOB(blob)
        >>> history = joint.fit_jointly(log, num_epochs=2, progress=False)
        >>> joint.scores([["a"]]).shape
        torch.Size([1, 3])
    """

    def __init__(self, blob: BLOB) -> None:
        if not blob.fitted:
            raise ValueError("blob: is not fitted; call blob.fit(log) first: the joint fit starts from there")
        if blob.omega != "mean":
            raise ValueError("blob: propagates omega; the joint model takes it at its mean, use omega='mean'")
        if not any(True for _ in blob.guide.parameters()):
            raise ValueError(f"blob: its guide {blob.guide_name!r} has nothing for SVI to train; use 'normal'")
        vars(self).update(vars(deepcopy(blob)))
        JointModel(self.blo.model, self.model, self.blo.guide.encoder)  # says what is wrong now rather than later

    @classmethod
    def _assemble(cls, blo: BLO, guide: str | Callable[..., Any], priors: BanditPriors | None, **options: Any) -> BLOB:
        joint = cls.__new__(cls)
        vars(joint).update(vars(BLOB(blo, guide, priors, **options)))
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

        Returns:
            One row per epoch: ``epoch``, ``elbo`` (nats of views and clicks, per event), ``seconds``,
            ``learning_rate``.

        Raises:
            ValueError: as `BLOB.batch`, and if the log has no views.
        """
        self.to(default_device(device))
        log.require_views()
        events = self.batch(log, covariates)
        contexts = decision_points(self.model, log, covariates).histories(log)
        batch = JointBatch(self.blo.batch(log), events, contexts.to(self.device))
        model = JointModel(self.blo.model, self.model, self.blo.guide.encoder)
        guide = _Both(self.blo.guide, self.guide)
        assert self.blo.bound is not None, "a fitted BLO has a bound"
        elbo = GuidedELBO(self.blo.bound, LocalReparameterization)
        training = Training(num_epochs, batch_size, learning_rate)
        with seeded(seed, self.device):
            history = train(model, guide, elbo, batch, training, progress=progress, description="BLOB, jointly")
        model.settle()
        self.fits = [*self.fits, training.record("fit_jointly", seed, len(batch))]
        return history


class _Both(nn.Module):
    """The guides of the two stories; not a PyroModule, which would rename their parameters."""

    def __init__(self, organic: nn.Module, bandit: nn.Module) -> None:
        super().__init__()
        self.organic, self.bandit = organic, bandit

    def forward(self, batch: JointBatch) -> None:
        self.organic(batch.sessions)
        self.bandit(batch.events)
