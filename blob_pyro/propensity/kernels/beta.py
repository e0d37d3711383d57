r"""P(argmax) for independent Beta scores with any positive concentrations, in logit space.

With x = logit(y) a Beta density becomes

.. math:: \log f(x) = a \log p + b \log q - \log B(a, b), \qquad p = \sigma(x), q = 1 - p,

which is log-concave for all a, b > 0, with slope a - (a + b) p and curvature (a + b) p q: the singularities at 0 and 1
are gone. The density is written relative to its mode logit(a / (a + b)) and normalised with Stirling's remainders, so
that nothing cancels for concentrations of 1e6. Distribution functions are cumulated panel integrals
(`blob_pyro.propensity.kernels.cumulative`); what lies below the first panel is integrated for each arm on its
own mesh.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blob_pyro.propensity._types import check_not_batched
from blob_pyro.propensity.kernels.cumulative import Distributions, integrate, panel_nodes
from blob_pyro.propensity.kernels.functions import WithoutVmap, to_dtype
from blob_pyro.propensity.kernels.mesh import Mesh, is_cheap_to_read, refine

# Probabilities down to 1e-40 = e^-92 keep their relative accuracy.
LOG_FLOOR = -115.0
LOG_TRIM = 44.0
UNITS_PER_PANEL = 3.5
# A panel may span this many e-folds of a density, per unit; more would spoil its smaller end.
_FOLDS_PER_UNIT = 2.0
# The logistic function has poles at +-i pi: a panel may not be much longer than its distance from them.
_POLE_SHARE = 0.3
# Powers of 4 that reach the tail of the smallest concentration.
_DECADES = 80
_INTERVALS = (24,) + 9 * (32,)
_TAIL_INTERVALS = (16,) + 5 * (16,)
_BLOCK = 2**18
# Newton steps on a device between two looks at whether they have arrived.
_STEPS_PER_LOOK = 6
# Beyond this distance from the mode expm1 might overflow.
_FAR = 500.0


def _stirling_remainder(x: Tensor) -> Tensor:
    """lgamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2), which falls like 1 / (12 x)."""
    large = x.clamp_min(10.0)
    inverse = 1 / large
    square = inverse.square()
    terms = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)
    series = torch.zeros_like(x)
    for term in reversed(terms):
        series = series * square + term
    small = x.clamp_max(10.0)
    direct = torch.lgamma(small) - ((small - 0.5) * small.log() - small + 0.5 * math.log(2 * math.pi))
    return torch.where(x > 10, series * inverse, direct)


@dataclass(frozen=True)
class Arms:
    """Beta distributions in logit space, rows x A.

    Attributes:
        a: concentration1.
        b: concentration0.
    """

    a: Tensor
    b: Tensor

    @property
    def mode(self) -> Tensor:
        """The logit at which the density in logit space is largest."""
        return self.a.log() - self.b.log()

    @property
    def precision(self) -> Tensor:
        """Minus the second derivative of the log-density at the mode."""
        return self.a / (self.a + self.b) * self.b

    @property
    def log_peak(self) -> Tensor:
        """The log-density at the mode."""
        remainder = _stirling_remainder(self.a + self.b) - _stirling_remainder(self.a) - _stirling_remainder(self.b)
        return 0.5 * (self.precision.log() - math.log(2 * math.pi)) + remainder

    def relative_log_density(self, x: Tensor) -> Tensor:
        """Return the log-density relative to the mode's, for x that broadcasts with rows x ... x A."""
        a, b = self._like(x, self.a), self._like(x, self.b)
        distance = x - self._like(x, self.mode)
        # Written with the smaller of p and q at the mode, whose complement has lost its relative accuracy.
        swap = b > a
        minor, total = torch.where(swap, a, b), a + b
        share = minor / total
        toward = torch.where(swap, -distance, distance)
        near = toward.clamp_min(-_FAR)
        log_ratio = torch.where(
            toward > -_FAR,
            torch.log1p(share * torch.expm1(-near)),
            share.log() - toward,
        )
        return -total * log_ratio - minor * toward

    def slope(self, x: Tensor) -> Tensor:
        """Return the derivative of the log-density, a q - b p."""
        return self._like(x, self.a) * torch.sigmoid(-x) - self._like(x, self.b) * torch.sigmoid(x)

    @staticmethod
    def _like(x: Tensor, parameter: Tensor) -> Tensor:
        return parameter.reshape(parameter.shape[0], *(1,) * (x.dim() - 2), parameter.shape[-1])

    def flat(self) -> "Arms":
        """Make every arm a row of its own."""
        return Arms(self.a.reshape(-1, 1), self.b.reshape(-1, 1))

    def fall(self, drop: float, side: int, start: Tensor | None = None) -> Tensor:
        """Find positions beyond which the log-density, going left (-1) or right (+1) of `start`, has fallen by `drop`.

        Newton's method on a concave function approaches from outside, so that stopping early errs on the safe side.
        """
        start = self.mode if start is None else start
        target = self.relative_log_density(start) - drop
        rate = self.a if side < 0 else self.b
        x = start + side * (drop / rate + drop / self.precision.sqrt() + 1.0)
        looks_at = 1 if is_cheap_to_read(x.device) else _STEPS_PER_LOOK
        for number in range(1, 61):
            slope = self.slope(x)
            step = (target - self.relative_log_density(x)) / torch.where(slope == 0, 1.0, slope)
            # Outside the target the step leads inwards; rounding may turn it round at the end.
            step = torch.where(slope * side < 0, step * side, 0.0).clamp_max(0) * side
            x = x + step
            if number % looks_at == 0 and bool((step.abs() * slope.abs() < 1).all()):
                break
        return x


