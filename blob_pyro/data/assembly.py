"""Checked rows become a log: rows in order, and what each user had viewed before each impression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data.histories import Histories
from blob_pyro.data.log_warnings import warn_of_ranges, warn_of_unseen_views
from blob_pyro.data.readers import Rows

__all__ = ["assemble", "stable_order"]


def assemble(rows: Rows, of_views: Callable[..., Any], warn: bool) -> dict[str, Any]:
    """Put the rows in order and find what each impression's user had viewed before it: no loop over users or rows.

    Args:
        rows: checked, in any order.
        of_views: makes the log of those that are only remembered: `EventLog.of_views`.
        warn: whether to say what looks odd, to the caller's caller's caller.

    Returns:
        The fields of an `EventLog`.
    """
    order = stable_order(rows.user, rows.time, rows.tick)
    user, is_view = rows.user[order], rows.is_view[order]
    count = np.int32 if len(order) < 2**31 else np.int64
    views_so_far = np.cumsum(is_view, dtype=count)  # after each row, over all users
    first_row = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]]))
    views_before_user = np.zeros(len(rows.users), dtype=np.int64)
    views_before_user[user[first_row]] = views_so_far[first_row] - is_view[first_row]

    view_rows = order[is_view]
    impression_rows = order[~is_view]
    impression = impression_rows  # into the impression-only columns
    if rows.is_view[: len(impression_rows)].any():  # they do not come first
        impression = (np.cumsum(~rows.is_view) - 1)[impression_rows]
    impression_user = user[~is_view]
    starts = views_before_user[impression_user]
    lengths = views_so_far[~is_view] - starts
    new = np.ones(len(impression_user), dtype=bool)
    new[1:] = (impression_user[1:] != impression_user[:-1]) | (lengths[1:] != lengths[:-1])
    view_user = rows.user[view_rows]
    seen_item = view_item = _tensor(rows.item[view_rows])
    views_per_user = np.bincount(view_user, minlength=len(rows.users))
    num_items = len(rows.items)
    view_time, time = rows.time[view_rows], rows.time[impression_rows]
    if warn and not (rows.two_tables and warn_of_ranges(view_time, time, rows.clock, stacklevel=4)):
        warn_of_unseen_views(views_per_user, impression_user, lengths, stacklevel=4)
    earlier = None
    if rows.earlier is not None:
        now = ~rows.earlier[view_rows]
        if not now.all():
            past = [_tensor(column[view_rows[~now]]) for column in (rows.item, rows.user, rows.time)]
            earlier = of_views(rows.items, past[0], rows.users, past[1], past[2], rows.clock)
        view_user, view_time, view_item = view_user[now], view_time[now], seen_item[_tensor(now)]
        views_per_user = np.bincount(view_user, minlength=len(rows.users))
    viewers = np.flatnonzero(views_per_user)

    def pick(column: np.ndarray | None) -> Tensor | None:
        return None if column is None else _tensor(column[impression])

    return {
        "items": rows.items,
        "users": rows.users,
        "view_user": _tensor(view_user),
        "view_time": _tensor(view_time),
        "view_item": view_item,
        "user": _tensor(impression_user),
        "time": _tensor(time),
        "action": _tensor(rows.item[impression_rows]),
        "reward": _tensor(rows.reward[impression]),
        "propensity": pick(rows.propensity),
        "position": pick(rows.position),
        "policy": pick(rows.policy),
        "policies": rows.policies,
        "covariates": {name: covariate[_tensor(impression)] for name, covariate in rows.covariates.items()},
        "context": _tensor(np.cumsum(new) - 1),
        "contexts": Histories(seen_item, _tensor(starts[new]), _tensor(lengths[new].astype(np.int64)), num_items),
        "sessions": Histories.from_ragged(view_item, _tensor(views_per_user[viewers]), num_items),
        "clock": rows.clock,
        "propensity_error": pick(rows.propensity_error),
        "score": pick(rows.score),
        "policy_version": pick(rows.policy_version),
        "policy_versions": rows.policy_versions,
        "earlier": earlier,
        "row": pick(rows.row),
    }


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def stable_order(user: np.ndarray, time: np.ndarray, tick: int) -> np.ndarray:
    """Find the order of rows by user, then time, then row: one sort on a combined key where the times are integers.

    Args:
        user: numbers, ``N``.
        time: likewise.
        tick: divides every time, so that seconds, kept as nanoseconds, still fit the key.
    """
    if time.dtype.kind in "iu" and time.size:
        low, high = int(time.min()), int(time.max())
        span = (high - low) // tick + 1
        if (int(user.max()) + 1) * span < 2**63 and high - low < 2**63:
            since = time - low
            key = user.astype(np.int64, copy=False) * span
            return np.argsort(key + (since if tick == 1 else since // tick), kind="stable")
    return np.lexsort((time, user))
