"""The mode of a bandit posterior, its curvature and evidence, and the learned scales that go with them.

Modes are found by Gauss-Newton steps with Levenberg's damping. Learned scales follow MacKay's fixed point, the maximum
of the approximate evidence (MacKay 1992, *Bayesian interpolation*); kappa's then moves to the root of its posterior
mean square, where events leave it in doubt.
"""

from __future__ import annotations

import math
import time

from torch import Tensor
from tqdm.auto import tqdm

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal, NestedNormal
from blob_pyro.infer.kappa_scale import scale_on_a_grid
from blob_pyro.infer.laplace.log_posterior import LogPosterior, Precision
from blob_pyro.infer.laplace.scale_evidence import ScaleEvidence
from blob_pyro.infer.training.convergence import Convergence
from blob_pyro.infer.training.trace import DAMPING, LOG_JOINT, SECONDS, STEP
from blob_pyro.models.sites import KAPPA

__all__ = ["ROUGH_TOLERANCE", "TOLERANCE", "ModeSearch"]

TOLERANCE = 1e-6
"""Nats that the next step could gain: a thousandth of a standard deviation."""

ROUGH_TOLERANCE = 1e-3
"""The same, while something else is sought."""

_SCALE_TOLERANCE = 1e-3  # of learned scales, relative
_KNOWN_WELL = 400.0  # kappas that events determine: their scale is known to 1 / sqrt(2 * 400), 3.5 %
_LEAST_START = 0.1  # of kappa's scale, in logits, where its doubt is sought from
_SPREAD_TOLERANCE, _MOST_GUESSES = 0.01, 5  # of it, relative; and how often it is tried


class ModeSearch:
    """Searches the mode of all numbers, or of all but one that is held fixed.

    Args:
        posterior: whose mode it is; its learned scales are moved.
        max_steps: Gauss-Newton steps, at most.
        bar: advanced by each of them.
        fixed: place of the number that is held fixed.

    Attributes:
        theta: the vector, where the search is.
        rows: one for each step, see `blob_pyro.infer.laplace.fit`.
        log_evidence: Laplace's log probability of the clicks, once `run` has been called.
    """

    def __init__(self, posterior: LogPosterior, max_steps: int, bar: tqdm, fixed: int | None = None) -> None:
        self.posterior, self.max_steps, self.bar, self.fixed = posterior, max_steps, bar, fixed
        self.theta = posterior.start.clone()
        self.rows: list[dict[str, float]] = []
        self.converged = True
        self.log_evidence = -math.inf
        self._spread: list[str] = []  # learned scales that are no longer at the maximum of the evidence
        self._known: tuple[Tensor, float] | None = None
        self._began = time.perf_counter()

    def convergence(self) -> Convergence:
        """Say whether the walk has ended at the mode."""
        steps = len(self.rows)
        if self.converged:
            return Convergence(True, f"after {steps} steps the next would gain less than {TOLERANCE:g} nats in all")
        return Convergence(False, f"{steps} Gauss-Newton steps, the most that are taken, did not reach the mode")

    def run(self) -> tuple[ArrowheadNormal | BlockArrowheadNormal | NestedNormal, bool]:
        """Return the approximate posterior, and whether its curvature is the exact one."""
        self.begin(TOLERANCE)
        curvature, exact = self.curvature()
        self.log_evidence = self.evidence(curvature)
        distribution = curvature.normal(self.theta)
        assert distribution is not None, "its factors have been positive definite"
        return distribution, exact

    def begin(self, tolerance: float) -> None:
        """Find the mode and learned scales from the start on.

        Args:
            tolerance: nats that a next step of the first search could gain.
        """
        self.posterior.begin_scales_again()
        self.find_mode(tolerance, learn=True)
        self.spread_kappa_scale()

    def find_mode(self, tolerance: float, learn: bool = False) -> None:
        """Find the mode of all but what is held fixed, and the fixed point of learned scales if asked for."""
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
        """Return gradient and curvature of all but what is held fixed."""
        if self.fixed is None:
            return gradient, curvature
        gradient = gradient.clone()
        gradient[self.fixed] = 0
        return gradient, curvature.conditional(self.fixed)

    def curvature(self) -> tuple[Precision, bool]:
        """Return the exact curvature if it is positive definite, else Gauss-Newton's."""
        gradient, exact = self.posterior.expansion(self.theta, exact=True)
        if self._rest(gradient, exact)[1].factor() is not None:
            return exact, True
        return self.posterior.expansion(self.theta)[1], False

    def evidence(self, curvature: Precision) -> float:
        """Return Laplace's log probability of the clicks, with the density of what is held fixed."""
        rest = self._rest(self.theta, curvature)[1]
        log_det = rest.log_det()
        assert log_det is not None, "its factor has been positive definite"
        num_free = len(self.theta) - (self.fixed is not None)
        return -self._objective() - 0.5 * log_det + 0.5 * num_free * math.log(2 * math.pi)

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
            self.find_mode(ROUGH_TOLERANCE)
            evidence = ScaleEvidence(self._gaussian(), posterior.layout[KAPPA], loc, before)
            scales, weights = scale_on_a_grid(evidence.at, mode, rate)
            posterior.set_scale(name, float((weights * scales.square()).sum().sqrt()))
            if abs(float(posterior.scale(name)) / before - 1) < _SPREAD_TOLERANCE:
                break
        self._known = None
        self.find_mode(TOLERANCE, learn=True)

    def _gaussian(self) -> ArrowheadNormal | BlockArrowheadNormal:
        """Gauss-Newton's Gaussian at this place; what is held fixed is a point in it."""
        found = self._rest(*self.posterior.expansion(self.theta))[1].normal(self.theta)
        assert found is not None, "its curvature is positive definite"
        return found
