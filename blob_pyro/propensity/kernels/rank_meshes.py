"""Meshes on which all densities of a row are resolved, wherever they are: what ranks need, and the best does not.

The location of the best score decides where the argmax looks. Every rank looks somewhere else, so that here narrow
densities may lie far from each other: positions are measured from the nearest location. Densities that lie together
share their panels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.adaptive import PanelRows, resolve
from blob_pyro.propensity.kernels.beta import Arms
from blob_pyro.propensity.kernels.cumulative import Distributions, panel_weights
from blob_pyro.propensity.kernels.draws import two_sum

_LOG_TRIM = 45.0
_NEAR = 0.125  # so much of a log-density may be lost at the edge next to its peak: an edge that still sees it
# Of the largest to the smallest scale: densities stay far from the largest and smallest numbers.
_LARGEST_RATIO = 1e200
_LARGEST_LOC, _LARGEST_Z = 1e300, 1e150
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

Allow = Callable[[int], None]
"""Is called with the number of nodes of a row before densities are computed there; may refuse."""


def normal_distributions(loc: Tensor, scale: Tensor, allow: Allow) -> Distributions:
    """Compute densities and distribution functions of normal scores, rows x A, scales greater than 0.

    Rows in which scales differ by more than 1e200, or locations are beyond 1e300 of their middle, are NaN.
    """
    loc, scale, possible = _normalized(loc, scale)
    fixed = loc.detach()

    def standardised(offset: Tensor, anchor: Tensor) -> Tensor:
        at = fixed.gather(-1, anchor)
        z = ((at[..., None] - loc[:, None]) + offset[..., None]) / scale[:, None]
        return z.clamp(-_LARGEST_Z, _LARGEST_Z)

    def log_density(offset: Tensor, anchor: Tensor) -> Tensor:
        return -0.5 * standardised(offset, anchor).square() - scale[:, None].log() - _HALF_LOG_2PI

    with torch.no_grad():
        panels = resolve(log_density, _first_panels(fixed, scale), allow=allow)
    offset, anchor = (position.flatten(1) for position in panels.nodes())
    z = standardised(offset, anchor)
    return Distributions(
        torch.where(possible, panel_weights(panels.width), math.nan),
        -0.5 * z.square() - scale[:, None].log() - _HALF_LOG_2PI,
        torch.special.log_ndtr(z),
        torch.special.log_ndtr(-z),
    )


def _normalized(loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Locations and scales in units of the middle of the scales, and whether the row (rows x 1) is possible.

    The unit is a power of two: no difference of locations is rounded.
    """
    with torch.no_grad():
        largest, smallest = scale.amax(-1, keepdim=True), scale.amin(-1, keepdim=True)
        possible = (largest <= _LARGEST_RATIO * smallest) & (smallest >= torch.finfo(scale.dtype).tiny)
        middle = torch.where(possible, largest.sqrt() * smallest.sqrt(), 1.0)
        unit = middle / torch.frexp(middle).mantissa
        possible = possible & ((loc / unit).abs().amax(-1, keepdim=True) < _LARGEST_LOC)
    return torch.where(possible, loc / unit, 0.0), torch.where(possible, scale / unit, 1.0), possible


def _first_panels(loc: Tensor, scale: Tensor) -> PanelRows:
    """Panels between the ends and the middle of every density, or points nearby that are those of others."""
    arms = torch.arange(loc.shape[-1], device=loc.device)
    reach = math.sqrt(2 * _LOG_TRIM) * scale
    offset = torch.cat([-reach, torch.zeros_like(reach), reach], dim=-1)
    anchor = arms.repeat(3).expand_as(offset)
    total, rest = two_sum(loc.gather(-1, anchor), offset)
    needed = torch.cat([_representatives(loc - reach, scale), _representatives(loc, scale / 2),
                        _representatives(loc + reach, scale)], dim=-1)  # fmt: skip
    order = rest.argsort(dim=-1, stable=True)
    order = order.gather(-1, total.gather(-1, order).argsort(dim=-1, stable=True))
    order = _keep(order, needed)
    offset, anchor = offset.gather(-1, order), anchor.gather(-1, order)
    width = loc.gather(-1, anchor).diff(dim=-1) + offset.diff(dim=-1)
    return PanelRows(anchor, offset, width.clamp_min(0))


def _representatives(position: Tensor, tolerance: Tensor) -> Tensor:
    """Which of a row's positions to keep, so that each has one of them within its tolerance: rows x A.

    The line is cut into cells, shorter than the tolerance by up to a half, and each cell keeps the first that is there.
    """
    length = torch.exp2(torch.floor(torch.log2(tolerance)))
    cell = torch.floor(position / length)
    kept = torch.ones_like(cell, dtype=torch.bool)
    order = length.argsort(dim=-1, stable=True)
    order = order.gather(-1, cell.gather(-1, order).argsort(dim=-1, stable=True))
    cell, length = cell.gather(-1, order), length.gather(-1, order)
    known = torch.isfinite(cell)  # far out in units of the smallest scale nothing is near anything
    again = (cell[:, 1:] == cell[:, :-1]) & (length[:, 1:] == length[:, :-1]) & known[:, 1:]
    return kept.scatter(-1, order[:, 1:], ~again)


def _keep(order: Tensor, needed: Tensor) -> Tensor:
    """Of sorted edges, those that are needed, and both ends; rows with fewer of them repeat the last."""
    needed = needed.gather(-1, order)
    needed[:, 0] = needed[:, -1] = True
    place = needed.cumsum(-1) - 1
    most = int(place[:, -1].amax()) + 1 if place.numel() else 0
    kept = order[:, -1:].repeat(1, most)
    row = torch.arange(len(order), device=order.device)[:, None].expand_as(order)
    kept[row[needed], place[needed]] = order[needed]
    return kept


def resolved_beta_distributions(arms: Arms, allow: Allow) -> Distributions:
    """Compute densities and distribution functions of the logits of Beta scores."""

    def log_density(x: Tensor, _: Tensor) -> Tensor:
        return arms.relative_log_density(x[..., None]) + arms.log_peak[:, None]

    with torch.no_grad():
        left, mode, right = arms.fall(_LOG_TRIM, -1), arms.mode, arms.fall(_LOG_TRIM, +1)
        near = torch.minimum(mode - arms.fall(_NEAR, -1), arms.fall(_NEAR, +1) - mode)
        needed = [_representatives(left, (mode - left) / 8), _representatives(mode, near),
                  _representatives(right, (right - mode) / 8)]  # fmt: skip
        ends = torch.cat([left, mode, right], dim=-1)
        low, high = ends.amin(-1, keepdim=True), ends.amax(-1, keepdim=True)
        ends = ends.gather(-1, _keep(ends.argsort(dim=-1), torch.cat(needed, dim=-1)))
        # Tails as long as those of tiny concentrations begin where the logistic function is curved.
        decades = max(0, math.ceil(math.log(max(ends.abs().amax().item() / math.pi, 1.0), 16)))
        knots = math.pi * 16.0 ** torch.arange(decades, dtype=ends.dtype, device=ends.device)
        knots = torch.cat([-knots.flip(0), knots]).expand(len(ends), -1)
        edges = torch.cat([ends, torch.minimum(torch.maximum(knots, low), high)], dim=-1).sort(dim=-1).values
        panels = resolve(log_density, PanelRows.between(edges), allow=allow)
    nodes, anchor = panels.nodes()
    values = log_density(nodes.flatten(1), anchor).unflatten(1, nodes.shape[1:])
    nothing = torch.zeros_like(arms.a)
    return Distributions.cumulate(values, panels.width, nothing, nothing)
