"""Policies: probabilities by hand, and Thompson sampling against its own definition."""

import math

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.data import Vocabulary
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.policies import EpsilonGreedy, Greedy, Policy, SessionPopularity, Softmax, ThompsonSampling, Uniform
from blob_pyro.policies.baselines import Popularity
from blob_pyro.policies.thompson import DrawnThompsonActions, ThompsonActions
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits

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


# --- Thompson sampling ------------------------------------------------------------------------------------------------


@pytest.fixture
def logits():
    """A posterior where the shared part matters: the independent formula is off by far."""
    torch.manual_seed(5)
    psi = torch.randn(6, 3).double() * torch.tensor([1.0, 0.3, 2.0])
    q = {
        W_A: dist.Normal(torch.tensor(0.5).double(), 1.5),
        W_B: dist.Normal(torch.tensor(0.8).double(), 0.4),
        W_C: dist.Normal(torch.tensor(-4.0).double(), 2.0),
        KAPPA: dist.Normal(torch.randn(6).double(), torch.linspace(0.1, 1.0, 6).double()).to_event(1),
        ZETA: dist.Normal(torch.randn(3, 3).double(), torch.rand(3, 3).double() + 0.1).to_event(2),
    }
    return ClickLogits(q, psi, torch.linalg.cholesky(psi.mT @ psi / 6), torch.randn(4, 3).double())


def test_propensities_are_those_of_playing_the_best_of_one_draw(logits):
    actions = ThompsonActions(logits, num_points=128, num_replicates=16)
    played = logits.sample((200_000,)).argmax(-1)
    frequencies = torch.stack([torch.bincount(p, minlength=6) for p in played.T]) / 200_000
    error = (actions.probs * (1 - actions.probs) / 200_000 + actions.error_estimate**2).sqrt()
    assert ((frequencies - actions.probs).abs() < 4.5 * error).all()
    assert actions.error_estimate.max() < 0.005
    assert torch.allclose(actions.probs.sum(-1), torch.ones(4).double(), atol=1e-6)
    sampled = torch.stack([torch.bincount(s, minlength=6) for s in actions.sample((200_000,)).T]) / 200_000
    assert ((sampled - frequencies).abs() < 4.5 * (2 * frequencies * (1 - frequencies) / 200_000).sqrt() + 1e-5).all()


def test_error_estimate_is_calibrated(logits):
    """Over seeds, the spread of the estimates is what the error estimate says, within a factor of two."""
    runs = [ThompsonActions(logits, num_points=16, num_replicates=8, seed=s) for s in range(30)]
    spread = torch.stack([r.probs for r in runs]).std(0)
    claimed = torch.stack([r.error_estimate for r in runs]).mean(0)
    large = spread > 1e-4
    assert large.any()
    assert 0.5 < (spread / claimed)[large].median() < 2


def test_thompson_sampling_of_a_fitted_model(blob):
    policy = ThompsonSampling(blob)
    d = policy.action_distribution([[0, 0, 1], []])
    a = d.sample()
    assert a.shape == (2,)
    assert torch.allclose(d.log_prob(a).exp(), d.probs.gather(-1, a[:, None]).squeeze(-1))
    again = policy.action_distribution([[0, 0, 1], []])
    assert torch.equal(again.probs, d.probs)  # a seed of its own: what is logged can be computed again
    assert d.error_estimate.max() < 0.02


def test_draws_are_counted_to_the_last_one():
    """Three items, a hundred draws: what `probs` says is what `sample` plays."""
    torch.manual_seed(2)
    logits = DrawnClickLogits(torch.randn(100, 3, 4) * torch.tensor([0.1, 1.0, 3.0]).view(3, 1), torch.randn(5, 4))
    actions = DrawnThompsonActions(logits)
    expected = torch.stack([(logits.logits.argmax(-1) == item).double().mean(0) for item in range(3)], -1)
    assert torch.allclose(actions.probs, expected, rtol=0, atol=1e-15)
    assert torch.allclose(actions.error_estimate, (expected * (1 - expected) / 100).sqrt())
    played = torch.nn.functional.one_hot(actions.sample((20_000,)), 3).double().mean(0)
    assert ((played - expected).abs() < 4.5 * (expected * (1 - expected) / 20_000).sqrt() + 1e-12).all()
    assert torch.equal(actions.expand((2, 5)).error_estimate[1], actions.error_estimate)


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
