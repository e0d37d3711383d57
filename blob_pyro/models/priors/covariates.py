"""Terms of covariates: what is known of a decision beside the views, of the user and of the event by name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Covariate
from blob_pyro.models.operations import inner
from blob_pyro.models.priors.terms import Events, register_term
from blob_pyro.models.priors.view import ModelView

__all__ = ["EventCovariates", "UserCovariates"]

COVARIATE_WEIGHT = "covariate_weight"
EVENT_COVARIATE_WEIGHT = "event_covariate_weight"


@register_term
@dataclass(frozen=True)
class UserCovariates:
    """Adds ``x_u' g``, ``g ~ N(0, scale^2 I_F)``, for covariates ``x_u`` of the user: country, age of the account.

    It moves all items alike: it explains how ready a user is to click, so that items are not credited with it, and
    leaves the order of items as it is. Pass the covariates to ``blob.fit(log, covariates=...)``; a policy, which only
    needs the order, needs none.

    Args:
        num_covariates: ``F``.
        scale: prior standard deviation of each weight; standardise the covariates, so that one fits all.
    """

    num_covariates: int
    scale: float = 1.0
    moves_all_items_alike: ClassVar[bool] = True

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""
        if self.num_covariates < 1:
            raise ValueError(f"num_covariates: must be at least 1, got {self.num_covariates}")

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        return {COVARIATE_WEIGHT: _weights(model, self.num_covariates, self.scale)}

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        if events.covariates is None or events.covariates.shape[-1] != self.num_covariates:
            got = "none" if events.covariates is None else f"{events.covariates.shape[-1]}"
            raise ValueError(
                f"covariates: the model has UserCovariates({self.num_covariates}), but the events have {got}; pass "
                "covariates=... to fit, batch and click_logits"
            )
        return inner(COVARIATE_WEIGHT, values[COVARIATE_WEIGHT], events.covariates)

    def coordinates(self) -> dict[str, dict[str, Sequence[Hashable]]]:
        """Name the dimensions of its sites, and their labels; see `LogitTerm.coordinates`."""
        return {COVARIATE_WEIGHT: {"covariate": range(self.num_covariates)}}


@register_term
@dataclass(frozen=True)
class EventCovariates:
    """Adds ``x_n' g``, ``g ~ N(0, scale^2 I_F)``, for covariates ``x_n`` of the event, by name: hour, position, device.

    They come with the log, ``EventLog.from_tables(..., covariates=["device", "hour"])``; ``"position"`` is the log's
    own column. A number is one column of ``x_n``, a category one column for each of its levels. It moves all items
    alike, as `UserCovariates` does.

    Args:
        covariates: for each name None, if it is a number, or the categories that it may take.
        scale: prior standard deviation of each weight; standardise numbers, so that one fits all.

    Raises:
        ValueError: without a covariate, or for a category that is named twice or alone.

    Example:
        >>> term = EventCovariates({"hour": None, "device": ["desktop", "phone"]})
        >>> term.columns
        ('hour', 'device=desktop', 'device=phone')
    """

    covariates: Mapping[str, Sequence[Hashable] | None]
    scale: float = 1.0
    moves_all_items_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.covariates, Mapping) or not self.covariates:
            raise ValueError(
                f"covariates: expected names, such as {{'hour': None, 'device': ['desktop', 'phone']}}, "
                f"got {self.covariates!r}"
            )
        for name, levels in self.covariates.items():
            if levels is not None and (isinstance(levels, str) or len(set(levels)) != len(levels) or len(levels) < 2):
                raise ValueError(
                    f"covariates[{name!r}]: expected None, for a number, or two or more different categories, "
                    f"got {levels!r}"
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """The meanings of the columns of ``x_n``."""
        return tuple(
            column
            for name, levels in self.covariates.items()
            for column in ([name] if levels is None else [f"{name}={level}" for level in levels])
        )

    @property
    def num_covariates(self) -> int:
        """The number of columns of ``x_n``, ``F``."""
        return len(self.columns)

    def encode(self, covariates: Mapping[str, Covariate], what: str = "covariates") -> Tensor:
        """Encode events as columns ``x_n``, ``N x F`` float64.

        Args:
            covariates: of ``N`` events, by name; others than this term's are not looked at.
            what: they are called in an error message.

        Raises:
            ValueError: naming the covariate and the row: if one is missing, a number where categories are expected or
                the other way round, or a category that the term does not know.
        """
        parts = []
        for name, levels in self.covariates.items():
            if name not in covariates:
                known = ", ".join(map(repr, covariates)) or "none"
                raise ValueError(f"{what}: has no covariate {name!r}, which the model asks for; it has {known}")
            found = covariates[name]
            if (found.levels is None) != (levels is None):
                expected = "numbers" if levels is None else "categories"
                raise ValueError(f"{what}: covariate {name!r} should hold {expected}; cast the column")
            if levels is None:
                parts.append(found.values.double().unsqueeze(-1))
                continue
            position = {level: i for i, level in enumerate(levels)}
            numbers = torch.tensor([position.get(level, -1) for level in found.levels or ()], dtype=torch.int64)
            numbers = numbers[found.values.cpu()]
            if (numbers < 0).any():
                row = int((numbers < 0).nonzero()[0])
                strange = found.categories()[row]
                raise ValueError(
                    f"{what}: covariate {name!r}, row {row}: {strange!r} is none of the "
                    f"model's categories {list(levels)!r}; name it in EventCovariates, or map it to one of them"
                )
            parts.append(torch.nn.functional.one_hot(numbers, len(levels)).double())
        return torch.cat(parts, -1)

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        return {EVENT_COVARIATE_WEIGHT: _weights(model, self.num_covariates, self.scale)}

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        if events.covariates is None:
            raise ValueError(
                f"covariates: the model asks for {list(self.covariates)}, and the events have none; "
                "pass covariates=... to click_logits, or read them with the log"
            )
        return inner(EVENT_COVARIATE_WEIGHT, values[EVENT_COVARIATE_WEIGHT], events.covariates)

    def coordinates(self) -> dict[str, dict[str, Sequence[Hashable]]]:
        """Name the dimensions of its sites, and their labels; see `LogitTerm.coordinates`."""
        return {EVENT_COVARIATE_WEIGHT: {"event_covariate": self.columns}}


def _weights(model: ModelView, num_covariates: int, scale: float) -> TorchDistribution:
    return dist.Normal(model.item_embedding.new_zeros(num_covariates), scale).to_event(1)
