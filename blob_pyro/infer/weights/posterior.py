r"""The posterior of the three weights around a fit by independent normals, and how kappa and zeta follow them.

Independent normals have each weight as certain as it is given all else, which is far too certain: ``w_b`` trades off
with zeta, ``w_a`` with zeta, ``w_c`` with every kappa. With the clicks' log-likelihood to second order in what logits
are linear in, averaged over the fit (`blob_pyro.infer.weights.expansion`), all but ``w_a`` and ``w_b`` is Gaussian
given these two, and is integrated in closed form; their joint density is tabulated on a grid, as Rue, Martino & Chopin
(2009, section 3) treat hyperparameters. The guide takes over the moments: mean and covariance of the weights, the
regression of kappa on them, and that of zeta, which is weighted by ``sp(w_b)``: that keeps the mean of
``sp(w_b) zeta``, which is what a logit has. It is one Newton step from the optimum of the mean field, as in linear
response (Giordano, Broderick & Jordan 2018, *Covariances, robustness, and variational Bayes*), but for the two weights
that enter by a softplus.

Other sites stay as the fit has them: where a term can stand in for a weight, as `ItemDeviations` can for ``w_a``, that
weight is still too certain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus

from blob_pyro.guides.arrowhead import ArrowheadNormalGuide
from blob_pyro.guides.takeover import normal_moments
from blob_pyro.infer.elbo import RecordDistributions
from blob_pyro.infer.laplace.arrowhead_precision import ArrowheadPrecision
from blob_pyro.infer.training.workers import Workers
from blob_pyro.infer.weights.expansion import (
    ITEMS_AT_ONCE,
    MOST_DIMENSIONS,
    MOST_NUMBERS,
    Basis,
    ItemMoments,
    diagonal_basis,
    item_moments,
    of_item_rows,
)
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.models.priors.vector import VectorPrior
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.seeds import seeded
from blob_pyro.ops.tensors import map_tensors

__all__ = ["NoWeights", "correlate_weights"]

_WEIGHTS = (W_A, W_B, W_C)
_NODES, _REACH = 25, 5.0  # of the grid in each direction; prior standard deviations that the first one spans
_MOST_TAKEN = 0.95  # of a curvature that is approximated; of one that is known it may be all but 1
_DEPTH, _ZOOMS, _FILLED = 12.0, 6, 0.6  # nats below the maximum where the next ends; at most; span that will do


class _Prior(NamedTuple):
    """The prior around the means of a fit: of weights, of kappa and of zeta, in deviations from them.

    Attributes:
        marginals: of each weight; None where it is known.
        is_vector: whether all sites have one prior together, an arrowhead.
        kind: a tensor of the dtype that `marginals` take.
        weights: precision of the weights, ``3 x 3``; without that of ``w_a`` and ``w_b`` where there is no vector.
        pull: gradient by the weights, likewise, ``3``.
        kappa: precision of each, ``P``; infinite where it is known.
        kappa_pull: gradient by each, ``P``.
        kappa_cross: precision of kappa and weights, ``P x 3``.
        zeta_loc: mean of zeta with the weights at their means, ``K x K``.
        zeta_scale: standard deviations given the weights, ``K x K``; zero where it is known.
        zeta_slope: of its mean by the weights, ``K x K x 3``.
    """

    marginals: tuple[TorchDistribution | None, ...]
    is_vector: bool
    kind: Tensor
    weights: Tensor
    pull: Tensor
    kappa: Tensor
    kappa_pull: Tensor
    kappa_cross: Tensor
    zeta_loc: Tensor
    zeta_scale: Tensor
    zeta_slope: Tensor


@torch.no_grad()
def correlate_weights(
    model: BanditModel,
    guide: ArrowheadNormalGuide,
    batch: BanditBatch | StreamedBatch,
    workers: Workers | None = None,
) -> None:
    """Find the posterior of the weights, and what follows them; put it into the guide.

    Args:
        model: fitted.
        guide: fitted as independent normals.
        batch: all events; of this worker where there are others.
        workers: who have the other events, where there are some.

    Raises:
        NoWeights: if the curvature contradicts itself, as an approximation of it may, or the fit is too far from an
            optimum; the guide is as it was.
    """
    if not guide.weights:
        return
    means = {**model.fixed_values(), **{name: getattr(guide, f"{name}_loc").detach() for name in guide.shapes}}
    at = {name: means[name].double() for name in (*_WEIGHTS, KAPPA, ZETA)}
    with own_parameter_store(), seeded(0, guide.weights_correlation_tril.device), RecordDistributions() as record:
        guide()  # its distributions; what it draws is not asked for
    around = record.posterior
    moments = item_moments(model, means, batch, workers, around)
    prior = _prior(model, guide, at, moments.variance)
    units = torch.where(prior.zeta_scale > 0, prior.zeta_scale, 1)
    basis = diagonal_basis(model, means, batch, moments, moments.variance + prior.kappa, units, workers, around)
    free = [name in guide.weights for name in _WEIGHTS]
    found = _Problem(model, free, at, moments, prior, basis).solve()
    here = torch.tensor(free, device=found.loc.device).nonzero().flatten()
    covariance = found.covariance[here][:, here]
    if int(torch.linalg.cholesky_ex(covariance).info):
        raise NoWeights("what they are expanded around is no optimum, and they have no covariance there")
    loc, slope = dict(zip(guide.weights, found.loc[here])), {}
    if KAPPA in guide.shapes:
        loc[KAPPA], slope[KAPPA] = found.kappa_loc, found.kappa_slope[..., here]
    if ZETA in guide.shapes:
        loc[ZETA], slope[ZETA] = found.zeta_loc, found.zeta_slope[..., here]
    guide.correlate(loc, covariance, slope, found.zeta_scale if ZETA in guide.shapes else None)


class NoWeights(ArithmeticError):
    """The weights' posterior cannot be had around a fit, and why: its curvature contradicts itself, or is none."""