def _rough_terms(x: Tensor, arms: Arms) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Relative log-density, slope, and log F and hazard f / F to about ten per cent, at x (rows x K)."""
    points = x[..., None]
    log_density = arms.relative_log_density(points)
    slope = arms.slope(points)
    root = 0.8 * arms.precision.sqrt()[:, None, :]
    height = arms.log_peak[:, None, :]
    # Bounds on the tails of log-concave densities, blended with the value at the mode; no tail is steeper than its end.
    left = slope > 0
    steepest = torch.where(left, arms.a[:, None, :], arms.b[:, None, :])
    rate = torch.minimum(slope.abs() + root, steepest)
    tail = log_density + height - rate.log()
    log_cdf = torch.where(left, tail.clamp_max(0), torch.log1p(-tail.exp().clamp_max(0.6)))
    hazard = torch.where(left, rate, (log_density + height - log_cdf).exp())
    return log_density, slope, log_cdf, hazard


def _rough_log_cdf_of_best(x: Tensor, arms: Arms) -> Tensor:
    return _rough_terms(x[:, None], arms)[2].sum((-2, -1))


def _range(arms: Arms) -> tuple[Tensor, Tensor]:
    """Where the mesh begins and ends: the floor of S, and beyond every density's last relevant point."""
    high = arms.fall(-LOG_FLOOR + LOG_TRIM, +1).amax(-1)
    low = arms.fall(-LOG_FLOOR + LOG_TRIM, -1).amax(-1)
    top = high
    # Bisection: S at the lower end stays below the floor.
    for _ in range(40):
        middle = (low + top) / 2
        below = _rough_log_cdf_of_best(middle, arms) < LOG_FLOOR
        low, top = torch.where(below, middle, low), torch.where(below, top, middle)
    return low, high


