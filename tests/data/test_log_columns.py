"""What a log says of its size, and what it asks of itself before a model learns from it."""

import warnings

import pytest
import torch

from blob_pyro import EventLog

VIEWS = {"user": ["a", "a", "c"], "time": [1, 4, 2], "item": [0, 2, 1]}
IMPRESSIONS = {"user": ["a", "b", "a"], "time": [3, 3, 5], "action": [1, 0, 1], "reward": [1, 0, 0]}
LOG = EventLog.from_tables(VIEWS, IMPRESSIONS, num_items=4)


def test_sizes():
    assert (LOG.num_users, LOG.num_items, LOG.num_views, LOG.num_impressions) == (3, 4, 3, 3)
    assert repr(LOG) == "EventLog(3 users, 4 items, 3 views, 3 impressions in 3 distinct contexts, 1 rewarded)"
    shown = LOG._repr_html_()
    for told in ("EventLog", "distinct contexts", "number", "none"):
        assert told in shown


def test_whose_contexts_and_sessions_they_are():
    assert LOG.users.decode(LOG.context_user) == ["a", "a", "b"]
    assert LOG.contexts.lengths.tolist() == [1, 2, 0]
    assert LOG.users.decode(LOG.session_user) == ["a", "c"]
    assert LOG.sessions.lengths.tolist() == [2, 1]


def test_items_that_were_never_shown_are_counted():
    with pytest.warns(UserWarning, match="log: 2 of 4 items were never shown"):
        LOG.require_contrast()
    whole = EventLog.from_tables(VIEWS, {**IMPRESSIONS, "action": [0, 1, 2]}, num_items=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole.require_contrast()


@pytest.mark.parametrize("reward", [0, 1])
def test_rewards_that_do_not_differ(reward):
    log = EventLog.from_tables(VIEWS, {**IMPRESSIONS, "reward": [reward] * 3}, num_items=4)
    with pytest.raises(ValueError, match=f"all 3 rewards are {reward}"):
        log.require_contrast()


def test_what_is_needed_and_not_there():
    with pytest.raises(ValueError, match="has no organic views"):
        EventLog.from_tables(impressions=IMPRESSIONS).require_views()
    with pytest.raises(ValueError, match="has no bandit events"):
        EventLog.from_tables(views=VIEWS).require_impressions()
    LOG.require_views()
    LOG.require_impressions()
    assert torch.equal(LOG.reward, torch.tensor([1.0, 0.0, 0.0]))
