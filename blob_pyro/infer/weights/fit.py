"""Fits of guide "arrowhead_normal": SVI of independent normals, and then the weights."""

from __future__ import annotations

import pandas as pd

from blob_pyro.guides.arrowhead import ArrowheadNormalGuide
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.svi import fit_by_svi
from blob_pyro.infer.weights.posterior import correlate_weights

__all__ = ["fit_arrowhead_normal"]


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
    trace = fit_by_svi(guide, request)
    trace.attrs["correlated"] = not trace.attrs["interrupted"]
    if trace.attrs["correlated"]:
        correlate_weights(request.model, guide, request.batch, request.workers)
    elif not guide.is_auxiliary:
        guide.share_nothing()
    return trace
