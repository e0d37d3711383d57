"""Sessions and posteriors to bound."""

from collections import Counter

import pyro.distributions as dist
import torch

from blob_pyro.distributions import SoftmaxViews

P = 11


VIEWS = torch.tensor([[4, 0, 0, -1, -1], [2, -1, -1, -1, -1], [-1, -1, -1, -1, -1], [1, 3, 6, 6, 6]])


B = len(VIEWS)


SCALES = torch.tensor([1.5, 0.4], dtype=torch.float64)  # of the columns of Psi: unequal


def story(embedding_dim, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    psi, rho = normal(P, embedding_dim) * SCALES[:embedding_dim], normal(P)
    loc, scale = normal(B, embedding_dim), torch.rand(B, embedding_dim, generator=generator).double() + 0.2
    below = normal(B, embedding_dim, embedding_dim).tril(-1) * 0.5
    return psi, rho, loc, scale, below


def posterior(loc, scale, below, full):
    if not full:
        return dist.Normal(loc, scale).to_event(1)
    return dist.MultivariateNormal(loc, scale_tril=below + scale.diag_embed())


def estimate(bound, psi, rho, q, num_draws):
    """Draws of the bound, ``num_draws x B``."""
    lengths = (VIEWS >= 0).sum(-1)
    return torch.stack(
        [bound.expected_log_prob(SoftmaxViews(q.rsample(), psi, rho, lengths), q, VIEWS) for _ in range(num_draws)]
    )


def log_likelihood(omega, psi, rho):
    """By torch's own log-softmax and a loop: ``N x B`` for ``N x K`` interests."""
    log_probs = (omega @ psi.T + rho).log_softmax(-1)
    counts = torch.tensor([[Counter(views)[p] for p in range(P)] for views in VIEWS.tolist()], dtype=torch.float64)
    return log_probs @ counts.T
