"""The distribution of all items' logits when the interest is Gaussian: what analytic bounds and EM are made of.

For ``omega ~ N(m, S)`` the logit ``x_p = Psi_p omega + rho_p`` is normal with mean ``Psi_p m + rho_p`` and variance
``Psi_p S Psi_p'``. The variances of all items are one matrix product: of the entries of ``S`` (features of the
session) with the products of the entries of ``Psi_p`` (features of the item).
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["covariance_features", "is_gaussian", "item_features", "matrix_from_features"]


def is_gaussian(q: TorchDistribution) -> bool:
    """Say whether ``q`` is a vector of independent normals or a multivariate normal."""
    if isinstance(q, dist.MultivariateNormal):
        return True
    return isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal) and len(q.event_shape) == 1


def covariance_features(q: TorchDistribution) -> Tensor:
    """Return the numbers in a covariance: ``N x K`` for independent normals, ``N x K (K + 1) / 2`` for a full one.

    Off the diagonal they are doubled, since an entry of a symmetric matrix stands for two.

    Raises:
        TypeError: if ``q`` is not Gaussian.
    """
    if not is_gaussian(q):
        raise TypeError(
            f"q: this bound needs a Gaussian posterior (independent normals or a MultivariateNormal), got "
            f"{type(q).__name__}; use bound='reparameterized', which takes any distribution with rsample"
        )
    if isinstance(q, dist.MultivariateNormal):
        row, column = _triangle(q.event_shape[0], q.mean.device)
        result: Tensor = q.covariance_matrix[..., row, column] * torch.where(row == column, 1, 2)
        return result
    result = q.variance
    return result


def item_features(item_embedding: Tensor, num_features: int) -> Tensor:
    """Return the squares (or all products) of the entries of each row of Psi, ``S x num_features``."""
    embedding_dim = item_embedding.shape[-1]
    if num_features == embedding_dim:
        return item_embedding.square()
    row, column = _triangle(embedding_dim, item_embedding.device)
    return item_embedding[..., row] * item_embedding[..., column]


def matrix_from_features(features: Tensor, embedding_dim: int) -> Tensor:
    """Build symmetric ``... x K x K`` matrices from the ``K (K + 1) / 2`` entries of their lower triangles."""
    row, column = _triangle(embedding_dim, features.device)
    matrix = features.new_zeros(*features.shape[:-1], embedding_dim, embedding_dim)
    matrix[..., row, column] = features
    matrix[..., column, row] = features
    return matrix


def _triangle(size: int, device: torch.device) -> Tensor:
    return torch.tril_indices(size, size, device=device)
