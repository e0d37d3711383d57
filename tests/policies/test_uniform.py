"""Every item, or every candidate, with one probability."""

import pytest
import torch

from blob_pyro.policies import Uniform


def test_all_items_and_candidates():
    policy = Uniform(4)
    assert policy.action_distribution([[0, 2], []]).probs.tolist() == [[0.25] * 4] * 2
    among = policy.action_distribution([[0, 2], []], candidates=[[1, 3], [0, 1, 2]])
    torch.testing.assert_close(among.probs, torch.tensor([[0, 0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3, 0]]))
    with pytest.raises(ValueError, match="candidate"):
        among.log_prob(torch.tensor([0, 0]))


def test_slates_are_drawn_without_replacement():
    slates = Uniform(4).slate_distribution([[]], 2, candidates=[0, 1, 3])
    expected = torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]).double()
    torch.testing.assert_close(slates.probs[0], torch.stack([expected, expected], -1))
