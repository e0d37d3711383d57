"""Logs that are legal and probably not what was meant: warned of at their thresholds, and not before."""

import warnings

import numpy as np
import pytest

from blob_pyro.data.clock import NUMBER
from blob_pyro.data.log_warnings import LogWarning, warn_of_ranges, warn_of_unseen_views


@pytest.mark.parametrize(("views", "impressions", "relation"), [(0, 100, "precedes"), (100, 0, "follows")])
def test_ranges_that_do_not_overlap(views, impressions, relation):
    steps = np.arange(10)
    with pytest.warns(LogWarning, match=f"log: every view {relation} every impression") as caught:
        assert warn_of_ranges(views + steps, impressions + steps, NUMBER, stacklevel=1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("views", "impressions"),
    [(np.arange(10), 5 + np.arange(10)), (np.arange(10), 9 + np.arange(10)), (np.arange(9), 100 + np.arange(9))],
    ids=["they overlap", "they touch", "too few rows to tell"],
)
def test_ranges_that_say_nothing(views, impressions):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_of_ranges(views, impressions, NUMBER, stacklevel=1)


def test_two_rows_tell_seconds_from_milliseconds():
    seconds = np.array([1_700_000_000, 1_700_000_100])
    with pytest.warns(LogWarning, match="The units may differ"):
        assert warn_of_ranges(seconds, seconds * 1000, NUMBER, stacklevel=1)


def test_users_without_views_and_views_that_come_too_late():
    views_per_user, others = np.array([5, 5, 0]), np.full(10, 2)
    with pytest.warns(LogWarning, match="none of the 10 impressions belongs to a user with a view"):
        warn_of_unseen_views(views_per_user, others, np.zeros(10), stacklevel=1)
    with pytest.warns(LogWarning, match="40 of 40 impressions of users with views have an empty history"):
        warn_of_unseen_views(views_per_user, np.zeros(40, dtype=int), np.zeros(40), stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unseen_views(views_per_user, np.zeros(40, dtype=int), np.arange(40) % 2, stacklevel=1)
        warn_of_unseen_views(views_per_user, others[:9], np.zeros(9), stacklevel=1)
