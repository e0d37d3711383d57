"""Guides that start from Laplace's approximation, and are trained from there."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter

import pandas as pd

from blob_pyro.guides.multivariate import MOST_NUMBERS, FullGuide, LaplaceGuide, LowRankGuide
from blob_pyro.infer.elbo_estimate import rough_elbo
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.infer.laplace.linearization import LaplaceRefuses
from blob_pyro.infer.svi import fit_by_svi
from blob_pyro.models import BanditBatch

__all__ = ["fit_from_laplace"]


@fit_guide.register(FullGuide)
@fit_guide.register(LowRankGuide)
def fit_from_laplace(guide: FullGuide | LowRankGuide, request: FitRequest) -> pd.DataFrame:
    """Fit from Laplace's approximation on, in small steps: larger ones lose in noise what it has found.

    Where it cannot be had, from the usual start: ``attrs["start"]`` says which of the two it was, and why.

    Args:
        guide: one Gaussian over all sites, that can take another as its start.
        request: model, events and settings.

    Returns:
        See `blob_pyro.infer.training.trace`.
    """
    start = "laplace"
    try:
        if guide.size > MOST_NUMBERS:
            raise LaplaceRefuses(f"{guide.size} numbers; a start from Laplace's approximation is for {MOST_NUMBERS}")
        if not isinstance(request.batch, BanditBatch):
            raise LaplaceRefuses("events on disk; Laplace's approximation looks at all of them at every step")
        mode = LaplaceGuide(request.model)
        fit_laplace(mode, request.model, request.batch, progress=request.progress)
    except LaplaceRefuses as reason:
        start = f"prior: {reason}"
    else:
        starts = []
        for gaussian in mode.gaussians():
            guide.start_from(gaussian)
            starts.append((rough_elbo(request.model, guide, request.batch).value, gaussian))
        guide.start_from(max(starts, key=itemgetter(0))[1])
        training = replace(request.training, learning_rate=request.training.learning_rate / 100)
        request = replace(request, training=training)
    trace = fit_by_svi(guide, request)
    trace.attrs["start"] = start
    return trace
