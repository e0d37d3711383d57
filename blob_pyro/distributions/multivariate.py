r"""Parts of a multivariate Gaussian: sites of their own, each of which knows the distribution that it shares.

A guide that correlates its sites draws one vector ``theta = loc + F z + scale e`` and deals it out. Each site gets a
`MultivariatePart`: a point mass at its piece of the draw, as in Pyro's own multivariate guides, that also knows the
piece of ``loc``, ``F`` and ``scale`` it was made from. So its cross-entropy with a Gaussian prior has a closed form,
and linear functions of several parts can be drawn together (`blob_pyro.infer.LocalReparameterization`). The entropy
belongs to the vector: `with_analytic_entropy` gives its site the closed form.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import Delta, Independent, Normal, TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import register_kl

from blob_pyro.distributions.arrowhead_normal import ArrowheadNormal
from blob_pyro.distributions.block_arrowhead_normal import BlockArrowheadNormal
from blob_pyro.distributions.matrix_normal import MatrixNormal, whiten
from blob_pyro.distributions.nested_normal import NestedNormal
from blob_pyro.ops.renamed import renamed_argument, renamed_attribute

__all__ = ["Factors", "MultivariatePart", "factors", "shear", "with_analytic_entropy"]


class Factors(NamedTuple):
    """A Gaussian vector as ``loc + factor z + scale e``: ``D``, ``D x R``, and ``D`` or None for no own noise."""

    loc: Tensor
    factor: Tensor
    scale: Tensor | None


@singledispatch
def factors(multivariate: TorchDistribution) -> Factors:
    """Say how a Gaussian vector is made of standard normal numbers; dispatched on its type.

    Raises:
        TypeError: for a family that has not been registered.
    """
    raise TypeError(f"factors: {type(multivariate).__name__} is not a known Gaussian vector; use factors.register")


@factors.register
def _(multivariate: dist.MultivariateNormal) -> Factors:
    return Factors(multivariate.loc, multivariate.scale_tril, None)


@factors.register
def _(multivariate: dist.LowRankMultivariateNormal) -> Factors:
    return Factors(multivariate.loc, multivariate.cov_factor, multivariate.cov_diag.sqrt())


@factors.register
def _(multivariate: ArrowheadNormal) -> Factors:
    factor = multivariate.common_factor
    return Factors(multivariate.loc, factor, torch.nn.functional.pad(multivariate.scale, (multivariate.num_shared, 0)))


@factors.register
def _(multivariate: BlockArrowheadNormal) -> Factors:
    return Factors(multivariate.loc, multivariate.factor, None)


@singledispatch
def shear(multivariate: TorchDistribution, loading: Tensor, column: int) -> TorchDistribution | None:
    """Give a vector's distribution when ``loading`` times its number ``column`` is added; None if that is not known.

    Args:
        multivariate: the Gaussian, over ``D`` numbers.
        loading: ``D``, zero before the first number that something is added to, which comes after ``column``.
        column: of a number that nothing is added to.
    """
    return None


@shear.register
def _(multivariate: dist.MultivariateNormal, loading: Tensor, column: int) -> TorchDistribution:
    tril = multivariate.scale_tril + torch.outer(loading, multivariate.scale_tril[column])
    return dist.MultivariateNormal(
        multivariate.loc + loading * multivariate.loc[column], scale_tril=tril, validate_args=False
    )


@shear.register
def _(multivariate: ArrowheadNormal, loading: Tensor, column: int) -> TorchDistribution | None:
    if loading[: multivariate.num_shared].any():
        return None
    if column >= multivariate.num_shared:
        return _shear_by_own(multivariate, loading, column)
    own = multivariate.loading + torch.outer(loading[multivariate.num_shared :], multivariate.shared_scale_tril[column])
    loc = multivariate.loc + loading * multivariate.loc[column]
    return ArrowheadNormal(loc, multivariate.shared_scale_tril, own, multivariate.scale, validate_args=False)


_LEFT = 1e-6  # of a number's own variance, where a factor takes over the rest: low-rank families divide by it


def _shear_by_own(multivariate: ArrowheadNormal, loading: Tensor, column: int) -> TorchDistribution:
    """The same where the number has noise of its own, which becomes one more that all share."""
    loc, factor, scale = factors(multivariate)
    assert scale is not None, "an arrowhead has noise of its own"
    unit = torch.zeros_like(loading)
    unit[column] = (1 - _LEFT) ** 0.5
    shared = torch.cat(
        [factor + torch.outer(loading, factor[column]), (scale[column] * (loading + unit)).unsqueeze(-1)], -1
    )
    own = torch.where(unit > 0, _LEFT, 1.0) * scale.square()
    own[: multivariate.num_shared] = _LEFT * multivariate.variance[: multivariate.num_shared]
    return dist.LowRankMultivariateNormal(loc + loading * loc[column], shared, own, validate_args=False)


@register_kl(ArrowheadNormal, ArrowheadNormal)
@register_kl(dist.MultivariateNormal, ArrowheadNormal)
@register_kl(dist.LowRankMultivariateNormal, ArrowheadNormal)
@register_kl(dist.MultivariateNormal, BlockArrowheadNormal)
@register_kl(dist.LowRankMultivariateNormal, BlockArrowheadNormal)
def _kl_arrowhead(q: TorchDistribution, p: ArrowheadNormal | BlockArrowheadNormal) -> Tensor:
    """Of one Gaussian vector from another, both without batch dimensions."""
    if q.batch_shape or p.batch_shape:
        raise NotImplementedError(f"no closed form of KL({q} || {p}) with batch dimensions")
    loc, factor, scale = factors(q)
    quadratic = p.whiten(torch.cat([(loc - p.loc).unsqueeze(0), factor.mT])).square().sum()
    if scale is not None:
        quadratic = quadratic + (p.precision_diagonal * scale.square()).sum()
    divergence: Tensor = 0.5 * quadratic - p.log_prob(p.loc) - q.entropy()
    return divergence


@register_kl(BlockArrowheadNormal, BlockArrowheadNormal)
def _kl_block_arrowheads(q: BlockArrowheadNormal, p: BlockArrowheadNormal) -> Tensor:
    """Of the same blocks: no root of ``D x D`` numbers is made of the own noise of q, which stays in its block."""
    if (len(q.loading), q.widths, q.num_shared, q.batch_shape) != (len(p.loading), p.widths, p.num_shared, Size()):
        other: Tensor = _kl_arrowhead(q, p)
        return other
    whitened = p.whiten(torch.cat([(q.loc - p.loc).unsqueeze(0), q.common_factor.mT]))
    own = torch.linalg.solve_triangular(p.own_scale_tril, q.own_scale_tril, upper=False)
    quadratic = whitened.square().sum() + own.square().sum()
    divergence: Tensor = 0.5 * quadratic - p.log_prob(p.loc) - q.entropy()
    return divergence


class _AnalyticEntropy:
    """An ELBO meets the entropy in closed form instead of at the draw."""

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        parts = super().score_parts(x, *args, **kwargs)  # type: ignore[misc]
        return parts._replace(entropy_term=-self.entropy())  # type: ignore[attr-defined]


class _Multivariate(_AnalyticEntropy, dist.MultivariateNormal):
    pass


class _LowRank(_AnalyticEntropy, dist.LowRankMultivariateNormal):
    pass


class _Arrowhead(_AnalyticEntropy, ArrowheadNormal):
    pass


class _BlockArrowhead(_AnalyticEntropy, BlockArrowheadNormal):
    pass


class _Nested(_AnalyticEntropy, NestedNormal):
    pass


_ANALYTIC = {
    dist.MultivariateNormal: _Multivariate,
    dist.LowRankMultivariateNormal: _LowRank,
    ArrowheadNormal: _Arrowhead,
    BlockArrowheadNormal: _BlockArrowhead,
    NestedNormal: _Nested,
}


def with_analytic_entropy(multivariate: TorchDistribution) -> TorchDistribution:
    """Return the same distribution, whose `score_parts` hold the closed-form entropy: for a guide's auxiliary site."""
    analytic = _ANALYTIC.get(type(multivariate))
    if analytic is None:
        return multivariate
    same = analytic.__new__(analytic)
    same.__dict__.update(vars(multivariate))
    return same


