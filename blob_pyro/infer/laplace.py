r"""Laplace's approximation of the bandit posterior, structured: exact at any catalogue that fits in memory.

Every logit is a linear form of its context, ``x_n' u_{a_n}`` with ``x = (omega, 1, covariates)``, so the events enter
through each item's moments alone, a gradient and a curvature of ``K + 1`` numbers. What items share (the weights, zeta)
is solved for after their kappas, which are independent given it, have been eliminated: a Schur complement. The mode is
found by Gauss-Newton steps with Levenberg's damping; the curvature there is the exact one. Learned scales follow
MacKay's fixed point, the maximum of the approximate evidence (MacKay 1992).

A mode is not where the mass is. ``w_b`` scales zeta, and of all pairs with one product the density prefers a large
``w_b`` with a small zeta: where the log says little of zeta, the mode can have a ``w_b`` well above its posterior mean,
at the end of a long valley that takes many steps. Compare the ELBO with that of "normal", or hold ``w_b`` fixed:
``BanditPriors(w_b=-6.0)``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pandas as pd
import pyro
import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus
from tqdm.auto import tqdm

from blob_pyro.distributions import MatrixNormal
from blob_pyro.guides.joint import LaplaceGuide
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.sites import KAPPA

__all__ = ["MOST_SHARED", "fit_laplace"]

MOST_SHARED = 6_000
"""More shared numbers than this are refused: their curvature is a dense matrix, 288 MB at that."""

_TOLERANCE = 1e-6  # nats that the next step could gain: a thousandth of a standard deviation
_SCALE_TOLERANCE = 1e-3  # of learned scales, relative
_SMALLEST_SCALE = 1e-3
_COLUMNS_AT_ONCE = 64  # of the Jacobian


def fit_laplace(
    guide: LaplaceGuide,
    model: BanditModel,
    batch: BanditBatch,
    *,
    max_steps: int = 200,
    progress: bool = True,
) -> pd.DataFrame:
    """Put mode and curvature of the posterior into ``guide``, and learned scales into ``model``.

    Args:
        guide: filled in place.
        model: whose posterior it is.
        batch: all events.
        max_steps: Gauss-Newton steps, at most.
        progress: whether to show a progress bar.

    Returns:
        One row per step: ``epoch`` (the step), ``elbo`` (log joint density at the point, nats per event), ``seconds``,
        ``learning_rate`` (the damping). ``attrs["exact_curvature"]`` tells whether the exact curvature was positive
        definite; if not, the Gauss-Newton one is used.

    Raises:
        ValueError: for too many shared numbers, a kappa whose prior correlates items, a learned scale of a prior that
            is not normal, or a batch that propagates the uncertainty of omega.
    """
    if batch.interest_scale is not None:
        raise ValueError("guide 'laplace': takes omega at its mean; use omega='mean', or another guide for 'sample'")
    num_shared = guide.size - guide.num_own
    if num_shared > MOST_SHARED:
        raise ValueError(
            f"guide 'laplace': {num_shared} numbers are shared by items, and their curvature is dense; it takes up to "
            f"{MOST_SHARED}. Use 'normal', 'matrix_normal' or 'low_rank'"
        )
    with pyro.get_param_store().scope():
        posterior = _Posterior(guide, deepcopy(model).double(), batch)
        rows: list[dict[str, float]] = []
        start, bar = time.perf_counter(), tqdm(total=max_steps, desc="BLOB, Laplace", unit="step", disable=not progress)
        damping, settled = 1e-3, 0
        while len(rows) < max_steps and settled < 2:
            damping, after, gain = posterior.step(damping)
            change = posterior.update_scales()
            settled = settled + 1 if gain < _TOLERANCE and change < _SCALE_TOLERANCE else 0
            rows.append(
                {
                    "epoch": len(rows) + 1,
                    "elbo": -after / batch.num_events,
                    "seconds": time.perf_counter() - start,
                    "learning_rate": damping,
                }
            )
            bar.update()
        bar.close()
        if settled < 2:
            warnings.warn(f"guide 'laplace': not converged after {max_steps} steps", stacklevel=2)
        exact = posterior.finish(guide)
    for name in model.learned:
        parameter = getattr(model, f"{name}_unconstrained")
        parameter.data.copy_(posterior.scale(name).log())
    history = pd.DataFrame(rows)
    history.attrs.update(interrupted=False, exact_curvature=exact)
    return history


class _Posterior:
    """The log posterior as a function of one vector: shared numbers, then kappa."""

    def __init__(self, guide: LaplaceGuide, model: BanditModel, batch: BanditBatch) -> None:
        self.model, self.shapes = model, guide.shapes
        self.num_own, self.num_shared = guide.num_own, guide.size - guide.num_own
        self.theta = guide._start_loc.detach().double().clone().to(model.item_embedding.device)
        with torch.no_grad():
            self.features, self.first, self.events, self.clicks = _by_item(model, batch)
        self._expanded: tuple[Tensor, ...] | None = None
        self._check()

    def _check(self) -> None:
        priors = self.model.site_priors()
        kappa = priors.get(KAPPA)
        if kappa is not None and not isinstance(kappa, Independent):
            raise ValueError(f"guide 'laplace': kappa's prior must be independent over items, got {kappa!r}")
        for name, site in self.model.learned.items():
            base = getattr(priors.get(site), "base_dist", priors.get(site))
            if not isinstance(base, Normal):
                raise ValueError(f"guide 'laplace': learns the scale of normal priors only, and {name} is of {base!r}")

    # --- the story -----------------------------------------------------------------------------------------------

    def sites(self, theta: Tensor) -> dict[str, Tensor]:
        pieces = theta.split([shape.numel() for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces)}

    def _coefficients(self, theta: Tensor) -> Tensor:
        return self.model.coefficients(self.sites(theta))  # P x F

    def _shared_coefficients(self, shared: Tensor) -> Tensor:
        return self._coefficients(torch.cat([shared, self.theta[self.num_shared :]]))

    def _logits(self, coefficients: Tensor) -> Tensor:
        item = self._item()
        return (self.features * coefficients[item]).sum(-1)

    def _item(self) -> Tensor:
        sizes = torch.tensor(self.first, device=self.theta.device).diff()
        return torch.arange(len(sizes), device=self.theta.device).repeat_interleave(sizes)

    def log_prior(self, theta: Tensor) -> Tensor:
        priors = self.model.site_priors()
        values = [priors[name].log_prob(value) for name, value in self.sites(theta).items()]
        return torch.stack(values).sum()

    @torch.no_grad()
    def objective(self, theta: Tensor | None = None) -> float:
        """Negative log joint density."""
        theta = self.theta if theta is None else theta
        logits = self._logits(self._coefficients(theta))
        log_likelihood = (self.clicks * logits - self.events * softplus(logits)).sum()
        return -float(log_likelihood + self.log_prior(theta))

    # --- steps ---------------------------------------------------------------------------------------------------

    def step(self, damping: float) -> tuple[float, float, float]:
        """One damped Gauss-Newton step downhill: the next damping, the new objective, and what it promised to gain."""
        gradient, curvature = self.expansion()
        before = self.objective()
        while damping < 1e12:
            step = curvature.damped(damping).solve(gradient)
            if step is not None:
                after = self.objective(self.theta - step)
                if after <= before:
                    self.theta = self.theta - step
                    return max(damping / 10, 1e-12), after, 0.5 * float(gradient @ step)
            damping = max(10 * damping, 1e-8)
        return 1e-3, before, 0.0  # nowhere lower: this is the mode to the last digit

    def expansion(self, exact: bool = False) -> tuple[Tensor, _Arrow]:
        """Gradient and curvature of the objective: Gauss-Newton's, which is positive definite, or the exact one."""
        gradient, residual, shared_curvature, cross, own = self._events_expansion()
        shared_curvature = shared_curvature.clone()
        if exact:
            shared = self.theta[: self.num_shared]
            slope = torch.func.grad(lambda s: (residual * self._shared_coefficients(s)).sum())
            shared_curvature -= _jacobian(slope, shared).detach()
        self._add_prior_curvature(shared_curvature, exact)
        theta = self.theta.clone().requires_grad_()
        (prior_gradient,) = torch.autograd.grad(-self.log_prior(theta), theta)
        own = own + self._own_prior_curvature(exact) if self.num_own else own
        return gradient + prior_gradient, _Arrow(shared_curvature, cross, own)

    @torch.no_grad()
    def _events_expansion(self) -> tuple[Tensor, ...]:
        """The events' share; the same until the point moves, so that a change of scale costs nothing."""
        if self._expanded is None or self._expanded[0] is not self.theta:
            residual, moments = self._item_moments(self._coefficients(self.theta))
            jacobian = _jacobian(self._shared_coefficients, self.theta[: self.num_shared])  # P x F x S
            weighted = moments @ jacobian
            curvature = jacobian.flatten(0, 1).mT @ weighted.flatten(0, 1)
            one = self.model.embedding_dim  # the feature that is one: its coefficient is kappa's
            own = slice(None) if self.num_own else slice(0)
            gradient = -torch.cat([torch.einsum("pf,pfs->s", residual, jacobian), residual[own, one]])
            cross, diagonal = weighted[own, one, :], moments[own, one, one]
            self._expanded = (self.theta, gradient, residual, curvature, cross, diagonal)
        return self._expanded[1:]

    def _item_moments(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Per item: sum of (click - probability) x, ``P x F``, and of the variance times x x', ``P x F x F``."""
        logits = self._logits(coefficients)
        probability = logits.sigmoid()
        slack = (self.clicks - self.events * probability).unsqueeze(-1) * self.features
        weighted = (self.events * probability * (1 - probability)).unsqueeze(-1) * self.features
        size = self.features.shape[1]
        residual = slack.new_zeros(len(self.first) - 1, size).index_add_(0, self._item(), slack)
        moments = slack.new_zeros(len(self.first) - 1, size, size)
        for item, (start, stop) in enumerate(zip(self.first, self.first[1:])):
            if stop > start:
                moments[item] = self.features[start:stop].mT @ weighted[start:stop]
        return residual, moments

    def _add_prior_curvature(self, curvature: Tensor, exact: bool) -> None:
        priors, values, start = self.model.site_priors(), self.sites(self.theta), 0
        for name, shape in self.shapes.items():
            stop = start + shape.numel()
            if stop <= self.num_shared:
                curvature[start:stop, start:stop] += _prior_curvature(priors[name], values[name], exact)
            start = stop

    def _own_prior_curvature(self, exact: bool) -> Tensor:
        prior = self.model.site_priors()[KAPPA].base_dist
        return _elementwise_curvature(prior, self.theta[self.num_shared :], exact)

    # --- what is learned, what is left ---------------------------------------------------------------------------

    def scale(self, name: str) -> Tensor:
        return getattr(self.model, name).detach()

    def update_scales(self) -> float:
        """Move each learned scale to MacKay's fixed point; the largest relative change."""
        if not self.model.learned:
            return 0.0
        variance = self.expansion()[1].variance()
        start, largest = 0, 0.0
        by_site = {site: name for name, site in self.model.learned.items()}
        for site, shape in self.shapes.items():
            here = slice(start, start := start + shape.numel())
            if site in by_site:
                old = self.scale(by_site[site]).square()
                known = (1 - variance[here] / old).clamp(min=0).sum()  # how many numbers the events have determined
                new = (self.theta[here].square().sum() / known.clamp(min=1e-6)).clamp(old / 4, 4 * old)
                new = new.sqrt().clamp(min=_SMALLEST_SCALE)
                largest = max(largest, abs(float(new / old.sqrt()) - 1))
                setattr(self.model, by_site[site], new)
        return largest

    def finish(self, guide: LaplaceGuide) -> bool:
        """Fill the guide; whether the exact curvature could be used."""
        arrow = self.expansion(exact=True)[1]
        is_exact = arrow.factored() is not None
        factors = arrow.factored() if is_exact else self.expansion()[1].factored()
        assert factors is not None, "Gauss-Newton's curvature is positive definite"
        for name, value in zip(("shared_scale_tril", "loading", "own_scale"), factors):
            getattr(guide, name).copy_(value)
        guide.loc.copy_(self.theta)
        return is_exact


class _Arrow:
    """A curvature: ``S x S``, ``M x S`` and the diagonal ``M``."""

    def __init__(self, shared: Tensor, cross: Tensor, own: Tensor) -> None:
        self.shared, self.cross, self.own = shared, cross, own

    def damped(self, damping: float) -> _Arrow:
        """With its diagonal enlarged by a fraction of itself."""
        diagonal = self.shared.diagonal()
        return _Arrow(self.shared + damping * diagonal.diag(), self.cross, (1 + damping) * self.own)

    def _schur(self) -> Tensor | None:
        """Cholesky factor of the shared curvature when kappa is eliminated."""
        if not (self.own > 0).all():
            return None
        factor, info = torch.linalg.cholesky_ex(self.shared - self.cross.mT @ (self.cross / self.own.unsqueeze(-1)))
        return None if int(info) else factor

    def solve(self, gradient: Tensor) -> Tensor | None:
        """The Newton step, or None where the curvature is not positive definite."""
        factor = self._schur()
        if factor is None:
            return None
        shared, own = gradient.split([len(self.shared), len(self.own)])
        right = shared - self.cross.mT @ (own / self.own)
        step = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
        return torch.cat([step, (own - self.cross @ step) / self.own])

    def factored(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The inverse, as `ArrowNormal` takes it: shared factor, loading, own scale."""
        factor = self._schur()
        if factor is None:
            return None
        covariance = torch.cholesky_inverse(factor)
        shared = torch.linalg.cholesky(covariance)
        return shared, -(self.cross @ shared) / self.own.unsqueeze(-1), self.own.rsqrt()

    def variance(self) -> Tensor:
        """Diagonal of the inverse."""
        factors = self.factored()
        assert factors is not None, "Gauss-Newton's curvature is positive definite"
        shared, loading, scale = factors
        return torch.cat([shared.square().sum(-1), loading.square().sum(-1) + scale.square()])


def _by_item(model: BanditModel, batch: BanditBatch) -> tuple[Tensor, list[int], Tensor, Tensor]:
    """Events of one context and one action as one, sorted by action.

    Returns:
        Features of each, ``G x F``; where each item's begin, ``P + 1``; how many events and how many clicks, ``G``.
    """
    assert batch.reward is not None, "there are clicks to learn from"
    num_contexts = len(batch.interest)
    pair, group = torch.unique(batch.action * num_contexts + batch.context, return_inverse=True)
    ones = torch.ones_like(batch.reward, dtype=torch.float64)
    counts = ones.new_zeros(len(pair))
    events, clicks = counts.index_add(0, group, ones), counts.index_add(0, group, batch.reward.double())
    context, action = pair % num_contexts, pair // num_contexts
    interest = batch.interest.double()[context]
    parts = [interest, interest.new_ones(len(pair), 1)]
    if model.num_covariates:
        assert batch.covariates is not None, "BLOB.batch has asked for them"
        parts.append(batch.covariates.double()[context])
    first = torch.searchsorted(action, torch.arange(model.num_items + 1, device=action.device))
    return torch.cat(parts, -1), first.tolist(), events, clicks


def _jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Derivatives of ``function`` by each number of ``x``, along a last dimension; forward mode, some at a time."""

    def along(direction: Tensor) -> Tensor:
        tangent = torch.func.jvp(function, (x,), (direction,))[1]
        return tangent + 0 * direction.sum()  # of a linear function's slope, vmap would lose the batch dimension

    directions = torch.eye(len(x), dtype=x.dtype, device=x.device)
    with warnings.catch_warnings():  # torch scripts its own forward-mode rules, and warns of scripting
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.vmap(along, out_dims=-1, chunk_size=_COLUMNS_AT_ONCE)(directions)


def _prior_curvature(prior: TorchDistribution, value: Tensor, exact: bool) -> Tensor:
    if isinstance(prior, MatrixNormal):
        row, column = torch.cholesky_inverse(prior.row_scale_tril), torch.cholesky_inverse(prior.column_scale_tril)
        return torch.kron(row, column)
    base: Any = prior.base_dist if isinstance(prior, Independent) else prior
    if isinstance(prior, Independent) or value.dim() == 0:
        return _elementwise_curvature(base, value, exact).flatten().diag()
    curvature = -torch.func.hessian(prior.log_prob)(value).reshape(value.numel(), value.numel())
    if exact:
        return curvature
    eigenvalues, vectors = torch.linalg.eigh(curvature)
    return vectors * eigenvalues.clamp(min=0) @ vectors.mT


def _elementwise_curvature(prior: TorchDistribution, value: Tensor, exact: bool) -> Tensor:
    """``-d^2 log p / d x^2`` of independent numbers; of heavy tails it may be negative, which no step may rely on."""
    x = value.detach().clone().requires_grad_()
    with torch.enable_grad():
        (first,) = torch.autograd.grad(prior.log_prob(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x) if first.requires_grad else (torch.zeros_like(x),)
    return -second if exact else (-second).clamp(min=0)
