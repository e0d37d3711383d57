"""Parts of a log: some of its rows as a log of their own, whose contexts know what they knew."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from blob_pyro.data.clock import DATE, NUMBER, UTC
from blob_pyro.data.histories import Histories
from blob_pyro.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from blob_pyro.data.event_log import EventLog
    from blob_pyro.data.shards import Shard

__all__ = ["part", "split", "time_on_clock", "with_items"]


def split(log: EventLog, time: Any, users: Any, seed: int) -> tuple[EventLog, EventLog]:
    """Return what is left and what is held out: see `EventLog.split`."""
    if (time is None) == (users is None):
        raise TypeError("split: pass either time=... or users=...")
    if time is not None:
        at = time_on_clock(time, log.clock)
        held, held_views = (log.time >= at).numpy(), (log.view_time >= at).numpy()
        if (held.all() and held_views.all()) or not (held.any() or held_views.any()):
            some = [times for times in (log.time, log.view_time) if len(times)]
            low, high = min(int(t.min()) for t in some), max(int(t.max()) for t in some)
            raise ValueError(
                f"time: all events are on one side of {time!r}; they lie between {_shown(low, log.clock)} and "
                f"{_shown(high, log.clock)}"
            )
    else:
        chosen = _chosen_users(log, users, seed)
        held, held_views = chosen[log.user.numpy()], chosen[log.view_user.numpy()]
    return part(log, ~held, ~held_views), part(log, held, held_views, remember=time is not None)


def part(
    log: EventLog,
    impressions: np.ndarray,
    views: np.ndarray,
    *,
    remember: bool = False,
    renumber: bool = True,
    part_of: Shard | None = None,
) -> EventLog:
    """Pick some rows of a log, with the contexts that they have in it.

    Args:
        log: of ``N`` impressions and ``V`` views.
        impressions: which of them, ``N`` booleans.
        views: which of them, ``V`` booleans.
        remember: whether the other views of the users that remain, which precede all that remains, become ``earlier``.
        renumber: whether its users are those with a row; else all of the log's, with their numbers.
        part_of: which part of the log this is, where it is to know.

    Returns:
        Its catalogue is the log's.
    """
    here, seen = torch.from_numpy(np.flatnonzero(impressions)), torch.from_numpy(np.flatnonzero(views))
    present = np.zeros(log.num_users, dtype=bool)
    present[log.user[here].numpy()] = present[log.view_user[seen].numpy()] = True
    number = torch.from_numpy(np.where(present, np.cumsum(present) - 1 if renumber else np.arange(len(present)), -1))
    same = present.all() or not renumber
    users = log.users if same else Vocabulary(log.users.decode(np.flatnonzero(present)))
    context, points = np.unique(log.context[here].numpy(), return_inverse=True)
    view_user, view_item = number[log.view_user[seen]], log.view_item[seen]
    views_per_user = torch.bincount(view_user, minlength=len(users))
    return replace(
        log,
        users=users,
        view_user=view_user,
        view_time=log.view_time[seen],
        view_item=view_item,
        user=number[log.user[here]],
        time=log.time[here],
        action=log.action[here],
        reward=log.reward[here],
        propensity=_picked(log.propensity, here),
        propensity_error=_picked(log.propensity_error, here),
        position=_picked(log.position, here),
        score=_picked(log.score, here),
        policy=_picked(log.policy, here),
        policy_version=_picked(log.policy_version, here),
        row=_picked(log.row, here),
        covariates={name: covariate[here] for name, covariate in log.covariates.items()},
        context=torch.from_numpy(points.reshape(-1)),
        contexts=log.contexts[torch.from_numpy(context)],
        sessions=Histories.from_ragged(view_item, views_per_user[views_per_user > 0], log.num_items),
        earlier=_earlier(log, users, number, ~views if remember else None),
        part_of=part_of,
    )


def with_items(log: EventLog, items: Vocabulary) -> EventLog:
    """Number a log's items by a larger catalogue: see `EventLog.with_items`."""
    try:
        number = torch.from_numpy(items.encode(log.items.ids, "log.items"))
    except ValueError as error:
        raise ValueError(f"items: must hold all items of the log: {error}") from None
    contexts, sessions = (replace(h, views=number[h.views], num_items=len(items)) for h in (log.contexts, log.sessions))
    return replace(
        log,
        items=items,
        view_item=number[log.view_item],
        action=number[log.action],
        contexts=contexts,
        sessions=sessions,
        earlier=None if log.earlier is None else with_items(log.earlier, items),
    )


