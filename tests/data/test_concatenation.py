"""Several logs as one: whatever a log is split by, its parts together are the log again."""

import dataclasses
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from blob_pyro import EventLog
from blob_pyro.data import LogWarning
from blob_pyro.policies import SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym
from tests.data.log_oracles import check_log
from tests.data.logs_to_join import read, same, small, tables

ENVIRONMENT = RecoGym(num_items=8, num_flips=4, seed=0)


BY = {
    "users": lambda frame: frame["user"].map(hash_of) % 3,
    "time": lambda frame: (frame["time"] >= 40).astype(int) + (frame["time"] >= 90),
    "interleaved times": lambda frame: frame["time"] % 3,
    "kind": lambda frame: pd.Series(0 if "item" in frame else 1, index=frame.index),
}


def hash_of(user):
    return sum(map(ord, str(user)))


@pytest.mark.parametrize("id_", [str, int], ids=["text", "integers"])
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("seed", range(3))
def test_the_parts_of_a_log_are_the_log(by, seed, id_):
    views, impressions = tables(12, 120, seed, id_)
    items = sorted({*views["item"], *impressions["action"]})
    whole = read(views, impressions, items=items)
    parts = []
    for number in range(3):
        some, others = views[BY[by](views) == number], impressions[BY[by](impressions) == number]
        if len(some) + len(others):
            some, others = (frame.reset_index(drop=True) if len(frame) else None for frame in (some, others))
            parts.append(read(some, others, items=items))
    same(EventLog.concat(parts), whole)
    same(EventLog.concat([EventLog.concat(parts[:2]), *parts[2:]]), whole)
    rows = [tuple(row) for row in views[["user", "time", "item"]].itertuples(index=False)]
    shown = [tuple(row) for row in impressions[["user", "time", "action", "reward"]].itertuples(index=False)]
    check_log(EventLog.concat(parts[::-1]), rows, shown)  # whatever their order: no two rows are at one time


@pytest.mark.parametrize("seed", range(3))
def test_views_and_impressions_at_one_time_come_as_from_two_tables(seed):
    views, impressions = tables(6, 150, seed, ties=True)
    whole = read(views, impressions)
    parts = [read(views, None), read(None, impressions)]
    same(EventLog.concat(parts), whole)
    same(EventLog.concat(parts[::-1]), whole)
    same(EventLog.concat([whole]), whole)


def test_the_order_that_a_log_has_at_one_time_is_kept():
    row = {"u": 0, "t": 0, "v": np.nan, "a": np.nan, "c": np.nan, "ps": np.nan}
    rows = [{**row, "z": "organic", "v": 1}, {**row, "z": "bandit", "a": 2, "c": 0, "ps": 0.5}]
    rows += [{**row, "z": "organic", "v": 3}, {**row, "z": "bandit", "a": 4, "c": 1, "ps": 0.5}]
    log = EventLog.from_recogym(pd.DataFrame(rows), num_items=5)  # all at time 0
    other = EventLog.from_recogym(pd.DataFrame([{**row, "u": 1, "t": 7, "z": "organic", "v": 0}]), num_items=5)
    assert log.contexts.to_sequences() == [[1], [1, 3]]
    for both in (EventLog.concat([log, other]), EventLog.concat([other, log])):
        assert both.contexts.to_sequences() == [[1], [1, 3]]
        assert both.action.tolist() == [2, 4]


def test_a_simulation_goes_on_with_fresh_users():
    policy = SessionPopularity(8)
    whole = ENVIRONMENT.simulate(policy, num_users=60, num_organic_users=10)
    first = ENVIRONMENT.simulate(policy, num_users=25, num_organic_users=10)
    second = ENVIRONMENT.simulate(policy, num_users=35, first_user=35)
    assert min(second.users.ids) == 35 == max(first.users.ids) + 1
    same(EventLog.concat([first, second]), whole)


def test_draws_of_a_policy_are_fresh_in_every_range_of_users():
    class Noisy(Uniform):
        def action_distribution(self, histories):
            return Noise((len(self.histories(histories)),))

    class Noise(torch.distributions.Distribution):
        arg_constraints: ClassVar[dict] = {}

        def sample(self, sample_shape=()):
            drawn.append(torch.rand(()))
            return torch.zeros(*sample_shape, *self.batch_shape, dtype=torch.int64)

    firsts = []
    for first_user in (0, 5):
        drawn = []
        ENVIRONMENT.simulate(Noisy(8), num_users=5, first_user=first_user, propensities=False)
        firsts.append(drawn[0])
    assert firsts[0] != firsts[1]


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (-1, ValueError, "first_user: must be between 0 and"),
        (1.5, TypeError, "first_user: expected a whole number"),
        (2**40, ValueError, "first_user: there are 1099511627776 users"),
    ],
)
def test_first_user_is_checked(value, error, match):
    with pytest.raises(error, match=match):
        ENVIRONMENT.simulate(num_users=1, first_user=value)


@pytest.mark.parametrize("seed", [0, 1], ids=["the same users", "others of the same numbers"])
def test_simulated_users_that_overlap_are_not_taken_for_one(seed):
    logs = [ENVIRONMENT.simulate(num_users=20), ENVIRONMENT.simulate(SessionPopularity(8), num_users=20, seed=seed)]
    with pytest.raises(ValueError, match=r"logs\[1\]: .* in an earlier log too.*first_user"):
        EventLog.concat(logs)
    with pytest.warns(LogWarning, match="1[79] users have impressions at the same time in two logs"):
        EventLog.concat(logs, duplicates="keep")


