"""A fit that met NaN or an infinity: where that was, and what of the fit is kept."""

from __future__ import annotations

import pandas as pd

__all__ = ["NotFiniteError"]


class NotFiniteError(FloatingPointError):
    """A loss or its gradient was not finite; what was trained is as it was after the last good epoch.

    Its message says at which epoch and step, at which site or in the gradient of which parameter, what is kept, and
    what to do.

    Attributes:
        trace: the training trace of the epochs that are kept, as a fit returns it: empty if none is.
    """

    trace: pd.DataFrame = pd.DataFrame()
