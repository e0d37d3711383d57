"""Thompson sampling plays the best item of one draw, and says how well it knows that."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies.thompson import ThompsonActions
from blob_pyro.posteriors.click_logits import ClickLogits


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
