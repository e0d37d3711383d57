"""What a log means, slowly and obviously: one row at a time, in plain Python."""

import math
from datetime import datetime, timedelta

import numpy as np
import pandas as pd


def plain_id(value):
    """The id that a cell stands for: NumPy's scalars are Python's, a whole float is its integer."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) else value


def plain_time(value):
    """Nanoseconds since 1970 of a timestamp or date, or the number itself."""
    if isinstance(value, (bool, int, float, np.integer, np.floating)):
        return value.item() if isinstance(value, np.generic) else value
    return pd.Timestamp(value).as_unit("ns").value


def check_log(log, views, impressions):
    """A log holds these rows, in this order, with these contexts.

    Args:
        log: an `EventLog`.
        views: rows (user, time, item): plain ids, and comparable times.
        impressions: rows (user, time, action, reward).
    """
    users, items = {u: n for n, u in enumerate(log.users.ids)}, {i: n for n, i in enumerate(log.items.ids)}
    assert len(users) == log.num_users
    assert set(users) == {row[0] for row in [*views, *impressions]}
    assert {_kind(u) for u in users} == {_kind(row[0]) for row in [*views, *impressions]}
    views = sorted(views, key=lambda row: (users[row[0]], row[1]))  # stable: the order of the table breaks ties
    impressions = sorted(impressions, key=lambda row: (users[row[0]], row[1]))
    assert log.view_user.tolist() == [users[row[0]] for row in views]
    assert log.view_time.tolist() == [row[1] for row in views]
    assert log.view_item.tolist() == [items[row[2]] for row in views]
    assert log.user.tolist() == [users[row[0]] for row in impressions]
    assert log.time.tolist() == [row[1] for row in impressions]
    assert log.action.tolist() == [items[row[2]] for row in impressions]
    assert log.reward.tolist() == [row[3] for row in impressions]
    seen = [[items[v[2]] for v in views if v[0] == row[0] and v[1] < row[1]] for row in impressions]
    assert log.contexts[log.context].to_sequences() == seen
    assert len(log.contexts) == len({(row[0], len(history)) for row, history in zip(impressions, seen)})
    sessions = [[items[v[2]] for v in views if users[v[0]] == n] for n in range(len(users))]
    assert log.sessions.to_sequences() == [session for session in sessions if session]


def _kind(id_):
    pandas_makes_its_own = (datetime, timedelta)
    return next((kind for kind in pandas_makes_its_own if isinstance(id_, kind)), type(id_))


def is_nan(value):
    """NaN of any kind."""
    return isinstance(value, (float, np.floating)) and math.isnan(value)
