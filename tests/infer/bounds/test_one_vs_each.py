"""One-vs-each is exact for two items."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer import OneVsEach


def test_one_vs_each_is_exact_for_two_items():
    psi, rho = torch.tensor([[1.0], [-0.5]]).double(), torch.tensor([0.3, 0.0]).double()
    omega = torch.tensor([[0.7]]).double()
    views = torch.tensor([[0, 1, 1]])
    q = dist.Normal(omega, 1e-9).to_event(1)
    bound = OneVsEach().expected_log_prob(SoftmaxViews(omega, psi, rho, torch.tensor([3])), q, views)
    log_probs = (omega @ psi.T + rho).log_softmax(-1)[0]
    assert bound.item() == pytest.approx((log_probs[0] + 2 * log_probs[1]).item(), rel=1e-12)
