"""Parts of a log: held-out events know what was known before them, whatever the log is split by."""

import numpy as np
import pandas as pd
import pytest
import torch

from blob_pyro import EventLog


def tables(num_users=7, num_rows=200, seed=0, stamp=False):
    random = np.random.default_rng(seed)
    time = random.integers(0, 60, num_rows)
    frame = pd.DataFrame(
        {
            "user": [f"u{n}" for n in random.integers(0, num_users, num_rows)],
            "time": pd.to_datetime(time, unit="h") if stamp else time,
            "item": random.integers(0, 5, num_rows),
        }
    )
    is_view = random.random(num_rows) < 0.6
    impressions = frame[~is_view].rename(columns={"item": "action"}).reset_index(drop=True)
    impressions["reward"] = random.integers(0, 2, len(impressions))
    impressions["propensity"] = random.uniform(0.1, 1, len(impressions))
    return frame[is_view].reset_index(drop=True), impressions


def rows(log):
    """Every impression, by id, with the whole of its history."""
    histories = log.contexts.to_sequences()
    return sorted(
        (user, time, action, reward, round(propensity, 12), tuple(log.items.decode(histories[context])))
        for user, time, action, reward, propensity, context in zip(
            log.users.decode(log.user), log.time.tolist(), log.items.decode(log.action), log.reward.tolist(),
            log.propensity.tolist(), log.context.tolist(),
        )
    )  # fmt: skip


@pytest.mark.parametrize("stamp", [False, True])
def test_by_time_every_impression_keeps_its_history(stamp):
    log = EventLog.from_tables(*tables(stamp=stamp), num_items=5)
    at = pd.Timestamp("1970-01-02 06:00") if stamp else 30
    border = at.value if stamp else at
    train, held_out = log.split(time=at)
    assert sorted(rows(train) + rows(held_out)) == rows(log)
    assert train.num_views + held_out.num_views == log.num_views
    assert int(train.time.max()) < border <= int(held_out.time.min())
    assert int(train.view_time.max()) < border <= int(held_out.view_time.min())
    assert held_out.sessions.num_views == held_out.num_views


def test_the_parts_are_the_log_again():
    log = EventLog.from_tables(*tables(), num_items=5)
    parts = log.split(time=30)
    again = EventLog.concat(parts)
    assert rows(again) == rows(log)
    assert again.num_views == log.num_views
    assert again.earlier is None
    assert torch.equal(again.sessions.views, log.sessions.views)


def test_a_part_alone_keeps_what_it_remembers_when_it_is_put_beside_others():
    log = EventLog.from_tables(*tables(), num_items=5)
    first, rest = log.split(time=20)
    second, third = rest.split(time=40)
    both = EventLog.concat([second, third])
    assert rows(both) == rows(rest)
    assert both.num_views == rest.num_views
    assert both.earlier.num_views == rest.earlier.num_views
    assert rows(EventLog.concat([first, third])) == sorted(rows(first) + rows(third))


def test_by_users_nobody_is_in_both():
    log = EventLog.from_tables(*tables(), num_items=5)
    train, held_out = log.split(users=["u1", "u4"])
    assert sorted(held_out.users.ids) == ["u1", "u4"]
    assert not {"u1", "u4"} & set(train.users.ids)
    assert sorted(rows(train) + rows(held_out)) == rows(log)
    assert held_out.earlier is None
    drawn = log.split(users=0.3, seed=1)[1]
    assert drawn.num_users == round(0.3 * log.num_users)
    assert drawn.users.ids == log.split(users=0.3, seed=1)[1].users.ids


def test_rows_of_the_users_own_table():
    views, impressions = tables()
    log = EventLog.from_tables(views, impressions, num_items=5)
    mine = impressions.iloc[log.row.numpy()]
    assert mine["propensity"].tolist() == log.propensity.tolist()
    assert mine["user"].tolist() == log.users.decode(log.user)
    held_out = log.split(time=30)[1]
    assert impressions["propensity"].to_numpy()[held_out.row] == pytest.approx(held_out.propensity.numpy())
    assert torch.equal(log.context_user[log.context], log.user)
    per_user = {log.users.decode([u])[0]: s for u, s in zip(log.session_user.tolist(), log.sessions.to_sequences())}
    expected = views.sort_values("time", kind="stable").groupby("user")["item"].agg(list).to_dict()
    assert per_user == expected


def test_a_larger_catalogue():
    log = EventLog.from_tables(*tables(), num_items=5)
    wide = log.with_items([9, 4, 3, 2, 1, 0])
    assert wide.items.decode(wide.action) == log.items.decode(log.action)
    assert rows(wide) == rows(log)
    with pytest.raises(ValueError, match="items: must hold all items"):
        log.with_items([0, 1])


BAD = {
    "neither": ({}, TypeError, "either time=... or users=..."),
    "both": ({"time": 3, "users": 0.1}, TypeError, "either time=... or users=..."),
    "all later": ({"time": -1}, ValueError, "time: all events are on one side of -1; they lie between 0 and"),
    "all earlier": ({"time": 1e6}, ValueError, "on one side"),
    "text": ({"time": "1970-01-01"}, TypeError, "the log's times are numbers"),
    "a stranger": ({"users": ["u1", "nobody"]}, ValueError, "users.*nobody"),
    "everybody": ({"users": [f"u{n}" for n in range(7)]}, ValueError, "users: holds all of"),
    "a name": ({"users": "u1"}, TypeError, "users: expected user ids"),
    "a large fraction": ({"users": 1.5}, ValueError, "a fraction lies between 0 and 1"),
    "a fractional seed": ({"users": 0.5, "seed": 0.5}, TypeError, "seed"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_split(name):
    arguments, kind, message = BAD[name]
    log = EventLog.from_tables(*tables(), num_items=5)
    with pytest.raises(kind, match=message):
        log.split(**arguments)


@pytest.mark.parametrize("time", [30, "not a time", pd.Timestamp("1970-01-02", tz="UTC"), pd.NaT])
def test_times_on_another_clock(time):
    log = EventLog.from_tables(*tables(stamp=True), num_items=5)
    with pytest.raises(ValueError, match="time: "):
        log.split(time=time)
