"""Gaussians to a power, and times other Gaussians: sums of natural parameters, family by family.

A Gaussian has the natural parameters ``(precision, precision loc)``. To a power they are multiplied, in a product
added. `widened` and `sharpened` do so for every family that a posterior may have, and stay in the family.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.distributions.arrowhead_normal import ArrowheadNormal
from blob_pyro.distributions.block_arrowhead_normal import BlockArrowheadNormal
from blob_pyro.distributions.matrix_normal import MatrixNormal
from blob_pyro.distributions.multivariate import factors
from blob_pyro.distributions.nested_normal import NestedNormal, at_node, nested, slope_of
from blob_pyro.distributions.tabulated import TabulatedDensity
from blob_pyro.ops.tensors import like, map_tensors

__all__ = ["log_normalizer", "sharpened", "widened"]

_LEAST = 1e-6  # of its own precision that is left to a number, whatever is taken away


@singledispatch
def widened(posterior: TorchDistribution, factor: float) -> TorchDistribution | None:
    """Multiply a Gaussian's standard deviations, and keep its mean and correlations.

    It is dispatched on the family: register yours with ``widened.register(YourDistribution)``.

    Args:
        posterior: of a site, or of a vector that sites are parts of.
        factor: above 1; below, it narrows.

    Returns:
        A distribution of the same family; None where it is not known to be Gaussian.
    """
    return None


@widened.register
def _(posterior: dist.Normal, factor: float) -> TorchDistribution:
    return dist.Normal(posterior.loc, factor * posterior.scale)


@widened.register
def _(posterior: dist.Independent, factor: float) -> TorchDistribution | None:
    base = widened(posterior.base_dist, factor)
    return None if base is None else base.to_event(posterior.reinterpreted_batch_ndims)


@widened.register
def _(posterior: MatrixNormal, factor: float) -> TorchDistribution:
    return MatrixNormal(posterior.loc, factor * posterior.row_scale_tril, posterior.column_scale_tril)


@widened.register
def _(posterior: ArrowheadNormal, factor: float) -> TorchDistribution:
    shared, loading, scale = (factor * t for t in (posterior.shared_scale_tril, posterior.loading, posterior.scale))
    return ArrowheadNormal(posterior.loc, shared, loading, scale, validate_args=False)


@widened.register
def _(posterior: BlockArrowheadNormal, factor: float) -> TorchDistribution:
    shared, loading, own = (
        factor * t for t in (posterior.shared_scale_tril, posterior.loading, posterior.own_scale_tril)
    )
    return BlockArrowheadNormal(posterior.loc, shared, loading, own, posterior.widths, validate_args=False)


@widened.register
def _(posterior: NestedNormal, factor: float) -> TorchDistribution:
    """Raise it to the power ``factor^-2``, at the nodes: of Gaussians that widens them, of the density it flattens."""
    power = factor**-2
    half_log_det = posterior.shared_scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    density = posterior.density
    log_density = power * density.log_density + (1 - power) * half_log_det.to(density.log_density)
    return posterior.with_density(
        TabulatedDensity(density.nodes, log_density),
        shared_scale_tril=factor * posterior.shared_scale_tril,
        own_scale=factor * posterior.own_scale,
    )


@widened.register
def _(posterior: dist.LowRankMultivariateNormal, factor: float) -> TorchDistribution:
    return dist.LowRankMultivariateNormal(posterior.loc, factor * posterior.cov_factor, factor**2 * posterior.cov_diag)


@widened.register
def _(posterior: dist.MultivariateNormal, factor: float) -> TorchDistribution:
    return dist.MultivariateNormal(posterior.loc, scale_tril=factor * posterior.scale_tril)


@singledispatch
def sharpened(distribution: TorchDistribution, precision: Tensor, loc: Tensor) -> TorchDistribution | None:
    r"""Multiply a Gaussian by independent ones, ``distribution(x) \prod_i N(x_i; loc_i, 1 / precision_i)``, normalised.

    Negative precisions take away what such a product once added. Where more would be taken than there is, a millionth
    of the number's own precision is left.

    It is dispatched on the family: register yours with ``sharpened.register(YourDistribution)``.

    Args:
        distribution: of a site, or of a vector that sites are parts of.
        precision: of each number, in the shape of an event.
        loc: likewise.

    Returns:
        A distribution of the same family; for a `MatrixNormal` of independent numbers independent normals, and for any
        other the matrix normal with the product's mean and eigenvectors, and as close to its log-variances as the
        family comes. None where ``distribution`` is not known to be Gaussian.
    """
    return None


@sharpened.register
def _(distribution: dist.Normal, precision: Tensor, loc: Tensor) -> TorchDistribution:
    own = distribution.scale.square().reciprocal()
    total = torch.maximum(own + precision, _LEAST * own)
    return dist.Normal(
        distribution.loc + precision / total * (loc - distribution.loc), total.rsqrt(), validate_args=False
    )


@sharpened.register
def _(distribution: dist.Independent, precision: Tensor, loc: Tensor) -> TorchDistribution | None:
    base = sharpened(distribution.base_dist, precision, loc)
    return None if base is None else base.to_event(distribution.reinterpreted_batch_ndims)


@sharpened.register
def _(distribution: MatrixNormal, precision: Tensor, loc: Tensor) -> TorchDistribution:
    rows, columns = (tril @ tril.mT for tril in (distribution.row_scale_tril, distribution.column_scale_tril))
    if all(bool((matrix == matrix.diagonal().diag()).all()) for matrix in (rows, columns)):
        scale = torch.outer(rows.diagonal(), columns.diagonal()).sqrt()
        return sharpened(dist.Normal(distribution.loc, scale, validate_args=False).to_event(2), precision, loc)
    (row_values, row_axes), (column_values, column_axes) = torch.linalg.eigh(rows), torch.linalg.eigh(columns)
    own = torch.outer(row_values, column_values).reciprocal()
    if not torch.allclose(precision, precision.mean().expand_as(precision)):
        raise ValueError("sharpened: a matrix normal takes one precision for all of its numbers")
    total = torch.maximum(own + precision, _LEAST * own)
    away = row_axes.mT @ (loc - distribution.loc) @ column_axes
    mean = distribution.loc + row_axes @ (precision / total * away) @ column_axes.mT
    log = total.log()  # of a matrix normal it is a sum of one number a row and one a column
    of_rows, of_columns = log.mean(1) - 0.5 * log.mean(), log.mean(0) - 0.5 * log.mean()
    trils = (
        torch.linalg.cholesky(axes * (-values).exp() @ axes.mT)
        for axes, values in ((row_axes, of_rows), (column_axes, of_columns))
    )
    return MatrixNormal(mean, *trils)


@sharpened.register
def _(distribution: ArrowheadNormal, precision: Tensor, loc: Tensor) -> TorchDistribution:
    dtype, wide = distribution.loc.dtype, distribution.loc.double()
    tril, loading = distribution.shared_scale_tril.double(), distribution.loading.double()
    of_shared, of_own = precision.double().split([distribution.num_shared, len(distribution.scale)])
    own = distribution.scale.double().square().reciprocal()
    inverse = torch.linalg.solve_triangular(tril, torch.eye(distribution.num_shared).to(tril), upper=False)
    slope = loading @ inverse
    total = torch.maximum(own + of_own, _LEAST * own)
    # the precision of what is shared once each item's numbers are integrated out
    shared = inverse.mT @ inverse + slope.mT @ ((own - own.square() / total).unsqueeze(-1) * slope) + of_shared.diag()
    scale_tril = torch.linalg.cholesky(_inverse(shared))
    new = ArrowheadNormal(
        wide, scale_tril, (own / total).unsqueeze(-1) * (slope @ scale_tril), total.rsqrt(), validate_args=False
    )
    mean = wide + _times_covariance(new, precision.double() * (loc.double() - wide))
    return ArrowheadNormal(
        mean.to(dtype),
        new.shared_scale_tril.to(dtype),
        new.loading.to(dtype),
        new.scale.to(dtype),
        validate_args=False,
    )


@sharpened.register
def _(distribution: BlockArrowheadNormal, precision: Tensor, loc: Tensor) -> TorchDistribution:
    dtype, wide, widths = distribution.loc.dtype, distribution.loc.double(), distribution.widths
    tril, loading = distribution.shared_scale_tril.double(), distribution.loading.double()
    num_shared, own_tril = distribution.num_shared, distribution.own_scale_tril.double()
    of_shared, of_own = precision.double()[:num_shared], distribution.blocks(precision.double()[num_shared:])
    own = torch.cholesky_inverse(own_tril)
    inverse = torch.linalg.solve_triangular(tril, torch.eye(num_shared).to(tril), upper=False)
    slope = loading @ inverse
    # in units of the blocks' own deviations: what a number is left with is a fraction of its own precision
    values, axes = torch.linalg.eigh(own_tril.mT @ (of_own.unsqueeze(-1) * own_tril))
    root = own_tril @ axes * (1 + values).clamp(min=_LEAST).rsqrt().unsqueeze(-2)
    covariance = root @ root.mT  # of a block given what is shared
    left = own - own @ covariance @ own
    shared = inverse.mT @ inverse + (slope.mT @ left @ slope).sum(0) + of_shared.diag()
    scale_tril = torch.linalg.cholesky(_inverse(shared))
    new_loading, new_own = covariance @ own @ slope @ scale_tril, torch.linalg.cholesky(covariance)
    new = BlockArrowheadNormal(wide, scale_tril, new_loading, new_own, widths, validate_args=False)
    mean = wide + new.times_covariance(precision.double() * (loc.double() - wide))
    return BlockArrowheadNormal(
        mean.to(dtype), scale_tril.to(dtype), new_loading.to(dtype), new_own.to(dtype), widths, validate_args=False
    )


@sharpened.register
def _(distribution: NestedNormal, precision: Tensor, loc: Tensor) -> TorchDistribution:
    """At the nodes: each Gaussian is sharpened, and its node has the weight of the product's integral."""
    wide: Any = map_tensors(distribution, Tensor.double)
    (at_w, others), (loc_w, loc_others) = (wide.without(t.double()) for t in (precision, loc))
    nodes, log_density = wide.density.nodes, wide.density.log_density
    before = [wide.at_node(number) for number in range(len(nodes))]
    after: list[Any] = [sharpened(gaussian, others, loc_others) for gaussian in before]
    gains = torch.stack([log_normalizer(*pair, others, loc_others) for pair in zip(before, after)])
    slope = slope_of(after[int(log_density.argmax())])  # a product changes all nodes' slopes by the same factors
    density = TabulatedDensity(nodes, log_density + gains - 0.5 * at_w * (nodes - loc_w).square())
    at_nodes = [at_node(gaussian, slope) for gaussian in after]
    return like(nested(wide.index, density, at_nodes, slope, wide.widths), distribution.loc)


