"""Session popularity, by hand."""

import math

import pytest
import torch

from blob_pyro.policies import SessionPopularity


def test_session_popularity_by_hand():
    """In proportion to the views, and the rest uniformly over what was not viewed."""
    policy = SessionPopularity(4, epsilon=0.4)
    actions = policy.action_distribution([[0, 2, 2], [], [3, 3, 3], [0, 1, 2, 3, 3]])
    expected = [[0.2, 0.2, 0.4, 0.2], [0.25] * 4, [0.4 / 3] * 3 + [0.6], [0.2, 0.2, 0.2, 0.4]]
    assert torch.allclose(actions.probs, torch.tensor(expected))
    assert torch.allclose(actions.log_prob(torch.arange(4)).exp(), torch.tensor(expected).diagonal())
    certain = SessionPopularity(4, epsilon=0.0).action_distribution([[1, 1]])
    assert certain.logits.tolist() == [[-math.inf, 0.0, -math.inf, -math.inf]]
    with pytest.raises(ValueError, match="support"):
        actions.log_prob(torch.tensor([4, 0, 0, 0]))
