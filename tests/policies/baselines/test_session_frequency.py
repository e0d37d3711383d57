"""Session frequency scores an item by how often the history has it, and learns nothing."""

import pytest
import torch

from blob_pyro.policies import Greedy
from blob_pyro.policies.baselines import SessionFrequency


def test_counts_by_hand():
    scores = SessionFrequency(4).scores([[2, 0, 2], [], [3]])
    assert scores.tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_greedy_shares_where_nothing_was_viewed():
    probs = Greedy(SessionFrequency(4)).action_distribution([[2, 0, 2], []]).probs
    torch.testing.assert_close(probs, torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.25] * 4]))


def test_items_outside_the_catalogue_are_refused():
    with pytest.raises(ValueError, match=r"histories\[0\]"):
        SessionFrequency(4).scores([[4]])
