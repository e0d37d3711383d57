"""Priors that say more of an item than its embedding: its popularity, its category, its features, itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.distributions.multivariate import MultivariatePart, shear
from blob_pyro.models.operations import bilinear, broadcast, gather, inner, row_product
from blob_pyro.models.priors.learned import Learned, Scale
from blob_pyro.models.priors.terms import Events, register_term
from blob_pyro.models.priors.view import ModelView
from blob_pyro.models.sites import BETA_DEVIATION, KAPPA

__all__ = ["ItemCategories", "ItemDeviations", "ItemFeatures", "KappaOnPopularity"]

KAPPA_SLOPE = "kappa_slope"
CATEGORY_KAPPA, CATEGORY_BETA = "category_kappa", "category_beta"
FEATURE_KAPPA, FEATURE_BETA = "feature_kappa", "feature_beta"


@register_term(added=["center", "spread"])
@dataclass(frozen=True)
class KappaOnPopularity:
    """Items that are viewed more are clicked more, or less: ``kappa_p = kappa'_p + w_c + slope (rho_p - mean) / sd``.

    Args:
        scale: prior standard deviation of the slope, in logits per standard deviation of rho.
        center: what is taken for the mean of rho; default that of the catalogue, which stays what it was when new
            items come to it.
        spread: what is taken for the standard deviation of rho; likewise.

    Example:
        >>> from blob_pyro import BanditPriors
        >>> priors = BanditPriors(terms=(KappaOnPopularity(),))
    """

    scale: float = 0.5
    center: float | None = None
    spread: float | None = None

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""
        rho = model.item_intercept
        if not rho.std() > 0:
            raise ValueError("KappaOnPopularity: every item has the same intercept rho; fit the organic model first")
        center, spread = (
            getattr(rho, moment)() if given is None else rho.new_tensor(given)
            for moment, given in (("mean", self.center), ("std", self.spread))
        )
        model.register_buffer("popularity", (rho - center) / spread)

    def extended(self, model: ModelView, values: Callable[[str], Sequence[Any]]) -> KappaOnPopularity:
        """Go on with the mean and standard deviation of the items before; see `LogitTerm`."""
        rho = model.item_intercept
        center = float(rho.mean()) if self.center is None else self.center
        return replace(self, center=center, spread=float(rho.std()) if self.spread is None else self.spread)

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        return {KAPPA_SLOPE: dist.Normal(model.item_embedding.new_zeros(()), self.scale)}

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        popularity = model.popularity[events.action]
        result: Tensor = broadcast(KAPPA_SLOPE, values[KAPPA_SLOPE], popularity) * popularity
        return result

    def fold(self, model: ModelView, posterior: dict[str, TorchDistribution]) -> dict[str, TorchDistribution] | None:
        """Fold the slope into the posterior of kappa: items' kappas then have one number in common.

        Returns:
            None where slope and kappas are neither independent normals nor parts of one vector that can be sheared.
        """
        rest = dict(posterior)
        slope, kappa = rest.pop(KAPPA_SLOPE), rest[KAPPA]
        if isinstance(slope, MultivariatePart) and isinstance(kappa, MultivariatePart):
            loading = torch.zeros_like(slope.multivariate.mean)
            loading[kappa.start : kappa.start + model.num_items] = model.popularity
            multivariate = shear(slope.multivariate, loading, slope.start)
            if multivariate is None:
                return None
            parts = {name: part for name, part in rest.items() if isinstance(part, MultivariatePart)}
            return {
                **rest,
                **{
                    n: MultivariatePart(multivariate.mean, multivariate, p.start, p.part_shape)
                    for n, p in parts.items()
                },
            }
        kappa = getattr(kappa, "base_dist", None)
        if not isinstance(slope, dist.Normal) or not isinstance(kappa, dist.Normal):
            return None
        loading = (slope.scale * model.popularity).unsqueeze(-1)
        loc = kappa.loc + slope.loc * model.popularity
        total = dist.LowRankMultivariateNormal(loc, loading, kappa.variance, validate_args=False)
        rest[KAPPA] = MultivariatePart(loc, total, 0, loc.shape)
        return rest


@register_term
@dataclass(frozen=True)
class ItemDeviations:
    """Each item departs from the low-rank beta on its own: ``beta_p + delta_p``, ``delta_p ~ N(0, scale^2 I_K)``.

    Args:
        scale: a number, or `Learned`.
    """

    scale: Scale = field(default_factory=lambda: Learned(0.1))
    item_sites: ClassVar[tuple[str, ...]] = (BETA_DEVIATION,)

    items_own: ClassVar[str] = BETA_DEVIATION
    """The site of which each row is added to one item's beta, so that "laplace" eliminates it with kappa."""

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""
        model.register_scale("beta_deviation_scale", self.scale, BETA_DEVIATION)

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        zeros = torch.zeros_like(model.item_embedding)
        return {BETA_DEVIATION: dist.Normal(zeros, model.beta_deviation_scale).to_event(2)}

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        return row_product(BETA_DEVIATION, values[BETA_DEVIATION], events.action, events.interest)

    def fold(self, model: ModelView, posterior: dict[str, TorchDistribution]) -> dict[str, TorchDistribution]:
        """Leave the deviations where they are: `blob_pyro.posteriors.own_effects` reads them beside kappa."""
        return posterior


