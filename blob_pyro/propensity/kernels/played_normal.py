r"""P(one given arm has the largest of independent normal scores): one integral instead of A.

With z the standardised score of arm i, which was played, and :math:`x_j(z) = (\mu_i + \sigma_i z - \mu_j) / \sigma_j`,

.. math:: \pi_i = \int \phi(z) \prod_{j \ne i} \Phi(x_j(z))\, dz = \int e^{h(z)} dz.

h is concave, with a second derivative of at most -1 and a curvature that falls from left to right. So Newton's method
finds, from the safe side each time, where the integrand has lost 33 nats to its peak; outside lies less than rounding.
Between, the integrand is entire and fades at both ends, so that the trapezoidal rule converges faster than
exponentially in the number of nodes; nodes grow further apart to the right, as the curvature falls. The rule is halved
until two staggered ones agree to 1e-8, when the error of their mean is of the order of the square of that. Arms whose F
is 1 to rounding throughout are left out.

What this does not resolve (deterministic arms, scales that differ by orders of magnitude where it matters) is given to
the exact kernel for all arms, `blob_pyro.propensity.kernels.normal`.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.mesh import block_elements
from blob_pyro.propensity.kernels.normal import argmax_normal_log_probs

# The integrand is dropped where it has fallen to e^-33 = 5e-15 of its peak.
_LOSS = 33.0
# Phi(-37.3) = 1e-304: an arm that one other beats more surely than this has no chance.
_HOPELESS = -37.3
# 1 - Phi(8.8) = 7e-19: no factor, even a million times.
_CERTAIN = 8.8
# Below this, log Phi is continued so that the square root of -log Phi is a straight line.
_LIFT = -37.0
# The coarsest step, in units of the width of the integrand at either end; halvings of it, and steps to begin with.
_STEP, _MOST_HALVINGS, _MOST_NODES = 1.0, 3, 512
# Between staggered rules; where a rival is so much sharper, convergence is no guide before it is there.
_AGREEMENT, _CLOSE_AGREEMENT, _SHARP, _LARGEST_RATIO = 1e-8, 1e-12, 1e3, 1e9
_SQRT_HALF, _LOG_SQRT_2PI = math.sqrt(0.5), 0.5 * math.log(2 * math.pi)


class _Look(NamedTuple):
    """h at one z in each row: its value, slope, and curvature -h'' (rows each); and x, rows x A."""

    value: Tensor
    slope: Tensor
    curvature: Tensor
    x: Tensor


@dataclass(frozen=True)
class _Rivals:
    """All arms but the one that was played, as its standardised score z sees them: x = ahead + z scale rate.

    Attributes:
        ahead: rows x A; 1e3, out of the way, for the arm itself.
        rate: rows x A (or 1 x A), 1 / scale of each arm.
        scale: rows, of the arm that was played.
    """

    ahead: Tensor
    rate: Tensor
    scale: Tensor

    def at(self, z: Tensor) -> _Look:
        """Look at one z in each row."""
        x = torch.addcmul(self.ahead, (self.scale * z)[:, None], self.rate)
        far = bool((x.amin() if x.numel() else x.sum()) < _LIFT)
        lifted = x.clamp_min(_LIFT) if far else x
        cdf = torch.erfc(lifted * -_SQRT_HALF).mul_(0.5)
        hazard = (lifted * lifted).mul_(-0.5).sub_(_LOG_SQRT_2PI).exp_().div_(cdf)
        loss = cdf.log_().neg_()
        second = (hazard + x).mul_(hazard)
        if far:
            steeper = 1 + (lifted - x) * hazard / (2 * loss.clamp_min(1.0))
            hazard, loss, second = hazard * steeper, loss * steeper.square(), torch.where(lifted > x, 1.0, second)
        value = -0.5 * z.square() - loss.sum(-1)
        slope = self.scale * hazard.mul_(self.rate).sum(-1) - z
        curvature = 1 + self.scale.square() * second.mul_(self.rate).mul_(self.rate).sum(-1)
        return _Look(value, slope, curvature, x)

    def where(self, index: Tensor) -> "_Rivals":
        """Some of the rows."""
        rate = self.rate if len(self.rate) == 1 else self.rate[index]
        return _Rivals(self.ahead[index], rate, self.scale[index])

    def only(self, keep: Tensor) -> "_Rivals":
        """Some of the arms in each row, side by side; nothing changes if that would not make rows much shorter."""
        most = int(keep.sum(-1).amax()) if keep.numel() else 0
        if most > 0.75 * keep.shape[-1]:
            return self
        row, arm = keep.nonzero(as_tuple=True)
        place = (keep.cumsum(-1) - 1)[row, arm]
        ahead = self.ahead.new_full((len(keep), max(most, 1)), 1e3)
        rate = torch.zeros_like(ahead)
        ahead[row, place], rate[row, place] = self.ahead[row, arm], self.rate.expand_as(self.ahead)[row, arm]
        return _Rivals(ahead, rate, self.scale)

    def integrand(self, row: Tensor, z: Tensor) -> Tensor:
        """phi(z) prod Phi(x(z)) times sqrt(2 pi), at pairs of a row and a z (n each)."""
        width = self.ahead.shape[-1]
        scaled = replace(self, ahead=self.ahead * -_SQRT_HALF, rate=self.rate * -_SQRT_HALF)
        parts = []
        for some, at in zip(*(t.split(max(1, block_elements(z.device) // max(width, 1))) for t in (row, z))):
            rivals = scaled.where(some)
            x = torch.addcmul(rivals.ahead, (rivals.scale * at)[:, None], rivals.rate)
            parts.append(x.erfc_().mul_(0.5).prod(-1))
        return torch.cat(parts) * (-0.5 * z.square()).exp() if parts else z


def _near_peak(rivals: _Rivals, start: Tensor) -> tuple[Tensor, _Look]:
    """A point near the peak, which is not left of ``start``.

    At the peak h' = H(z) - z is 0, with H the sum of hazards. log H falls and is nearly concave, and the root of
    log H(z) - log(z + 1) is close by: there Newton's method takes few steps, from either side, however large H is.
    """
    z = start
    look = rivals.at(z)
    for _ in range(12):
        if not bool((look.slope.abs() > 2).any()):
            break
        hazard = (look.slope + z).clamp_min(1e-300)
        fall = (look.curvature - 1).clamp_min(0) / hazard + 1 / (z + 1)
        z = torch.maximum(z + (hazard / (z + 1)).log() / fall, start)
        look = rivals.at(z)
    return z, look


def _edge(rivals: _Rivals, z: Tensor, target: Tensor, steps: int) -> tuple[Tensor, _Look]:
    """Closer to where sqrt(-h), which is convex, has the value ``target``; from outside, and never past it."""
    look = rivals.at(z)
    for _ in range(steps):
        root = (-look.value).sqrt()
        excess = root - target
        if not bool((excess * (root + target) > _LOSS / 4).any()):
            break
        z = z + torch.where(excess > 0, 2 * root * excess / look.slope, 0.0)
        look = rivals.at(z)
    return z, look


def _integrate(
    rivals: _Rivals, low: Tensor, high: Tensor, log_stretch: Tensor, count: Tensor, agreement: Tensor
) -> tuple[Tensor, Tensor]:
    """Integrals of the rows, and whether they have converged.

    Args:
        rivals: of these rows.
        low: rows, where the integrand has faded on the left.
        high: rows, where it has on the right.
        log_stretch: rows, by how much steps grow from left to right, z(u) = low + (high - low) (s^u - 1) / (s - 1).
        count: rows, int64, steps to begin with; changed in place.
        agreement: rows, between the last two rules, relative.
    """
    rows, device = len(low), low.device
    unit = (high - low) / log_stretch.expm1()

    def rule(index: Tensor, offset: float) -> Tensor:
        """The trapezoidal rule for some rows, with nodes at ``offset`` steps from the left end."""
        nodes = count[index]
        row = index.repeat_interleave(nodes)
        first = (nodes.cumsum(0) - nodes).repeat_interleave(nodes)
        grown = log_stretch[row] * (torch.arange(len(row), device=device) - first + offset) / count[row]
        value = rivals.integrand(row, low[row] + unit[row] * grown.expm1()) * grown.exp()
        return torch.zeros_like(low).index_add_(0, row, value)[index] * (unit * log_stretch / count)[index]

    todo = torch.arange(rows, device=device)
    total, good = rule(todo, 0.5), torch.zeros(rows, dtype=torch.bool, device=device)
    for halving in range(_MOST_HALVINGS):
        # First the nodes between those of the first rule, then those between all that there were.
        finer = rule(todo, 0.5 if halving else 0.0)
        before = total[todo]
        total[todo] = (before + finer) / 2
        good[todo] = (before - finer).abs() <= agreement[todo] * total[todo]
        todo = todo[~good[todo]]
        if not len(todo):
            break
        count[todo] *= 2
    return total, good


def _chunk(ahead: Tensor, rate: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of rows, and which of them are answers; see `_Rivals`."""
    ratio = scale[:, None] * rate
    hopeless = (ahead * (1 + ratio.square()).rsqrt()).amin(-1) < _HOPELESS
    start = (-ahead * ratio / (1 + ratio.square())).amax(-1).clamp_min_(0)
    known = hopeless.clone()
    result = torch.where(hopeless, -math.inf, math.nan).to(ahead)
    index = (~hopeless).nonzero().squeeze(-1)
    if not len(index):
        return result, known
    start = start[index]
    rivals = _Rivals(ahead, rate, scale).where(index)
    ratio = ratio[index]
    # What follows looks no further left than sqrt(2 x loss) from where it starts.
    rivals = rivals.only(rivals.ahead + (start[:, None] - math.sqrt(2 * _LOSS)) * ratio < _CERTAIN)
    z, look = _near_peak(rivals, start)
    # The second derivative is at most -1: beyond these two points h is below its value here by more than the loss.
    reach = (look.slope.square() + 2 * _LOSS).sqrt()
    target = (_LOSS - look.value).sqrt()
    high, right = _edge(rivals, z + look.slope + reach, target, 3)
    low, look = _edge(rivals, z + look.slope - reach, target, 6)
    rivals = rivals.only(look.x < _CERTAIN)
    log_stretch = (0.5 * (look.curvature / right.curvature).log()).clamp_min(1e-3)
    length = (high - low) * look.curvature.sqrt() * log_stretch / log_stretch.expm1()
    count = ((length / _STEP).ceil() + 1).nan_to_num(math.inf)
    fits = count <= _MOST_NODES
    agreement = torch.where(ratio.amax(-1) > _SHARP, _CLOSE_AGREEMENT, _AGREEMENT)
    total, good = _integrate(
        rivals.where(fits), low[fits], high[fits], log_stretch[fits], count[fits].long(), agreement[fits]
    )
    index = index[fits]
    result[index] = total.log() - _LOG_SQRT_2PI
    known[index] = good & (total > 0)
    return result, known


