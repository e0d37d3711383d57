"""Yesterday's views count today: however a log is cut into days, contexts are those of the whole."""

import itertools
import uuid

import pandas as pd
import pyarrow as pa
import pytest

from blob_pyro import EventLog
from blob_pyro.data import ViewHistory
from tests.data.test_log_parts import rows, tables


def days(borders=(0, 20, 45, 100)):
    views, impressions = tables()
    for low, high in itertools.pairwise(borders):
        yield (
            views[views["time"].between(low, high - 1)].reset_index(drop=True),
            impressions[impressions["time"].between(low, high - 1)].reset_index(drop=True),
        )


def test_day_by_day_as_all_at_once(tmp_path):
    whole = EventLog.from_tables(*tables(), num_items=5)
    history, found = None, []
    for views, impressions in days():
        log = EventLog.from_tables(views, impressions, num_items=5, history=history)
        assert log.num_views == len(views)
        assert impressions["propensity"].tolist() == log.propensity[log.row.argsort()].tolist()
        found += rows(log)
        history = ViewHistory(log) if history is None else history.append(log)
        history.save(tmp_path / "history.parquet")
        history = ViewHistory.load(tmp_path / "history.parquet")
    assert sorted(found) == rows(whole)
    assert history.num_views == whole.num_views
    users = [*whole.users.ids, "nobody"]
    expected = dict(zip(whole.users.decode(whole.session_user), whole.sessions.to_sequences()))
    assert history.histories(users, whole.items).to_sequences() == [expected.get(user, []) for user in users]


def test_what_is_appended_twice_counts_once():
    monday, tuesday = (EventLog.from_tables(*tables_, num_items=5) for tables_ in list(days())[:2])
    history = ViewHistory(monday)
    assert history.append(monday).num_views == history.num_views
    views, impressions = list(days())[1]
    again = EventLog.from_tables(views, impressions, num_items=5, history=history.append(tuesday))
    assert rows(again) == rows(EventLog.from_tables(views, impressions, num_items=5, history=history))


def test_the_catalogue_holds_what_was_viewed_before():
    history = ViewHistory(EventLog.from_tables(views={"user": ["a"], "time": [0], "item": ["old"]}))
    impressions = {"user": ["a", "b"], "time": [1, 1], "action": ["new", "new"], "reward": [0, 1]}
    log = EventLog.from_tables(impressions=impressions, history=history)
    assert set(log.items.ids) == {"new", "old"}
    assert [log.items.decode(h) for h in log.contexts.to_sequences()] == [["old"], []]
    with pytest.raises(ValueError, match=r"items: must hold all items of history.*old"):
        EventLog.from_tables(impressions=impressions, history=history, items=["new"])


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
def test_clocks_stay_apart(zone, tmp_path):
    when = pd.to_datetime(["2026-01-01 10:00"]).tz_localize(zone)
    history = ViewHistory(EventLog.from_tables(views={"user": ["a"], "time": when, "item": ["x"]}))
    history.save(tmp_path / "h")
    back = ViewHistory.load(tmp_path / "h")
    later = {"user": ["a"], "time": when + pd.Timedelta("1h"), "action": ["x"], "reward": [1]}
    assert EventLog.from_tables(impressions=later, history=back).contexts.to_sequences() == [[0]]
    with pytest.raises(ValueError, match="clock"):
        EventLog.from_tables(impressions={**later, "time": [3]}, history=back)


def test_ids_that_parquet_has_no_type_for(tmp_path):
    views = {"user": [uuid.UUID(int=1)], "time": [0], "item": ["x"]}
    with pytest.raises(TypeError, match="user: Parquet has no type for ids that are UUID"):
        ViewHistory(EventLog.from_tables(views=views)).save(tmp_path / "h")
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    pa.parquet.write_table(pa.table({"user": [1]}), tmp_path / "other")
    with pytest.raises(ValueError, match="was not written by"):
        ViewHistory.load(tmp_path / "other")
    (tmp_path / "text").write_text("no")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        ViewHistory.load(tmp_path / "text")


def test_bad_arguments():
    impressions = {"user": ["a"], "time": [1], "action": ["x"], "reward": [1]}
    with pytest.raises(ValueError, match="log: has no views"):
        ViewHistory(EventLog.from_tables(impressions=impressions))
    with pytest.raises(TypeError, match="log: expected an EventLog"):
        ViewHistory(3)
    with pytest.raises(TypeError, match="history: expected a ViewHistory"):
        EventLog.from_tables(impressions=impressions, history=[])
