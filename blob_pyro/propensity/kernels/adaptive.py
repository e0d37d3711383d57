"""Meshes that resolve a set of densities of which nothing is known but their values.

Panels are halved until every density's Legendre series has died out on each of them. To see densities that are narrow
against the whole range, the first edges must contain, for each density, points at its own scale.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from blob_pyro.propensity.kernels.cumulative import panel_nodes
from blob_pyro.propensity.kernels.mesh import NODES_PER_PANEL

# Probability that one panel may get wrong, in each density.
_TOLERANCE = 1e-13
_MAX_ROUNDS = 60
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


def resolve(log_density: Callable[[Tensor], Tensor], edges: Tensor, max_panels: int = 4096) -> Tensor:
    """Halve panels until all densities are polynomials on them, to 1e-13 of probability.

    Args:
        log_density: maps rows x N positions to rows x N x A log-densities.
        edges: rows x (P + 1), ascending; panels of zero width are allowed.
        max_panels: where to stop in any case, which the total mass of each density then shows.

    Returns:
        rows x (P' + 1) edges, padded with panels of zero width at the end.
    """
    last_coefficients, at_ends = (torch.tensor(matrix, device=edges.device) for matrix in _tests(NODES_PER_PANEL))
    last = edges[:, -1:]
    for _ in range(_MAX_ROUNDS):
        nodes, width = panel_nodes(edges)
        rows, panels, per_panel = nodes.shape
        density = log_density(nodes.reshape(rows, -1)).exp().reshape(rows, panels, per_panel, -1)
        error = torch.einsum("cm,rpma->rpca", last_coefficients, density).abs().amax((-2, -1)) * width
        # A kink or a jump may hide between an end of the panel and the node next to it.
        at_edges = log_density(edges).exp()
        actual = torch.stack([at_edges[:, :-1], at_edges[:, 1:]], dim=2)
        hidden = (torch.einsum("cm,rpma->rpca", at_ends, density) - actual).abs().amax((-2, -1))
        error = torch.maximum(error, hidden * width * _END_SHARE)
        middle = edges[:, :-1] + width / 2
        split = (error > _TOLERANCE) & (middle > edges[:, :-1]) & (middle < edges[:, 1:])
        most = int(split.sum(-1).amax()) if panels < max_panels and split.numel() else 0
        if not most:
            break
        added = torch.where(split, middle, last)
        keep = panels + most
        edges = torch.cat([edges, added], dim=-1).sort(dim=-1).values[:, : keep + 1]
    return edges
