r"""P(argmax) for independent normal scores: one shared grid, in log space, with closed-form gradients.

With y a common threshold, :math:`S(y) = \sum_j \log F_j(y)` and the hazards :math:`h_i = f_i / F_i`,

.. math:: \pi_i = \int f_i \prod_{j \ne i} F_j \, dy = \int h_i(y) e^{S(y)} dy,

(paper 2, "Counterfactual inference under Thompson sampling", eq. 5), so that all A probabilities share the
evaluations of S: the cost is A x Q for the whole vector. Every integrand is log-concave, which gives rigorous
bounds for where it matters; see :func:`_monitor`.

Distances are measured from the lower limit L of the integration. Each arm that matters has L within 38 of its own
standard deviations, so narrow arms lie close to the origin of y and nothing cancels, however large the locations
are or however different the scales. The unit of length is (up to a factor of two) the smallest scale that matters, so
that nothing overflows or underflows either.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blob_pyro.propensity._types import check_not_batched
from blob_pyro.propensity.kernels.functions import WithoutVmap, to_dtype
from blob_pyro.propensity.kernels.mesh import NODES_PER_PANEL, Mesh, Panels, block_elements, is_cheap_to_read, refine


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of an integral: how far and how finely to integrate.

    Attributes:
        tail: arms further than this many standard deviations below the origin are out of reach.
        log_floor: integration starts where the distribution function of the maximum has this logarithm.
        log_trim: an integrand is dropped where it is e^-log_trim of its own peak.
        units_per_panel: the width of the panels, see :mod:`blob_pyro.propensity.kernels.mesh`.
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
# What a coarse look remembers of its slices of arms; it recomputes them for very large sets.
KEPT_SLICES = 16
# Scales that matter in one row may differ by this factor; the probabilities of other rows are NaN.
LARGEST_RATIO = 1e140
# Rows with larger numbers are shrunk first, so that differences and multiples of them are finite.
_LARGE, _SHRINK = 1e300, 2.0**-64
_SQRT_HALF = math.sqrt(0.5)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class _Arms:
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
        """Whether any row is truncated, if that costs nothing to know; the case changes nothing where it is not."""
        return not is_cheap_to_read(self.truncated.device) or bool(self.truncated.any())

    @classmethod
    def place(cls, loc: Tensor, scale: Tensor, accuracy: Accuracy) -> "_Arms":
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


def _normal_terms(y: Tensor, offset: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z, F(z) and the hazard phi(z) / F(z), each ... x Q x A, for y (... x Q) and arms (... x A)."""
    z = (y[..., :, None] - offset[..., None, :]).mul_(rate[..., None, :])
    cdf = torch.erfc(z * -_SQRT_HALF).mul_(0.5)
    hazard = (z * z).mul_(-0.5).sub_(_LOG_SQRT_2PI).exp_().div_(cdf)
    return z, cdf, hazard


def _log_product(z: Tensor, cdf: Tensor, num_arms: int) -> Tensor:
    """S, the sum over these arms of log F. What underflows here is below the smallest probability of interest."""
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
        _, cdf, hazard = _normal_terms(torch.zeros_like(y)[:, None], loc - y[:, None], rate)
        root = torch.where(random[:, None, :], cdf.log(), 0.0).sum(-1).neg().clamp_min_(0).sqrt_().squeeze(-1)
        slope = (hazard.squeeze(-2) * rate).sum(-1)
        move = torch.where((root > target) & (slope > 0), 2 * root * (root - target) / slope.clamp_min(1e-300), 0.0)
        y = y + move
        if is_cheap_to_read(y.device) and bool((move * slope < 1).all()):
            break
    return y


