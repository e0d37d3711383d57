"""Laws of what a model does with a random parameter: Gaussian projections of a guide's distributions.

Each function is dispatched on the type of the distribution; register your own family with
``project_bilinear.register(YourDistribution)``. None means that no Gaussian law is known.
"""

from __future__ import annotations

from functools import singledispatch

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.distributions import MatrixNormal

__all__ = ["project_bilinear", "project_broadcast", "project_gather", "project_right"]


@singledispatch
def project_bilinear(posterior: TorchDistribution, left: Tensor, right: Tensor) -> dist.Normal | None:
    """Law of ``left_n' X right_n`` for ``X ~ posterior``, per event; None if it is not known to be Gaussian.

    Args:
        posterior: a distribution over ``n x m`` matrices.
        left: ``N x n``.
        right: ``N x m``.
    """
    return None


@project_bilinear.register
def _(posterior: MatrixNormal, left: Tensor, right: Tensor) -> dist.Normal | None:
    rows = (left @ posterior.row_scale_tril).square().sum(-1)
    columns = (right @ posterior.column_scale_tril).square().sum(-1)
    return dist.Normal((left @ posterior.loc * right).sum(-1), (rows * columns).sqrt())


@project_bilinear.register
def _(posterior: dist.Independent, left: Tensor, right: Tensor) -> dist.Normal | None:
    base = posterior.base_dist
    if not isinstance(base, dist.Normal) or len(base.batch_shape) != 2:
        return None
    variance = (left.square() @ base.variance * right.square()).sum(-1)
    return dist.Normal((left @ base.loc * right).sum(-1), variance.sqrt())


@singledispatch
def project_gather(posterior: TorchDistribution, index: Tensor) -> dist.Normal | None:
    """Law of ``x[index_n]`` for a random vector ``x ~ posterior``, per event; None if not known to be Gaussian."""
    return None


@project_gather.register
def _(posterior: dist.Independent, index: Tensor) -> dist.Normal | None:
    base = posterior.base_dist
    if not isinstance(base, dist.Normal) or len(base.batch_shape) != 1:
        return None
    return dist.Normal(base.loc[index], base.scale[index])


@singledispatch
def project_broadcast(posterior: TorchDistribution, like: Tensor) -> dist.Normal | None:
    """Law of a random scalar, per event of ``like``; None if it cannot be drawn afresh with a gradient."""
    return None


@project_broadcast.register
def _(posterior: dist.Normal, like: Tensor) -> dist.Normal | None:
    return posterior.expand(like.shape) if posterior.batch_shape == () else None


@singledispatch
def project_right(posterior: TorchDistribution, right: Tensor) -> tuple[Tensor, Tensor] | None:
    """Law of ``X right_n`` for a random matrix ``X ~ posterior``, per row of ``right``.

    Args:
        posterior: a distribution over ``n x m`` matrices.
        right: ``N x m``.

    Returns:
        ``loc`` (``N x n``) and a factor ``F`` (``N x n x n``) with covariance ``F F'``; None if not Gaussian.
    """
    return None


@project_right.register
def _(posterior: MatrixNormal, right: Tensor) -> tuple[Tensor, Tensor] | None:
    length = torch.linalg.vector_norm(right @ posterior.column_scale_tril, dim=-1)
    return right @ posterior.loc.mT, length[:, None, None] * posterior.row_scale_tril


@project_right.register
def _(posterior: dist.Independent, right: Tensor) -> tuple[Tensor, Tensor] | None:
    base = posterior.base_dist
    if not isinstance(base, dist.Normal) or len(base.batch_shape) != 2:
        return None
    return right @ base.loc.mT, (right.square() @ base.variance.mT).sqrt().diag_embed()
