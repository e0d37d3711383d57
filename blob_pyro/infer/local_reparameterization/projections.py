"""Distributions of what a model does with a random parameter: Gaussian projections of a guide's distributions.

`project` and `project_right` are dispatched on the type of the distribution; register your own family with
``project.register(YourDistribution)``. None means that no Gaussian distribution is known.
"""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.distributions import BlockArrowheadNormal, MatrixNormal, NestedNormal
from blob_pyro.distributions.multivariate import MultivariatePart
from blob_pyro.models.operations import LinearOperation

__all__ = ["SharedProjection", "project", "project_right"]


class SharedProjection(NamedTuple):
    """``loc + factor z + scale e`` with numbers ``z`` that projections of other parts of ``multivariate`` share.

    Attributes:
        multivariate: the Gaussian vector that the site is a part of.
        loc: ``N``.
        factor: ``N x R``.
        scale: ``N``, or None for no noise of its own.
    """

    multivariate: TorchDistribution
    loc: Tensor
    factor: Tensor
    scale: Tensor | None


@singledispatch
def project(
    posterior: TorchDistribution, operation: LinearOperation, *coefficients: Tensor
) -> dist.Normal | SharedProjection | None:
    """Give the distribution of ``operation(X, *coefficients)`` for ``X ~ posterior``, per event; None if not Gaussian.

    Source: Kingma et al. 2015; Sakhi et al. 2020, section 3.2.

    Args:
        posterior: of a site.
        operation: see `blob_pyro.models.operations`.
        coefficients: of the operation.
    """
    return None


@project.register
def _(posterior: dist.Normal, operation: LinearOperation, *coefficients: Tensor) -> dist.Normal | None:
    return _independent(posterior, operation, *coefficients) if posterior.batch_shape == () else None


@project.register
def _(posterior: dist.Independent, operation: LinearOperation, *coefficients: Tensor) -> dist.Normal | None:
    base = posterior.base_dist
    if not isinstance(base, dist.Normal) or len(base.batch_shape) != posterior.reinterpreted_batch_ndims:
        return None
    return _independent(base, operation, *coefficients)


@project.register
def _(posterior: MatrixNormal, operation: LinearOperation, *coefficients: Tensor) -> dist.Normal | None:
    factors = operation.outer_factors(*coefficients)
    if factors is None:
        return None
    left, right = factors
    rows = (left @ posterior.row_scale_tril).square().sum(-1)
    columns = (right @ posterior.column_scale_tril).square().sum(-1)
    return dist.Normal(operation.value(posterior.loc, *coefficients), _deviation(rows * columns))


@project.register
def _(
    posterior: MultivariatePart, operation: LinearOperation, *coefficients: Tensor
) -> dist.Normal | SharedProjection | None:
    if isinstance(posterior.multivariate, NestedNormal | BlockArrowheadNormal):
        return None  # no Gaussian; or one of more factors than events could have numbers of their own for
    loc, factor, scale = posterior.factors
    if not len(factor) and scale is not None:  # a vector of independent numbers
        return _independent(dist.Normal(loc, scale, validate_args=False), operation, *coefficients)
    mean = operation.each(operation.value(loc, *coefficients), 0, *coefficients)
    loadings = operation.each(operation.value(factor, *coefficients), 1, *coefficients)  # R x N
    own = None
    if scale is not None:
        own = _deviation(operation.each(operation.square(scale.square(), *coefficients), 0, *coefficients))
    return SharedProjection(posterior.multivariate, mean, loadings.mT, own)


def _independent(normal: dist.Normal, operation: LinearOperation, *coefficients: Tensor) -> dist.Normal:
    """A linear function of independent normals: the same function of the means, its square of the variances."""
    loc = operation.each(operation.value(normal.loc, *coefficients), 0, *coefficients)
    variance = operation.each(operation.square(normal.variance, *coefficients), 0, *coefficients)
    return dist.Normal(loc, _deviation(variance))


def _deviation(variance: Tensor) -> Tensor:
    """Its root; where coefficients are all zero, small and without a gradient instead of zero with an infinite one."""
    return variance.clamp(min=1e-20).sqrt()


@singledispatch
def project_right(posterior: TorchDistribution, right: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the distribution of ``X right_n`` for a random matrix ``X ~ posterior``, per row of ``right``.

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


@project_right.register
def _(posterior: dist.Delta, right: Tensor) -> tuple[Tensor, Tensor] | None:
    loc = right @ posterior.v.mT
    return loc, loc.new_zeros(*loc.shape, loc.shape[-1])
