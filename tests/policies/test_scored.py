"""Policies of scores: probabilities by hand, frequencies of draws, and refusals."""

import pytest
import torch

from blob_pyro.data import Vocabulary
from blob_pyro.policies import EpsilonGreedy, Greedy, Policy, SessionPopularity, Softmax, Uniform
from blob_pyro.policies.baselines import Popularity

HISTORIES = [[0, 2, 2], [], [0, 1, 2, 3]]


class Scores:
    """A model that scores items by how often they were viewed, with a tie."""

    items = Vocabulary.numbered(4)

    def scores(self, histories):
        return histories.counts()


CASES = {
    "uniform": (Uniform(4), [[0.25] * 4] * 3),
    "session popularity": (SessionPopularity(4, 0.4), [[0.2, 0.2, 0.4, 0.2], [0.25] * 4, [0.25] * 4]),
    "never explores": (SessionPopularity(4, 0.0), [[1 / 3, 0, 2 / 3, 0], [0.25] * 4, [0.25] * 4]),
    "greedy": (Greedy(Scores()), [[0, 0, 1, 0], [0.25] * 4, [0.25] * 4]),
    "epsilon greedy": (EpsilonGreedy(Scores(), 0.2), [[0.05, 0.05, 0.85, 0.05], [0.25] * 4, [0.25] * 4]),
    "softmax": (Softmax(Scores(), 0.5), [torch.tensor([2.0, 0, 4, 0]).softmax(0).tolist(), [0.25] * 4, [0.25] * 4]),
}


@pytest.mark.parametrize(("policy", "expected"), CASES.values(), ids=CASES.keys())
def test_probabilities(policy, expected):
    d = policy.action_distribution(HISTORIES)
    assert isinstance(policy, Policy)
    assert d.batch_shape == (3,)
    assert torch.allclose(d.probs.double(), torch.tensor(expected).double(), atol=1e-6)
    frequencies = torch.stack([torch.bincount(s, minlength=4) for s in d.sample((20_000,)).T]) / 20_000
    assert torch.allclose(frequencies.double(), d.probs.double(), atol=0.02)
    actions = torch.arange(4).unsqueeze(-1).expand(4, 3)
    assert torch.allclose(d.log_prob(actions).exp().T, d.probs)


def test_what_cannot_be_played_has_probability_zero_exactly():
    assert SessionPopularity(4, 0.0).action_distribution([[0]]).log_prob(torch.tensor([1])).item() == -float("inf")


def test_popularity(log):
    policy = Greedy(Popularity(log))
    best = torch.bincount(log.view_item).argmax()
    assert policy.action_distribution([[3], []]).sample((5,)).unique().tolist() == [best]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SessionPopularity(4, epsilon=1.5), "epsilon: must lie between 0 and 1"),
        (lambda: EpsilonGreedy(Scores(), epsilon=-0.1), "epsilon: must lie between 0 and 1"),
        (lambda: Softmax(Scores(), temperature=0), "temperature: must be positive and finite"),
        (lambda: Uniform(0), "num_items: must lie between 1 and .*, got 0"),
        (lambda: Uniform(4).action_distribution([[5]]), r"histories\[0\]\[0\]: an id is outside 0..3 .*, got 5"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
