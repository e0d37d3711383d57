r"""Laplace's approximation of the bandit posterior, structured: exact at any catalogue that fits in memory.

What items share (the weights, zeta) is solved for after their kappas, which are independent given it, have been
eliminated: a Schur complement. Modes are found by Gauss-Newton steps with Levenberg's damping; the curvature there is
the exact one. Learned scales follow MacKay's fixed point, the maximum of the approximate evidence (MacKay 1992).

A mode is not where the mass is. ``w_b`` scales zeta, and of all pairs with one product the joint density prefers a
large ``w_b`` with a small zeta, however little room there is. So ``w_b`` is treated as Rue, Martino & Chopin (2009,
section 3.1) treat a hyperparameter: for a fixed ``w_b`` all else has a mode and a curvature, which give the evidence

.. math:: \log p(\text{clicks}, w_b) \approx \log p(\text{clicks}, w_b, \hat\theta(w_b))
    - \tfrac12 \log \det H(w_b) + \text{constant},

the marginal density of ``w_b``, and its maximum is sought. The Gaussian is ``N(w_b)`` times all else given ``w_b``,
whose mean moves with ``w_b`` as the conditional mode does, to first order. The marginal of ``w_b`` is often flat on one
side, where zeta must shrink as ``w_b`` grows and a Gaussian cannot follow: its standard deviation is the one that is
nearest in ``KL(q | p)``, not the marginal's own.

Where it still misleads: under a wide prior, ``w_b ~ N(-6, 3)``, the marginal's mode can lie where a Gaussian has little
room around it (standard log of ``benchmarks/bandit.py``: at -3.0, standard deviation 0.2, while "normal" converges to
-6.9; the ELBO is 0.1 % lower; under the default prior the two are equal within noise). Other scales (`HorseshoeKappa`,
a ``kappa_scale`` that is a distribution) are taken at the joint mode, and with them all that they scale is too small. A
marginal of ``w_b`` with two modes is described by one.
"""

from __future__ import annotations

import math
import time
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from torch import Tensor
from tqdm.auto import tqdm

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal
from blob_pyro.guides.multivariate import LaplaceGuide
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.laplace.linearization import LaplaceRefuses
from blob_pyro.infer.laplace.log_posterior import LogPosterior, Precision
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.convergence import Convergence
from blob_pyro.infer.training.trace import DAMPING, LOG_JOINT, SECONDS, STEP
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.sites import W_B
from blob_pyro.ops.exclusive import own_parameter_store

__all__ = ["MOST_SHARED", "fit_laplace"]

MOST_SHARED = 6_000
"""More shared parameters than this are refused: their curvature is a dense matrix, 288 MB at that."""

_TOLERANCE = 1e-6  # nats that the next step could gain: a thousandth of a standard deviation
_ROUGH_TOLERANCE = 1e-3  # the same, while w_b is sought
_SCALE_TOLERANCE = 1e-3  # of learned scales, relative
_SAME_SCALE = 0.03  # relative: w_b is not sought anew for less
_REACH = 5.0  # prior standard deviations of w_b in which its mode is sought
_NODES = np.linspace(-4, 4, 9)  # around the mode of w_b, in guesses of its standard deviation
_ZOOMS, _CLOSE = 6, 0.6  # a guess is good if the deviation found is more than this fraction of it


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
        exact curvature was positive definite; if not, the Gauss-Newton one is used. ``attrs["log_evidence"]`` is
        Laplace's approximation of the log probability of the clicks (given ``w_b``, where it was sought: jointly with
        the density of ``w_b`` there).

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
            search = _Search(posterior, max_steps, bar)
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


