r"""Laplace's approximation of the bandit posterior, structured: exact at any catalogue that fits in memory.

What items share (the weights, zeta) is solved for after their kappas, which are independent given it, have been
eliminated: a Schur complement. Modes are found by Gauss-Newton steps with Levenberg's damping; the curvature there is
the exact one. Learned scales follow MacKay's fixed point, the maximum of the approximate evidence (MacKay 1992).

Where ``w_b`` is in doubt it has a density of its own, and all else a mode and a curvature for each of its values: see
`blob_pyro.infer.laplace.nested_search`.

Where it still misleads: given ``w_b`` all else is a mode and a curvature, which knows no skew; ``w_a`` and ``w_c``
alone have mean and deviation of their own marginals (`blob_pyro.infer.laplace.corrected_moments`), the same correction
at every node. The noise of an item's own numbers, given what items share, is the same for every ``w_b``, at its average
precision. Learned scales are taken at the ``w_b`` of the largest evidence, and are points: kappa's at the root of its
posterior mean square where events leave it in doubt (`blob_pyro.infer.laplace.scale_evidence`), others at the maximum.
Other scales (`HorseshoeKappa`, a ``kappa_scale`` that is a distribution) are taken at the joint mode, and with them all
that they scale is too small.
"""

from __future__ import annotations

from copy import deepcopy

import pandas as pd
from tqdm.auto import tqdm

from blob_pyro.guides.multivariate import LaplaceGuide
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.laplace.linearization import LaplaceRefuses
from blob_pyro.infer.laplace.log_posterior import LogPosterior
from blob_pyro.infer.laplace.mode_search import ModeSearch
from blob_pyro.infer.laplace.nested_search import NestedSearch
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.trace import LOG_JOINT
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.sites import W_B
from blob_pyro.ops.exclusive import own_parameter_store

__all__ = ["MOST_SHARED", "fit_laplace"]

MOST_SHARED = 6_000
"""More shared parameters than this are refused: their curvature is a dense matrix, 288 MB at that."""


def fit_laplace(
    guide: LaplaceGuide,
    model: BanditModel,
    batch: BanditBatch,
    *,
    max_steps: int = 500,
    progress: bool = True,
) -> pd.DataFrame:
    """Put mode and curvature of the posterior into ``guide``, and learned scales into ``model``.

    Args:
        guide: filled in place.
        model: whose posterior it is.
        batch: all events.
        max_steps: Gauss-Newton steps, at most, over all values of ``w_b`` that are tried.
        progress: whether to show a progress bar.

    Returns:
        One row per step: ``step``, ``log_joint`` (log density of clicks and parameters at the point, nats per event; it
        rises while ``w_b`` is fixed), ``seconds``, ``damping``. ``attrs["exact_curvature"]`` tells whether the
        exact curvature was positive definite, at each node; if not, the Gauss-Newton one is used.
        ``attrs["log_evidence"]`` is Laplace's approximation of the log probability of the clicks, integrated over
        ``w_b`` where that is sought.

    Raises:
        LaplaceRefuses: (a ValueError) for too many shared parameters, a kappa whose prior correlates items, a learned
            scale of a prior that is not normal, a term outside the linear operations, or a batch that propagates the
            uncertainty of omega.
    """
    if batch.interest_scale is not None:
        raise LaplaceRefuses(
            "guide 'laplace': takes omega at its mean; use omega='mean', or another guide for 'sample'"
        )
    num_shared = guide.size - guide.num_own
    if num_shared > MOST_SHARED:
        raise LaplaceRefuses(
            f"guide 'laplace': {num_shared} numbers are shared by items, and their curvature is dense; it takes up to "
            f"{MOST_SHARED}. Use 'normal', 'matrix_normal' or 'low_rank'"
        )
    with own_parameter_store():
        posterior = LogPosterior(guide, deepcopy(model).double(), batch)
        with tqdm(total=max_steps, desc="BLOB, Laplace", unit="step", disable=not progress) as bar:
            search = (NestedSearch if W_B in posterior.layout else ModeSearch)(posterior, max_steps, bar)
            distribution, exact = search.run()
    guide.take(distribution)
    for name in model.learned:
        parameter = getattr(model, f"{name}_unconstrained")
        parameter.data.copy_(posterior.scale(name).log())
    history = pd.DataFrame(search.rows)
    history[LOG_JOINT] /= batch.num_events
    history.attrs.update(interrupted=False, exact_curvature=exact, log_evidence=search.log_evidence)
    search.convergence().write(history)
    return history


@fit_guide.register
def _(guide: LaplaceGuide, request: FitRequest) -> pd.DataFrame:
    Checkpoint.at(request.checkpoint, guide)  # refuses
    return fit_laplace(guide, request.model, request.events_in_memory("laplace"), progress=request.progress)
