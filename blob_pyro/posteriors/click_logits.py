"""The distribution of every item's click logit, in each context, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cached_property
from typing import NamedTuple, Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.nn.functional import softplus

from blob_pyro.distributions import MatrixNormal
from blob_pyro.distributions.multivariate import MultivariatePart
from blob_pyro.infer.local_reparameterization.projections import project_right
from blob_pyro.models.sites import BETA_DEVIATION, KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.ops.tensors import map_tensors
from blob_pyro.posteriors.best_items import best_each
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts
from blob_pyro.posteriors.own_effects import OwnEffects, has_own_effects, own_effects
from blob_pyro.posteriors.site_vectors import (
    SiteVector,
    has_own_noise,
    is_certain,
    num_shared_factors,
    shared_factors,
    site_vector,
)
from blob_pyro.posteriors.weight_quadrature import WeightQuadrature

__all__ = ["ClickLogits", "has_closed_form"]

_WEIGHT_NODES = 32  # of Gauss-Hermite quadrature, for w_a and as many for w_b: moments
_MIXTURE_NODES = 8  # the same for whole distributions, where every node costs an N x P matrix
_LARGE = 1 << 16  # items, from which on their means are computed item by item
_ROUNDINGS = 8  # the longest chain of them in a mean, as a multiple of its number of products
# Attributes that are cached, and belong to the contexts.
_OF_CONTEXTS = (
    "_projection",
    "_spread",
    "_terms",
    "_whitened",
    "affinity",
    "deviation_shared",
    "item_loadings",
    "own_loc",
    "own_scale",
)


class ClickLogits(LogitsOfContexts):
    r"""Posterior of the logits :math:`\lambda_p = \beta_p \omega + \kappa_p` of all items, for each of ``N`` contexts.

    Given the weights ``w_a`` and ``w_b`` the logits are jointly Gaussian, of low rank plus diagonal: every item
    shares zeta, and has a kappa of its own, and a beta of its own where `ItemDeviations` give it one. Over the weights
    they are a mixture. Contexts are independent here, one
    draw of the parameters for each; draws that share parameters across contexts are `blob_pyro.BLOB.sample`'s.

    The object itself holds ``N x K`` and ``P x K`` numbers; of answers of ``N x P`` see `LogitsOfContexts`.

    Args:
        posterior: distributions of the sites `W_A`, `W_B`, `W_C` (normal), `KAPPA` (independent normal, ``P``) and
            `ZETA` (any family with a `blob_pyro.infer.local_reparameterization.projections.project_right`), by name.
            Each may be a ``Delta`` instead, or all may be parts of one Gaussian vector: see `MultivariatePart`.
            Items' deviations, `BETA_DEVIATION`, may be among them: see `blob_pyro.posteriors.own_effects`.
        item_embedding: Psi, ``P x K``.
        whitening: ``L``, ``K x K``, with ``L L' = Psi' Psi / P``.
        interest: omega, ``N x K``.

    Raises:
        ValueError: for a site that is not of these families, naming it.
        MemoryError: by a method whose answer would not fit, naming its size.
    """

    def __init__(
        self, posterior: dict[str, TorchDistribution], item_embedding: Tensor, whitening: Tensor, interest: Tensor
    ) -> None:
        super().__init__(item_embedding, interest)
        self.whitening = whitening
        self._of_items: dict[str, Tensor] = {}  # shared by the same posterior in other contexts
        self.num_shared = num_shared_factors(posterior)
        self.weights = [site_vector(posterior, name, self.num_shared) for name in (W_A, W_B, W_C)]
        doubtful = [not is_certain(posterior[name]) for name in (W_A, W_B)]
        self._quadrature = WeightQuadrature(self.weights[0], self.weights[1], (doubtful[0], doubtful[1]))
        self._effects: OwnEffects | None = None
        if BETA_DEVIATION in posterior:
            self._effects = own_effects(posterior, self.num_shared)
        else:
            self._kappa = site_vector(posterior, KAPPA, self.num_shared)
        self._has_own_noise = [has_own_noise(posterior[name]) for name in (W_A, W_B, ZETA)]
        self.is_certain = all(is_certain(site) for site in posterior.values())
        zeta = posterior[ZETA]
        self._zeta_factor = none = interest.new_zeros(self.num_shared, *zeta.event_shape)
        if isinstance(zeta, MultivariatePart):
            loc, self._zeta_factor, scale = shared_factors(zeta)
            zeta = dist.Normal(loc, none.new_zeros(loc.shape) if scale is None else scale, validate_args=False)
            zeta = zeta.to_event(2)
        self._zeta = zeta
        if project_right(zeta, interest[:0] @ whitening) is None:
            raise ValueError(
                f"site {ZETA!r}: no Gaussian distribution of zeta L'omega is known for {zeta!r}; register one with "
                "blob_pyro.infer.local_reparameterization.projections.project_right, or use blob.sample"
            )

    @cached_property
    def affinity(self) -> Tensor:
        """The inner products of items and interests, ``N x P``."""
        return self.interest @ self.item_embedding.mT

    @cached_property
    def _whitened(self) -> Tensor:
        return self.interest @ self.whitening

    @cached_property
    def _projection(self) -> tuple[Tensor, Tensor]:
        projection = project_right(self._zeta, self._whitened)
        assert projection is not None, "the constructor has asked"
        return projection

    @property
    def deviation_loc(self) -> Tensor:
        """The mean of the deviation before Psi, ``N x K``."""
        return self._projection[0]

    @property
    def deviation_factor(self) -> Tensor:
        """The factor of the deviation's covariance before Psi, ``N x K x K``."""
        return self._projection[1]

    @cached_property
    def deviation_shared(self) -> Tensor:
        """The loadings of the deviation, before Psi, on the numbers of a Gaussian vector: ``N x K x R``."""
        return torch.einsum("rij,nj->nir", self._zeta_factor, self._whitened)

    @property
    def have_own_betas(self) -> bool:
        """True where items have betas of their own, so that what each adds by itself depends on the context."""
        return self._effects is not None

    @cached_property
    def own_loc(self) -> Tensor:
        """The mean of what each item adds by itself, ``P``; ``N x P`` where items have betas of their own."""
        return self._kappa.loc if self._effects is None else self._effects.mean(self.interest)

    @cached_property
    def own_scale(self) -> Tensor:
        """The standard deviation of what each item adds by itself, given what they share: ``P`` or ``N x P``."""
        return self._kappa.scale if self._effects is None else self._effects.scale(self.interest)

    @cached_property
    def item_loadings(self) -> Tensor:
        """The loadings of it on the numbers of a Gaussian vector, ``P x R`` or ``N x P x R``."""
        return self._kappa.factor.mT if self._effects is None else self._effects.loadings(self.interest)

    @property
    def num_factors(self) -> int:
        """The number of standard normals that items share: of ``w_a``, of ``w_b``, ``K`` of zeta, a vector's.

        Those of a site that is certain, or known by the vector's numbers alone, are none.
        """
        return sum(self._own_sizes) + self.num_shared

    @property
    def _own_sizes(self) -> list[int]:
        return [size * has for size, has in zip((1, 1, self.item_embedding.shape[1]), self._has_own_noise)]

    def in_contexts(self, interest: Tensor) -> Self:
        """Return the same posterior in other contexts; see `LogitsOfContexts.in_contexts`."""
        new = copy(self)
        for name in _OF_CONTEXTS:
            new.__dict__.pop(name, None)
        new.interest, new._batch_shape = interest, interest.shape[:1]
        return new

    def of_items(self, index: Tensor) -> Self:
        """Return the logits of some of the items; see `LogitsOfContexts.of_items`."""
        new = self.in_contexts(self.interest)
        new.item_embedding, new._of_items = self.item_embedding[index], {}
        if self._effects is None:
            loc, scale, factor = self._kappa
            new._kappa = SiteVector(loc[index], scale[index], factor[:, index])
        else:
            new._effects = OwnEffects(*(numbers[index] for numbers in self._effects))
        new._event_shape = new.item_embedding.shape[:1]
        return new

    def double(self) -> Self:
        """Return the same posterior in double precision; see `LogitsOfContexts.double`."""
        if self.interest.dtype == torch.float64:
            return self
        new = copy(self)
        new._of_items = {}
        for name in (*_OF_CONTEXTS, "_standard"):
            new.__dict__.pop(name, None)
        for name in ("item_embedding", "whitening", "interest", "_zeta_factor"):
            setattr(new, name, getattr(self, name).double())
        new.weights = [SiteVector(*(t.double() for t in w)) for w in self.weights]
        new._quadrature = WeightQuadrature(new.weights[0], new.weights[1], self._quadrature.doubtful)
        if self._effects is None:
            new._kappa = SiteVector(*(t.double() for t in self._kappa))
        else:
            new._effects = OwnEffects(*(t.double() for t in self._effects))
        new._zeta = map_tensors(self._zeta, torch.Tensor.double)
        return new

    def given_shared(self, factors: Tensor) -> Tensor:
        """Return each logit's mean given what all items share, ``... x N x P``; see `LogitsOfContexts.given_shared`."""
        along, across, of_zeta, shared = self.split(factors)
        deviation = (
            self.deviation_loc if of_zeta is None else self.deviation_loc + _in_each(self.deviation_factor, of_zeta)
        )
        if self.num_shared:
            deviation = deviation + _in_each(self.deviation_shared, shared)
        direction = along.unsqueeze(-1) * self.interest + across.unsqueeze(-1) * deviation
        own = self.own_loc
        if self.num_shared:
            own = own + (
                shared @ self.item_loadings.mT if self._effects is None else _in_each(self.item_loadings, shared)
            )
        if direction.dim() == 2 and len(self.item_embedding) >= _LARGE:  # by items, which is twice as fast
            by_item = (own if own.dim() > 1 else own.unsqueeze(0)).mT
            return torch.addmm(by_item, self.item_embedding, direction.mT).mT
        if direction.dim() == 2:
            return torch.addmm(own, direction, self.item_embedding.mT)
        return direction @ self.item_embedding.mT + own

    def split(self, factors: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Say what standard-normal numbers stand for.

        Args:
            factors: ``... x num_factors``; they are cast to the posterior's own precision.

        Returns:
            ``sp(w_a)`` and ``sp(w_b)``, ``...``; the numbers of zeta, ``... x K``, or None where it has none of its
            own; those of a Gaussian vector, ``... x R``.
        """
        *own, of_zeta, shared = factors.to(self.interest.dtype).split([*self._own_sizes, self.num_shared], -1)
        along, across = (
            softplus(w.loc + shared @ w.factor + (w.scale * numbers[..., 0] if numbers.shape[-1] else 0))
            for w, numbers in zip(self.weights, own)
        )
        return along, across, of_zeta if of_zeta.shape[-1] else None, shared

    def rounding(self, shared: Tensor) -> Tensor:
        """Return a bound of the rounding of `given_shared`, ``N``: products of norms bound every sum on the way.

        Args:
            shared: as `LogitsOfContexts.rounding`.
        """
        along, across, of_zeta, vector = (None if t is None else t.double() for t in self.split(shared))
        assert along is not None
        assert across is not None
        assert vector is not None
        deviation, own = self.deviation_loc.double().norm(dim=-1), self.own_loc.abs().amax(-1).double()
        if of_zeta is not None:
            deviation = deviation + self.deviation_factor.double().flatten(1).norm(dim=-1) * of_zeta.norm(dim=-1)
        if self.num_shared:
            reach = vector.norm(dim=-1)
            deviation = deviation + self.deviation_shared.double().flatten(1).norm(dim=-1) * reach
            own = own + self.item_loadings.norm(dim=-1).amax(-1).double() * reach
        # Softplus is off by as much of itself, at most, as its argument is off.
        reach = shared.double().norm(dim=-1)
        along, across = (
            strength * (1 + w.loc.abs().double() + (w.factor.norm().double() + w.scale.double()) * reach)
            for strength, w in zip((along, across), self.weights)
        )
        direction = along * self.interest.double().norm(dim=-1) + across * deviation
        size: Tensor = self._largest_embedding() * direction + own
        products = self.item_embedding.shape[1] + self.num_shared + 1
        return size * (_ROUNDINGS * products * torch.finfo(self.interest.dtype).eps)

    def _largest_embedding(self) -> Tensor:
        """The largest norm of an item's embedding, which is the same in all contexts and computed once."""
        key = "norm of an embedding"
        if key not in self._of_items:
            self._of_items[key] = self.item_embedding.norm(dim=-1).amax().double()
        return self._of_items[key]

    def best_each(self, counts: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw the item with the highest logit ``counts[n]`` times; see `blob_pyro.posteriors.best_items.best_each`."""
        return best_each(self, counts, allowed)

    def _rsample(self, sample_shape: Size) -> Tensor:
        shape = sample_shape + self.batch_shape
        noise = self.interest.new_empty(*shape, self.num_factors).normal_()
        own = self.interest.new_empty(*shape, *self.event_shape).normal_()
        base = self.weights[2]
        shared = noise[..., self.num_factors - self.num_shared :]
        w_c = base.loc + base.scale * self.interest.new_empty(shape).normal_() + shared @ base.factor
        return self.given_shared(noise) + self.own_scale * own + w_c.unsqueeze(-1)

    @property
    def mean(self) -> Tensor:
        """The mean of each logit, ``N x P``, exact up to Gauss-Hermite quadrature of softplus."""
        features, weights = self._quadrature.features(_WEIGHT_NODES)
        a, b, *along, one, u, v = (weights @ features).to(self.interest.dtype).unbind()

        def mean(part: ClickLogits, _: slice) -> Tensor:  # `_terms` with their weights, before they are multiplied out
            base = one * (part.own_loc + self.weights[2].loc) + part._common @ self._standard @ torch.stack([u, v])
            direction = a * part.interest + b * part.deviation_loc
            for strength, zeta in zip(along, self._zeta_along):
                direction = direction + strength * (part._whitened @ zeta.mT)
            return torch.addmm(base, direction, self.item_embedding.mT)

        return self._by_rows(mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each logit, ``N x P``, exact up to Gauss-Hermite quadrature of softplus."""
        features, weights = self._quadrature.features(_WEIGHT_NODES)
        centered, dtype = features - weights @ features, self.interest.dtype
        covariance = (centered.mT * weights @ centered).to(dtype)
        strength = features[:, 1]
        moments = ((weights @ strength.square()).to(dtype), (weights @ strength).to(dtype))
        return self._by_rows(
            lambda part, _: (part._terms @ covariance * part._terms).sum(-1) + part._spread.at(*moments)
        )

    def _mixture(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Average over the weights of ``function`` of each logit's location and scale given them."""
        terms, spread = self._terms, self._spread
        features, weights = self._quadrature.features(_MIXTURE_NODES)
        total = torch.zeros_like(self.affinity)
        for row, weight in zip(features.to(terms.dtype), weights.to(terms.dtype)):
            total = total + weight * function(terms @ row, spread.at(row[1].square(), row[1]).clamp(min=1e-24).sqrt())
        return total

    @cached_property
    def _standard(self) -> Tensor:
        return self._quadrature.loadings

    @property
    def _zeta_along(self) -> Tensor:
        """Loadings of zeta on each standardised weight, ``2 x K x K``."""
        return torch.einsum("rij,rs->sij", self._zeta_factor, self._standard)

    @property
    def _common(self) -> Tensor:
        """Loadings of ``w_c`` and what items add on the numbers of a Gaussian vector, ``P x R`` or ``N x P x R``."""
        return self.weights[2].factor + self.item_loadings

    @cached_property
    def _terms(self) -> Tensor:
        """Each logit's location given the weights, as a linear form of `WeightQuadrature.features`, ``N x P x 7``."""
        psi = self.item_embedding
        deviation = self.deviation_loc @ psi.mT
        deviation_along = [self._whitened @ (psi @ zeta).mT for zeta in self._zeta_along]
        base = self.own_loc + self.weights[2].loc
        terms = [self.affinity, deviation, *deviation_along, base, *(self._common @ self._standard).unbind(-1)]
        return torch.stack([term.expand_as(deviation) for term in terms], -1)

    @cached_property
    def _spread(self) -> _Spread:
        """Each logit's variance given the weights, ``N x P`` by parts."""
        psi, common = self.item_embedding, self._common
        deviation_along, base_along = self._terms[..., 2:4], self._terms[..., 5:7]
        loadings = torch.cat([self.deviation_factor, self.deviation_shared], -1)
        of_deviation = (psi @ (loadings @ loadings.mT) * psi).sum(-1) - deviation_along.square().sum(-1)
        together = ((self.deviation_shared @ common.mT).mT * psi).sum(-1) - (deviation_along * base_along).sum(-1)
        of_base = common.square().sum(-1) + self.own_scale.square() + self.weights[2].scale.square()
        return _Spread(of_deviation, together, of_base - base_along.square().sum(-1))


def has_closed_form(posterior: dict[str, TorchDistribution]) -> bool:
    """Say whether `ClickLogits` takes this posterior."""
    if BETA_DEVIATION in posterior and not has_own_effects(posterior):
        return False
    return all(
        isinstance(d, (dist.Normal, dist.Delta, MatrixNormal))
        or (isinstance(d, dist.Independent) and isinstance(d.base_dist, dist.Normal))
        for d in posterior.values()
    )


class _Spread(NamedTuple):
    """Variance given the weights: of the deviation, its covariance with the rest, of the rest; ``N x P`` each."""

    of_deviation: Tensor
    together: Tensor
    of_base: Tensor

    def at(self, squared_strength: Tensor, strength: Tensor) -> Tensor:
        return squared_strength * self.of_deviation + 2 * strength * self.together + self.of_base


def _in_each(factor: Tensor, numbers: Tensor) -> Tensor:
    """Products of each context's matrix, ``N x K x D``, and vectors, ``... x N x D``; with 1 for N in all contexts.

    Where all contexts have the same vectors a context's matrix is read once, and not once for each of them.
    """
    if numbers.dim() < 3 or numbers.shape[-2] != 1:
        return (factor @ numbers.unsqueeze(-1)).squeeze(-1)
    product: Tensor = factor @ numbers.flatten(0, -2).mT  # N x K x ...
    return product.movedim(-1, 0).reshape(*numbers.shape[:-2], *product.shape[:2])
