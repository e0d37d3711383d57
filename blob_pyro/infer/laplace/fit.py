r"""Laplace's approximation of the bandit posterior, structured: exact at any catalogue that fits in memory.

What items share (the weights, zeta) is solved for after their kappas, which are independent given it, have been
eliminated: a Schur complement. Modes are found by Gauss-Newton steps with Levenberg's damping; the curvature there is
the exact one. Learned scales follow MacKay's fixed point, the maximum of the approximate evidence (MacKay 1992).

A mode is not where the mass is. ``w_b`` scales zeta, and of all pairs with one product the joint density prefers a
large ``w_b`` with a small zeta, however little room there is. So ``w_b`` is treated as Rue, Martino & Chopin (2009,
section 3) treat a hyperparameter, by a nested approximation: for a fixed ``w_b`` all else has a mode and a curvature,
which give the evidence

.. math:: \log p(\text{clicks}, w_b) \approx \log p(\text{clicks}, w_b, \hat\theta(w_b))
    - \tfrac12 \log \det H(w_b) + \text{constant},

the marginal density of ``w_b``. It may have two modes, where the prior has its own and where events ask for a zeta, and
the higher one is sought. It is evaluated at nine nodes, from eight nats below its maximum on one side to as many on the
other, at seventeen or more where it bends too much for nine, and so are mode and curvature of all else: the posterior
is the mixture over ``w_b`` of these Gaussians, a `blob_pyro.distributions.NestedNormal`. An update goes on from it in
the same way: at each ``w_b`` that is tried the prior of all else is the Gaussian that the last fit had there.

Where it still misleads: given ``w_b`` all else is a mode and a curvature, which knows no skew; ``w_a`` and ``w_c``
alone have mean and deviation of their own marginals (`blob_pyro.infer.laplace.corrected_moments`), the same correction
at every node. The noise of an item's own numbers, given what items share, is the same for every ``w_b``, at its average
precision. Learned scales are taken at the ``w_b`` of the largest evidence, and are points: kappa's at the root of its
posterior mean square where events leave it in doubt (`blob_pyro.infer.laplace.scale_evidence`), others at the maximum.
Other scales (`HorseshoeKappa`, a ``kappa_scale`` that is a distribution) are taken at the joint mode, and with them all
that they scale is too small.
"""

from __future__ import annotations

import math
import time
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from tqdm.auto import tqdm

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal, NestedNormal, TabulatedDensity
from blob_pyro.distributions.nested_normal import at_node, nested, slope_of
from blob_pyro.guides.multivariate import LaplaceGuide
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.kappa_scale import scale_on_a_grid
from blob_pyro.infer.laplace.corrected_moments import Correction, correction, moved
from blob_pyro.infer.laplace.linearization import LaplaceRefuses
from blob_pyro.infer.laplace.log_posterior import LogPosterior, Precision, without
from blob_pyro.infer.laplace.scale_evidence import ScaleEvidence
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.convergence import Convergence
from blob_pyro.infer.training.trace import DAMPING, LOG_JOINT, SECONDS, STEP
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C
from blob_pyro.ops.exclusive import own_parameter_store

__all__ = ["MOST_SHARED", "fit_laplace"]

MOST_SHARED = 6_000
"""More shared parameters than this are refused: their curvature is a dense matrix, 288 MB at that."""