def days(*days, zone=None):
    return [pd.Timestamp(2024, 1, day, tz=zone) for day in days]


def viewed(user, time, item):
    return EventLog.from_tables(views={"user": user, "time": time, "item": item})


SECONDS = viewed(["a", "b"], [1_700_000_000, 1_700_000_009], [0, 1])


MILLISECONDS = viewed(["a", "c"], [1_700_000_500_000, 1_700_000_600_000], [0, 1])


STAMPS = small("bob", days(1, 2))


HALVES = {"propensity": [0.5, 0.5]}


REFUSED = {
    "no logs": ([], "logs: there are none"),
    "numbers and timestamps": (
        [small(), STAMPS],
        r"logs\[1\]: its clock is 'timestamp', and that of logs\[0\] is 'number'",
    ),
    "zone and none": ([small("ann", days(1, 2, zone="UTC")), STAMPS], r"logs\[1\]: its clock is 'timestamp'"),
    "seconds and milliseconds": (
        [SECONDS, MILLISECONDS],
        r"logs\[1\]: its times are numbers that look like milliseconds since 1970, and those of logs\[0\] like seconds",
    ),
    "fractions beside large integers": (
        [small(time=(1.5, 2.5)), small("bob", time=(2**53 + 1, 2**53 + 2))],
        r"logs\[1\]: has integer times beyond 2\*\*53",
    ),
    "ids of two types": ([small(), viewed([1], [1], ["tea"])], r"logs\[0\]\.users .* in logs\[1\]\.users"),
    "items of two types": ([small(), viewed(["a"], [1], [3])], r"in logs\[1\]\.items"),
    "propensities of one": (
        [small(**HALVES), small("bob")],
        r"logs\[1\]: has no propensity, and logs\[0\] has; .*dataclasses.replace\(log, propensity=None\)",
    ),
    "policies of one": ([small("bob"), small(policy=["a", "b"])], r"logs\[0\]: has no policy, and logs\[1\]"),
    "covariates of one": ([small(x_hour=[1, 2]), small("bob")], r"logs\[1\]: has no covariate 'x_hour'"),
    "covariates of two kinds": (
        [small(x_hour=[1, 2]), small("bob", x_hour=["1", "2"])],
        r"logs\[1\]: covariate 'x_hour' holds categories, and numbers in logs\[0\]",
    ),
    "an overlap": ([small(), small()], r"logs\[1\]: 2 of its and later logs' impressions .* in logs\[0\], at time 1"),
    "an overlap of views": (
        [small(), small(time=(8, 9))],
        r"logs\[1\]: 1 of its and later logs' views are in an earlier log too",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(case):
    logs, match = REFUSED[case]
    with pytest.raises(ValueError, match=match):
        EventLog.concat(logs)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match=r"logs\[1\]: expected an EventLog, got str"):
        EventLog.concat([small(), "log"])
    with pytest.raises(ValueError, match="duplicates: expected one of 'refuse', 'drop', 'keep', got 'first'"):
        EventLog.concat([small()], duplicates="first")
    with pytest.raises(ValueError, match=r"items: must hold all items of logs\[0\]: .*'mug'"):
        EventLog.concat([small()], items=["tea"])


def test_catalogues_are_aligned_by_id():
    old, new = small(item=("tea", "mug")), small("bob", item=("cup", "tea"))
    both = EventLog.concat([old, new])
    assert both.items.ids == ("cup", "mug", "tea")
    assert both.items.decode(both.action) == ["tea", "mug", "cup", "tea"]
    wide = EventLog.concat([old, new], items=["tea", "cup", "bowl", "mug"])
    assert wide.items.ids == ("tea", "cup", "bowl", "mug")
    assert wide.items.decode(wide.action) == ["tea", "mug", "cup", "tea"]
    larger = EventLog.from_tables(views={"user": ["c"], "time": [3], "item": ["mug"]}, items=["tea", "mug", "jar"])
    assert EventLog.concat([old, larger]).items.ids == ("tea", "mug", "jar")  # its order, which a model may know
    grown = [RecoGym(num_items=n, seed=0).simulate(num_users=5, first_user=100 * n) for n in (4, 6)]
    assert EventLog.concat(grown).items.is_numbered


def test_categories_are_matched_by_name():
    both = EventLog.concat([small(x_device=["tv", "phone"]), small("bob", x_device=["phone", "car"])])
    assert both.covariates["x_device"].levels == ("car", "phone", "tv")
    assert both.covariates["x_device"].categories() == ["tv", "phone", "phone", "car"]


def test_integers_and_fractions_are_one_clock():
    both = EventLog.concat([small(), small("bob", time=(1.5, 2.5))])
    assert both.time.tolist() == [1.0, 2.0, 1.5, 2.5]


def test_a_log_of_some_users_can_be_added_to():
    from blob_pyro.ope.folds import only_users

    log = ENVIRONMENT.simulate(num_users=30)
    keep = torch.arange(30) % 2 == 0
    parts = [only_users(log, keep), only_users(log, ~keep)]
    same(EventLog.concat(parts), log)
    assert EventLog.concat(parts[:1]).num_users == 15
    bare = dataclasses.replace(parts[0], propensity=None)
    assert EventLog.concat([bare]).propensity is None
