"""`LogColumns`: what a log holds, how much of it, and what a model may ask of it before it learns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pandas as pd
import torch
from torch import Tensor

from blob_pyro.data.clock import NUMBER
from blob_pyro.data.covariates import Covariate
from blob_pyro.data.histories import Histories
from blob_pyro.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from blob_pyro.data.shards import Shard

__all__ = ["LogColumns", "require_contrast", "require_impressions", "require_views"]


@dataclass(frozen=True, repr=False)
class LogColumns:
    """The columns of an `blob_pyro.EventLog`, rows sorted by user and time.

    Attributes:
        items: the catalogue: item ids and their numbers.
        users: user ids and their numbers.
        view_user, view_time, view_item: one entry per view; ``V``.
        user, time, action, reward: one entry per impression; ``N``. ``reward`` is float32 0 or 1.
        propensity: probability with which the logging policy played ``action``; ``N`` float64, or None.
        propensity_error: standard error of ``propensity``, ``N`` float64: 0 is exact, NaN not known; or None.
        position: in the slate that the impression is one slot of, ``N`` int64, or None.
        score: by which the policy ranked ``action``, ``N`` float64, NaN where it has none; or None.
        policy, policy_version: ``N`` int64 numbers, or None; ``policies`` and ``policy_versions`` name them.
        context: for each impression the row of ``contexts`` that it was decided in; ``N``.
        contexts: the distinct decision points: all the user's views before them. A context belongs to one user:
            two users who have viewed nothing have two, because what else is known of them may differ.
    """

    items: Vocabulary
    users: Vocabulary
    view_user: Tensor
    view_time: Tensor
    view_item: Tensor
    user: Tensor
    time: Tensor
    action: Tensor
    reward: Tensor
    propensity: Tensor | None
    position: Tensor | None
    policy: Tensor | None
    policies: Vocabulary | None
    context: Tensor
    contexts: Histories
    sessions: Histories
    """All the views of each user who has any: what the organic model is fitted to."""
    covariates: Mapping[str, Covariate] = field(default_factory=dict)
    """What else was known at each impression, by name: `blob_pyro.data.Covariate`, ``N`` each."""
    clock: str = NUMBER
    """What ``time`` and ``view_time`` are: ``"number"``, or nanoseconds since 1970 that were read as ``"date"``,
    ``"timestamp"`` (without a zone) or ``"timestamp[UTC]"`` (with any zone)."""
    propensity_error: Tensor | None = None
    score: Tensor | None = None
    policy_version: Tensor | None = None
    policy_versions: Vocabulary | None = None
    earlier: Self | None = None
    """Views of the log's users from before it, a log of views alone with the same ``users``: contexts count them, and
    nothing else does. See `blob_pyro.data.ViewHistory`."""
    row: Tensor | None = None
    """The row of the table of impressions that each was read from, ``N`` int64; None for logs of other origin."""
    part_of: Shard | None = None
    """Which part of a log this is, if it was made by `blob_pyro.EventLog.shard`."""

    @property
    def num_items(self) -> int:
        """The number of items in the catalogue."""
        return len(self.items)

    @property
    def context_user(self) -> Tensor:
        """The number in ``users`` of each context's user, one per row of ``contexts``."""
        found = torch.zeros(len(self.contexts), dtype=torch.int64)
        found[self.context] = self.user
        return found

    @property
    def session_user(self) -> Tensor:
        """The number in ``users`` of each session's user, one per row of ``sessions``."""
        users: Tensor = self.view_user.unique()
        return users

    @property
    def num_users(self) -> int:
        """The number of users with a view or an impression."""
        return len(self.users)

    @property
    def num_views(self) -> int:
        """The number of organic views."""
        return self.view_item.shape[0]

    @property
    def num_impressions(self) -> int:
        """The number of bandit events."""
        return self.action.shape[0]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_users:,} users, {self.num_items:,} items, {self.num_views:,} views, "
            f"{self.num_impressions:,} impressions in {len(self.contexts):,} distinct contexts, "
            f"{int(self.reward.sum()):,} rewarded)"
        )

    def _repr_html_(self) -> str:
        figures = {
            "users": self.num_users,
            "items": self.num_items,
            "views": self.num_views,
            "impressions": self.num_impressions,
            "distinct contexts": len(self.contexts),
            "rewarded": int(self.reward.sum()),
            "times are": self.clock,
            "propensities": "none" if self.propensity is None else "logged",
        }
        return pd.DataFrame({type(self).__name__: figures}).to_html()

    @property
    def all_positions(self) -> Tensor | None:
        """The positions of the impressions; of a shard, the distinct ones of the whole log."""
        return self.position if self.part_of is None else self.part_of.whole.positions

    def require_whole(self, call: str) -> None:
        """Raise a ValueError where this is a shard, which the caller would take for all that there is."""
        if self.part_of is not None:
            raise ValueError(
                f"log: is shard {self.part_of.rank} of {self.part_of.world}, which {call} would take for all that "
                "there is; pass the whole log"
            )

    def require_views(self) -> None:
        """Raise a ValueError unless there is a view to learn from."""
        require_views(self.num_views)

    def require_contrast(self) -> None:
        """Raise a ValueError where all rewards are equal, and warn of items that were never shown; of the whole log."""
        whole = None if self.part_of is None else self.part_of.whole
        clicks = int(self.reward.sum()) if whole is None else whole.num_rewarded
        num_impressions = self.num_impressions if whole is None else whole.num_impressions
        never = self.num_items - (len(torch.unique(self.action)) if whole is None else whole.num_shown)
        require_contrast(clicks, num_impressions, never, self.num_items, stacklevel=4)

    def require_impressions(self) -> None:
        """Raise a ValueError unless there is a bandit event to learn from."""
        require_impressions(self.num_impressions)


def require_views(num_views: int) -> None:
    """Raise a ValueError unless there is a view to learn from."""
    if not num_views:
        raise ValueError("log: has no organic views (column 'item'); the organic model needs some. Pass views=...")


def require_impressions(num_impressions: int) -> None:
    """Raise a ValueError unless there is a bandit event to learn from."""
    if not num_impressions:
        raise ValueError(
            "log: has no bandit events (column 'action'); the bandit model needs some. Pass impressions=..., "
            "or use BLO, which learns from views alone"
        )


def require_contrast(clicks: int, num_impressions: int, never_shown: int, num_items: int, stacklevel: int) -> None:
    """Raise a ValueError where all rewards are equal, and warn of items that were never shown.

    Args:
        clicks: rewards that are 1.
        num_impressions: all rewards.
        never_shown: items without an impression.
        num_items: of the catalogue.
        stacklevel: frames between here and the user.
    """
    if clicks in (0, num_impressions):
        raise ValueError(
            f"log: all {num_impressions:,} rewards are {int(clicks > 0)}, so no item can be told from "
            "another; check the reward column, or log more events"
        )
    if never_shown:
        warnings.warn(
            f"log: {never_shown} of {num_items} items were never shown; what is said of them is the prior's",
            stacklevel=stacklevel,
        )
