"""What is known of the user beside the views: covariates in the logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.models.operations import inner
from blob_pyro.models.priors.terms import Events

if TYPE_CHECKING:
    from blob_pyro.models.bandit import BanditModel

__all__ = ["UserCovariates"]

COVARIATE_WEIGHT = "covariate_weight"


@dataclass(frozen=True)
class UserCovariates:
    """Adds ``x_n' g``, ``g ~ N(0, scale^2 I_F)``, for covariates ``x_n`` of the user: hour, device, country.

    It moves all items alike: it explains how ready a user is to click, so that items are not credited with it, and
    leaves the order of items as it is. Pass the covariates to ``blob.fit(log, covariates=...)``.

    Args:
        num_covariates: ``F``.
        scale: prior standard deviation of each weight; standardise the covariates, so that one fits all.
    """

    num_covariates: int
    scale: float = 1.0

    def build(self, model: BanditModel) -> None:
        """See `LogitTerm.build`."""
        if self.num_covariates < 1:
            raise ValueError(f"num_covariates: must be at least 1, got {self.num_covariates}")

    def site_priors(self, model: BanditModel) -> dict[str, TorchDistribution]:
        """See `LogitTerm.site_priors`."""
        zeros = model.item_embedding.new_zeros(self.num_covariates)
        return {COVARIATE_WEIGHT: dist.Normal(zeros, self.scale).to_event(1)}

    def logit(self, model: BanditModel, values: dict[str, Tensor], events: Events) -> Tensor:
        """See `LogitTerm.logit`."""
        if events.covariates is None or events.covariates.shape[-1] != self.num_covariates:
            got = "none" if events.covariates is None else f"{events.covariates.shape[-1]}"
            raise ValueError(
                f"covariates: the model has UserCovariates({self.num_covariates}), but the events have {got}; pass "
                "covariates=... to fit, batch and click_logits"
            )
        return inner(COVARIATE_WEIGHT, values[COVARIATE_WEIGHT], events.covariates)
