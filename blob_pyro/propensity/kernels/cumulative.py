"""P(argmax) on panels when only densities are known: distribution functions by cumulated panel integrals.

A density is interpolated at the Gauss-Legendre nodes of each panel and its interpolant integrated exactly, up to every
node. Sums of panel integrals run from both ends, so that F is accurate in the left tail and 1 - F in the right one.
Everything is made of differentiable operations on a fixed mesh.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blob_pyro.propensity.kernels.mesh import NODES_PER_PANEL, gauss_legendre


@functools.cache
def _integration_matrix(num_nodes: int) -> np.ndarray:
    """Row q integrates the interpolant from 0 to node q of the Gauss-Legendre rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    degree = np.arange(num_nodes)
    values = np.polynomial.legendre.legvander(nodes, num_nodes)
    # Coefficients of the interpolant by discrete orthogonality; then the antiderivatives of Legendre polynomials.
    coefficients = (values[:, :num_nodes] * weights[:, None] * (2 * degree + 1) / 2).T
    antiderivative = np.empty((num_nodes, num_nodes))
    antiderivative[:, 0] = nodes + 1
    for n in range(1, num_nodes):
        antiderivative[:, n] = (values[:, n + 1] - values[:, n - 1]) / (2 * n + 1)
    return antiderivative @ coefficients / 2


@dataclass(frozen=True)
class Distributions:
    """Densities and distribution functions of all arms at all nodes of rows of panels.

    Attributes:
        weights: rows x N, quadrature weights of the N nodes.
        log_density: rows x N x A.
        log_cdf: rows x N x A.
        log_survival: rows x N x A, log(1 - F).
    """

    weights: Tensor
    log_density: Tensor
    log_cdf: Tensor
    log_survival: Tensor

    @classmethod
    def cumulate(cls, log_density: Tensor, width: Tensor, below: Tensor, above: Tensor) -> "Distributions":
        """Integrate densities that are given at the nodes.

        Args:
            log_density: rows x P x nodes x A.
            width: rows x P, panel widths.
            below: rows x A, probability left of the first panel.
            above: rows x A, probability right of the last panel.
        """
        rows, panels, nodes, arms = log_density.shape
        _, rule = gauss_legendre(nodes, log_density.device)
        matrix = torch.tensor(_integration_matrix(nodes), device=log_density.device)
        density = log_density.exp() * width[..., None, None]
        to_node = torch.einsum("qm,rpma->rpqa", matrix, density)
        from_node = torch.einsum("qm,rpma->rpqa", rule - matrix, density)
        whole = torch.einsum("m,rpma->rpa", rule, density)
        before = torch.cat([below[:, None], whole[:, :-1]], dim=1).cumsum(1)
        after = torch.cat([whole[:, 1:], above[:, None]], dim=1).flip(1).cumsum(1).flip(1)
        lower = (before[:, :, None] + to_node).reshape(rows, panels * nodes, arms)
        upper = (after[:, :, None] + from_node).reshape(rows, panels * nodes, arms)
        return cls(
            (width[..., None] * rule).reshape(rows, panels * nodes),
            log_density.reshape(rows, panels * nodes, arms),
            *_log_parts(lower, upper),
        )

    def log_integral_below(self, log_integrand: Tensor, nodes_per_panel: int) -> Tensor:
        """Integrate a function (rows x N) from the first panel up to every node, in logarithms."""
        top = log_integrand.detach().amax(-1, keepdim=True).clamp_min(-1e300)
        matrix = torch.tensor(_integration_matrix(nodes_per_panel), device=log_integrand.device)
        _, rule = gauss_legendre(nodes_per_panel, log_integrand.device)
        value = (log_integrand - top).exp().unflatten(-1, (-1, nodes_per_panel))
        width = self.weights.unflatten(-1, (-1, nodes_per_panel)) / rule
        whole = (value * width * rule).sum(-1)
        before = torch.nn.functional.pad(whole[:, :-1].cumsum(-1), (1, 0))
        integral = before[..., None] + (value * width) @ matrix.mT
        result: Tensor = integral.flatten(-2).clamp_min(1e-320).log() + top
        return result

    def reversed(self) -> "Distributions":
        """Return the same for the scores with their signs changed: the largest becomes the smallest."""
        return Distributions(self.weights, self.log_density, self.log_survival, self.log_cdf)

    def argmax_log_probs(self) -> Tensor:
        """Integrate f_i prod_(j != i) F_j, in logarithms, rows x A."""
        log_integrand = self.log_density - self.log_cdf + self.log_cdf.sum(-1, keepdim=True)
        log_weights = self.weights.clamp_min(1e-300).log()
        return torch.logsumexp(log_integrand + log_weights[..., None], dim=1)


def _log_parts(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Log F and log(1 - F), each from whichever of the two is small (and so accurate)."""
    left = lower < upper
    small = torch.where(left, lower, upper).clamp_min(1e-320)
    log_small, log_large = small.log(), torch.log1p(-small.clamp_max(0.75))
    return torch.where(left, log_small, log_large), torch.where(left, log_large, log_small)


def panel_nodes(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Place nodes (rows x P x nodes) on the panels between edges (rows x (P + 1)); returns widths (rows x P), too."""
    nodes, _ = gauss_legendre(NODES_PER_PANEL, edges.device)
    width = edges.diff(dim=-1)
    return edges[:, :-1, None] + width[..., None] * nodes, width


def panel_weights(width: Tensor) -> Tensor:
    """Return quadrature weights of all nodes, rows x (P nodes), of panels with these widths (rows x P)."""
    _, rule = gauss_legendre(NODES_PER_PANEL, width.device)
    return (width[..., None] * rule).flatten(1)


def integrate(log_density: Tensor, width: Tensor) -> Tensor:
    """Integrate a density given at the nodes of panels (rows x P x nodes), one number a row."""
    _, rule = gauss_legendre(log_density.shape[-1], log_density.device)
    return torch.einsum("m,rpm,rp->r", rule, log_density.exp(), width)