@sharpened.register
def _(distribution: dist.LowRankMultivariateNormal, precision: Tensor, loc: Tensor) -> TorchDistribution:
    wide, factor, own = (
        t.double() for t in (distribution.loc, distribution.cov_factor, distribution.cov_diag.reciprocal())
    )
    total = torch.maximum(own + precision.double(), _LEAST * own)
    eye = torch.eye(factor.shape[-1]).to(factor)
    weighted = own.unsqueeze(-1) * factor
    inner = eye + factor.mT @ ((own - own.square() / total).unsqueeze(-1) * factor)
    new_factor = (weighted / total.unsqueeze(-1)) @ torch.linalg.cholesky(_inverse(inner))
    new = dist.LowRankMultivariateNormal(wide, new_factor, total.reciprocal(), validate_args=False)
    mean = wide + _times_covariance(new, precision.double() * (loc.double() - wide))
    dtype = distribution.loc.dtype
    return dist.LowRankMultivariateNormal(
        mean.to(dtype), new_factor.to(dtype), total.reciprocal().to(dtype), validate_args=False
    )


@sharpened.register
def _(distribution: dist.MultivariateNormal, precision: Tensor, loc: Tensor) -> TorchDistribution:
    dtype, wide = distribution.loc.dtype, distribution.loc.double()
    own = torch.cholesky_inverse(distribution.scale_tril.double())
    covariance = _inverse(own + precision.double().diag())
    mean = wide + covariance @ (precision.double() * (loc.double() - wide))
    tril = torch.linalg.cholesky(covariance)
    return dist.MultivariateNormal(mean.to(dtype), scale_tril=tril.to(dtype), validate_args=False)


