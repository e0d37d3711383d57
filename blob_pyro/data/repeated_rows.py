"""Rows of several logs: which of them are there twice, and which of a user's come first at one time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from blob_pyro.data.clock import NUMBER
from blob_pyro.data.log_warnings import LogWarning

if TYPE_CHECKING:
    from blob_pyro.data.event_log import EventLog

__all__ = ["Kind", "source_of", "views_at_the_same_time", "warn_of_two_lives"]


def source_of(sizes: Sequence[int]) -> np.ndarray:
    """Number the log that each row is from, given how many each has."""
    return np.repeat(np.arange(len(sizes)), sizes)


def views_at_the_same_time(log: EventLog) -> tuple[np.ndarray, np.ndarray]:
    """Count, for each impression and each view, its user's views at its very time that come before it."""
    user, view_user = log.user.numpy(), log.view_user.numpy()
    views = np.bincount(view_user, minlength=log.num_users)
    before_user = np.cumsum(views) - views
    rank = np.arange(len(view_user)) - before_user[view_user]
    # of the first view of the user at the same time: views are in the order of user and time
    new = np.ones(len(view_user), dtype=bool)
    new[1:] = (view_user[1:] != view_user[:-1]) | (log.view_time[1:] != log.view_time[:-1]).numpy()
    first = rank[new][np.cumsum(new) - 1] if len(rank) else rank
    seen = log.contexts.lengths[log.context].numpy()
    if log.earlier is not None:  # its users are those of the log, and its views precede all else of theirs
        seen = seen - np.bincount(log.earlier.view_user.numpy(), minlength=log.num_users)[user]
    last = before_user[user] + seen - 1  # the last view before the impression, if it is in this log
    at = np.zeros(len(user), dtype=np.int64)
    tied = (seen > 0) & (seen <= views[user])
    tied[tied] = (log.view_time[last[tied]] == log.time[torch.from_numpy(tied)]).numpy()
    at[tied] = seen[tied] - first[last[tied]]
    return at, rank - first


class Kind(NamedTuple):
    """All views, or all impressions: who, when, what, and which log it is from."""

    names: Sequence[str]
    what: str
    user: np.ndarray
    time: np.ndarray
    item: np.ndarray
    source: np.ndarray

    def of(self, rows: np.ndarray) -> Kind:
        """Pick some of the rows."""
        return self._replace(user=self.user[rows], time=self.time[rows], item=self.item[rows], source=self.source[rows])

    @property
    def shared(self) -> np.ndarray:
        """Rows of users whom several logs have, of this kind."""
        if not len(self.user):
            return np.zeros(0, dtype=np.int64)
        first = np.full(int(self.user.max()) + 1, len(self.names))
        last = np.full(len(first), -1)
        np.minimum.at(first, self.user, self.source)
        np.maximum.at(last, self.user, self.source)
        return np.flatnonzero(first[self.user] < last[self.user])

    def groups(self, rows: np.ndarray, keys: Sequence[np.ndarray]) -> np.ndarray:
        """Number the groups of some rows: rows with equal keys are one group."""
        order = np.lexsort([key[rows] for key in keys])
        new = np.ones(len(rows), dtype=bool)
        new[1:] = np.any([np.diff(key[rows][order]) != 0 for key in keys], axis=0)
        group = np.empty(len(rows), dtype=np.int64)
        group[order] = np.cumsum(new) - 1
        return group

    def not_repeated(self, drop: bool, more: Sequence[np.ndarray], facts: Sequence[np.ndarray]) -> np.ndarray:
        """Mark rows that no earlier log has; a ValueError for one that some has, unless they are to be dropped.

        Args:
            drop: whether they are to be dropped.
            more: columns that tell rows apart, beside user, time and item.
            facts: columns that must agree where two logs have the same row.
        """
        keep, rows = np.ones(len(self.user), dtype=bool), self.shared
        if not len(rows):
            return keep
        group, source = self.groups(rows, [*more, self.item, self.time, self.user]), self.source[rows]
        first = np.full(group.max() + 1, len(self.names))
        np.minimum.at(first, group, source)
        repeated = source > first[group]
        if not repeated.any():
            return keep
        row = int(np.flatnonzero(repeated)[0])
        earlier, later = self.names[first[group[row]]], self.names[source[row]]
        if not drop:
            raise ValueError(
                f"{later}: {int(repeated.sum()):,} of its and later logs' {self.what}s are in an earlier log too, the "
                f"first of them in {earlier}, at time {self.time[rows[row]]} (same user, time and item). Pass "
                "duplicates='drop' where exports overlap, 'keep' where both happened; simulated logs need users of "
                "their own: RecoGym.simulate(first_user=...)"
            )
        for fact in (np.ones(len(self.user)), *facts):
            total = np.zeros((len(first), len(self.names)))
            np.add.at(total, (group, source), fact[rows].astype(np.float64))
            there = np.zeros(total.shape, dtype=bool)
            there[group, source] = True
            wrong = there & ~np.isclose(total, total[np.arange(len(first)), first][:, None], rtol=1e-9, atol=0)
            if wrong.any():
                bad, log = (int(index[0]) for index in np.nonzero(wrong))
                raise ValueError(
                    f"{self.names[log]}: has another number, reward or propensity of the {self.what}s of one user, "
                    f"time and item than {self.names[first[bad]]} has, at time "
                    f"{self.time[rows[np.flatnonzero(group == bad)[0]]]}: the two contradict each other. Drop it from "
                    "one of them"
                )
        keep[rows[repeated]] = False
        return keep


def warn_of_two_lives(shown: Kind, viewed: Kind, clock: str, *kept: np.ndarray) -> None:
    """Warn where a user does two things of one kind at one time, in two logs: there may be two users of one name."""
    if clock != NUMBER:
        return
    for kind, keep in zip((shown, viewed), kept):
        rows = kind.shared
        rows = rows[keep[rows]]
        if not len(rows):
            continue
        group, source = kind.groups(rows, [kind.time, kind.user]), kind.source[rows]
        first = np.full(group.max() + 1, len(kind.names))
        np.minimum.at(first, group, source)
        users = len(np.unique(kind.user[rows][source > first[group]]))
        if users:
            warnings.warn(
                f"logs: {users:,} users have {kind.what}s at the same time in two logs, as two users of one id would. "
                "If the logs number their users separately, make the ids differ (RecoGym.simulate(first_user=...)); "
                "if this is meant, ignore the LogWarning",
                LogWarning,
                stacklevel=5,
            )
            return
