"""The variational autoencoder: its bound by hand, and what it learns."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.baselines import (
    MultiVAE,
)
from blob_pyro.policies.baselines import multi_vae as mv


def test_multi_vae_s_bound_by_hand():
    torch.manual_seed(0)
    networks = mv._networks(5, 7, 2)
    counts = torch.tensor([[2.0, 0, 1, 0, 0], [0, 0, 0, 3, 1]])
    networks.eval()
    draws = torch.stack([mv.negative_bound(networks, counts, 0.3) for _ in range(1500)])
    total = []
    for _ in range(1500):
        visible = counts / counts.norm(dim=1, keepdim=True) * (torch.rand(2, 5) < 0.5) * 2
        loc, log_variance = networks["encoder"](visible).chunk(2, -1)
        q = dist.Normal(loc, (log_variance / 2).exp())
        p = dist.Multinomial(total_count=10, logits=networks["decoder"](q.sample()), validate_args=False)
        log_likelihood = (counts * p.logits).sum(-1)
        kl = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).sum(-1)
        total.append((0.3 * kl - log_likelihood).mean())
    total = torch.stack(total)
    assert abs(draws.mean() - total.mean()) < 4.5 * (draws.var() / 1500 + total.var() / 1500).sqrt()


def test_multi_vae_anneals_its_divergence(monkeypatch, sessions):
    betas = []
    real = mv.negative_bound
    monkeypatch.setattr(mv, "negative_bound", lambda n, c, beta: betas.append(beta) or real(n, c, beta))
    MultiVAE(5, 4, 2).fit(sessions, num_epochs=4, batch_size=7, max_beta=0.4, annealing=0.5)
    assert betas == pytest.approx([0.2, 0.4, 0.4, 0.4])


def test_multi_vae_sees_what_goes_together():
    """Two kinds of users: popularity knows one of them."""
    pairs = [[0, 1, 2]] * 60 + [[3, 4, 5]] * 30
    vae = MultiVAE(6, 24, 3)
    vae.fit(Histories.from_sequences(pairs, 6), num_epochs=150, batch_size=30)
    scores = vae.scores([[3], [0]])
    assert set(scores[0].topk(3).indices.tolist()) == {3, 4, 5}
    assert set(scores[1].topk(3).indices.tolist()) == {0, 1, 2}
    assert torch.allclose(scores.exp().sum(-1), torch.ones(2))
