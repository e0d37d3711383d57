"""Folds of users: of almost equal sizes, all users once; and logs of some users."""

import pytest
import torch

from blob_pyro import EventLog
from blob_pyro.ope.folds import fold_of_users, only_users


@pytest.mark.parametrize(("users", "folds"), [(10, 2), (11, 3), (5, 5)])
def test_sizes_differ_by_one_at_most(users, folds):
    fold = fold_of_users(users, folds, seed=3)
    counts = torch.bincount(fold, minlength=folds)
    assert counts.sum() == users
    assert counts.max() - counts.min() <= 1
    assert torch.equal(fold, fold_of_users(users, folds, seed=3))


def test_another_seed_deals_anew():
    assert not torch.equal(fold_of_users(50, 2, seed=0), fold_of_users(50, 2, seed=1))


@pytest.mark.parametrize("folds", [1, 4])
def test_folds_without_users_are_refused(folds):
    with pytest.raises(ValueError, match=f"folds: expected 2 to 3, one for each user at most, got {folds}"):
        fold_of_users(3, folds, seed=0)


def test_the_log_of_some_users_has_their_rows_alone():
    log = EventLog.from_tables(
        views={"user": ["a", "b", "a"], "time": [0, 1, 2], "item": ["x", "y", "z"]},
        impressions={"user": ["a", "b", "c"], "time": [3, 3, 3], "action": ["x", "y", "z"], "reward": [1, 0, 0]},
    )
    some = only_users(log, torch.tensor([False, True, True]))
    assert some.users == log.users
    assert some.items == log.items
    assert log.items.decode(some.action) == ["y", "z"]
    assert log.items.decode(some.view_item) == ["y"]
    assert [log.items.decode(h) for h in some.contexts[some.context].to_sequences()] == [["y"], []]
    assert [log.items.decode(h) for h in some.sessions.to_sequences()] == [["y"]]
