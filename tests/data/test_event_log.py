"""EventLog: what goes in comes out, ordered, numbered, with each decision point stored once."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from blob_pyro import EventLog

VIEWS = pd.DataFrame({"user": ["b", "a", "a", "b", "a"], "time": [1, 5, 1, 2, 3], "item": [7, 9, 7, 8, 8]})
IMPRESSIONS = pd.DataFrame(
    {
        "user": ["a", "a", "b", "c", "a"],
        "time": [2, 4, 3, 0, 4],
        "action": [8, 9, 7, 7, 8],
        "reward": [1, 0, 0, 0, 1],
        "propensity": [0.5, 0.25, 1.0, 0.125, 0.75],
    }
)


def brute_force_contexts(views, impressions):
    """Views of the same user strictly before each impression, one row at a time."""
    order = impressions.assign(row=range(len(impressions))).sort_values(["user", "time", "row"])
    result = []
    for event in order.itertuples():
        seen = views[(views.user == event.user) & (views.time < event.time)].sort_values("time", kind="stable")
        result.append(seen.item.tolist())
    return order, result


def as_dict(frame):
    return {name: frame[name].tolist() for name in frame.columns}


FRAMES = {
    "pandas": lambda f: f,
    "polars": pl.from_pandas,
    "arrow": lambda f: pa.Table.from_pandas(f, preserve_index=False),
    "dict": as_dict,
}


@pytest.mark.parametrize("convert", FRAMES.values(), ids=FRAMES.keys())
def test_every_frame_gives_the_same_log(convert):
    log = EventLog.from_tables(views=convert(VIEWS), impressions=convert(IMPRESSIONS))
    assert log.users.ids == ("a", "b", "c")
    assert log.items.ids == (7, 8, 9)
    order, contexts = brute_force_contexts(VIEWS, IMPRESSIONS)
    assert log.users.decode(log.user) == order.user.tolist()
    assert log.items.decode(log.action) == order.action.tolist()
    assert log.reward.tolist() == order.reward.tolist()
    assert log.propensity.tolist() == order.propensity.tolist()
    found = [log.items.decode(h) for h in log.contexts[log.context].to_sequences()]
    assert found == contexts
    assert len(log.contexts) == 4  # a's two impressions at time 4 share one


def test_random_log_against_brute_force_with_ties():
    rng = np.random.default_rng(5)
    views = pd.DataFrame({"user": rng.integers(0, 9, 200), "time": rng.integers(0, 12, 200)})
    views["item"] = rng.integers(0, 6, 200)
    played = pd.DataFrame({"user": rng.integers(0, 11, 300), "time": rng.integers(0, 12, 300)})
    played["action"], played["reward"] = rng.integers(0, 6, 300), rng.integers(0, 2, 300)
    log = EventLog.from_tables(views, played, num_items=6)
    order, contexts = brute_force_contexts(views, played)
    assert log.contexts[log.context].to_sequences() == contexts
    assert log.action.tolist() == order.action.tolist()
    keys = {(user, len(history)) for user, history in zip(log.user.tolist(), contexts)}
    assert len(log.contexts) == len(keys)  # each once, and each of one user
    by_user = views.sort_values(["user", "time"], kind="stable").groupby("user").item.apply(list)
    assert log.sessions.to_sequences() == by_user.tolist()


def test_nothing_is_lost():
    log = EventLog.from_tables(views=VIEWS, impressions=IMPRESSIONS)
    assert (log.num_views, log.num_impressions, log.num_users) == (5, 5, 3)
    assert int(log.sessions.lengths.sum()) == 5
    assert sorted(log.items.decode(log.view_item)) == sorted(VIEWS.item)


def test_other_column_names_and_optional_columns():
    views = VIEWS.rename(columns={"user": "uid", "time": "seen_at", "item": "sku"})
    played = IMPRESSIONS.rename(columns={"user": "uid", "time": "shown_at", "action": "sku", "reward": "clicked"})
    played["policy"] = ["new", "old", "old", "new", "new"]
    names = {
        "user": "uid",
        "views.time": "seen_at",
        "impressions.time": "shown_at",
        "item": "sku",
        "action": "sku",
        "reward": "clicked",
        "propensity": None,
    }
    log = EventLog.from_tables(views, played, columns=names)
    plain = EventLog.from_tables(VIEWS, IMPRESSIONS)
    assert torch.equal(log.action, plain.action)
    assert log.propensity is None
    assert log.policies.decode(log.policy) == ["new", "old", "new", "old", "new"]


def test_parquet(tmp_path):
    VIEWS.assign(unused="x").to_parquet(tmp_path / "views.parquet")
    IMPRESSIONS.to_parquet(tmp_path / "impressions.parquet")
    log = EventLog.read_parquet(views=tmp_path / "views.parquet", impressions=tmp_path / "impressions.parquet")
    plain = EventLog.from_tables(VIEWS, IMPRESSIONS)
    assert torch.equal(log.context, plain.context)
    assert torch.equal(log.view_item, plain.view_item)


def test_timestamps_order_events():
    clock = pd.Timestamp("2026-01-01")
    views = VIEWS.assign(time=[clock + pd.Timedelta(hours=int(t)) for t in VIEWS.time])
    played = IMPRESSIONS.assign(time=[clock + pd.Timedelta(hours=int(t)) for t in IMPRESSIONS.time])
    log = EventLog.from_tables(views, played)
    assert torch.equal(log.context, EventLog.from_tables(VIEWS, IMPRESSIONS).context)
    with pytest.raises(ValueError, match="use one clock in both"):
        EventLog.from_tables(views, IMPRESSIONS)


def test_a_catalogue_larger_than_the_log():
    log = EventLog.from_tables(VIEWS, items=[10, 9, 8, 7])
    assert log.num_items == 4
    assert log.items.decode(log.view_item[:1]) == [7]


BAD = {
    "missing column": (VIEWS.drop(columns="item"), IMPRESSIONS, {}, "views: missing column 'item'; the table has"),
    "unknown key": (VIEWS, IMPRESSIONS, {"columns": {"sku": "item"}}, "columns: unknown key 'sku'"),
    "required None": (VIEWS, IMPRESSIONS, {"columns": {"reward": None}}, "'reward' cannot be left out"),
    "missing time": (
        VIEWS.assign(time=[1, 2, None, 4, 5]),
        None,
        {},
        "views: column 'time', row 2: a value is missing",
    ),
    "infinite time": (VIEWS.assign(time=[1, np.inf, 2, 3, 4]), None, {}, "'time', row 1: a time must be finite"),
    "text time": (VIEWS.assign(time=list("abcde")), None, {}, "times are numbers or timestamps"),
    "missing user": (VIEWS.assign(user=["a", None, "a", "b", "c"]), None, {}, "column 'user', row 1"),
    "item outside": (
        VIEWS.assign(item=[0, 1, 4, 2, 3]),
        None,
        {"num_items": 4},
        "'item', row 2: not one of the 4 items, got 4",
    ),
    "negative item": (VIEWS.assign(item=[0, 1, 1, 2, -1]), None, {"num_items": 4}, "'item', row 4: .* got -1"),
    "unknown action": (VIEWS, IMPRESSIONS, {"items": [7, 8]}, "'item', row 1: not one of the 2 items, got 9"),
    "text for numbers": (VIEWS.assign(item=list("abcde")), None, {"num_items": 4}, "ids are integers 0..3"),
    "NaN reward": (VIEWS, IMPRESSIONS.assign(reward=[1, 0, np.nan, 0, 1]), {}, "'reward', row 2: a value is missing"),
    "reward 2": (
        VIEWS,
        IMPRESSIONS.assign(reward=[1, 0, 0, 2, 3]),
        {},
        "'reward', row 3: a reward is 0 or 1, got .*2 such",
    ),
    "propensity 0": (
        VIEWS,
        IMPRESSIONS.assign(propensity=[1, 0.5, 0, 1, 1]),
        {},
        "'propensity', row 2: a propensity is a prob",
    ),
    "propensity 1.5": (VIEWS, IMPRESSIONS.assign(propensity=[1, 0.5, 1.5, 1, 1]), {}, "row 2: .* got .*1.5"),
    "propensity NaN": (
        VIEWS,
        IMPRESSIONS.assign(propensity=[1, np.nan, 1, 1, 1]),
        {},
        "'propensity', row 1: a value is missing",
    ),
    "no rows": (VIEWS[:0], None, {}, "the tables have no rows"),
    "no tables": (None, None, {}, "pass views=..., impressions=..., or both"),
    "both catalogues": (VIEWS, None, {"num_items": 9, "items": [1]}, "num_items or items, not both"),
    "mixed ids": (VIEWS.assign(item=list("abcde")), IMPRESSIONS, {}, "ids have different types"),
}


@pytest.mark.parametrize(("views", "impressions", "kwargs", "message"), BAD.values(), ids=BAD.keys())
def test_bad_tables_say_what_where_and_what_to_do(views, impressions, kwargs, message):
    with pytest.raises(ValueError, match=message):
        EventLog.from_tables(views, impressions, **kwargs)


def test_what_is_not_a_table():
    with pytest.raises(TypeError, match="expected a pandas, polars or Arrow table"):
        EventLog.from_tables(views=[1, 2, 3])


OPEN_BANDIT = Path(__file__).parent.parent / "data" / "open_bandit" / "women_bts_first_seven_minutes.csv"


def open_bandit_folder(tmp_path, rename=lambda text: text):
    """The excerpt, laid out as the data set is."""
    folder = tmp_path / "bts" / "women"
    folder.mkdir(parents=True)
    (folder / "women.csv").write_text(rename(OPEN_BANDIT.read_text()))
    (folder / "item_context.csv").write_text("item_id,item_feature_0\n" + "".join(f"{i},0.5\n" for i in range(46)))
    return folder


@pytest.mark.parametrize("propensity", ["propensity_score", "action_prob"])
def test_open_bandit(tmp_path, propensity):
    log = EventLog.read_open_bandit(open_bandit_folder(tmp_path, lambda t: t.replace("propensity_score", propensity)))
    expected = pd.read_csv(OPEN_BANDIT, dtype={"propensity_score": str})  # pandas 2 would not round to nearest
    assert log.num_items == 46
    assert (log.num_impressions, log.num_users, log.num_views) == (len(expected), len(expected), 0)
    assert log.action.tolist() == expected.item_id.tolist()
    assert log.propensity.tolist() == expected.propensity_score.map(float).tolist()
    assert log.position.tolist() == expected.position.tolist()
    assert log.contexts.to_sequences() == [[]] * len(expected)
    with pytest.raises(ValueError, match="has no organic views"):
        log.require_views()


def test_open_bandit_folder_is_checked(tmp_path):
    folder = open_bandit_folder(tmp_path, lambda text: text.replace("click", "clicked"))
    with pytest.raises(ValueError, match=r"women.csv: missing column 'click'; the table has 'timestamp'"):
        EventLog.read_open_bandit(folder)
    with pytest.raises(ValueError, match=r"has no bts.csv; pass <data set>/<policy>/<campaign>"):
        EventLog.read_open_bandit(folder.parent)


# --- what a policy logs beside its actions ---------------------------------------------------------------------------


def test_what_a_policy_logs_is_kept_row_by_row():
    decided = {
        "user": ["bob", "ann", "bob", "ann"], "time": [5, 5, 4, 4], "action": ["tea", "mug", "mug", "tea"],
        "reward": [0, 1, 0, 1], "position": [1, 2, 1, 1], "score": [0.5, None, -2.0, 3.0],
        "propensity": [0.5, 0.25, 1.0, 0.125], "propensity_error": [0.0, None, 0.01, 1e-9],
        "policy": ["b", "a", "b", "a"], "policy_version": ["b2", "a1", "b1", "a1"],
    }  # fmt: skip
    log = EventLog.from_tables(impressions=decided)
    order = [3, 1, 2, 0]  # by user, then time
    for name in ("position", "propensity"):
        assert getattr(log, name).tolist() == [decided[name][row] for row in order]
    for name in ("score", "propensity_error"):
        found = [None if math.isnan(v) else v for v in getattr(log, name).tolist()]
        assert found == [decided[name][row] for row in order]
    assert log.policies.decode(log.policy) == [decided["policy"][row] for row in order]
    assert log.policy_versions.decode(log.policy_version) == [decided["policy_version"][row] for row in order]
    without = EventLog.from_tables(impressions=decided, columns={"policy_version": None, "score": None})
    assert without.policy_version is without.policy_versions is without.score is None


# --- RecoGym's frame ------------------------------------------------------------------------------------------------

NONE = float("nan")
RECOGYM = pd.DataFrame(
    {  # user 0 is organic only; users 1 and 2 end with the impression nobody saw
        "t": [0, 1, 0, 1, 2, 3, 4, 5, 0, 1, 2],
        "u": [0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2],
        "z": ["organic"] * 3 + ["bandit", "bandit", "organic", "bandit", "bandit", "organic", "bandit", "bandit"],
        "v": [2, 2, 1, NONE, NONE, 0, NONE, NONE, 1, NONE, NONE],
        "a": [NONE, NONE, NONE, 0, 2, NONE, 1, 1, NONE, 2, 0],
        "c": [NONE, NONE, NONE, 0, 1, NONE, 0, 0, NONE, 0, 0],
        "ps": [None, None, None, 0.5, 0.25, None, 0.75, 1.0, None, 0.1, 0.2],
        "ps-a": [None] * 3 + [()] * 2 + [None] + [()] * 2 + [None] + [()] * 2,
    }
)


def test_recogym_frame_without_its_extra_rows():
    log = EventLog.from_recogym(RECOGYM, num_items=3)
    assert log.action.tolist() == [0, 2, 1, 2]
    assert log.reward.tolist() == [0, 1, 0, 0]
    assert log.propensity.tolist() == [0.5, 0.25, 0.75, 0.1]
    assert log.contexts[log.context].to_sequences() == [[1], [1], [1, 0], [1]]
    assert log.sessions.to_sequences() == [[2, 2], [1, 0], [1]]
    assert EventLog.from_recogym(RECOGYM, num_items=3, drop_final_rows=False).num_impressions == 6


def test_a_clicked_last_row_is_kept():
    clicked = RECOGYM.assign(c=RECOGYM.c.where(RECOGYM.index != 10, 1))
    assert EventLog.from_recogym(clicked, num_items=3).num_impressions == 5


def test_unsorted_rows_are_sorted_stably():
    shuffled = RECOGYM.sample(frac=1, random_state=3)
    log, plain = EventLog.from_recogym(shuffled, 3), EventLog.from_recogym(RECOGYM, 3)
    assert torch.equal(log.action, plain.action)
    assert log.contexts.to_sequences() == plain.contexts.to_sequences()
    same_time = EventLog.from_recogym(RECOGYM.assign(t=0), 3)
    assert same_time.contexts.to_sequences() == plain.contexts.to_sequences()


BAD_FRAMES = {
    "column": (RECOGYM.drop(columns="ps"), "frame: missing column 'ps'"),
    "kind": (RECOGYM.assign(z=RECOGYM.z.where(RECOGYM.index != 4, "buy")), "'z', row 4: an event is .*got 'buy'"),
    "view": (RECOGYM.assign(v=RECOGYM.v.where(RECOGYM.index != 5)), "'v', row 5: a value is missing"),
    "view outside": (
        RECOGYM.assign(v=RECOGYM.v.where(RECOGYM.index != 5, 3)),
        "'v', row 5: .*0..2, got 3.0. Pass num_items=4",
    ),
    "action": (RECOGYM.assign(a=RECOGYM.a.where(RECOGYM.index != 4, 7)), "'a', row 4: .*0..2, got 7"),
    "click": (RECOGYM.assign(c=RECOGYM.c.where(RECOGYM.index != 3)), "'c', row 3: a value is missing"),
    "reward": (RECOGYM.assign(c=RECOGYM.c.where(RECOGYM.index != 3, 5)), "'c', row 3: a reward is 0 or 1"),
    "propensity": (RECOGYM.assign(ps=RECOGYM.ps.where(RECOGYM.index != 6, 0)), "'ps', row 6: a propensity"),
    "empty": (RECOGYM[:0], "frame: the log has no rows"),
}


@pytest.mark.parametrize(("frame", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_bad_recogym_frames(frame, message):
    with pytest.raises(ValueError, match=message):
        EventLog.from_recogym(frame, num_items=3)