_TOLERANCE = 1e-6  # nats that the next step could gain: a thousandth of a standard deviation
_ROUGH_TOLERANCE = 1e-3  # the same, while w_b is sought
_SCALE_TOLERANCE = 1e-3  # of learned scales, relative
_SAME_SCALE = 0.03  # relative: w_b is not sought anew for less
_KNOWN_WELL = 400.0  # kappas that events determine: their scale is known to 1 / sqrt(2 * 400), 3.5 %
_LEAST_START = 0.1  # of kappa's scale, in logits, where its doubt is sought from
_SPREAD_TOLERANCE = 0.01  # of it, relative
_REACH = 5.0  # prior standard deviations below w_b's prior mean where its mode is sought
_AHEAD = (2.5, 5.0, 7.5)  # of them above it, where events that have much to say of zeta may have one apart from it
_NUM_NODES = 9  # of w_b
_DEPTH = 8.0  # nats below the maximum of its log density where the nodes end: 4 standard deviations of a normal
_LEAST_DEPTH, _MOST_DEPTH, _MOST_GUESSES = 6.0, 12.0, 5  # that will do, and how often it is tried
_HIGHER = 0.1  # nats above the mode that was found: there is another one
_MOST_MODES = 3  # that are sought
_BENT, _BENT_DEPTH = 2.0, 4.0  # second difference of log densities, this near the maximum, that asks for more nodes
_MOST_NODES = 65


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
        self._spread: list[str] = []  # learned scales that are no longer at the maximum of the evidence
        self._tried: dict[float, float] = {}  # log densities of values of the hyperparameter, at the present scales
        self._visited: dict[float, Tensor] = {}  # modes of all else for some of its values
        self._known: tuple[Tensor, float] | None = None
        self._began = time.perf_counter()

    def convergence(self) -> Convergence:
        """Whether the walk has ended at the mode."""
        steps = len(self.rows)
        if self.converged:
            return Convergence(True, f"after {steps} steps the next would gain less than {_TOLERANCE:g} nats in all")
        return Convergence(False, f"{steps} Gauss-Newton steps, the most that are taken, did not reach the mode")

    def run(self) -> tuple[ArrowheadNormal | BlockArrowheadNormal | NestedNormal, bool]:
        """The approximate posterior, and whether its curvature is the exact one."""
        self.posterior.begin_scales_again()
        self.find_mode(_TOLERANCE if self.hyperparameter is None else _ROUGH_TOLERANCE, learn=True)
        self.spread_kappa_scale()
        if self.hyperparameter is not None:
            self.seek_hyperparameter(*self._around_the_highest())
            for _ in range(_MOST_MODES - 1):
                found = self.nested()
                best = max(self._tried, key=lambda value: self._tried[value])
                if not self._is_higher(best):
                    return found
                self._start_near(best)
                self.seek_hyperparameter(*self._beside(best))
            return self.nested()
        curvature, exact = self.curvature()
        self.log_evidence = self.evidence(curvature)
        distribution = curvature.normal(self.theta)
        assert distribution is not None, "its factors have been positive definite"
        return distribution, exact

    # --- the mode ------------------------------------------------------------------------------------------------

    def find_mode(self, tolerance: float, learn: bool = False) -> None:
        """Find the mode of all but the hyperparameter, and the fixed point of learned scales if asked for."""
        damping, num_still = 1e-9, 0
        learn = learn and not set(self.posterior.model.learned) <= set(self._spread)
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
        before, gain = self._objective(), 0.0
        while damping < 1e12:
            step = curvature.damped(damping).solve(gradient)
            if step is not None and (after := self.posterior.objective(self.theta - step)) <= before:
                self.theta, before, gain = self.theta - step, after, 0.5 * float(gradient @ step)
                self._known = (self.theta, after)
                break
            damping = max(10 * damping, 1e-8)
        else:  # nowhere lower: this is the mode to the last digit
            damping = 1e-3
        seconds = time.perf_counter() - self._began
        row = {STEP: len(self.rows) + 1, LOG_JOINT: -before, SECONDS: seconds, DAMPING: damping}
        self.rows.append(row)
        self.bar.update()
        return max(damping / 10, 1e-12), gain

    def _objective(self) -> float:
        """The objective here, which is known after a step."""
        if self._known is None or self._known[0] is not self.theta:
            self._known = (self.theta, self.posterior.objective(self.theta))
        return self._known[1]

    def _learn(self) -> float:
        variance = self._gaussian().variance
        self._known = None
        return self.posterior.update_scales(self.theta, variance, self._spread)

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

    def evidence(self, curvature: Precision) -> float:
        """Return Laplace's log probability of the clicks, with the hyperparameter's density where there is one."""
        rest = self._rest(self.theta, curvature)[1]
        log_det = rest.log_det()
        assert log_det is not None, "its factor has been positive definite"
        num_free = len(self.theta) - (self.hyperparameter is not None)
        return -self._objective() - 0.5 * log_det + 0.5 * num_free * math.log(2 * math.pi)

    # --- kappa's learned scale -----------------------------------------------------------------------------------

    def spread_kappa_scale(self) -> None:
        """Move kappa's learned scale to the root of its posterior mean square, where events leave it in doubt."""
        posterior, name = self.posterior, "kappa_scale"
        model = posterior.model
        if model.learned.get(name) != KAPPA or model.kappa_prior is not None or KAPPA not in posterior.layout:
            return
        loc = model.initial_site_priors()[KAPPA].mean.detach().double()
        rate, mode = model.scale_rates.get(name, 0.0), float(posterior.scale(name))
        if name not in self._spread:
            if float(posterior.num_known(KAPPA, self._gaussian().variance)) > _KNOWN_WELL:
                return
            self._spread.append(name)
            least = min(_LEAST_START, 1 / rate) if rate else _LEAST_START  # the evidence may be largest at nothing
            posterior.set_scale(name, max(mode, least))
        for _ in range(_MOST_GUESSES):
            self._known, before = None, float(posterior.scale(name))
            self.find_mode(_ROUGH_TOLERANCE)
            evidence = ScaleEvidence(self._gaussian(), posterior.layout[KAPPA], loc, before)
            scales, weights = scale_on_a_grid(evidence.at, mode, rate)
            posterior.set_scale(name, float((weights * scales.square()).sum().sqrt()))
            if abs(float(posterior.scale(name)) / before - 1) < _SPREAD_TOLERANCE:
                break
        self._known = None
        self.find_mode(_TOLERANCE, learn=True)

    def _gaussian(self) -> ArrowheadNormal | BlockArrowheadNormal:
        """Gauss-Newton's Gaussian at this place; the hyperparameter is a point in it."""
        found = self._rest(*self.posterior.expansion(self.theta))[1].normal(self.theta)
        assert found is not None, "its curvature is positive definite"
        return found

    # --- what scales others --------------------------------------------------------------------------------------

    def _is_higher(self, value: float) -> bool:
        """Whether a value that was tried has more density than the mode that was found."""
        return self._tried[value] > self._tried[float(self.theta[self.hyperparameter])] + _HIGHER

    def _around_the_highest(self) -> tuple[float, float]:
        """Look at few values of the hyperparameter, from its prior mean on; go to the best, return its neighbours."""
        centre, spread = (float(t[self.hyperparameter]) for t in (self.posterior.start, self.posterior.spread))
        values = [centre + far * spread for far in (0.0, *_AHEAD)]
        best = max(values, key=lambda value: self._visit(value)[0])
        self._start_near(best)
        ends = [centre - _REACH * spread, *values, values[-1] + spread]
        number = ends.index(best)
        return ends[number - 1], ends[number + 1]

    def _beside(self, value: float) -> tuple[float, float]:
        """The values of the hyperparameter that have been tried on both sides of one."""
        spread = float(self.posterior.spread[self.hyperparameter])
        below, above = ([v for v in self._tried if side * (v - value) > 0] for side in (-1, 1))
        return max(below, default=value - spread), min(above, default=value + spread)

    def seek_hyperparameter(self, low: float, high: float) -> None:
        """Move the hyperparameter to the mode of its marginal, and learned scales to their fixed point there.

        Args:
            low: the least value where it is sought.
            high: the largest.
        """
        assert self.hyperparameter is not None
        spread = float(self.posterior.spread[self.hyperparameter])
        for _ in range(10):
            before = self._scales()
            self._tried.clear()
            found = minimize_scalar(
                self._negative_evidence, bounds=(low, high), method="bounded", options={"xatol": 0.1 * spread}
            )
            self._fix(float(found.x))
            self.find_mode(_TOLERANCE, learn=True)
            self.spread_kappa_scale()
            if torch.allclose(self._scales(), before, rtol=_SAME_SCALE):
                break
            low, high = max(low, found.x - spread), min(high, found.x + spread)

    def _scales(self) -> Tensor:
        return self.theta.new_tensor([float(self.posterior.scale(name)) for name in self.posterior.model.learned])

    def _negative_evidence(self, value: float) -> float:
        return -self._visit(value)[0]

    def _visit(self, value: float) -> tuple[float, Precision, bool]:
        """Find the mode of all else for a value of the hyperparameter: log density, curvature, whether it is exact."""
        self._start_near(value)
        self.find_mode(_ROUGH_TOLERANCE)
        self._visited[value] = self.theta
        curvature, is_exact = self.curvature()
        self._tried[value] = log_density = self.evidence(curvature)
        return log_density, curvature, is_exact

    def _fix(self, value: float) -> None:
        self.theta = self.theta.clone()
        self.theta[self.hyperparameter] = value

    def nested(self) -> tuple[NestedNormal, bool]:
        """Tabulate the hyperparameter's marginal around its mode, and the Gaussian of all else at its nodes."""
        index = self.hyperparameter
        assert index is not None
        top = self._look(float(self.theta[index]))
        slope, theta = slope_of(top.gaussian), self.theta
        widths = top.gaussian.widths if isinstance(top.gaussian, BlockArrowheadNormal) else None
        corrections = self._corrections(top)
        low, high = (top.value + side * self._reach(top, side) for side in (-1, 1))
        looks: dict[float, _Node] = {}
        size = _NUM_NODES
        while True:
            places = np.linspace(low, high, size).tolist()
            for place in sorted(places, key=lambda place: abs(place - top.value)):  # outward, each from its neighbour
                if place not in looks:
                    looks[place] = self._look(place)
            log_density = np.array([looks[place].log_density for place in places])
            bent = -np.diff(log_density, 2)[log_density[1:-1] > log_density.max() - _BENT_DEPTH]
            is_mode = log_density.max() < top.log_density + _HIGHER
            if size >= _MOST_NODES or not is_mode or not (bent > _BENT).any():
                break
            size = 2 * size - 1
        gaussians = []
        for place in places:
            gaussian = looks[place].gaussian
            for following, by in corrections:
                gaussian = moved(gaussian, following, by)
            gaussians.append(at_node(gaussian, slope))
        density = TabulatedDensity(theta.new_tensor(places), theta.new_tensor(log_density))
        self.log_evidence = float(np.logaddexp.reduce(log_density)) + math.log(places[1] - places[0])
        self.theta = theta
        self.find_mode(_TOLERANCE)
        is_exact = top.is_exact and all(looks[place].is_exact for place in places)
        return nested(index, density, gaussians, slope, widths), is_exact

    def _corrections(self, top: _Node) -> list[tuple[int, Correction]]:
        """Places of ``w_a`` and ``w_c`` among all else, and their moments where the marginal has its mode."""
        index, found = self.hyperparameter, []
        assert index is not None
        for name in (W_A, W_C):
            if name in self.posterior.layout:
                number = self.posterior.layout[name].start
                by = correction(self.posterior, self.theta, top.gaussian, index, number)
                found.append((number - (number > index), by))
        return found

    def _reach(self, top: _Node, side: int) -> float:
        """How far from the mode of the marginal its logarithm has fallen by about `_DEPTH`."""
        assert self.hyperparameter is not None
        falls = [
            (top.log_density - log_density, side * (value - top.value)) for value, log_density in self._tried.items()
        ]
        usable = [(fall, distance) for fall, distance in falls if distance > 0 and 0.2 < fall < 100]
        if usable:
            fall, distance = min(usable, key=lambda pair: abs(math.log(pair[0] / _DEPTH)))
            distance *= math.sqrt(_DEPTH / fall)
        else:
            distance = 4 * float(self.posterior.spread[self.hyperparameter])
        for _ in range(_MOST_GUESSES):
            fall = top.log_density - self._look(top.value + side * distance).log_density
            if _LEAST_DEPTH <= fall <= _MOST_DEPTH:
                break
            distance *= min(max(math.sqrt(_DEPTH / max(fall, 1e-3)), 0.3), 3.0)
        return distance

    def _look(self, value: float) -> _Node:
        """Find mode and curvature of all else for a value of the hyperparameter, and its log density."""
        index = self.hyperparameter
        assert index is not None
        log_density, curvature, is_exact = self._visit(value)
        gaussian = without(curvature, index).normal(torch.cat([self.theta[:index], self.theta[index + 1 :]]))
        assert gaussian is not None, "its factor has been positive definite"
        return _Node(value, log_density, gaussian, is_exact)

    def _start_near(self, value: float) -> None:
        """Go to where the mode should be, on the line through the two that are nearest."""
        near = sorted(self._visited, key=lambda known: abs(known - value))[:2]
        if len(near) == 2 and abs(near[0] - value) <= 1.5 * abs(near[0] - near[1]):
            first, second = (self._visited[known] for known in near)
            self.theta = first + (value - near[0]) / (near[1] - near[0]) * (second - first)
        elif near:
            self.theta = self._visited[near[0]]
        self._fix(value)


class _Node(NamedTuple):
    """All else for a value of the hyperparameter, and the logarithm of its density, up to a constant."""

    value: float
    log_density: float
    gaussian: ArrowheadNormal | BlockArrowheadNormal
    is_exact: bool
