"""A term for the position of an item in what was shown: what is further down is looked at less."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Covariate
from blob_pyro.models.operations import inner
from blob_pyro.models.priors.terms import Events, register_term
from blob_pyro.models.priors.view import ModelView
from blob_pyro.ops.arguments import positive_number

__all__ = ["POSITION", "PositionEffects"]

POSITION = "position"
POSITION_EFFECT = "position_effect"

_MOST = 1000


@register_term
@dataclass(frozen=True)
class PositionEffects:
    r"""Adds ``e_j ~ N(0, scale^2)`` to the click logit of what was shown in position ``j``; ``e = 0`` in the first.

    The examination model has ``P(click) = P(looked at | j) P(click | looked at, item)`` (Craswell et al. 2008). Where
    clicks are rare a probability is close to the exponential of its logit, so that what position ``j`` takes off the
    former is a number added to the latter, here one for each position but the first, which is what kappa and ``w_c``
    are about. A policy scores items as if each were in the first: what all items share does not change their order.
    With ``scale = 1`` a position gets between 1/7 and 7 times the clicks of the first, 95 times in a hundred, which
    holds what eye-tracking and click logs report of the first ten; and it is learned from few thousand events.

    `BanditPriors.positions` puts it into a model whose log has more than one position. A fit reads positions from the
    log, an update adds those that are new.

    Args:
        scale: prior standard deviation of an effect, in logits.
        positions: of the log, the first for reference; filled by `blob_pyro.BLOB.fit` and ``update``.
    """

    scale: float = 1.0
    positions: tuple[int, ...] = ()
    moves_all_items_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive_number(self.scale, "scale")

    @property
    def num_covariates(self) -> int:
        """The number of positions that have an effect, ``J - 1``."""
        return max(len(self.positions) - 1, 0)

    def of(self, position: Tensor | None) -> PositionEffects:
        """Read the positions of a log, and no others."""
        return replace(self, positions=()).with_more(position)

    def with_more(self, position: Tensor | None) -> PositionEffects:
        """Add the positions of a log that are new, after the others.

        Raises:
            ValueError: for more positions than have an effect each in any slate, as row numbers are.
        """
        found = [] if position is None else position.unique().tolist()
        known = set(self.positions)
        positions = (*self.positions, *(j for j in found if j not in known))
        if len(positions) > _MOST:
            raise ValueError(
                f"log.position: has {len(positions):,} different positions, and each but the first has an effect of "
                f"its own, {_MOST:,} at most; bin them, name another column, or leave them out, with "
                "BanditPriors(positions=None)"
            )
        return replace(self, positions=positions)

    def encode(self, covariates: Mapping[str, Covariate], what: str = "covariates") -> Tensor:
        """Encode the positions of events as columns, ``N x (J - 1)`` float64: a one in that of its effect.

        Args:
            covariates: of ``N`` events, of which ``"position"`` is looked at.
            what: they are called in an error message.

        Raises:
            ValueError: if there are none, or for a position that the model has not seen.
        """
        known = list(self.positions)
        if POSITION not in covariates:
            raise ValueError(
                f"{what}: has no positions, and the model knows effects of {known}; name the column, give every row "
                f"{known[0]} where there was one, or fit with BanditPriors(positions=None)"
            )
        values = covariates[POSITION].values.double()
        columns = (values.unsqueeze(-1) == torch.tensor(known, dtype=torch.float64)).double()
        strange = columns.sum(-1) == 0
        if strange.any():
            row = int(strange.nonzero()[0])
            raise ValueError(
                f"{what}: position, row {row}: {values[row].item():g} is none of {known}, which the model has seen; "
                "update(log) learns of it"
            )
        return columns[:, 1:]

    def build(self, model: ModelView) -> None:
        """Check against the model, and add the buffers that the term needs; see `LogitTerm.build`."""

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name; see `LogitTerm.site_priors`."""
        zeros = model.item_embedding.new_zeros(self.num_covariates)
        return {POSITION_EFFECT: dist.Normal(zeros, self.scale).to_event(1)}

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; see `LogitTerm.logit`."""
        if events.covariates is None:
            raise ValueError(f"covariates: the events have no positions, of which the model knows {self.positions}")
        return inner(POSITION_EFFECT, values[POSITION_EFFECT], events.covariates)

    def fold(self, model: ModelView, posterior: dict[str, TorchDistribution]) -> dict[str, TorchDistribution] | None:
        """Leave the effects out, as in the first position."""
        return {name: distribution for name, distribution in posterior.items() if name != POSITION_EFFECT}

    def coordinates(self) -> dict[str, dict[str, Sequence[Hashable]]]:
        """Name the dimensions of its sites, and their labels; see `LogitTerm.coordinates`."""
        return {POSITION_EFFECT: {POSITION: self.positions[1:]}}