def log_normalizer(
    distribution: TorchDistribution, product: TorchDistribution, precision: Tensor, loc: Tensor
) -> Tensor:
    r"""Compute ``log \int distribution(x) \exp(-\tfrac12 \sum_i precision_i (x_i - loc_i)^2) dx``, from `sharpened`.

    Args:
        distribution: as in `sharpened`, which gives ``product``.
        product: see there; in the family of ``distribution``.
        precision: see there.
        loc: see there.
    """
    at: Any = product.at_mode if isinstance(product, NestedNormal) else product.mean
    tilt = 0.5 * (precision * (at - loc).square()).sum()
    result: Tensor = distribution.log_prob(at) - tilt - product.log_prob(at)
    return result


def _times_covariance(distribution: TorchDistribution, vector: Tensor) -> Tensor:
    _, factor, scale = factors(distribution)
    product = factor @ (factor.mT @ vector)
    return product if scale is None else product + scale.square() * vector


def _inverse(precision: Tensor) -> Tensor:
    """Of a symmetric matrix, whose eigenvalues are raised to almost nothing where they are not positive."""
    factor, info = torch.linalg.cholesky_ex(precision)
    if int(info):
        with torch.no_grad():  # eigenvalues that are equal have no gradient: those of new items are
            values, axes = torch.linalg.eigh(precision)
            lift = values.clamp(min=_LEAST * values.abs().max()) - values
        factor = torch.linalg.cholesky(precision + axes * lift @ axes.mT)
    return torch.cholesky_inverse(factor)