def _shortest_scale(
    points: Tensor,
    terms: tuple[Tensor, Tensor, Tensor],
    total: Tensor,
    total_hazard: Tensor,
    arms: _Arms,
    part: slice,
    accuracy: Accuracy,
) -> Tensor:
    """The smallest scale among those arms of `part` that matter on each interval; infinite where none does."""
    z, log_cdf, hazard = terms
    rate, scale, random = arms.rate[:, part], arms.scale[:, part], arms.random[:, part]
    slope = torch.addcmul(total_hazard[..., None], hazard.add_(z), rate[:, None, :], value=-1)
    log_integrand = z.mul_(z).mul_(-0.5).sub_(log_cdf).add_(total[..., None])
    peak = log_integrand.amax(-2)
    if arms.may_be_truncated:
        # Cut off by a deterministic arm, an integrand may fall from its first point, faster than its scale says.
        falling = arms.truncated[:, None] & (log_integrand[:, 0] >= peak)
        scale = torch.where(falling, torch.minimum(scale, 4 / (-slope[:, 0]).clamp_min(1e-300)), scale)
    width = points.diff(dim=-1)[..., None]
    from_left = torch.addcmul(log_integrand[:, :-1], slope[:, :-1].clamp_min(0), width)
    from_right = torch.addcmul(log_integrand[:, 1:], slope[:, 1:].clamp_max(0), width, value=-1)
    bound = torch.minimum(from_left, from_right)
    threshold = torch.where(random, (peak - accuracy.log_trim).clamp_min(accuracy.log_floor), math.inf)
    return torch.where(bound > threshold[:, None, :], scale[:, None, :], math.inf).amin(-1)


