"""The log-concavity bound is tight for a sure interest."""

import torch

from blob_pyro.infer import LogConcave
from tests.infer.bounds.stories import estimate, log_likelihood, posterior, story


def test_log_concave_is_tight_for_a_sure_interest():
    psi, rho, loc, *_ = story(2)
    q = posterior(loc, torch.full_like(loc, 1e-6), None, full=False)
    exact = log_likelihood(loc, psi, rho).diagonal()
    assert torch.allclose(estimate(LogConcave(), psi, rho, q, 1)[0], exact, atol=1e-6)
