"""A shard of a log: the events of some of its users, which know the whole that they are a part of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data.log_parts import part

if TYPE_CHECKING:
    from blob_pyro.data.event_log import EventLog

__all__ = ["Shard", "WholeLog", "check_shard", "shard"]


@dataclass(frozen=True)
class WholeLog:
    """A log as its shards know it: counts, and a fingerprint.

    Attributes:
        num_users, num_views, num_sessions, num_impressions, num_rewarded: its counts.
        num_shown: how many items were ever shown.
        positions: the distinct positions of its impressions, or None.
        fingerprint: of all its events, SHA-256, 64 hexadecimal digits: equal where two machines have read one log.
    """

    num_users: int
    num_views: int
    num_sessions: int
    num_impressions: int
    num_rewarded: int
    num_shown: int
    positions: Tensor | None
    fingerprint: str


@dataclass(frozen=True)
class Shard:
    """The place of a shard in its log: ``log.shard(rank, world).part_of``.

    Attributes:
        rank: its number, ``0 .. world - 1``.
        world: how many there are.
        users: the numbers that its users have in the whole log.
        sessions: rows of the whole log's ``sessions``.
        impressions: rows of the whole log's impressions, ``N``.
        whole: what it knows of the whole log.
    """

    rank: int
    world: int
    users: Tensor
    sessions: Tensor
    impressions: Tensor
    whole: WholeLog


def shard(log: EventLog, rank: int, world: int) -> EventLog:
    """Pick the events of every ``world``-th user, from user ``rank`` on: see `EventLog.shard`."""
    rank, world = check_shard(log, rank, world)
    impressions, views = log.user % world == rank, log.view_user % world == rank
    whole = WholeLog(
        num_users=log.num_users,
        num_views=log.num_views,
        num_sessions=len(log.sessions),
        num_impressions=log.num_impressions,
        num_rewarded=int(log.reward.sum()),
        num_shown=len(torch.unique(log.action)),
        positions=None if log.position is None else log.position.unique(),
        fingerprint=fingerprint(log),
    )
    found = Shard(
        rank,
        world,
        users=torch.arange(rank, log.num_users, world),
        sessions=(log.session_user % world == rank).nonzero().squeeze(-1),
        impressions=impressions.nonzero().squeeze(-1),
        whole=whole,
    )
    return part(log, impressions.numpy(), views.numpy(), part_of=found)


def check_shard(log: EventLog, rank: int, world: int) -> tuple[int, int]:
    """Return ``rank`` and ``world`` as ints, if the log has such a shard; nothing is read of its events.

    Raises:
        TypeError: for what is no whole number.
        ValueError: see `EventLog.shard`.
    """
    for name, value in (("rank", rank), ("world", world)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name}: expected a whole number, got {value!r} (a {type(value).__name__})")
    rank, world = int(rank), int(world)
    if world < 1:
        raise ValueError(f"world: the number of workers is at least 1, got {world}")
    if not 0 <= rank < world:
        raise ValueError(f"rank: workers are numbered 0 to world - 1 = {world - 1}, got {rank}")
    if (before := log.part_of) is not None:
        raise ValueError(f"shard: this log is shard {before.rank} of {before.world} already; take it of the whole")
    if world > log.num_users:
        raise ValueError(
            f"world: {world:,} shards of {log.num_users:,} users leave worker {log.num_users} and those after it "
            f"without an event; use {log.num_users:,} workers at most"
        )
    return rank, world


def fingerprint(log: EventLog) -> str:
    """Hash a log: its ids, and all that models are fitted to; SHA-256, 64 hexadecimal digits."""
    from blob_pyro.ops.fingerprints import content_hash  # below in the order of imports

    covariates = {name: [covariate.values, repr(covariate.levels)] for name, covariate in log.covariates.items()}
    return content_hash(
        {
            "items": _hash_of_ids(log.items.ids),
            "users": _hash_of_ids(log.users.ids),
            "views": [log.view_user, log.view_time, log.view_item],
            "impressions": [log.user, log.time, log.action, log.reward, log.context, log.position],
            "contexts": log.contexts,
            "covariates": covariates,
        }
    )


def _hash_of_ids(ids: object) -> str:
    """Of ids of any type, as they are written."""
    if isinstance(ids, range):
        return repr(ids)
    digest = hashlib.sha256()
    for id_ in ids:  # type: ignore[attr-defined]
        digest.update(repr(id_).encode() + b"\n")
    return digest.hexdigest()
