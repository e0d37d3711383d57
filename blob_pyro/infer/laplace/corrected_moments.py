"""Mean and deviation of one number's marginal, where a Gaussian of mode and curvature has others.

``w_a`` enters through its softplus, which is flat on one side: its posterior has a long tail there, which neither its
mode nor its curvature knows; and so has ``w_c`` where clicks, or their absence, are few. Along the line on which all
else follows it, to first order, its density is ``exp(-objective)`` times the room that all else has around the best
point beside the line, as in Rue, Martino & Chopin (2009, section 3.2.2). The Gaussian gets the mean and the deviation
of that density, and its other numbers move along.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal, TabulatedDensity
from blob_pyro.distributions.nested_normal import slope_of
from blob_pyro.infer.laplace.log_posterior import LogPosterior, without

__all__ = ["Correction", "correction", "moved"]

_STEP, _MOST = 0.75, 10  # between points on the line, in the Gaussian's standard deviations; and on each side
_DEEP = 8.0  # nats below the density at the mode, where it is left


class Correction(NamedTuple):
    """The mean and the standard deviation of a number, in deviations of a Gaussian, from its mean.

    Attributes:
        shift: the mean less the Gaussian's, in the Gaussian's standard deviations.
        ratio: the standard deviation over the Gaussian's, positive.
    """

    shift: float
    ratio: float


def correction(
    posterior: LogPosterior,
    theta: Tensor,
    gaussian: ArrowheadNormal | BlockArrowheadNormal,
    fixed: int,
    number: int,
) -> Correction:
    """Find the moments of a shared number given another one, which is fixed.

    Args:
        posterior: of the vector.
        theta: its mode for the fixed number.
        gaussian: around it, of all but the fixed number.
        fixed: place of that in the vector.
        number: whose moments are sought, its place in the vector.

    Returns:
        What is to be done to ``gaussian``, with `moved`.
    """
    place = number - (number > fixed)
    deviation, direction = _line(gaussian, place)
    line = torch.cat([direction[:fixed], direction.new_zeros(1), direction[fixed:]])
    known = {0.0: _at(posterior, theta, fixed, number)}
    for side in (-1, 1):
        point = theta
        for count in range(1, _MOST + 1):
            value = known[side * _STEP * (count - 1)]
            if value.log_density < known[0.0].log_density - _DEEP and count > 2:
                break
            point = value.point + side * _STEP * deviation * line
            known[side * _STEP * count] = _at(posterior, point, fixed, number)
    nodes = sorted(known)
    values = theta.new_tensor([known[node].log_density for node in nodes])
    density = TabulatedDensity(theta.new_tensor(nodes), values)
    return Correction(float(density.mean), float(density.variance.sqrt()))


def moved(
    gaussian: ArrowheadNormal | BlockArrowheadNormal, place: int, by: Correction
) -> ArrowheadNormal | BlockArrowheadNormal:
    """Give a shared number another mean and deviation; others follow as they do in the Gaussian.

    Args:
        gaussian: of ``S`` shared numbers and ``M`` own ones, ``S + M``.
        place: of the number in the Gaussian's vector, below ``S``.
        by: its new mean and standard deviation, in deviations of the Gaussian. With ``shift=0`` and ``ratio=1`` nothing
            moves.

    Returns:
        A Gaussian of the same class and shapes. The distribution of all other numbers given this one stays what it is.
    """
    deviation, direction = _line(gaussian, place)
    along = direction[: gaussian.num_shared]
    tril = gaussian.shared_scale_tril
    covariance = tril @ tril.mT + (by.ratio**2 - 1) * deviation.square() * torch.outer(along, along)
    new = torch.linalg.cholesky(covariance)
    loc, loading = gaussian.loc + by.shift * deviation * direction, slope_of(gaussian) @ new
    if isinstance(gaussian, BlockArrowheadNormal):
        own, widths = gaussian.own_scale_tril, gaussian.widths
        return BlockArrowheadNormal(loc, new, loading, own, widths, validate_args=False)
    return ArrowheadNormal(loc, new, loading, gaussian.scale, validate_args=False)


def _line(gaussian: ArrowheadNormal | BlockArrowheadNormal, place: int) -> tuple[Tensor, Tensor]:
    """The deviation of a shared number, and what all numbers do on average when it grows by one."""
    common = gaussian.common_factor
    variance = common[place].square().sum()
    return variance.sqrt(), common @ common[place] / variance


class _Point(NamedTuple):
    """Where all else is, for a value of the number, and the number's log density there, up to a constant."""

    point: Tensor
    log_density: float


def _at(posterior: LogPosterior, point: Tensor, fixed: int, number: int) -> _Point:
    """Move all else one step downhill, and integrate over it by its curvature."""
    gradient, curvature = posterior.expansion(point)
    low, high = sorted((fixed, number))
    rest = without(without(curvature, high), low)
    step = rest.solve(torch.cat([gradient[:low], gradient[low + 1 : high], gradient[high + 1 :]]))
    log_det = rest.log_det()
    assert step is not None, "Gauss-Newton's curvature is positive definite"
    assert log_det is not None, "its factor has been positive definite"
    zero = step.new_zeros(1)
    step = torch.cat([step[:low], zero, step[low : high - 1], zero, step[high - 1 :]])
    before, best = posterior.objective(point), point
    for fraction in (1.0, 0.3, 0.1):
        if (after := posterior.objective(point - fraction * step)) < before:
            before, best = after, point - fraction * step
            break
    return _Point(best, -before - 0.5 * log_det)
