"""Priors of kappa for catalogues in which most items are alike and a few are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.transforms import ExpTransform
from torch import Tensor

from blob_pyro.models.operations import broadcast, gather
from blob_pyro.models.priors.terms import Events, register_term
from blob_pyro.models.priors.view import ModelView
from blob_pyro.ops.saved_classes import register
from blob_pyro.ops.tensors import like

__all__ = ["HorseshoeKappa", "RandomScaleKappa", "StudentTKappa"]

WHITENED_KAPPA = "whitened_kappa"
LOG_KAPPA_SCALE = "log_kappa_scale"
LOG_LOCAL_SCALE = "log_kappa_local_scale"


@register
@dataclass(frozen=True)
class StudentTKappa:
    """``kappa'_p ~ StudentT(df, 0, kappa_scale)``: for `BanditPriors.kappa`.

    Args:
        df: degrees of freedom; 4 has tails that shrink a large effect little, and still a variance.

    Example:
        >>> from blob_pyro import BanditPriors
        >>> priors = BanditPriors(kappa=StudentTKappa(df=4.0), kappa_scale=0.2)
    """

    df: float = 4.0

    def __call__(self, model: ModelView) -> TorchDistribution:
        """The prior, event ``P``."""
        zeros = model.item_embedding.new_zeros(model.num_items)
        return dist.StudentT(zeros + self.df, zeros, model.kappa_scale).to_event(1)


@dataclass(frozen=True)
class RandomScaleKappa:
    """``kappa'_p = s z_p`` with ``z_p ~ N(0, 1)`` and a scale ``s`` that has a prior, and so a posterior.

    What ``BanditPriors(kappa_scale=<distribution>)`` stands for.

    Args:
        scale: over positive numbers.
    """

    scale: TorchDistribution
    item_sites: ClassVar[tuple[str, ...]] = (WHITENED_KAPPA,)

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""
        if self.scale.support is not constraints.positive and self.scale.support is not constraints.nonnegative:
            raise ValueError(f"kappa_scale: expected a distribution over positive numbers, got {self.scale!r}")

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        zeros = model.item_embedding.new_zeros(model.num_items)
        return {
            LOG_KAPPA_SCALE: _logarithm(like(self.scale, zeros)),
            WHITENED_KAPPA: dist.Normal(zeros, 1.0).to_event(1),
        }

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        scale = broadcast(LOG_KAPPA_SCALE, values[LOG_KAPPA_SCALE], events.action).exp()
        return scale * gather(WHITENED_KAPPA, values[WHITENED_KAPPA], events.action)


@register_term
@dataclass(frozen=True)
class HorseshoeKappa:
    """``kappa'_p = tau lambda_p z_p``, ``lambda_p ~ C+(0, 1)``, ``z_p ~ N(0, 1)`` (Carvalho et al. 2010).

    Shrinks the many and leaves the few. Use it with ``kappa=0.0``, which takes the normal kappa out.

    Args:
        scale: prior of tau, over positive numbers.

    Example:
        >>> from blob_pyro import BanditPriors
        >>> priors = BanditPriors(kappa=0.0, terms=(HorseshoeKappa(dist.HalfCauchy(0.1)),))
    """

    scale: TorchDistribution = field(default_factory=lambda: dist.HalfCauchy(0.1))
    item_sites: ClassVar[tuple[str, ...]] = (WHITENED_KAPPA, LOG_LOCAL_SCALE)

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""
        RandomScaleKappa(self.scale).build(model)

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        ones = model.item_embedding.new_ones(model.num_items)
        local = _logarithm(dist.HalfCauchy(ones)).to_event(1)
        return {**RandomScaleKappa(self.scale).site_priors(model), LOG_LOCAL_SCALE: local}

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        local = gather(LOG_LOCAL_SCALE, values[LOG_LOCAL_SCALE], events.action).exp()
        return local * RandomScaleKappa(self.scale).logit(model, values, events)


def _logarithm(positive: TorchDistribution) -> TorchDistribution:
    """The distribution of the logarithm of a positive number."""
    return dist.TransformedDistribution(positive, ExpTransform().inv)