@torch.no_grad()
def played_normal_log_probs(loc: Tensor, scale: Tensor, action: Tensor) -> Tensor:
    r"""Compute the log-probability of one given arm in each row to have the largest of independent normal scores.

    As `argmax_normal_log_probs`, of one arm only, and several times as fast; without gradients. Relative accuracy about
    1e-12 down to probabilities of 1e-290.

    Args:
        loc: rows x A.
        scale: rows x A, or 1 x A for the same in all rows; standard deviations, at least 0.
        action: rows, int64.

    Returns:
        rows, float64.

    >>> loc, scale = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[3.0, 1.0, 0.1]])
    >>> played_normal_log_probs(loc, scale, torch.tensor([2])).exp()
    tensor([0.4358], dtype=torch.float64)
    """
    rows, num_arms = loc.shape
    loc, scale = loc.double(), scale.double()
    result = loc.new_empty(rows)
    size = max(1, 4 * block_elements(loc.device) // max(num_arms, 1))
    for begin in range(0, rows, size):
        part = slice(begin, begin + size)
        mine, own = loc[part], scale if len(scale) == 1 else scale[part]
        played = action[part, None]
        deviation = own.expand_as(mine).gather(-1, played).squeeze(-1)
        rate = own.reciprocal()
        ahead = (mine.gather(-1, played) - mine) * rate
        fine = (ahead.isfinite() & (deviation[:, None] * rate < _LARGEST_RATIO) & (own > 0)).all(-1)
        ahead.scatter_(-1, played, 1e3)
        fine = fine & (deviation > 0)
        answer, known = _chunk(torch.where(fine[:, None], ahead, 1e3), rate.nan_to_num(), deviation)
        known &= fine
        rest = (~known).nonzero().squeeze(-1)
        if len(rest):
            table = argmax_normal_log_probs(mine[rest], own.expand_as(mine)[rest])
            answer[rest] = table.gather(-1, played[rest]).squeeze(-1)
        result[part] = answer
    return result
