"""Arms with independent normal scores, placed where an integral over their maximum loses no digits.

Distances are measured from the lower limit L of the integration. Each arm that matters has L within 38 of its own
standard deviations, so narrow arms lie close to the origin of y and nothing cancels, however large the locations
are or however different the scales. The unit of length is (up to a factor of two) the smallest scale that matters, so
that nothing overflows or underflows either.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.mesh import is_cheap_to_read


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of an integral: how far and how finely to integrate.

    Attributes:
        tail: arms further than this many standard deviations below the origin are out of reach.
        log_floor: integration starts where the distribution function of the maximum has this logarithm.
        log_trim: an integrand is dropped where it is e^-log_trim of its own peak.
        units_per_panel: the width of the panels, see `blob_pyro.propensity.kernels.mesh`.
        intervals: how many intervals the successive looks at a mesh use; most problems need two looks.
    """

    tail: float
    log_floor: float
    log_trim: float
    units_per_panel: float
    intervals: tuple[int, ...]


# Phi(-38) = 3e-316: probabilities down to 1e-300 keep their relative accuracy. e^-42 = 6e-19 is rounding error.
EXACT = Accuracy(tail=38.0, log_floor=-722.0, log_trim=42.0, units_per_panel=5.0, intervals=(12,) + 7 * (32,))
# About 1e-8: for averages over many conditional problems, whose own error is larger.
QUICK = Accuracy(tail=11.0, log_floor=-60.0, log_trim=20.0, units_per_panel=9.0, intervals=(8,) + 7 * (16,))
# With more arms than this the rounding of F close to 1 adds up, and the upper tails are taken by log1p.
MANY_ARMS = 4096
# Scales that matter in one row may differ by this factor; the probabilities of other rows are NaN.
LARGEST_RATIO = 1e140
# Rows with larger numbers are shrunk first, so that differences and multiples of them are finite.
_LARGE, _SHRINK = 1e300, 2.0**-64
_SQRT_HALF = math.sqrt(0.5)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class NormalArms:
    """Rows of arms, seen from each row's origin and measured in its unit; who does not take part is out of the way.

    Attributes:
        offset: rows x A, location minus the lower limit of the integration.
        scale: rows x A, at least 1.
        rate: rows x A, 1 / scale.
        random: rows x A, False for deterministic arms and for those out of reach (whose F is 1 where it is asked).
        fixed: rows x A, True for the deterministic arms that hold the highest deterministic score.
        truncated: rows, whether a deterministic arm sets the origin.
        unit: rows, of length, in the user's coordinates; a power of two.
        possible: rows, False where the scales that matter are too different; such a row holds a stand-in.
    """

    offset: Tensor
    scale: Tensor
    rate: Tensor
    random: Tensor
    fixed: Tensor
    truncated: Tensor
    unit: Tensor
    possible: Tensor

    @functools.cached_property
    def may_be_truncated(self) -> bool:
        """True where any row is truncated, if that costs nothing to know; the case changes nothing where it is not."""
        return not is_cheap_to_read(self.truncated.device) or bool(self.truncated.any())

    @classmethod
    def place(cls, loc: Tensor, scale: Tensor, accuracy: Accuracy) -> "NormalArms":
        """Place rows of arms (rows x A each) on the scale of their integration."""
        deterministic = torch.where(scale > 0, -math.inf, loc).amax(-1, keepdim=True)
        fixed = (scale == 0) & (loc == deterministic)
        gap, scale, random, unit, possible = _normalize(loc, scale, accuracy)
        lower = _lower_limit(gap, scale, random, accuracy)
        best = torch.where(fixed, gap, -math.inf).amax(-1)
        truncated = best >= lower
        offset = gap - torch.where(truncated, best, lower)[:, None]
        scale = torch.where(random, scale, 1.0)
        # A location that is this far out of reach is as good as any other.
        offset = torch.where(random, offset.maximum(-1e3 * scale), -1e3)
        return cls(offset, scale, scale.reciprocal(), random, fixed, truncated, unit, possible)


