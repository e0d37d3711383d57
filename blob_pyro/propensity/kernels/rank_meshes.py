"""Meshes on which all densities of a row are resolved, wherever they are: what ranks need, and the best does not.

The location of the best score decides where the argmax looks. Every rank looks somewhere else, so that here narrow
densities may lie far from each other: positions are measured from the nearest location.
"""

import math

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.adaptive import PanelRows, resolve
from blob_pyro.propensity.kernels.beta import Arms
from blob_pyro.propensity.kernels.cumulative import Distributions, panel_weights
from blob_pyro.propensity.kernels.draws import two_sum

_LOG_TRIM = 45.0
# Of the largest to the smallest scale: densities stay far from the largest and smallest numbers.
_LARGEST_RATIO = 1e200
_LARGEST_LOC, _LARGEST_Z = 1e300, 1e150
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def normal_distributions(loc: Tensor, scale: Tensor) -> Distributions:
    """Densities and distribution functions of normal scores, rows x A, scales greater than 0.

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
        panels = resolve(log_density, _first_panels(fixed, scale))
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
    """Panels between the ends and the middle of every density."""
    arms = torch.arange(loc.shape[-1], device=loc.device)
    reach = math.sqrt(2 * _LOG_TRIM) * scale
    offset = torch.cat([-reach, torch.zeros_like(reach), reach], dim=-1)
    anchor = arms.repeat(3).expand_as(offset)
    total, rest = two_sum(loc.gather(-1, anchor), offset)
    order = rest.argsort(dim=-1, stable=True)
    order = order.gather(-1, total.gather(-1, order).argsort(dim=-1, stable=True))
    offset, anchor = offset.gather(-1, order), anchor.gather(-1, order)
    width = loc.gather(-1, anchor).diff(dim=-1) + offset.diff(dim=-1)
    return PanelRows(anchor, offset, width.clamp_min(0))


def resolved_beta_distributions(arms: Arms) -> Distributions:
    """Densities and distribution functions of the logits of Beta scores."""

    def log_density(x: Tensor, _: Tensor) -> Tensor:
        return arms.relative_log_density(x[..., None]) + arms.log_peak[:, None]

    with torch.no_grad():
        ends = torch.cat([arms.fall(_LOG_TRIM, -1), arms.mode, arms.fall(_LOG_TRIM, +1)], dim=-1)
        low, high = ends.amin(-1, keepdim=True), ends.amax(-1, keepdim=True)
        # Tails as long as those of tiny concentrations begin where the logistic function bends.
        decades = max(0, math.ceil(math.log(max(ends.abs().amax().item() / math.pi, 1.0), 16)))
        bends = math.pi * 16.0 ** torch.arange(decades, dtype=ends.dtype, device=ends.device)
        bends = torch.cat([-bends.flip(0), bends]).expand(len(ends), -1)
        edges = torch.cat([ends, torch.minimum(torch.maximum(bends, low), high)], dim=-1).sort(dim=-1).values
        panels = resolve(log_density, PanelRows.between(edges))
    nodes, anchor = panels.nodes()
    values = log_density(nodes.flatten(1), anchor).unflatten(1, nodes.shape[1:])
    nothing = torch.zeros_like(arms.a)
    return Distributions.cumulate(values, panels.width, nothing, nothing)
