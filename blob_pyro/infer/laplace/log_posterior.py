"""The log posterior of a bandit model as a function of one vector, and its curvature, which is an arrowhead."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal, MatrixNormal, NestedNormal
from blob_pyro.distributions.block_arrowhead_normal import to_blocks
from blob_pyro.guides.multivariate import LaplaceGuide
from blob_pyro.infer.laplace.arrowhead_precision import ArrowheadPrecision
from blob_pyro.infer.laplace.block_arrowhead_precision import BlockArrowheadPrecision
from blob_pyro.infer.laplace.linearization import GroupedEvents, LaplaceRefuses, Linearization
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.priors.now import PriorDistributions, prior_distributions
from blob_pyro.models.sites import KAPPA

__all__ = ["LogPosterior", "Precision", "with_zero", "without"]

Precision = ArrowheadPrecision | BlockArrowheadPrecision

_SMALLEST_SCALE = 1e-3


class LogPosterior:
    """The log posterior of a vector of what items share, and then kappa, of which each number belongs to one item.

    Args:
        guide: says which site is where in the vector.
        model: whose posterior it is; its learned scales are changed by `update_scales`.
        batch: all events.

    Raises:
        LaplaceRefuses: for a kappa whose prior correlates items, or a learned scale of a prior that is not normal.
    """

    def __init__(self, guide: LaplaceGuide, model: BanditModel, batch: BanditBatch) -> None:
        self.model, self.shapes = model, guide.shapes
        self.num_own, self.num_shared = guide.num_own, guide.size - guide.num_own
        self.deviations, self.own_widths = guide.deviations, guide.own_widths
        device = model.item_embedding.device
        self.start, self.spread = (t.detach().double().to(device) for t in (guide.prior_loc, guide.prior_scale))
        self.layout: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.layout[name] = slice(start, start := start + shape.numel())
        with torch.no_grad():
            self.events = GroupedEvents(model, batch)
        self._expanded: tuple[Any, ...] | None = None
        self._prior: PriorDistributions | None = None
        self._given: tuple[NestedNormal, Tensor, Precision] | None = None
        self._check()

    def _check(self) -> None:
        if self.model.vector_prior is not None:
            return  # the guide has looked at it
        priors = self.model.site_priors()
        kappa = priors.get(KAPPA)
        if kappa is not None and not isinstance(kappa, Independent):
            raise LaplaceRefuses(f"guide 'laplace': kappa's prior must be independent over items, got {kappa!r}")
        for name, site in self.model.learned.items():
            base = getattr(priors.get(site), "base_dist", priors.get(site))
            if not isinstance(base, Normal):
                raise LaplaceRefuses(
                    f"guide 'laplace': learns the scale of normal priors only, and {name} is of {base!r}"
                )

    def sites(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the values of the sites in a vector."""
        return {name: theta[here].view(self.shapes[name]) for name, here in self.layout.items()}

    def _coefficients(self, theta: Tensor) -> Tensor:
        return self.model.coefficients(self.sites(theta))  # P x F

    def log_prior(self, theta: Tensor) -> Tensor:
        """Return the log density of the prior, that of learned scales included."""
        priors, vector, evidence = self._priors_now()
        evidence = evidence + self.model.log_prior_of_scales().detach()
        if vector is not None:
            result: Tensor = vector.distribution.log_prob(theta) + evidence
            return result
        values = [priors[name].log_prob(value) for name, value in self.sites(theta).items()]
        return torch.stack(values).sum() + evidence

    def _priors_now(self) -> PriorDistributions:
        """The priors at the present scales: computed again only when these have moved."""
        if self._prior is None:
            with torch.no_grad():
                self._prior = prior_distributions(self.model)
        return self._prior

    @torch.no_grad()
    def objective(self, theta: Tensor) -> float:
        """Return the negative log joint density."""
        return -float(self.events.log_likelihood(self._coefficients(theta)) + self.log_prior(theta))

    def expansion(self, theta: Tensor, exact: bool = False) -> tuple[Tensor, Precision]:
        """Return gradient and curvature of the objective: Gauss-Newton's, positive definite, or the exact one."""
        gradient, residual, curvature = self._events_expansion(theta)
        point = theta.clone().requires_grad_()
        (prior_gradient,) = torch.autograd.grad(-self.log_prior(point), point)
        prior: Any = self._prior_curvature(theta, exact)  # of the same kind
        total: Precision = curvature + prior
        if exact:
            second = Linearization(self.model, self.sites(theta), second=True)
            second_order = second.curvature(residual, self._shared_layout, self.shapes)
            total = replace(total, shared=total.shared - second_order)
        return gradient + prior_gradient, total

    @property
    def _shared_layout(self) -> dict[str, slice]:
        return {name: here for name, here in self.layout.items() if here.stop <= self.num_shared}

    def _events_expansion(self, theta: Tensor) -> tuple[Tensor, Tensor, Precision]:
        """The events' share; the same until the point moves, so that a change of scale costs nothing."""
        if self._expanded is None or self._expanded[0] is not theta:
            point = theta.clone().requires_grad_()
            coefficients = self._coefficients(point)
            with torch.no_grad():
                residual, moments = self.events.moments(coefficients)
            (gradient,) = torch.autograd.grad((residual * coefficients).sum(), point)
            one = self.model.embedding_dim  # the feature that is one: its coefficient is kappa's
            own = slice(None) if self.num_own else slice(0)
            curvature = theta.new_zeros(self.num_shared, self.num_shared)
            cross = theta.new_zeros(*moments.shape[:2], self.num_shared)
            linear = Linearization(self.model, self.sites(theta))
            for items, jacobian in linear.jacobian(self._shared_layout, self.shapes):
                weighted = moments[items] @ jacobian
                curvature += jacobian.flatten(0, 1).mT @ weighted.flatten(0, 1)
                cross[items] = weighted
            arrowhead: Precision
            if self.deviations is None:
                arrowhead = ArrowheadPrecision(curvature, cross[own, one], moments[own, one, one])
            else:  # an item's own beta and kappa are its coefficients, but for the units of omega
                unit = torch.cat([self.model.column_norms.to(theta), theta.new_ones(1)])
                square = moments[:, : one + 1, : one + 1] * unit * unit.unsqueeze(-1)
                arrowhead = BlockArrowheadPrecision(
                    curvature, cross[:, : one + 1] * unit.unsqueeze(-1), square, self.own_widths
                )
            self._expanded = (theta, -gradient, residual, arrowhead)
        return self._expanded[1:]

    def _prior_curvature(self, theta: Tensor, exact: bool) -> Precision:
        vector = self._priors_now().vector
        if vector is not None:
            if isinstance(vector.distribution, NestedNormal):
                return self._nested_curvature(vector.distribution, theta)
            return self._vector_curvature(vector.distribution, theta)
        priors, values = self._priors_now().sites, self.sites(theta)
        shared = theta.new_zeros(self.num_shared, self.num_shared)
        for name, here in self._shared_layout.items():
            shared[here, here] = _prior_curvature(priors[name], values[name], exact)
        if self.deviations is not None:
            names = (self.deviations, KAPPA)
            curvatures = [_elementwise_curvature(getattr(priors[n], "base_dist"), values[n], exact) for n in names]  # noqa: B009
            blocks = to_blocks(torch.cat([c.flatten() for c in curvatures]), self.model.num_items, self.own_widths)
            cross = theta.new_zeros(*blocks.shape, self.num_shared)
            return BlockArrowheadPrecision(shared, cross, blocks.diag_embed(), self.own_widths)
        own = theta.new_zeros(self.num_own)
        if self.num_own:
            own = _elementwise_curvature(priors[KAPPA].base_dist, values[KAPPA], exact)
        return ArrowheadPrecision(shared, theta.new_zeros(self.num_own, self.num_shared), own)

    def _vector_curvature(self, distribution: TorchDistribution, theta: Tensor) -> Precision:
        if isinstance(distribution, BlockArrowheadNormal) and self.deviations is not None:
            return BlockArrowheadPrecision.of(distribution)
        assert self.deviations is None, "or there would be no blocks"
        if isinstance(distribution, ArrowheadNormal):
            if self.num_own == len(distribution.scale):
                return ArrowheadPrecision.of(distribution)
            assert not self.num_own, "or there would be as many"
        none = theta.new_zeros(0)
        return ArrowheadPrecision(_precision(distribution), none.view(0, self.num_shared), none)

    def _nested_curvature(self, distribution: NestedNormal, theta: Tensor) -> Precision:
        """That of all numbers given the one that has a density of its own, whose row is zero: it is held fixed."""
        index = distribution.index
        value = theta[index].detach()
        if self._given is None or self._given[0] is not distribution or not torch.equal(self._given[1], value):
            self._given = (distribution, value, self._vector_curvature(distribution.given(value), theta))
        return with_zero(self._given[2], index)

    # --- learned scales ------------------------------------------------------------------------------------------

    def scale(self, name: str) -> Tensor:
        """Return a learned scale of the model, by the name of its attribute."""
        result: Tensor = getattr(self.model, name).detach()
        return result

    def set_scale(self, name: str, value: float) -> None:
        """Give a learned scale of the model another value."""
        setattr(self.model, name, self.scale(name).new_tensor(value))
        self._prior = None

    def begin_scales_again(self) -> None:
        """Move scales that earlier events have left below their first start back to it: at nothing they would stay."""
        for name, start in self.model.scale_starts.items():
            if float(self.scale(name)) < start:
                self.set_scale(name, start)

    def num_known(self, site: str, variance: Tensor) -> Tensor:
        """Count a site's numbers that events have determined, given the variances of all: MacKay's gamma."""
        name = next(name for name, scaled in self.model.learned.items() if scaled == site)
        result: Tensor = (1 - variance[self.layout[site]] / self.scale(name).square()).clamp(min=0).sum()
        return result

    def update_scales(self, theta: Tensor, variance: Tensor, fixed: Collection[str] = ()) -> float:
        """Move each learned scale towards MacKay's fixed point, given mode and variances; largest relative change.

        With an exponential prior the derivative of the log evidence, ``square / scale^3 - known / scale``, is its rate.

        Args:
            theta: the mode.
            variance: of each number.
            fixed: names of scales that stay.
        """
        largest = 0.0
        for name, site in self.model.learned.items():
            if site in self.layout and name not in fixed:
                old = self.scale(name).square()
                known = self.num_known(site, variance) + self.model.scale_rates.get(name, 0.0) * old.sqrt()
                new = (theta[self.layout[site]].square().sum() / known.clamp(min=1e-6)).clamp(old / 4, 4 * old)
                new = new.sqrt().clamp(min=_SMALLEST_SCALE)
                largest = max(largest, abs(float(new / old.sqrt()) - 1))
                self.set_scale(name, float(new))
        return largest