def _monitor(points: Tensor, arms: Arms) -> tuple[Tensor, Tensor]:
    """Local lengths for densities and integrands; compare the normal kernel's monitor.

    The mean curvature of a concave function over an interval is the drop of its slope, so the bounds hold however
    long the interval is. Exponential tails have no curvature: there the fall of the density counts.
    """
    log_density, slope, log_cdf, hazard = _rough_terms(points, arms)
    step = points.diff(dim=-1)
    width = step.clamp_min(1e-300)[..., None]
    total, total_hazard = log_cdf.sum(-1, keepdim=True), hazard.sum(-1, keepdim=True)
    log_integrand = log_density - log_cdf + total
    integrand_slope = slope - hazard + total_hazard

    def relevant(value: Tensor, gradient: Tensor, threshold: Tensor) -> Tensor:
        from_left = value[:, :-1] + gradient[:, :-1].clamp_min(0) * width
        from_right = value[:, 1:] - gradient[:, 1:].clamp_max(0) * width
        return torch.minimum(from_left, from_right) > threshold

    peak = log_integrand.amax(1, keepdim=True)
    matters = relevant(log_integrand, integrand_slope, (peak - LOG_TRIM).clamp_min(LOG_FLOOR))
    present = relevant(log_density, slope, torch.full_like(peak, -LOG_TRIM)) | matters
    curvature = (slope[:, :-1] - slope[:, 1:]).clamp_min(0) / width
    fall = log_density.diff(dim=1).abs().clamp_max(2 * LOG_TRIM) / (_FOLDS_PER_UNIT * width)
    own = torch.where(present, curvature + fall.square(), 0.0).amax(-1)
    joint = (total_hazard[:, :-1] - total_hazard[:, 1:]).clamp_min(0).squeeze(-1) / width.squeeze(-1)
    keep = matters.any(-1) & (step > 0)
    return (own + joint).clamp_min(1e-100).rsqrt().minimum(_to_poles(points)), keep


def _to_poles(points: Tensor) -> Tensor:
    """The longest local length that the poles of the logistic function allow on each interval."""
    nearest = torch.maximum(points[:, :-1], -points[:, 1:]).clamp_min(0)
    return _POLE_SHARE * (nearest.square() + math.pi**2).sqrt()


def _first_mesh(low: Tensor, high: Tensor) -> Mesh:
    """Points that crowd around the poles of the logistic function, as no other part of the line needs them to."""
    grid = math.pi * 4.0 ** torch.arange(_DECADES, dtype=low.dtype, device=low.device)
    grid = torch.cat([-grid.flip(0), grid.new_zeros(1), grid]).expand(len(low), -1)
    points = torch.minimum(torch.maximum(grid, low[:, None]), high[:, None])
    points = torch.cat([low[:, None], points, high[:, None]], dim=-1)
    return Mesh.from_points(points, _POLE_SHARE * torch.hypot(points, torch.full_like(points, math.pi)))


def _tail_edges(arms: Arms, start: Tensor, end: Tensor) -> Tensor:
    """Panel edges for the integral of each single arm (a row each) between start and end."""

    def monitor(points: Tensor) -> tuple[Tensor, Tensor]:
        log_density = arms.relative_log_density(points[..., None]).squeeze(-1)
        slope = arms.slope(points[..., None]).squeeze(-1)
        step = points.diff(dim=-1).clamp_min(1e-300)
        curvature = (slope[:, :-1] - slope[:, 1:]).clamp_min(0) / step
        fall = log_density.diff(dim=-1).abs() / (_FOLDS_PER_UNIT * step)
        length = (curvature + fall.square()).clamp_min(1e-100).rsqrt().minimum(_to_poles(points))
        return length, torch.ones_like(step, dtype=torch.bool)

    mesh = refine(_first_mesh(start, end), monitor, _TAIL_INTERVALS)
    return mesh.edges(UNITS_PER_PANEL)[0]