def time_on_clock(time: Any, clock: str) -> float:
    """Turn a time into what a log of this clock keeps.

    Raises:
        ValueError: for a time on another clock, or none that pandas understands.
        TypeError: for anything else than a number, where times are numbers.
    """
    if clock == NUMBER:
        if isinstance(time, bool) or not isinstance(time, Real):
            raise TypeError(f"time: the log's times are numbers; expected a number, got {time!r}")
        return int(time) if isinstance(time, Integral) else float(time)
    try:
        stamp = pd.Timestamp(time)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"time: expected a timestamp, as pd.Timestamp takes it, got {time!r}: {error}") from None
    if isinstance(time, Real) or pd.isna(stamp):
        raise ValueError(f"time: the log's times are {clock}s; expected one, got {time!r}")
    if (stamp.tzinfo is not None) != (clock == UTC):
        has, lacks = ("no zone", "one") if clock != UTC else ("a zone", "none")
        raise ValueError(f"time: the log's times have {has}, and {time!r} has {lacks}")
    if clock == DATE and stamp != stamp.normalize():
        raise ValueError(f"time: the log's times are dates, got {time!r}")
    return int(stamp.as_unit("ns").value)


def _picked(column: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor | None:
    return None if column is None else column[rows]


def _earlier(log: EventLog, users: Vocabulary, number: torch.Tensor, more: np.ndarray | None) -> EventLog | None:
    """What the log remembers of some users, and some more of its views."""
    parts = [] if log.earlier is None else [(log.earlier, torch.arange(log.earlier.num_views))]
    if more is not None:
        parts.append((log, torch.from_numpy(np.flatnonzero(more))))
    found = []
    for source, rows in parts:
        user = number[source.view_user[rows]]
        found.append((user[user >= 0], source.view_time[rows][user >= 0], source.view_item[rows][user >= 0]))
    if not any(len(user) for user, _, _ in found):
        return None
    user, time, item = (torch.cat(columns) for columns in zip(*found))
    return log.of_views(log.items, item, users, user, time, log.clock)


def _chosen_users(log: EventLog, users: float | Iterable[Hashable], seed: int) -> np.ndarray:
    chosen = np.zeros(log.num_users, dtype=bool)
    if isinstance(users, float):
        if not 0 < users < 1:
            raise ValueError(f"users: a fraction lies between 0 and 1, got {users}")
        if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
            raise TypeError(f"seed: expected a whole number from 0 on, got {seed!r}")
        if log.num_users < 2:
            raise ValueError(f"users: a split needs at least two, the log has {log.num_users}")
        size = min(max(round(users * log.num_users), 1), log.num_users - 1)
        chosen[np.random.default_rng(int(seed)).permutation(log.num_users)[:size]] = True
        return chosen
    if isinstance(users, (str, bytes, bool)) or not isinstance(users, Iterable):
        raise TypeError(f"users: expected user ids, or the fraction of users to hold out, got {users!r}")
    chosen[log.users.encode(list(users), "users")] = True
    if chosen.all() or not chosen.any():
        raise ValueError(f"users: holds {'all' if chosen.all() else 'none'} of the log's {log.num_users:,} users")
    return chosen


def _shown(time: int, clock: str) -> str:
    return f"{time:,}" if clock == NUMBER else str(pd.Timestamp(time, unit="ns", tz="UTC" if clock == UTC else None))
