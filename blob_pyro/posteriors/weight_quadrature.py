"""Quadrature over the two weights of a click logit, ``w_a`` and ``w_b``, which enter it through softplus."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from blob_pyro.ops.quadrature import hermite
from blob_pyro.posteriors.site_vectors import SiteVector

__all__ = ["WeightQuadrature"]


class WeightQuadrature:
    """The joint normal distribution of ``w_a`` and ``w_b``, and averages over it.

    Both are standardised: ``w_a = loc_a + tril_aa u`` and ``w_b = loc_b + tril_ba u + tril_bb v``.

    Args:
        w_a: the first weight.
        w_b: the second one.
        doubtful: which of the two are not known for certain; what is certain takes one node.
    """

    def __init__(self, w_a: SiteVector, w_b: SiteVector, doubtful: tuple[bool, bool] = (True, True)) -> None:
        self._weights, self.doubtful = (w_a, w_b), doubtful

    def features(self, num_nodes: int) -> tuple[Tensor, Tensor]:
        """Return ``(A, B, B u, B v, 1, u, v)``, ``A = sp(w_a), B = sp(w_b)``, at nodes ``u, v``, and their weights.

        Args:
            num_nodes: of Gauss-Hermite quadrature, for each of the two weights.

        Returns:
            ``num_nodes^2 x 7`` and ``num_nodes^2``, float64.
        """
        like = self._weights[0].loc.to(torch.float64)
        (nodes_a, weights_a), (nodes_b, weights_b) = (hermite(num_nodes if d else 1, like) for d in self.doubtful)
        u, v = (grid.flatten() for grid in torch.meshgrid(nodes_a, nodes_b, indexing="ij"))
        a, b = (w.loc.to(torch.float64) for w in self._weights)
        tril = self.tril.to(torch.float64)
        strength_a, strength_b = softplus(a + tril[0, 0] * u), softplus(b + tril[1, 0] * u + tril[1, 1] * v)
        features = [strength_a, strength_b, strength_b * u, strength_b * v, torch.ones_like(u), u, v]
        return torch.stack(features, -1), torch.outer(weights_a, weights_b).flatten()

    @property
    def tril(self) -> Tensor:
        """The Cholesky factor of the covariance of ``w_a`` and ``w_b``, ``2 x 2``; zero where there is no doubt."""
        loading = torch.stack([w.factor for w in self._weights])
        own = torch.stack([w.scale for w in self._weights]).square()
        (aa, ab), (_, bb) = loading @ loading.mT + own.diag()
        first = aa.sqrt()
        below = torch.where(aa > 0, ab / first.clamp(min=1e-30), 0.0)
        return torch.stack([first, 0 * first, below, (bb - below.square()).clamp(min=0).sqrt()]).view(2, 2)

    @property
    def loadings(self) -> Tensor:
        """The loadings of the standardised weights on the numbers of a Gaussian vector, ``R x 2``."""
        tril, (a, b) = self.tril, self._weights
        inverse = torch.where(tril.diagonal() > 0, 1 / tril.diagonal().clamp(min=1e-30), 0.0)
        first = inverse[0] * a.factor
        return torch.stack([first, inverse[1] * (b.factor - tril[1, 0] * first)], -1)
