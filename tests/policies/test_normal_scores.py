"""The policy of normal scores: its propensities are those of its scores, and gradients pass to what makes them."""

import pytest
import torch
from torch import nn

from blob_pyro.policies import NormalScores
from blob_pyro.propensity import ArgmaxNormal


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor([0.0, -2.0, 1.0, 0.5], dtype=torch.float64))

    def forward(self, histories):
        return self.weight * histories.counts(torch.float64), self.log_scale.exp()


def test_it_plays_the_largest_score():
    scores = Scores()
    policy = NormalScores(4, scores)
    d = policy.action_distribution([[0, 0, 3], [1], []])
    loc = scores.weight * torch.tensor([[2.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    expected = ArgmaxNormal(loc, scores.log_scale.exp().expand_as(loc)).probs
    assert torch.allclose(d.probs, expected)
    torch.manual_seed(0)
    share = torch.nn.functional.one_hot(d.sample((20_000,)), 4).double().mean(0)
    assert ((share - expected).abs() < 4.5 * (expected * (1 - expected) / 20_000).sqrt()).all()


@pytest.mark.parametrize("name", ["weight", "log_scale"])
def test_gradients_are_those_of_finite_differences(name):
    scores = Scores()
    policy, parameter = NormalScores(4, scores), getattr(scores, name)

    def value():
        return (policy.action_distribution([[0, 2], [1]]).probs * torch.tensor([0.1, 0.9, 0.3, 0.2])).sum()

    (gradient,) = torch.autograd.grad(value(), parameter)
    for i in range(4):
        ends = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter[i] += step
                ends.append(value().item())
        with torch.no_grad():
            parameter[i] += 1e-5
        assert gradient[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-7)


def test_gradients_pass_where_contexts_come_in_chunks(monkeypatch):
    monkeypatch.setattr("blob_pyro.policies.chunked.PROBABILITIES_AT_ONCE", 8)
    scores = Scores()
    d = NormalScores(4, scores).action_distribution([[0], [1], [2], [3], []])
    (in_chunks,) = torch.autograd.grad(d.log_prob(torch.tensor([0, 1, 2, 3, 0])).sum(), scores.weight)
    monkeypatch.undo()
    d = NormalScores(4, scores).action_distribution([[0], [1], [2], [3], []])
    (at_once,) = torch.autograd.grad(d.log_prob(torch.tensor([0, 1, 2, 3, 0])).sum(), scores.weight)
    assert torch.allclose(in_chunks, at_once)


def test_bad_input():
    with pytest.raises(TypeError, match="scores: expected a function of Histories, got int"):
        NormalScores(4, 3)
    policy = NormalScores(4, lambda histories: (torch.zeros(4), torch.ones(4)))
    with pytest.raises(ValueError, match=r"scores: gave locations of shape \(4,\), expected \(2, 4\)"):
        policy.action_distribution([[0], []])
