"""Bouchard's bound against the normaliser by quadrature, in one dimension."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logsumexp

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer import Bouchard

PSI, RHO = np.array([0.9, -1.4, 0.2, 2.0]), np.array([0.1, 0.5, -0.3, -1.0])


@pytest.mark.parametrize("scale", [0.05, 0.7, 2.0])
def test_below_the_expected_log_likelihood(scale):
    loc, views = 0.4, [0, 2, 2]

    def log_likelihood(omega):
        logits = PSI * omega + RHO
        return sum(logits[v] for v in views) - len(views) * logsumexp(logits)

    def weighted(omega):
        return stats.norm(loc, scale).pdf(omega) * log_likelihood(omega)

    exact = integrate.quad(weighted, loc - 12, loc + 12, limit=200, points=[loc])[0]
    q = dist.Normal(torch.tensor([[loc]]).double(), scale).to_event(1)
    psi, rho = torch.tensor(PSI)[:, None], torch.tensor(RHO)
    story = SoftmaxViews(torch.zeros(1, 1).double(), psi, rho, torch.tensor([3]))
    bound = float(Bouchard().expected_log_prob(story, q, torch.tensor([views])))
    assert bound <= exact
    assert bound > exact - 3 * (1.0 + scale)
