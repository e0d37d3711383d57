"""The training trace that a fit returns: a table whose columns hold what their names say.

=======================  ====================  ===================================================================
fitted by                a row is              columns
=======================  ====================  ===================================================================
SVI                      an epoch              ``epoch``, ``elbo``, ``seconds``, ``learning_rate``;
                                               ``validation_elbo`` where there is such a set
SVI of a point mass      an epoch              ``epoch``, ``log_joint``, ``seconds``, ``learning_rate``
Laplace's approximation  a Gauss-Newton step   ``step``, ``log_joint``, ``seconds``, ``damping``
the No-U-Turn sampler    a draw                ``draw``, ``log_joint``, ``seconds``, ``step_size``
=======================  ====================  ===================================================================

- ``elbo``: the ELBO's mean over the steps of the epoch, one draw each, in nats per row of the data: while the
  parameters move. Of a fitted model ask `blob_pyro.BLOB.elbo`, which is one quantity for all guides.
- ``log_joint``: log density of data and parameters together, in nats per row. It may be anything beside an ELBO.
- ``seconds``: spent so far.
- ``learning_rate``, ``damping``, ``step_size``: of the optimiser, of Levenberg's method, of the leapfrog integrator.

``attrs["interrupted"]`` says whether Ctrl-C ended the fit.
"""

from __future__ import annotations

import pandas as pd

__all__ = ["DAMPING", "DRAW", "ELBO", "EPOCH", "LEARNING_RATE", "LOG_JOINT", "SECONDS", "STEP", "STEP_SIZE"]
__all__ += ["VALIDATION_ELBO", "axes_of"]

EPOCH, STEP, DRAW = "epoch", "step", "draw"
ELBO, VALIDATION_ELBO, LOG_JOINT = "elbo", "validation_elbo", "log_joint"
SECONDS = "seconds"
LEARNING_RATE, DAMPING, STEP_SIZE = "learning_rate", "damping", "step_size"


def axes_of(trace: pd.DataFrame) -> tuple[str, str]:
    """Name a trace's rows and what rises along them, as one would plot it.

    Raises:
        ValueError: for a table that is no training trace.

    Example:
        >>> axes_of(pd.DataFrame({"step": [1], "log_joint": [-2.0], "seconds": [0.1], "damping": [1.0]}))
        ('step', 'log_joint')
    """
    rows = [name for name in (EPOCH, STEP, DRAW) if name in trace]
    values = [name for name in (ELBO, LOG_JOINT) if name in trace]
    if not rows or not values:
        raise ValueError(
            f"trace: expected what a fit returns, with a column {EPOCH!r}, {STEP!r} or {DRAW!r} and a column {ELBO!r} "
            f"or {LOG_JOINT!r}; got {list(trace.columns)}"
        )
    return rows[0], values[0]