class _Found(NamedTuple):
    """Moments of the weights, and the regressions of kappa and zeta on them, at the weights' means."""

    loc: Tensor
    covariance: Tensor
    kappa_loc: Tensor
    kappa_slope: Tensor
    zeta_loc: Tensor
    zeta_slope: Tensor
    zeta_scale: Tensor


class _Problem:
    """The quadratic form of ``w_c`` and ``Z`` with kappa eliminated, and the prior, around the means of a fit."""

    def __init__(
        self,
        model: BanditModel,
        free: list[bool],
        at: dict[str, Tensor],
        moments: ItemMoments,
        prior: _Prior,
        basis: Basis,
    ) -> None:
        self.free, self.at, self.moments, self.prior, self.basis = free, at, moments, prior, basis
        self.psi, self.w = model.item_embedding, torch.stack([at[name] for name in _WEIGHTS])
        v, cross = moments.variance, prior.kappa_cross
        self.share = 1 / (v + prior.kappa)  # of kappa's variance; 0 where it is known
        self.residual = torch.where(self.share > 0, moments.residual + prior.kappa_pull, 0)
        self.h_c = (moments.residual - v * self.share * self.residual).sum()
        self.f_cc, self.t = (v - v.square() * self.share).sum(), (v * self.share) @ cross
        self.h = basis.form(moments.gradient - self._first(self.residual * self.share))
        self.f = basis.form(self._first(1 - v * self.share))
        self.r = torch.stack([basis.form(self._first(x * self.share)) for x in cross.mT], -1)
        self.h_w = prior.pull - cross.mT @ (self.share * self.residual)
        self.h_ww = prior.weights - cross.mT @ (self.share.unsqueeze(-1) * cross)
        self.strength_point = basis.point(torch.linalg.inv(model.whitening.double()).mT)  # Z of sp(w_a)
        self.doubtful = (prior.zeta_scale > 0).any().double()  # 1 where zeta has a prior, 0 where it is known
        self.nu = basis.point(prior.zeta_loc)
        self.nu_w = basis.point(prior.zeta_slope.movedim(-1, 0)).mT
        self.origin = softplus(self.w[1]) * basis.point(at[ZETA]) + softplus(self.w[0]) * self.strength_point

    def _first(self, factor: Tensor) -> Tensor:
        """Sum of ``l v r'`` over all events, each with its item's factor, ``K x K``."""
        return of_item_rows(
            lambda psi, first, x: psi.mT @ (first * x), self.psi, self.moments.first, factor.unsqueeze(-1)
        )

    def along(self, z: Tensor) -> Tensor:
        """Sum of ``v l' Z r`` over each item's events, ``P``."""
        parts = zip(self.psi.split(ITEMS_AT_ONCE), self.moments.first.split(ITEMS_AT_ONCE))
        return torch.cat([((psi.double() @ z) * first).sum(-1) for psi, first in parts])

    def solve(self) -> _Found:
        """Find the grid that spans the density, and take the moments.

        Raises:
            NoWeights: if the curvature is none: where it is approximated, or the fit is no optimum.
        """
        f, j = self.f - self.r[:, 2], self.basis.curvature
        if self.free[2] and self.moments.second is None:
            # Of the share of w_c in the curvature zeta can take no more than all.
            taken = (f.square() / j.clamp(min=1e-12 * j.max())).sum() / (self.f_cc - 2 * self.t[2])
            if not taken < _MOST_TAKEN:
                raise NoWeights(
                    f"the curvature of zeta is approximated by a Kronecker product, and {float(taken):.2f} of that by "
                    f"w_c, at most {_MOST_TAKEN}, is zeta's. It is exact up to {MOST_DIMENSIONS} dimensions and "
                    f"{MOST_NUMBERS:,} numbers, items times dimensions squared"
                )
        ends = [self._ends(i) for i in (0, 1)]
        for _ in range(_ZOOMS):
            axes = [torch.linspace(*pair, _NODES if free else 1).to(self.w) for pair, free in zip(ends, self.free)]
            grid = _Grid(self, torch.cartesian_prod(*axes))
            if not torch.isfinite(grid.log_density).all():
                raise NoWeights("it is not positive where the prior allows")
            inside = grid.w[grid.log_density > grid.log_density.max() - _DEPTH]
            steps = [float(axis[1] - axis[0]) if len(axis) > 1 else 0.0 for axis in axes]
            ends = [(float(x.min()) - step, float(x.max()) + step) for x, step in zip(inside.mT, steps)]
            if all(high - low >= _FILLED * step * (_NODES - 1) for (low, high), step in zip(ends, steps)):
                break
        return grid.moments()

    def _ends(self, i: int) -> tuple[float, float]:
        if not self.free[i]:
            return float(self.w[i]), float(self.w[i])
        loc, scale = (float(moment) for moment in normal_moments(self.prior.marginals[i]))
        return loc - _REACH * scale, loc + _REACH * scale