def _monitor(points: Tensor, arms: _Arms, accuracy: Accuracy) -> tuple[Tensor, Tensor]:
    """The local length on each interval between `points`, and whether any arm's integrand matters there.

    log g_i = log h_i + S is concave: its tangents at both ends bound it on the interval, and its largest value at
    the points is at most its peak. The curvature of an integrand is at most 1 / scale_i^2 - S'', and the mean of
    -S'' over an interval is the drop of S' across it: no second derivative is needed, and nothing is missed.
    """
    rows, num_points = points.shape
    num_arms = arms.offset.shape[-1]
    parts = _arm_slices(num_arms, block_elements(points.device) // (rows * num_points))

    def terms(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        z, cdf, hazard = _normal_terms(points, arms.offset[:, part], arms.rate[:, part])
        return z, cdf.log_(), hazard

    kept = []
    total, total_hazard = torch.zeros_like(points), torch.zeros_like(points)
    for part in parts:
        kept.append(terms(part))
        total += kept[-1][1].sum(-1)
        total_hazard += torch.bmm(kept[-1][2], arms.rate[:, part, None]).squeeze(-1)
        if len(parts) > KEPT_SLICES:
            kept.clear()
    shortest = torch.full_like(points[:, 1:], math.inf)
    for index, part in enumerate(parts):
        these = kept[index] if kept else terms(part)
        shortest = torch.minimum(shortest, _shortest_scale(points, these, total, total_hazard, arms, part, accuracy))
    step = points.diff(dim=-1)
    drop = -total_hazard.diff(dim=-1).clamp_max_(0)
    # A root of its own each, so that no square leaves the range of numbers.
    joint = torch.where(step > 0, drop.sqrt() / step.sqrt(), 0.0)
    return torch.hypot(shortest.reciprocal(), joint).reciprocal(), shortest < math.inf


def _arm_slices(num_arms: int, per_slice: int) -> list[slice]:
    per_slice = max(1, per_slice)
    return [slice(start, min(start + per_slice, num_arms)) for start in range(0, num_arms, per_slice)]


def _panels(arms: _Arms, accuracy: Accuracy) -> Panels:
    """Panels on which every integrand that can reach the floor is resolved."""
    tail = accuracy.tail
    reaching = arms.random & (arms.offset + tail * arms.scale > 0)
    end = torch.where(reaching, arms.offset + tail * arms.scale, 0.0).amax(-1)
    shortest = torch.where(reaching, arms.scale, math.inf).amin(-1)
    # A row of deterministic arms has nothing to integrate, over a range of any length.
    shortest = torch.where(shortest < math.inf, shortest, 1.0)
    end = torch.where(end > 0, end, 1.0)
    # At a distance d from the origin, an arm that reaches it has a scale of at least d / (2 tail).
    knee = torch.minimum(2 * tail * shortest, end)
    points = torch.stack([torch.zeros_like(end), knee, end], dim=-1)
    length = torch.stack([shortest, shortest, torch.maximum(shortest, end / (2 * tail))], dim=-1)
    first_guess = Mesh.from_points(points, length)
    mesh = refine(first_guess, lambda y: _monitor(y, arms, accuracy), accuracy.intervals)
    return Panels.from_mesh(mesh, accuracy.units_per_panel)


def _blocks(panels: Panels, arms: _Arms) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield row, nodes, hazard phi / F and weight x e^S for a few panels at a time."""
    num_arms = arms.offset.shape[-1]
    per_block = block_elements(arms.offset.device) // NODES_PER_PANEL
    for row, nodes, weights in panels.blocks(max(1, per_block // num_arms)):
        hazards, log_mass = [], torch.zeros_like(nodes)
        for part in _arm_slices(num_arms, per_block):
            z, cdf, hazard = _normal_terms(nodes, arms.offset[row, part], arms.rate[row, part])
            log_mass += _log_product(z, cdf, num_arms)
            hazards.append(hazard)
        yield row, nodes, torch.cat(hazards, dim=-1) if len(hazards) > 1 else hazards[0], log_mass.exp_().mul_(weights)


def _rows_per_chunk(num_arms: int, device: torch.device, accuracy: Accuracy) -> int:
    # Eight rows where memory allows spread the fixed cost of a chunk; fewer fill the cache better.
    rows = 2 * block_elements(device) // ((max(accuracy.intervals) + 1) * num_arms)
    return max(rows, 8 if num_arms <= MANY_ARMS else 1)


def _deterministic_node(arms: _Arms) -> tuple[Tensor, Tensor, Tensor]:
    """z, hazard and the probability e^S of the best deterministic score, which is the origin where it can win."""
    num_arms = arms.offset.shape[-1]
    start = torch.zeros_like(arms.unit)[:, None]
    z, cdf, hazard = _normal_terms(start, arms.offset, arms.rate)
    mass = torch.where(arms.truncated, _log_product(z, cdf, num_arms).exp().squeeze(-1), 0.0)
    return z.squeeze(-2), hazard.squeeze(-2), mass


def _probabilities(panels: Panels, arms: _Arms) -> Tensor:
    probs = torch.zeros_like(arms.offset)
    for row, _, hazard, mass in _blocks(panels, arms):
        probs.index_add_(0, row, torch.bmm(mass[:, None, :], hazard).squeeze(-2))
    probs.mul_(arms.rate)
    if arms.may_be_truncated:
        _, _, mass = _deterministic_node(arms)
        share = arms.fixed.double() / arms.fixed.sum(-1, keepdim=True).clamp_min(1)
        probs = torch.where(arms.random, probs, mass[:, None] * share)
    return probs


def _of_others(value: Tensor) -> Tensor:
    """The sum over all other entries of the last dimension; a total minus the own entry would cancel."""
    before = torch.nn.functional.pad(value[..., :-1].cumsum(-1), (1, 0))
    after = torch.nn.functional.pad(value[..., 1:].flip(-1).cumsum(-1).flip(-1), (0, 1))
    return before.add_(after)


def _gradients(panels: Panels, arms: _Arms, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of sum_i v_i pi_i with respect to locations and scales.

    d(v . pi) / d loc_j = integral of h_j e^S sum_(i != j) (v_j - v_i) h_i; for scale_j the same with a factor z_j.
    """
    by_loc, by_scale = torch.zeros_like(cotangent), torch.zeros_like(cotangent)
    for row, nodes, hazard, mass in _blocks(panels, arms):
        rate, v = arms.rate[row][:, None, :], cotangent[row][:, None, :]
        hazard.mul_(rate)
        flow = _of_others(hazard).mul_(v).sub_(_of_others(hazard * v)).mul_(hazard)
        z = (nodes[..., None] - arms.offset[row][:, None, :]).mul_(rate)
        by_loc.index_add_(0, row, torch.bmm(mass[:, None, :], flow).squeeze(-2))
        by_scale.index_add_(0, row, torch.bmm(mass[:, None, :], z.mul_(flow)).squeeze(-2))
    if arms.may_be_truncated:
        z, hazard, mass = _deterministic_node(arms)
        count = arms.fixed.sum(-1, keepdim=True).clamp_min(1)
        v = (cotangent * arms.fixed).sum(-1, keepdim=True) / count
        flow = torch.where(arms.random, hazard * arms.rate * mass[:, None] * (cotangent - v), 0.0)
        by_loc = by_loc + flow - flow.sum(-1, keepdim=True) * arms.fixed / count
        by_scale = by_scale + z * flow
    # A deterministic arm's scale acts through its square: no first-order effect.
    return by_loc, torch.where(arms.random, by_scale, 0.0)


class _ArgmaxNormal(WithoutVmap):
    """Chunked over rows. The meshes of the forward pass are kept for the backward one, which repeats the rest."""

    @staticmethod
    def forward(loc: Tensor, scale: Tensor, accuracy: Accuracy) -> tuple[Tensor, list[Panels]]:
        rows, num_arms = loc.shape
        size = _rows_per_chunk(num_arms, loc.device, accuracy)
        result = loc.new_empty(rows, num_arms)
        panels = []
        for start in range(0, rows, size):
            part = slice(start, start + size)
            arms = _Arms.place(loc[part].double(), scale[part].double(), accuracy)
            panels.append(_panels(arms, accuracy))
            probs = _probabilities(panels[-1], arms)
            result[part] = torch.where(arms.possible[:, None], probs.log_(), math.nan)
        return result, panels

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        loc, scale, accuracy = inputs
        log_probs, panels = output
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(loc, scale, log_probs)
            ctx.panels, ctx.accuracy = panels, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs: Tensor, _: None) -> tuple[Tensor, Tensor, None]:
        loc, scale, log_probs = ctx.saved_tensors
        check_not_batched("argmax_normal_log_probs", "the gradient", grad_log_probs)
        by_loc, by_scale = torch.empty_like(loc), torch.empty_like(scale)
        size = _rows_per_chunk(loc.shape[-1], loc.device, ctx.accuracy)
        for index, panels in enumerate(ctx.panels):
            part = slice(index * size, (index + 1) * size)
            arms = _Arms.place(loc[part].double(), scale[part].double(), ctx.accuracy)
            # Below 1e-300 the gradient of the logarithm fades out instead of overflowing.
            cotangent = grad_log_probs[part].double() / log_probs[part].double().exp().clamp_min(1e-300)
            for whole, gradient in zip((by_loc, by_scale), _gradients(panels, arms, cotangent)):
                whole[part] = to_dtype(gradient / arms.unit[:, None], whole.dtype)
        return by_loc, by_scale, None


def without_the_rest(loc: Tensor, scale: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Put those locations and scales (... x A) that are not allowed so far below that they change nothing."""
    random = torch.where(allowed, scale, 0.0).detach().amax(-1, keepdim=True)
    width = torch.where(random > 0, random, 1.0)
    reach = torch.where(allowed, loc - 40 * scale, -math.inf).detach().amax(-1, keepdim=True)
    return torch.where(allowed, loc, reach - 100 * width - reach.abs()), torch.where(allowed, scale, width)


def argmax_normal_log_probs(loc: Tensor, scale: Tensor, accuracy: Accuracy = EXACT) -> Tensor:
    r"""Compute the log-probability of every arm to have the largest of independent normal scores.

    .. math:: \log \pi_i = \log \int \frac{f_i(y)}{F_i(y)} \exp\Big(\sum_j \log F_j(y)\Big) dy

    Computed in float64 whatever the dtype of the input, in chunks, with closed-form first derivatives
    (no second ones). Nothing is checked: this is the kernel under :class:`ArgmaxNormal`.

    Args:
        loc: batch_shape x A.
        scale: batch_shape x A, standard deviations, at least 0. Arms with scale 0 are deterministic; of several
            that hold the highest deterministic score each gets an equal share.
        accuracy: :data:`EXACT`, or :data:`QUICK` for 1e-8.

    Returns:
        batch_shape x A, in the dtype of the input. Probabilities below 1e-300 lose their relative accuracy and
        those below 1e-313 are reported as -inf. Gradients beyond the largest number of the dtype (scales below 1e-38
        in float32) are that number. A row is NaN where scales that matter differ by more than 1e140, or are smaller
        than 1e-307.

    >>> argmax_normal_log_probs(torch.tensor([0.0, 0.0, -1.0]), torch.tensor([1.0, 1.0, 0.0])).exp()
    tensor([0.4874, 0.4874, 0.0252])
    """
    loc, scale = torch.broadcast_tensors(loc, scale)
    num_arms = loc.shape[-1]
    log_probs, _ = _ArgmaxNormal.apply(  # type: ignore[no-untyped-call]
        loc.reshape(-1, num_arms), scale.reshape(-1, num_arms), accuracy
    )
    log_prob: Tensor = log_probs.reshape(loc.shape)
    return log_prob
