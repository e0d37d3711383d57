"""Distributions over candidates alone: the others have probability 0, and asking about them is an error."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.policies.restricted import categorical


def test_impossible_actions_have_no_probability_at_all():
    d = categorical(torch.tensor([[0.5, 0.0, 0.5]]))
    assert d.log_prob(torch.tensor([1])).item() == -torch.inf
    assert dist.Categorical(torch.tensor([[0.5, 0.0, 0.5]])).log_prob(torch.tensor([1])).item() > -torch.inf
    assert set(d.sample((200,)).flatten().tolist()) == {0, 2}


def test_probabilities_are_those_given():
    probs = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(categorical(probs).probs, probs)


def test_candidates_alone_may_be_asked_about():
    from blob_pyro.policies import SessionPopularity

    d = SessionPopularity(4, 0.4).action_distribution([[0, 2, 2]], candidates=[0, 3])
    assert d.probs[0, 1] == d.probs[0, 2] == 0
    torch.testing.assert_close(d.probs.sum(-1), torch.ones(1).to(d.probs))
    with pytest.raises(ValueError, match="candidate"):
        d.log_prob(torch.tensor([2]))
