"""What baselines learn from: counts against a loop, and refusals that name what is missing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.baselines.sessions import clicks_of, count_matrix, distinct, sessions_of


def test_counts_are_those_of_a_loop(sessions):
    matrix = count_matrix(sessions)
    expected = np.zeros((len(sessions), 5))
    for n, items in enumerate(sessions.to_sequences()):
        for item in items:
            expected[n, item] += 1
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix.toarray(), expected)


def test_distinct_items_in_their_order(sessions):
    assert distinct(sessions).to_sequences() == [sorted(set(items)) for items in sessions.to_sequences()]


def test_a_log_and_its_sessions_say_the_same(log):
    (items, from_log), (numbered, from_sessions) = sessions_of(log), sessions_of(log.sessions)
    assert items == log.items
    assert len(numbered) == log.num_items
    assert from_log.to_sequences() == from_sessions.to_sequences()


def test_clicks_need_impressions_of_the_catalogue_and_both_rewards(clicks):
    assert clicks_of(clicks, 4) is clicks
    with pytest.raises(TypeError, match="log: expected an EventLog with impressions"):
        clicks_of(clicks.sessions, 4)
    with pytest.raises(ValueError, match="log: has 4 items"):
        clicks_of(clicks, 5)
    with pytest.raises(ValueError, match="all 6,000 rewards are 0"):
        clicks_of(replace(clicks, reward=torch.zeros_like(clicks.reward)), 4)


def test_no_sessions_are_refused():
    with pytest.raises(ValueError, match="sessions: there are none"):
        sessions_of(Histories.from_sequences([], 3))