class MultivariatePart(Delta):
    """A piece of a draw of a Gaussian vector, with the piece of the distribution.

    Args:
        draw: the whole vector, ``batch_shape x D``.
        multivariate: the distribution of the whole vector.
        start: where the piece begins.
        shape: of the piece.
    """

    joint = renamed_attribute("joint", "multivariate")

    @renamed_argument("joint", "multivariate")
    def __init__(self, draw: Tensor, multivariate: TorchDistribution, start: int, shape: Size) -> None:
        self.multivariate, self.start, self.part_shape = multivariate, start, torch.Size(shape)
        self._draw = draw
        size = self.part_shape.numel()
        super().__init__(draw[..., start : start + size].view(draw.shape[:-1] + self.part_shape), event_dim=len(shape))

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> MultivariatePart:
        """Return the same distribution with another batch shape; see `pyro.distributions.TorchDistribution.expand`."""
        draw = self._draw.expand(*torch.Size(batch_shape), -1)
        return MultivariatePart(draw, self.multivariate, self.start, self.part_shape)

    @property
    def factors(self) -> Factors:
        """The ``loc`` (``shape``), ``factor`` (``R x shape``) and ``scale`` (``shape`` or None) of this piece."""
        whole, here = self.multivariate, slice(self.start, self.start + self.part_shape.numel())
        if isinstance(whole, BlockArrowheadNormal) and here.stop <= whole.num_shared:  # no row of a block is needed
            loc, factor, scale = whole.loc, whole.shared_scale_tril, None
        else:
            loc, factor, scale = factors(whole)
        return Factors(
            loc[here].view(self.part_shape),
            factor[here].mT.reshape(-1, *self.part_shape),
            None if scale is None else scale[here].view(self.part_shape),
        )

    @property
    def mean(self) -> Tensor:
        """The mean of the piece under its distribution, ``shape``; the draw itself is ``v``."""
        return self._here(self.multivariate.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each number of the piece under its distribution, ``shape``."""
        return self._here(self.multivariate.variance)

    def _here(self, numbers: Tensor) -> Tensor:
        return numbers[self.start : self.start + self.part_shape.numel()].view(self.part_shape)


@register_kl(MultivariatePart, Normal)
def _cross_entropy_normal(q: MultivariatePart, p: Normal) -> Tensor:
    """``-E_q log p``: the part's share of the divergence; the entropy is its vector's."""
    quadratic = ((q.mean - p.loc).square() + q.variance) / p.variance
    divergence: Tensor = (0.5 * (quadratic + p.variance.log() + math.log(2 * math.pi))).expand(p.batch_shape)
    return divergence


@register_kl(MultivariatePart, Independent)
def _cross_entropy_independent(q: MultivariatePart, p: Independent) -> Tensor:
    if not isinstance(p.base_dist, Normal) or p.reinterpreted_batch_ndims != len(q.part_shape):
        raise NotImplementedError(f"no closed form of KL({q} || {p})")  # an ELBO then samples it
    divergence: Tensor = _cross_entropy_normal(q, p.base_dist).sum(tuple(range(-len(q.part_shape), 0)))
    return divergence


@register_kl(MultivariatePart, MatrixNormal)
def _cross_entropy_matrix_normal(q: MultivariatePart, p: MatrixNormal) -> Tensor:
    if isinstance(q.multivariate, NestedNormal):
        size = q.part_shape.numel()
        roots = q.multivariate.second_moment_roots(q.start, q.start + size, p.loc.flatten())
        return -p.log_prob(p.loc) + 0.5 * whiten(roots.view(-1, *q.part_shape), p).square().sum()
    loc, factor, scale = q.factors
    quadratic = whiten(torch.cat([(loc - p.loc).unsqueeze(0), factor]), p).square().sum()
    if scale is not None:
        quadratic = quadratic + (p.precision_diagonal * scale.square()).sum()
    return -p.log_prob(p.loc) + 0.5 * quadratic