@dataclass(frozen=True)
class _Plan:
    """Meshes for a few rows: panel edges, and for what lies outside, one more mesh an arm on the shorter side."""

    edges: Tensor
    below_edges: Tensor
    below_is_left: Tensor

    @classmethod
    def draw(cls, arms: Arms) -> "_Plan":
        low, high = _range(arms)
        mesh = refine(_first_mesh(low, high), lambda x: _monitor(x, arms), _INTERVALS)
        edges, _ = mesh.edges(UNITS_PER_PANEL)
        first = edges[:, :1].expand_as(arms.a)
        left = first < arms.mode
        outer_left = arms.fall(LOG_TRIM, -1, torch.minimum(first, arms.mode))
        outer_right = arms.fall(LOG_TRIM, +1, torch.maximum(first, arms.mode))
        start, end = torch.where(left, outer_left, first), torch.where(left, first, outer_right)
        return cls(edges, _tail_edges(arms.flat(), start.reshape(-1), end.reshape(-1)), left)


def beta_distributions(arms: Arms, plan: _Plan) -> Distributions:
    """Compute densities and distribution functions of a few rows at the nodes of their mesh, differentiably."""
    nodes, width = panel_nodes(plan.edges)
    log_density = arms.relative_log_density(nodes[..., None]) + arms.log_peak[:, None, None, :]
    flat = arms.flat()
    tail_nodes, tail_width = panel_nodes(plan.below_edges)
    tail_density = flat.relative_log_density(tail_nodes[..., None]).squeeze(-1) + flat.log_peak[..., None]
    tail = integrate(tail_density, tail_width).reshape(arms.a.shape)
    below = torch.where(plan.below_is_left, tail, (1 - tail).clamp_min(0))
    return Distributions.cumulate(log_density, width, below, torch.zeros_like(below))


class _ArgmaxBeta(WithoutVmap):
    """Chunked over rows; the backward pass repeats a chunk's forward pass on the same mesh."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> tuple[Tensor, list[_Plan]]:
        results, plans = [a.new_empty(0, a.shape[-1])], []
        for part_a, part_b in zip(a.split(_rows_per_chunk(a)), b.split(_rows_per_chunk(a))):
            arms = Arms(part_a.double(), part_b.double())
            plans.append(_Plan.draw(arms))
            results.append(beta_distributions(arms, plans[-1]).argmax_log_probs().to(a.dtype))
        return torch.cat(results), plans

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Any, ...]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.plans = output[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs: Tensor, _: None) -> tuple[Tensor, Tensor]:
        check_not_batched("argmax_beta_log_probs", "the gradient", grad_log_probs)
        a, b = ctx.saved_tensors
        by_a, by_b = torch.empty_like(a), torch.empty_like(b)
        size = _rows_per_chunk(a)
        for index, plan in enumerate(ctx.plans):
            part = slice(index * size, (index + 1) * size)
            pull_back = torch.func.vjp(
                lambda a, b, plan=plan: beta_distributions(Arms(a, b), plan).argmax_log_probs(),
                a[part].double(),
                b[part].double(),
            )[1]
            for whole, gradient in zip((by_a, by_b), pull_back(grad_log_probs[part].double())):
                whole[part] = to_dtype(gradient, whole.dtype)
        return by_a, by_b


def _rows_per_chunk(a: Tensor) -> int:
    return max(1, _BLOCK // (400 * a.shape[-1]))


def argmax_beta_log_probs(concentration1: Tensor, concentration0: Tensor) -> Tensor:
    """Compute the log-probability of every arm to have the largest of independent Beta scores.

    Args:
        concentration1: batch_shape x A, positive; nothing is checked.
        concentration0: batch_shape x A, positive.

    Returns:
        batch_shape x A, in the dtype of the input, computed in float64.

    >>> argmax_beta_log_probs(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])).exp()
    tensor([0.3333, 0.6667])
    """
    a, b = torch.broadcast_tensors(concentration1, concentration0)
    num_arms = a.shape[-1]
    if num_arms == 1:  # whatever its score
        log_prob: Tensor = 0 * (a + b)
        return log_prob
    log_probs, _ = _ArgmaxBeta.apply(  # type: ignore[no-untyped-call]
        a.reshape(-1, num_arms), b.reshape(-1, num_arms)
    )
    log_prob = log_probs.reshape(a.shape)
    return log_prob
