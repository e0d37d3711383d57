"""Meshes that resolve a set of densities of which nothing is known but their values.

Panels are halved until every density's Legendre series has died out on each of them. To see densities that are narrow
against the whole range, the first edges must contain, for each density, points at its own scale.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blob_pyro.propensity.kernels.mesh import NODES_PER_PANEL, gauss_legendre

# Probability that one panel may get wrong, in each density.
_TOLERANCE = 1e-13
_MAX_ROUNDS = 60
# Panels of a row, at most; more only where there were more to begin with.
MAX_PANELS = 4096
# e^-44 of its peak.
_NOTHING = 8e-20
# The share of a panel that lies between an end and the node next to it.
_END_SHARE = 0.0053


@functools.cache
def _tests(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices that give the last two Legendre coefficients of an interpolant, and its values at both ends."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    degree = np.arange(num_nodes)
    values = np.polynomial.legendre.legvander(nodes, num_nodes - 1)
    coefficients = (values * weights[:, None] * (2 * degree + 1) / 2).T
    ends = np.polynomial.legendre.legvander(np.array([-1.0, 1.0]), num_nodes - 1)
    return coefficients[-2:], ends @ coefficients


@dataclass(frozen=True)
class PanelRows:
    """P panels in each row, in ascending order; panels of zero width are allowed.

    Positions are offsets from anchors, so that panels far from the origin may be narrow.

    Attributes:
        anchor: rows x (P + 1), which of the row's anchors (integers) an edge is measured from.
        offset: rows x (P + 1), where it is, seen from there.
        width: rows x P. Where both ends have the same anchor it is the difference of their offsets.
    """

    anchor: Tensor
    offset: Tensor
    width: Tensor

    @classmethod
    def between(cls, edges: Tensor) -> "PanelRows":
        """Make panels between edges (rows x (P + 1), ascending) that are all measured from one anchor, number 0."""
        return cls(torch.zeros_like(edges, dtype=torch.long), edges, edges.diff(dim=-1))

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Return offsets and anchors of all nodes, rows x P x nodes."""
        nodes, _ = gauss_legendre(NODES_PER_PANEL, self.offset.device)
        offset = self.offset[:, :-1, None] + self.width[..., None] * nodes
        return offset, self.anchor[:, :-1, None].expand_as(offset)

    @property
    def middle(self) -> Tensor:
        """The middle of each panel, rows x P, seen from the anchor of its left end."""
        return self.offset[:, :-1] + self.width / 2

    def halved(self, split: Tensor, most: int) -> "PanelRows":
        """Halve the panels in `split`, at most ``most`` a row, and keep the others; empty panels at the end."""
        left, middle, edges = self.offset[:, :-1], self.middle, self.offset.shape[-1]
        # Widths are differences of the rounded positions, so that panels neither overlap nor leave gaps.
        first = torch.where(split, middle - left, self.width)
        second = torch.where(split, (left + self.width) - middle, 0.0)
        rank = torch.arange(edges, device=left.device, dtype=left.dtype).expand_as(self.offset)
        rank = torch.cat([rank, torch.where(split, rank[:, :-1] + 0.5, math.inf)], dim=-1)
        order = rank.argsort(dim=-1, stable=True)[:, : edges + most]
        # What is not split has no middle: the last edge stands there.
        order = torch.where(rank.gather(-1, order) < math.inf, order, edges - 1)
        width = torch.cat([first, torch.zeros_like(first[:, :1]), second], dim=-1).gather(-1, order)[:, :-1]
        return PanelRows(
            torch.cat([self.anchor, self.anchor[:, :-1]], dim=-1).gather(-1, order),
            torch.cat([self.offset, middle], dim=-1).gather(-1, order),
            width,
        )


def resolve(
    log_density: Callable[[Tensor, Tensor], Tensor],
    panels: PanelRows,
    max_panels: int = MAX_PANELS,
    allow: Callable[[int], None] = lambda _: None,
) -> PanelRows:
    """Halve panels until all densities are polynomials on them, to 1e-13 of probability.

    Args:
        log_density: maps offsets and anchors, rows x N each, to rows x N x A log-densities.
        panels: to begin with.
        max_panels: where to stop in any case, which the total mass of each density then shows.
        allow: is called with the number of nodes of a row before densities are computed there; may refuse.
    """
    last_coefficients, at_ends = (
        torch.tensor(matrix, device=panels.offset.device) for matrix in _tests(NODES_PER_PANEL)
    )
    allow(panels.width.shape[-1] * NODES_PER_PANEL)
    for _ in range(_MAX_ROUNDS):
        offset, anchor = panels.nodes()
        density = log_density(offset.flatten(1), anchor.flatten(1)).exp().unflatten(1, offset.shape[1:])
        width = panels.width
        error = torch.einsum("cm,rpma->rpca", last_coefficients, density).abs().amax((-2, -1)) * width
        # A kink or a jump may hide between an end of the panel and the node next to it.
        actual = log_density(panels.offset, panels.anchor).exp()
        # What is left of a density far out in its tail is not worth a panel.
        actual = torch.where(actual > _NOTHING * actual.amax(1, keepdim=True), actual, 0.0)
        actual = torch.stack([actual[:, :-1], actual[:, 1:]], dim=2)
        hidden = (torch.einsum("cm,rpma->rpca", at_ends, density) - actual).abs().amax((-2, -1))
        error = torch.maximum(error, hidden * width * _END_SHARE)
        left, middle = panels.offset[:, :-1], panels.middle
        split = (error > _TOLERANCE) & (middle > left) & (middle < left + width)
        most = int(split.sum(-1).amax()) if width.shape[-1] < max_panels and split.numel() else 0
        if not most:
            break
        panels = panels.halved(split, most)
        allow(panels.width.shape[-1] * NODES_PER_PANEL)
    return panels
