r"""The nested approximation: a marginal density of ``w_b``, and given it the Gaussian of all else.

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
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from tqdm.auto import tqdm

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal, NestedNormal, TabulatedDensity
from blob_pyro.distributions.nested_normal import at_node, nested, slope_of
from blob_pyro.infer.laplace.corrected_moments import Correction, correction, moved
from blob_pyro.infer.laplace.log_posterior import LogPosterior, Precision, without
from blob_pyro.infer.laplace.mode_search import ROUGH_TOLERANCE, TOLERANCE, ModeSearch
from blob_pyro.models.sites import W_A, W_B, W_C

__all__ = ["NestedSearch"]

_SAME_SCALE = 0.03  # relative: w_b is not sought anew for less
_REACH = 5.0  # prior standard deviations below w_b's prior mean where its mode is sought
_AHEAD = (2.5, 5.0, 7.5)  # of them above it, where events that have much to say of zeta may have one apart from it
_NUM_NODES = 9  # of w_b
_DEPTH = 8.0  # nats below the maximum of its log density where the nodes end: 4 standard deviations of a normal
_LEAST_DEPTH, _MOST_DEPTH, _MOST_GUESSES = 6.0, 12.0, 5  # that will do, and how often it is tried
_HIGHER = 0.1  # nats above the mode that was found: there is another one
_MOST_MODES = 3  # that are sought
_BENT, _BENT_DEPTH = 2.0, 4.0  # second difference of log densities, this near the maximum, that asks for more nodes
_MOST_NODES = 65


class NestedSearch(ModeSearch):
    """Searches the mode of ``w_b``'s marginal density, and tabulates it with the Gaussian of all else beside it.

    Args:
        posterior: whose vector has a ``w_b``; its learned scales are moved.
        max_steps: Gauss-Newton steps, at most, over all values of ``w_b`` that are tried.
        bar: advanced by each of them.
    """

    fixed: int

    def __init__(self, posterior: LogPosterior, max_steps: int, bar: tqdm) -> None:
        super().__init__(posterior, max_steps, bar, fixed=posterior.layout[W_B].start)
        self._tried: dict[float, float] = {}  # log densities of values of w_b, at the present scales
        self._visited: dict[float, Tensor] = {}  # modes of all else for some of its values

    def run(self) -> tuple[NestedNormal, bool]:
        """Return the approximate posterior, and whether its curvature is the exact one."""
        self.begin(ROUGH_TOLERANCE)
        self.seek(*self._around_the_highest())
        for _ in range(_MOST_MODES - 1):
            found = self.tabulated()
            best = max(self._tried, key=lambda value: self._tried[value])
            if not self._is_higher(best):
                return found
            self._start_near(best)
            self.seek(*self._beside(best))
        return self.tabulated()

    def _is_higher(self, value: float) -> bool:
        """Whether a value that was tried has more density than the mode that was found."""
        return self._tried[value] > self._tried[float(self.theta[self.fixed])] + _HIGHER

    def _around_the_highest(self) -> tuple[float, float]:
        """Look at few values of ``w_b``, from its prior mean on; go to the best, return its neighbours."""
        centre, spread = (float(t[self.fixed]) for t in (self.posterior.start, self.posterior.spread))
        values = [centre + far * spread for far in (0.0, *_AHEAD)]
        best = max(values, key=lambda value: self._visit(value)[0])
        self._start_near(best)
        ends = [centre - _REACH * spread, *values, values[-1] + spread]
        number = ends.index(best)
        return ends[number - 1], ends[number + 1]

    def _beside(self, value: float) -> tuple[float, float]:
        """The values of ``w_b`` that have been tried on both sides of one."""
        spread = float(self.posterior.spread[self.fixed])
        below, above = ([v for v in self._tried if side * (v - value) > 0] for side in (-1, 1))
        return max(below, default=value - spread), min(above, default=value + spread)

    def seek(self, low: float, high: float) -> None:
        """Move ``w_b`` to the mode of its marginal, and learned scales to their fixed point there.

        Args:
            low: the least value where it is sought.
            high: the largest.
        """
        spread = float(self.posterior.spread[self.fixed])
        for _ in range(10):
            before = self._scales()
            self._tried.clear()
            found = minimize_scalar(
                self._negative_evidence, bounds=(low, high), method="bounded", options={"xatol": 0.1 * spread}
            )
            self._fix(float(found.x))
            self.find_mode(TOLERANCE, learn=True)
            self.spread_kappa_scale()
            if torch.allclose(self._scales(), before, rtol=_SAME_SCALE):
                break
            low, high = max(low, found.x - spread), min(high, found.x + spread)

    def _scales(self) -> Tensor:
        return self.theta.new_tensor([float(self.posterior.scale(name)) for name in self.posterior.model.learned])

    def _negative_evidence(self, value: float) -> float:
        return -self._visit(value)[0]

    def _visit(self, value: float) -> tuple[float, Precision, bool]:
        """Find the mode of all else for a value of ``w_b``: log density, curvature, whether it is exact."""
        self._start_near(value)
        self.find_mode(ROUGH_TOLERANCE)
        self._visited[value] = self.theta
        curvature, is_exact = self.curvature()
        self._tried[value] = log_density = self.evidence(curvature)
        return log_density, curvature, is_exact

    def _fix(self, value: float) -> None:
        self.theta = self.theta.clone()
        self.theta[self.fixed] = value

    def tabulated(self) -> tuple[NestedNormal, bool]:
        """Return the marginal density around its mode, and the Gaussian of all else at its nodes."""
        index = self.fixed
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
        self.find_mode(TOLERANCE)
        is_exact = top.is_exact and all(looks[place].is_exact for place in places)
        return nested(index, density, gaussians, slope, widths), is_exact

    def _corrections(self, top: _Node) -> list[tuple[int, Correction]]:
        """Places of ``w_a`` and ``w_c`` among all else, and their moments where the marginal has its mode."""
        index, found = self.fixed, []
        for name in (W_A, W_C):
            if name in self.posterior.layout:
                number = self.posterior.layout[name].start
                by = correction(self.posterior, self.theta, top.gaussian, index, number)
                found.append((number - (number > index), by))
        return found

    def _reach(self, top: _Node, side: int) -> float:
        """How far from the mode of the marginal its logarithm has fallen by about `_DEPTH`."""
        falls = [
            (top.log_density - log_density, side * (value - top.value)) for value, log_density in self._tried.items()
        ]
        usable = [(fall, distance) for fall, distance in falls if distance > 0 and 0.2 < fall < 100]
        if usable:
            fall, distance = min(usable, key=lambda pair: abs(math.log(pair[0] / _DEPTH)))
            distance *= math.sqrt(_DEPTH / fall)
        else:
            distance = 4 * float(self.posterior.spread[self.fixed])
        for _ in range(_MOST_GUESSES):
            fall = top.log_density - self._look(top.value + side * distance).log_density
            if _LEAST_DEPTH <= fall <= _MOST_DEPTH:
                break
            distance *= min(max(math.sqrt(_DEPTH / max(fall, 1e-3)), 0.3), 3.0)
        return distance

    def _look(self, value: float) -> _Node:
        """Find mode and curvature of all else for a value of ``w_b``, and its log density."""
        index = self.fixed
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
    """All else for a value of ``w_b``, and the logarithm of its density, up to a constant."""

    value: float
    log_density: float
    gaussian: ArrowheadNormal | BlockArrowheadNormal
    is_exact: bool
