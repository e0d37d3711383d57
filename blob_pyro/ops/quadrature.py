"""Nodes and weights by which functions of a standard normal number are averaged."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["hermite"]


def hermite(num_nodes: int, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nodes and weights of Gauss-Hermite quadrature over a standard normal.

    Args:
        num_nodes: how many; polynomials of a degree below twice as many are averaged exactly.
        tensor: whose dtype and device they have.

    Returns:
        Two tensors of shape ``num_nodes``; the weights sum to one.
    """
    nodes, weights = (torch.from_numpy(a).to(tensor) for a in np.polynomial.hermite_e.hermegauss(num_nodes))
    return nodes, weights / weights.sum()
