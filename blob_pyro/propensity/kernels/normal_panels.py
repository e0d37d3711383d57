"""Panels that resolve the integrands of P(argmax) of independent normal scores: bounds for where each one matters."""

import math

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.mesh import Mesh, Panels, block_elements, refine
from blob_pyro.propensity.kernels.normal_arms import Accuracy, NormalArms, arm_slices, normal_terms

# What a coarse look remembers of its slices of arms; it recomputes them for very large sets.
KEPT_SLICES = 16


def _shortest_scale(
    points: Tensor,
    terms: tuple[Tensor, Tensor, Tensor],
    total: Tensor,
    total_hazard: Tensor,
    arms: NormalArms,
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


def _monitor(points: Tensor, arms: NormalArms, accuracy: Accuracy) -> tuple[Tensor, Tensor]:
    """The local length on each interval between `points`, and whether any arm's integrand matters there.

    log g_i = log h_i + S is concave: its tangents at both ends bound it on the interval, and its largest value at
    the points is at most its peak. The curvature of an integrand is at most 1 / scale_i^2 - S'', and the mean of
    -S'' over an interval is the drop of S' across it: no second derivative is needed, and nothing is missed.
    """
    rows, num_points = points.shape
    num_arms = arms.offset.shape[-1]
    parts = arm_slices(num_arms, block_elements(points.device) // (rows * num_points))

    def terms(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        z, cdf, hazard = normal_terms(points, arms.offset[:, part], arms.rate[:, part])
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


def normal_panels(arms: NormalArms, accuracy: Accuracy) -> Panels:
    """Place panels on which every integrand that can reach the floor is resolved."""
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
