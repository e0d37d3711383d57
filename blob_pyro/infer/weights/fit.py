"""Fits of guide "arrowhead_normal": SVI of independent normals, and then the weights."""

from __future__ import annotations

import warnings

import pandas as pd

from blob_pyro.guides.arrowhead import ArrowheadNormalGuide
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.references import PoorFitWarning
from blob_pyro.infer.svi import fit_by_svi
from blob_pyro.infer.training.workers import Workers
from blob_pyro.infer.weights.posterior import NoWeights, correlate_weights
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.ops.interrupts import to_the_end

__all__ = ["find_weights", "fit_arrowhead_normal"]


@fit_guide.register
def fit_arrowhead_normal(guide: ArrowheadNormalGuide, request: FitRequest) -> pd.DataFrame:
    """Fit independent normals, then find the posterior of the weights and what follows them.

    A fit that was interrupted is left as independent normals.

    Args:
        guide: filled in place.
        request: model, events and settings.

    Returns:
        See `blob_pyro.infer.training.trace`; ``attrs["correlated"]`` says whether the weights' posterior was found.
    """
    guide.to_mean_field()
    try:
        trace = fit_by_svi(guide, request)
    except BaseException:
        guide.share_nothing()
        raise
    find_weights(guide, request.model, request.batch, trace, request.workers, stacklevel=5)
    return trace


def find_weights(
    guide: ArrowheadNormalGuide,
    model: BanditModel,
    batch: BanditBatch | StreamedBatch,
    trace: pd.DataFrame,
    workers: Workers | None = None,
    stacklevel: int = 2,
) -> None:
    """Find the posterior of the weights, and what follows them, unless the training before was interrupted.

    Ctrl-C does not end it: what was trained is worth more than its seconds.

    Args:
        guide: trained as independent normals; filled in place.
        model: fitted.
        batch: all events; of this worker where there are others.
        trace: of the training; ``attrs["correlated"]`` says afterwards whether it was done.
        workers: who have the other events, where there are some.
        stacklevel: frames between here and the user.

    Warns:
        PoorFitWarning: where it cannot be done, and the guide is left as independent normals.
    """
    trace.attrs["correlated"] = False
    if trace.attrs["interrupted"]:
        guide.share_nothing()
        return
    try:
        with to_the_end("the weights' posterior"):
            correlate_weights(model, guide, batch, workers)
        trace.attrs["correlated"] = True
    except NoWeights as reason:
        guide.share_nothing()
        warnings.warn(
            "guide 'arrowhead_normal': w_a, w_b and w_c are left as independent normals, which are too narrow, and "
            f"decisions are those of guide 'normal': {reason}. To read the weights, use guide 'laplace'",
            PoorFitWarning,
            stacklevel=stacklevel + 1,
        )