class _Grid:
    """All else given ``w_a`` and ``w_b`` at some points, and their density there."""

    def __init__(self, problem: _Problem, w: Tensor) -> None:
        self.problem, self.w, p = problem, w, problem
        d, s, j = w - p.w[:2], p.doubtful, p.basis.curvature
        self.b = b = softplus(w[:, 1:])
        # Z, but for sp(w_b) zeta, from where it is in the fit.
        self.u = u = softplus(w[:, :1]) * p.strength_point - p.origin
        h, nu = p.h + d @ p.r[:, :2].mT, p.nu + d @ p.nu_w[:, :2].mT
        f, nu_c = p.f - p.r[:, 2], p.nu_w[:, 2]
        room = 1 + s * b.square() * j
        y = (s * b * (h - j * u) + nu) / room  # zeta, with w_c where it is in the fit
        z = b * y + u
        log_density = (h * z - 0.5 * j * z.square() - 0.5 * s * (y - nu).square() - 0.5 * room.log()).sum(-1)
        log_density = log_density + d @ p.h_w[:2] - 0.5 * (d @ p.h_ww[:2, :2] * d).sum(-1)
        for i in range(2):
            prior = p.prior.marginals[i]
            if prior is not None and not p.prior.is_vector:
                log_density = log_density + prior.log_prob(w[:, i].to(p.prior.kind)).double()
        slope = (nu_c - s * b * f) / room  # of zeta by w_c
        if p.free[2]:
            given = s * (nu_c.square() - (nu_c - b * f).square() / room).sum(-1)
            precision = p.f_cc - 2 * p.t[2] + p.h_ww[2, 2] + given
            force = p.h_c + p.h_w[2] + d @ (p.t[:2] - p.h_ww[2, :2]) - z @ f + s * (y - nu) @ nu_c
            c, self.c_variance = force / precision, 1 / precision
            log_density = log_density + 0.5 * force.square() / precision - 0.5 * precision.log()
        else:
            c = self.c_variance = torch.zeros_like(log_density)
        self.log_density, self.zeta_slope = log_density, slope
        self.weights, self.zeta = torch.cat([w, (p.w[2] + c).unsqueeze(-1)], -1), y + slope * c.unsqueeze(-1)

    def _with_weights(self, share: Tensor, point: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of what is at ``point`` on average, and its covariance with the weights, ``... x 3``."""
        loc = share @ self.weights
        covariance = (share.unsqueeze(-1) * point).mT @ (self.weights - loc)
        covariance[:, 2] += (share * self.c_variance) @ slope
        return share @ point, covariance

    def _moments(self, share: Tensor) -> tuple[Tensor, Tensor]:
        none = torch.zeros_like(self.weights)
        loc, covariance = self._with_weights(share, self.weights, none)
        covariance[2, 2] += share @ self.c_variance
        return loc, covariance

    def moments(self) -> _Found:
        """Average over the grid."""
        p, basis = self.problem, self.problem.basis
        share = torch.softmax(self.log_density, 0)
        loc, covariance = self._moments(share)
        inverse = torch.linalg.pinv(covariance, hermitian=True)  # a weight that is known has no variance
        z, with_z = self._with_weights(share, self.b * self.zeta + self.u, self.b * self.zeta_slope)
        z, with_z = basis.matrix(z), basis.matrix(with_z.mT)
        v, d = p.moments.variance, loc - p.w
        events = torch.stack([v * c + p.along(m) for c, m in zip(covariance[2], with_z)], -1)
        with_kappa = -p.share.unsqueeze(-1) * (events + p.prior.kappa_cross @ covariance)
        step = p.residual - v * d[2] - p.along(z) - p.prior.kappa_cross @ d
        tilted = share * self.b[:, 0] / (share @ self.b[:, 0])
        tilted_loc, tilted_covariance = self._moments(tilted)
        zeta, with_zeta = self._with_weights(tilted, self.zeta, self.zeta_slope)
        slope = with_zeta @ torch.linalg.pinv(tilted_covariance, hermitian=True)
        zeta = zeta + slope @ (loc - tilted_loc)
        return _Found(
            loc,
            covariance,
            p.at[KAPPA] + p.share * step,
            with_kappa @ inverse,
            basis.matrix(zeta),
            basis.matrix(slope.mT).movedim(0, -1),
            self._zeta_scale(share),
        )

    def _zeta_scale(self, share: Tensor) -> Tensor:
        """Zeta's standard deviations given all else, where each stands for its share in logits, ``sp(w_b)^2``."""
        p, events = self.problem, self.problem.moments.squares
        square, prior = self.b.square().unsqueeze(-1), p.prior.zeta_scale.square()
        weight = share / (share @ square[:, 0, 0])
        return torch.stack([w * q * prior / (1 + q * prior * events) for w, q in zip(weight, square)]).sum(0).sqrt()


def _prior(model: BanditModel, guide: ArrowheadNormalGuide, at: dict[str, Tensor], variance: Tensor) -> _Prior:
    """The prior around the means of a fit; other sites stay where they are in it."""
    priors, vector = model.site_priors(), model.vector_prior
    marginals, kind = tuple(priors.get(name) for name in _WEIGHTS), model.item_embedding
    if vector is not None:
        return _Prior(marginals, True, kind, *_vector_prior(vector, guide, at))
    zeros = [variance.new_zeros(shape) for shape in ((3, 3), (3,), (len(variance), 3), (*at[ZETA].shape, 3))]
    weights, pull, kappa_cross, zeta_slope = zeros
    if W_C in priors:
        loc, scale = (moment.double() for moment in normal_moments(priors[W_C]))
        weights[2, 2], pull[2] = scale**-2, (loc - at[W_C]) / scale.square()
    kappa, kappa_pull = _kappa_prior(priors.get(KAPPA), guide, at[KAPPA], variance)
    zeta_loc, zeta_scale = at[ZETA], torch.zeros_like(at[ZETA])
    if ZETA in priors:
        zeta_loc, zeta_scale = (moment.double() for moment in normal_moments(priors[ZETA]))
    return _Prior(
        marginals, False, kind, weights, pull, kappa, kappa_pull, kappa_cross, zeta_loc, zeta_scale, zeta_slope
    )


def _vector_prior(vector: VectorPrior, guide: ArrowheadNormalGuide, at: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The same of an arrowhead, from ``weights`` on; zeta, which is integrated, completes its square."""
    distribution: Any = map_tensors(vector.distribution, Tensor.double)
    precision, size = ArrowheadPrecision.of(distribution), len(guide.weights)
    here = [_WEIGHTS.index(name) for name in guide.weights]
    cross = precision.cross.new_zeros(len(precision.own), 3)
    cross[:, here] = precision.cross
    weights = cross.new_zeros(3, 3)
    weights[torch.tensor(here).unsqueeze(-1), torch.tensor(here)] = precision.shared
    away = {name: getattr(guide, f"{name}_loc").detach().double().flatten() for name in guide.shapes}
    away = dict(zip(away, (torch.cat(list(away.values())) - distribution.loc).split([len(v) for v in away.values()])))
    weights_away = cross.new_zeros(3)
    weights_away[here] = torch.cat([away[name] for name in guide.weights]) if size else weights_away[here]
    pull = -weights @ weights_away
    kappa, kappa_pull = torch.full_like(at[KAPPA], torch.inf), torch.zeros_like(at[KAPPA])
    kappa_cross = cross.new_zeros(len(kappa), 3)
    zeta_loc, zeta_scale = at[ZETA], torch.zeros_like(at[ZETA])
    zeta_slope = cross.new_zeros(*zeta_loc.shape, 3)
    start = 0
    for name in [name for name in guide.shapes if name not in guide.weights]:
        part = slice(start, start := start + len(away[name]))
        own, x = precision.own[part], cross[part]
        if name == ZETA:
            follows = x / own.unsqueeze(-1)
            weights, pull = weights - x.mT @ follows, pull + x.mT @ (follows @ weights_away)
            zeta_slope, zeta_scale = -follows.view_as(zeta_slope), own.rsqrt().view_as(zeta_loc)
            zeta_loc = at[ZETA] - (away[name] + follows @ weights_away).view_as(zeta_loc)
        else:
            pull = pull - x.mT @ away[name]
        if name == KAPPA:
            kappa, kappa_cross, kappa_pull = own, x, -own * away[name] - x @ weights_away
    return weights, pull, kappa, kappa_pull, kappa_cross, zeta_loc, zeta_scale, zeta_slope


def _kappa_prior(
    prior: TorchDistribution | None, guide: ArrowheadNormalGuide, at: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Precision of each kappa, and the gradient of its log density; of a prior that is not normal as the fit has it."""
    if prior is None:
        return torch.full_like(at, torch.inf), torch.zeros_like(at)
    base = prior.base_dist if isinstance(prior, Independent) else prior
    if isinstance(base, Normal):
        precision = base.scale.double().square().reciprocal().expand_as(at)
        return precision, precision * (base.loc.double() - at)
    with torch.enable_grad():
        kappa = at.to(guide.weights_correlation_tril).requires_grad_()
        (pull,) = torch.autograd.grad(prior.log_prob(kappa), kappa)
    by_all = guide.kappa_scale.detach().double().square().reciprocal()
    return (by_all - variance).clamp(min=1e-3 * by_all), pull.double()
