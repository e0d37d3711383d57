"""How a guide of the bandit model is fitted: by SVI, unless its class knows better."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from pathlib import Path

import pandas as pd
from torch import nn

from blob_pyro.guides.certainty import certain_sites
from blob_pyro.guides.draws import DrawsGuide
from blob_pyro.guides.multivariate import MOST_NUMBERS, FullGuide, LaplaceGuide, LowRankGuide
from blob_pyro.infer.elbo import GuidedELBO
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.infer.laplace.linearization import LaplaceRefuses
from blob_pyro.infer.local_reparameterization.handler import LocalReparameterization
from blob_pyro.infer.nuts import fit_nuts
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.loop import train
from blob_pyro.infer.training.settings import Training
from blob_pyro.infer.training.trace import ELBO, LOG_JOINT
from blob_pyro.models import BanditBatch, BanditModel

__all__ = ["fit_guide"]


@singledispatch
def fit_guide(
    guide: nn.Module,
    model: BanditModel,
    batch: BanditBatch,
    training: Training,
    *,
    progress: bool = True,
    checkpoint: str | Path | Checkpoint | None = None,
) -> pd.DataFrame:
    """Fit a guide to events, in place; dispatched on its class: register yours with ``fit_guide.register(YourGuide)``.

    Args:
        guide: see `blob_pyro.guides.bandit`.
        model: whose posterior it approximates.
        batch: all events.
        training: settings of SVI.
        progress: whether to show a progress bar.
        checkpoint: a file to go on from after an interruption: see `blob_pyro.infer.train`.

    Returns:
        A training trace: see `blob_pyro.infer.training.trace` for the columns of each guide.

    Raises:
        FloatingPointError: if the loss is not finite, naming site and step; the last good state is kept.
    """
    elbo = GuidedELBO(LocalReparameterization)
    trace = train(model, guide, elbo, batch, training, progress=progress, checkpoint=checkpoint, description="BLOB")
    if certain_sites(guide, model):  # the ELBO of a point mass, less its entropy, which is minus infinity
        trace = trace.rename(columns={ELBO: LOG_JOINT})
    return trace


@fit_guide.register(FullGuide)
@fit_guide.register(LowRankGuide)
def _(
    guide: FullGuide | LowRankGuide,
    model: BanditModel,
    batch: BanditBatch,
    training: Training,
    *,
    progress: bool = True,
    checkpoint: str | Path | Checkpoint | None = None,
) -> pd.DataFrame:
    """From Laplace's approximation, in small steps: larger ones lose in noise what it has found.

    Where it cannot be had, from the usual start: ``attrs["start"]`` says which of the two it was, and why.
    """
    start = "laplace"
    try:
        if guide.size > MOST_NUMBERS:
            raise LaplaceRefuses(f"{guide.size} numbers; a start from Laplace's approximation is for {MOST_NUMBERS}")
        mode = LaplaceGuide(model)
        fit_laplace(mode, model, batch, progress=progress)
    except LaplaceRefuses as reason:
        start = f"prior: {reason}"
    else:
        guide.start_from(mode.joint())
        training = replace(training, learning_rate=training.learning_rate / 100)
    svi = fit_guide.dispatch(object)
    history = svi(guide, model, batch, training, progress=progress, checkpoint=checkpoint)
    history.attrs["start"] = start
    return history


@fit_guide.register
def _(
    guide: LaplaceGuide,
    model: BanditModel,
    batch: BanditBatch,
    training: Training,
    *,
    progress: bool = True,
    checkpoint: str | Path | Checkpoint | None = None,
) -> pd.DataFrame:
    Checkpoint.at(checkpoint, guide)  # refuses
    return fit_laplace(guide, model, batch, progress=progress)


@fit_guide.register
def _(
    guide: DrawsGuide,
    model: BanditModel,
    batch: BanditBatch,
    training: Training,
    *,
    progress: bool = True,
    checkpoint: str | Path | Checkpoint | None = None,
) -> pd.DataFrame:
    Checkpoint.at(checkpoint, guide)  # refuses
    return fit_nuts(guide, model, batch, progress=progress)