@register_term
@dataclass(frozen=True)
class ItemCategories:
    """Items of one category share a part of kappa and of beta, so that a new item starts where its kind is.

    ``kappa_p`` gains ``k_{g(p)} ~ N(0, kappa_scale^2)``, ``beta_p`` gains ``b_{g(p)} ~ N(0, beta_scale^2 I_K)``.

    Args:
        categories: number of each item's category, ``P`` integers from 0.
        kappa_scale: a number, or `Learned`.
        beta_scale: a number, or `Learned`.
    """

    categories: Sequence[int]
    kappa_scale: Scale = field(default_factory=lambda: Learned(0.1))
    beta_scale: Scale = field(default_factory=lambda: Learned(0.1))

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""
        category = torch.as_tensor(self.categories, device=model.item_embedding.device)
        if category.shape != (model.num_items,) or category.is_floating_point() or int(category.min()) < 0:
            raise ValueError(
                f"categories: expected {model.num_items} integers from 0, one per item, got {tuple(category.shape)} of "
                f"{category.dtype}, smallest {category.min().item()}"
            )
        model.register_buffer("category", category)
        model.num_categories = 1 + int(category.max())  # here, where looking at the device costs no training step
        model.register_scale("category_kappa_scale", self.kappa_scale, CATEGORY_KAPPA)
        model.register_scale("category_beta_scale", self.beta_scale, CATEGORY_BETA)

    def extended(self, model: ModelView, values: Callable[[str], Sequence[Any]]) -> ItemCategories:
        """Add the categories of new items, of which some may be new; see `LogitTerm`."""
        return replace(self, categories=_joined(self.categories, values("categories")))

    def describe(self) -> Tensor:
        """Describe each item by its category, ``P x G`` zeros and ones."""
        return torch.nn.functional.one_hot(torch.as_tensor(self.categories))

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        zeros = model.item_embedding.new_zeros(model.num_categories, model.embedding_dim)
        return {
            CATEGORY_KAPPA: dist.Normal(zeros[:, 0], model.category_kappa_scale).to_event(1),
            CATEGORY_BETA: dist.Normal(zeros, model.category_beta_scale).to_event(2),
        }

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        category = model.category[events.action]
        return gather(CATEGORY_KAPPA, values[CATEGORY_KAPPA], category) + row_product(
            CATEGORY_BETA, values[CATEGORY_BETA], category, events.interest
        )


@register_term
@dataclass(frozen=True)
class ItemFeatures:
    """Items are alike as far as their features are: ``kappa_p`` gains ``x_p' k``, ``beta_p`` gains ``x_p' B``.

    ``k ~ N(0, kappa_scale^2 I_F)``, ``B ~ N(0, beta_scale^2)`` entry by entry, ``F x K``.

    Args:
        features: ``P x F`` numbers; standardise them, so that one scale fits all.
        kappa_scale: a number, or `Learned`.
        beta_scale: a number, or `Learned`.
    """

    features: Sequence[Sequence[float]]
    kappa_scale: Scale = field(default_factory=lambda: Learned(0.1))
    beta_scale: Scale = field(default_factory=lambda: Learned(0.1))

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""
        features = torch.as_tensor(self.features).to(model.item_embedding)
        if features.dim() != 2 or len(features) != model.num_items or not torch.isfinite(features).all():
            raise ValueError(
                f"features: expected {model.num_items} x F finite numbers, one row per item, got shape "
                f"{tuple(features.shape)}"
            )
        model.register_buffer("features", features)
        model.register_scale("feature_kappa_scale", self.kappa_scale, FEATURE_KAPPA)
        model.register_scale("feature_beta_scale", self.beta_scale, FEATURE_BETA)

    def extended(self, model: ModelView, values: Callable[[str], Sequence[Any]]) -> ItemFeatures:
        """Add the features of new items; see `LogitTerm`."""
        return replace(self, features=_joined(self.features, values("features")))

    def describe(self) -> Tensor:
        """Describe each item by its features, ``P x F``."""
        return torch.as_tensor(self.features)

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        zeros = model.item_embedding.new_zeros(model.features.shape[1], model.embedding_dim)
        return {
            FEATURE_KAPPA: dist.Normal(zeros[:, 0], model.feature_kappa_scale).to_event(1),
            FEATURE_BETA: dist.Normal(zeros, model.feature_beta_scale).to_event(2),
        }

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        features = model.features[events.action]
        return inner(FEATURE_KAPPA, values[FEATURE_KAPPA], features) + bilinear(
            FEATURE_BETA, values[FEATURE_BETA], features, events.interest
        )


def _joined(known: Any, new: Sequence[Any]) -> Any:
    """Values of known and of new items, as they were given: a tensor, or a sequence."""
    if isinstance(known, Tensor):
        more = torch.as_tensor(new, device=known.device)
        if more.shape[1:] == known.shape[1:] and more.is_floating_point() <= known.is_floating_point():
            return torch.cat([known, more.to(known.dtype)])
    return (*(known.tolist() if hasattr(known, "tolist") else known), *new)  # wrong ones are for `build` to name
