"""Rows that two logs have are one event, two, or a contradiction."""

import pytest

from blob_pyro import EventLog
from blob_pyro.data import LogWarning
from tests.data.logs_to_join import read, same, small, tables


@pytest.mark.parametrize("gap", [0, 5], ids=["half", "a third"])
def test_exports_that_overlap_are_counted_once(gap):
    views, impressions = tables(9, 150, seed=1)
    whole = read(views, impressions)
    parts = []
    for low, high in ((0, 80 - gap), (50, 150)):
        some = [
            frame[(frame["time"] >= low) & (frame["time"] < high)].reset_index(drop=True)
            for frame in (views, impressions)
        ]
        parts.append(read(*some, items=whole.items.ids))
    with pytest.raises(ValueError, match="in an earlier log too"):
        EventLog.concat(parts)
    same(EventLog.concat(parts, duplicates="drop"), whole)
    with pytest.warns(LogWarning, match="at the same time in two logs"):
        kept = EventLog.concat(parts, duplicates="keep")
    assert kept.num_impressions == sum(part.num_impressions for part in parts) > whole.num_impressions


@pytest.mark.parametrize("change", [{"reward": [0, 1]}, {"propensity": [0.4, 0.5]}], ids=["rewards", "propensities"])
def test_duplicates_that_contradict_each_other_are_refused(change):
    logs = [small(propensity=[0.5, 0.5]), small(**{"propensity": [0.5, 0.5], **change})]
    with pytest.raises(ValueError, match=r"logs\[1\]: has another number, reward or propensity .* at time 1"):
        EventLog.concat(logs, duplicates="drop")


def test_rows_that_one_log_has_twice_are_two():
    twice = small(time=(1, 1), item=("tea", "tea"))
    assert EventLog.concat([twice, small("bob")]).num_impressions == 4