class _Search:
    """Searches the mode, with one hyperparameter of the vector, ``w_b``, fixed where there is one."""

    def __init__(self, posterior: LogPosterior, max_steps: int, bar: tqdm) -> None:
        self.posterior, self.max_steps, self.bar = posterior, max_steps, bar
        self.theta = posterior.start.clone()
        self.hyperparameter = posterior.layout[W_B].start if W_B in posterior.layout else None
        self.rows: list[dict[str, float]] = []
        self.converged = True
        self.log_evidence = -math.inf
        self._began = time.perf_counter()

    def convergence(self) -> Convergence:
        """Whether the walk has ended at the mode."""
        steps = len(self.rows)
        if self.converged:
            return Convergence(True, f"after {steps} steps the next would gain less than {_TOLERANCE:g} nats in all")
        return Convergence(False, f"{steps} Gauss-Newton steps, the most that are taken, did not reach the mode")

    def run(self) -> tuple[ArrowheadNormal | BlockArrowheadNormal, bool]:
        """The approximate posterior, and whether its curvature is the exact one."""
        self.find_mode(_TOLERANCE if self.hyperparameter is None else _ROUGH_TOLERANCE, learn=True)
        if self.hyperparameter is not None:
            self.seek_hyperparameter()
        curvature, exact = self.curvature()
        self.log_evidence = self.evidence()
        if self.hyperparameter is not None:
            curvature = self.with_hyperparameter(curvature, self.hyperparameter)
        distribution = curvature.normal(self.theta)
        assert distribution is not None, "its factors have been positive definite"
        return distribution, exact

    # --- the mode ------------------------------------------------------------------------------------------------

    def find_mode(self, tolerance: float, learn: bool = False) -> None:
        """Find the mode of all but the hyperparameter, and the fixed point of learned scales if asked for."""
        damping, num_still = 1e-9, 0
        learn = learn and bool(self.posterior.model.learned)
        self.converged = False
        while len(self.rows) < self.max_steps:
            damping, gain = self._step(damping)
            change = self._learn() if learn else 0.0
            num_still = num_still + 1 if gain < tolerance and change < _SCALE_TOLERANCE else 0
            if num_still > learn:  # a scale that has moved is given another look
                self.converged = True
                return

    def _step(self, damping: float) -> tuple[float, float]:
        """One damped Gauss-Newton step downhill: the next damping, and what this one promised to gain."""
        gradient, curvature = self._rest(*self.posterior.expansion(self.theta))
        before, gain = self.posterior.objective(self.theta), 0.0
        while damping < 1e12:
            step = curvature.damped(damping).solve(gradient)
            if step is not None and (after := self.posterior.objective(self.theta - step)) <= before:
                self.theta, before, gain = self.theta - step, after, 0.5 * float(gradient @ step)
                break
            damping = max(10 * damping, 1e-8)
        else:  # nowhere lower: this is the mode to the last digit
            damping = 1e-3
        seconds = time.perf_counter() - self._began
        row = {STEP: len(self.rows) + 1, LOG_JOINT: -before, SECONDS: seconds, DAMPING: damping}
        self.rows.append(row)
        self.bar.update()
        return max(damping / 10, 1e-12), gain

    def _learn(self) -> float:
        distribution = self._rest(*self.posterior.expansion(self.theta))[1].normal(self.theta)
        assert distribution is not None, "Gauss-Newton's curvature is positive definite"
        return self.posterior.update_scales(self.theta, distribution.variance)

    def _rest(self, gradient: Tensor, curvature: Precision) -> tuple[Tensor, Precision]:
        """Return gradient and curvature of all but the hyperparameter."""
        if self.hyperparameter is None:
            return gradient, curvature
        gradient = gradient.clone()
        gradient[self.hyperparameter] = 0
        return gradient, curvature.conditional(self.hyperparameter)

    def curvature(self) -> tuple[Precision, bool]:
        """Return the exact curvature if it is positive definite given the hyperparameter, else Gauss-Newton's."""
        gradient, exact = self.posterior.expansion(self.theta, exact=True)
        if self._rest(gradient, exact)[1].factor() is not None:
            return exact, True
        return self.posterior.expansion(self.theta)[1], False

    def evidence(self) -> float:
        """Return Laplace's log probability of the clicks, with the hyperparameter's density where there is one."""
        rest = self._rest(self.theta, self.curvature()[0])[1]
        log_det = rest.log_det()
        assert log_det is not None, "its factor has been positive definite"
        num_free = len(self.theta) - (self.hyperparameter is not None)
        return -self.posterior.objective(self.theta) - 0.5 * log_det + 0.5 * num_free * math.log(2 * math.pi)

    # --- what scales others --------------------------------------------------------------------------------------

    def seek_hyperparameter(self) -> None:
        """Move the hyperparameter to the mode of its marginal, and learned scales to their fixed point there."""
        assert self.hyperparameter is not None
        centre, spread = (
            float(self.posterior.start[self.hyperparameter]),
            float(self.posterior.spread[self.hyperparameter]),
        )
        low, high = centre - _REACH * spread, centre + _REACH * spread
        for _ in range(10):
            before = self._scales()
            found = minimize_scalar(
                self._negative_evidence, bounds=(low, high), method="bounded", options={"xatol": 0.05 * spread}
            )
            self._fix(float(found.x))
            self.find_mode(_TOLERANCE, learn=True)
            if torch.allclose(self._scales(), before, rtol=_SAME_SCALE):
                break
            low, high = max(low, found.x - spread), min(high, found.x + spread)

    def _scales(self) -> Tensor:
        return self.theta.new_tensor([float(self.posterior.scale(name)) for name in self.posterior.model.learned])

    def _negative_evidence(self, value: float) -> float:
        self._fix(value)
        self.find_mode(_ROUGH_TOLERANCE)
        return -self.evidence()

    def _fix(self, value: float) -> None:
        self.theta = self.theta.clone()
        self.theta[self.hyperparameter] = value

    def with_hyperparameter(self, curvature: Precision, index: int) -> Precision:
        """Return the precision of the hyperparameter, and of all else given it, together.

        The conditional mode moves with the hyperparameter by ``-H^-1 h``, where ``h`` is the column of the curvature
        between the two. So the column stays what it is, and only the corner changes, to ``1 / variance + h' H^-1 h``.
        """
        rest = curvature.conditional(index)
        column = curvature.column(index)
        corner, column[index] = float(column[index]), 0.0
        slope, distribution = rest.solve(column), rest.normal(self.theta)
        assert slope is not None
        assert distribution is not None
        explained = float(column @ slope)
        slope[index] = -1.0  # so that -slope is the direction in which the vector moves
        scale = max(corner - explained, float(self.posterior.spread[index]) ** -2) ** -0.5
        for _ in range(_ZOOMS):
            ratio = self._best_ratio(index, distribution, slope, scale)
            scale *= ratio
            if ratio > _CLOSE:
                break
        shared = curvature.shared.clone()
        shared[index, index] = scale**-2 + explained
        return replace(curvature, shared=shared)

    def _best_ratio(
        self, index: int, distribution: ArrowheadNormal | BlockArrowheadNormal, slope: Tensor, scale: float
    ) -> float:
        """Return what to multiply a guess of the hyperparameter's scale by, for the least ``KL(q | p)``.

        Args:
            index: the place of the hyperparameter.
            distribution: of all else, at the present point.
            slope: minus the direction in which the vector moves with the hyperparameter.
            scale: the guess.
        """
        values = []
        for node in (scale * _NODES).tolist():
            point = self.theta - node * slope
            within = self.posterior.expansion(point)[1].conditional(index).expected_square(distribution)
            values.append(self.posterior.objective(point) + 0.5 * within)
        above = np.array(values) - min(values)
        curve = CubicSpline(_NODES, np.log1p(above))  # w_b enters through its exponential, which has a smooth logarithm
        nodes, weights = np.polynomial.hermite_e.hermegauss(15)

        def divergence(log_ratio: float) -> float:
            points = np.clip(math.exp(log_ratio) * nodes, _NODES[0], _NODES[-1])
            return float(np.average(np.expm1(curve(points)), weights=weights)) - log_ratio

        best = minimize_scalar(divergence, bounds=(math.log(_CLOSE) - 0.5, 0.2), method="bounded")
        return math.exp(best.x)
