"""Fits of guides of the bandit model: by SVI, unless a guide's class knows better."""

from __future__ import annotations

from functools import singledispatch

import pandas as pd
from torch import nn

from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.svi import fit_by_svi

__all__ = ["fit_guide"]


@singledispatch
def fit_guide(guide: nn.Module, request: FitRequest) -> pd.DataFrame:
    """Fit a guide to events, in place; dispatched on its class: register yours with ``fit_guide.register(YourGuide)``.

    Args:
        guide: see `blob_pyro.guides.bandit`.
        request: model, events and settings.

    Returns:
        A training trace: see `blob_pyro.infer.training.trace` for the columns of each guide. ``attrs["converged"]``
        says whether the fit has arrived, ``attrs["convergence"]`` why one thinks so.

    Raises:
        NotFiniteError: (a FloatingPointError) if the loss or a gradient is not finite, naming epoch, step, and site or
            parameter; the guide is as it was after the last good epoch.
    """
    return fit_by_svi(guide, request)