def _normalize(loc: Tensor, scale: Tensor, accuracy: Accuracy) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Locations and scales seen from the arm with the highest lower end, in units of the smallest scale that matters.

    Returns:
        Locations, scales and whether an arm is random and within reach (all rows x A); the unit and whether the row is
        possible (both rows).
    """
    reach = accuracy.tail
    large = torch.maximum(loc.abs(), scale).amax(-1, keepdim=True) > _LARGE
    shrink = torch.where(large, _SHRINK, 1.0)
    deterministic, loc, scale = scale == 0, loc * shrink, scale * shrink
    highest = (loc - reach * scale).argmax(-1, keepdim=True)
    gap = loc - loc.gather(-1, highest)
    # A scale that shrinking has turned into 0 counts too: its row is not possible.
    random = ~deterministic & (gap + reach * scale >= -reach * scale.gather(-1, highest))
    smallest = torch.where(random, scale, math.inf).amin(-1, keepdim=True)
    smallest = torch.where(smallest < math.inf, smallest, 1.0)
    largest = torch.where(random, scale, 0.0).amax(-1, keepdim=True)
    possible = (smallest >= torch.finfo(scale.dtype).tiny) & (largest <= LARGEST_RATIO * smallest)
    smallest = torch.where(possible, smallest, 1.0)
    unit = smallest / torch.frexp(smallest).mantissa / 2
    lowest = -torch.finfo(scale.dtype).max / 4
    gap = torch.where(possible & (random | deterministic), (gap / unit).clamp_min(lowest), lowest)
    scale = torch.where(random & possible, scale / unit, 1.0)
    return gap, scale, random, (unit / shrink).squeeze(-1), possible.squeeze(-1)


def normal_terms(y: Tensor, offset: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute z, F(z) and the hazard phi(z) / F(z), each ... x Q x A, for y (... x Q) and arms (... x A)."""
    z = (y[..., :, None] - offset[..., None, :]).mul_(rate[..., None, :])
    cdf = torch.erfc(z * -_SQRT_HALF).mul_(0.5)
    hazard = (z * z).mul_(-0.5).sub_(_LOG_SQRT_2PI).exp_().div_(cdf)
    return z, cdf, hazard


def log_product(z: Tensor, cdf: Tensor, num_arms: int) -> Tensor:
    """Compute S, these arms' sum of log F. What underflows here is below the smallest probability of interest."""
    if num_arms <= MANY_ARMS:
        return cdf.prod(-1).log_()
    upper_tail = torch.erfc(z * _SQRT_HALF).mul_(-0.5)
    return torch.where(z > 0, upper_tail.log1p_(), cdf.log()).sum(-1)


def _lower_limit(loc: Tensor, scale: Tensor, random: Tensor, accuracy: Accuracy) -> Tensor:
    """Where S(y) reaches the floor, approached from below: what lies under it matters to no probability above it.

    Newton's method on sqrt(-S), which is convex and decreasing (a norm of convex functions), cannot overshoot.
    """
    y = (loc - accuracy.tail * scale).amax(-1)
    rate = torch.where(random, scale, math.inf).reciprocal()
    target = math.sqrt(-accuracy.log_floor)
    for _ in range(8):  # on a device all of them: one costs less than looking whether it is needed
        _, cdf, hazard = normal_terms(torch.zeros_like(y)[:, None], loc - y[:, None], rate)
        root = torch.where(random[:, None, :], cdf.log(), 0.0).sum(-1).neg().clamp_min_(0).sqrt_().squeeze(-1)
        slope = (hazard.squeeze(-2) * rate).sum(-1)
        move = torch.where((root > target) & (slope > 0), 2 * root * (root - target) / slope.clamp_min(1e-300), 0.0)
        y = y + move
        if is_cheap_to_read(y.device) and bool((move * slope < 1).all()):
            break
    return y


def arm_slices(num_arms: int, per_slice: int) -> list[slice]:
    """Cut arms into slices that are looked at one after another."""
    per_slice = max(1, per_slice)
    return [slice(start, min(start + per_slice, num_arms)) for start in range(0, num_arms, per_slice)]