def with_zero(precision: Precision, index: int) -> Precision:
    """Return the precision with a shared number more, of which nothing is known."""
    at = torch.ones(len(precision.shared) + 1, dtype=torch.bool, device=precision.shared.device)
    at[index] = False
    shared = precision.shared.new_zeros(len(at), len(at))
    shared[at.nonzero(), at.nonzero().mT] = precision.shared
    cross = precision.cross.new_zeros(*precision.cross.shape[:-1], len(at))
    cross[..., at] = precision.cross
    return replace(precision, shared=shared, cross=cross)


def without(precision: Precision, index: int) -> Precision:
    """Return the precision of all numbers but a shared one, which is held fixed."""
    at = torch.ones(len(precision.shared), dtype=torch.bool, device=precision.shared.device)
    at[index] = False
    return replace(precision, shared=precision.shared[at][:, at], cross=precision.cross[..., at])


def _precision(distribution: Any) -> Tensor:
    covariance = distribution.covariance_matrix
    return torch.cholesky_inverse(torch.linalg.cholesky(covariance))


def _prior_curvature(prior: TorchDistribution, value: Tensor, exact: bool) -> Tensor:
    if isinstance(prior, MatrixNormal):
        row, column = torch.cholesky_inverse(prior.row_scale_tril), torch.cholesky_inverse(prior.column_scale_tril)
        return torch.kron(row, column)
    base: Any = prior.base_dist if isinstance(prior, Independent) else prior
    if isinstance(prior, Independent) or value.dim() == 0:
        return _elementwise_curvature(base, value, exact).flatten().diag()
    curvature: Tensor = -torch.func.hessian(prior.log_prob)(value).reshape(value.numel(), value.numel())
    if exact:
        return curvature
    eigenvalues, vectors = torch.linalg.eigh(curvature)
    gauss_newton: Tensor = vectors * eigenvalues.clamp(min=0) @ vectors.mT
    return gauss_newton


def _elementwise_curvature(prior: TorchDistribution, value: Tensor, exact: bool) -> Tensor:
    """``-d^2 log p / d x^2`` of independent numbers; of heavy tails it may be negative, which no step may rely on."""
    x = value.detach().clone().requires_grad_()
    with torch.enable_grad():
        (first,) = torch.autograd.grad(prior.log_prob(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x) if first.requires_grad else (torch.zeros_like(x),)
    return -second if exact else (-second).clamp(min=0)
