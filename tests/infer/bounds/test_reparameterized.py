"""Sampled bounds: their noise falls with draws and mirror images, and an exact guide has none."""

import torch

from blob_pyro.infer import LogConcave, Reparameterized
from tests.infer.bounds.stories import B, P, estimate, log_likelihood, posterior, story


def test_an_exact_guide_leaves_no_gap_and_no_noise():
    """Items that do not depend on omega: the prior is the posterior."""
    rho = torch.randn(P).double()
    q = posterior(torch.zeros(B, 2).double(), torch.ones(B, 2).double(), None, full=False)
    exact = log_likelihood(torch.zeros(1, 2).double(), torch.zeros(P, 2).double(), rho)[0]
    for bound in (Reparameterized(), Reparameterized(3), LogConcave()):
        draws = estimate(bound, torch.zeros(P, 2).double(), rho, q, 3)
        assert torch.allclose(draws, exact.expand(3, -1), atol=1e-12)


def test_more_samples_less_noise():
    psi, rho, *parameters = story(2)
    q = posterior(*parameters, full=True)
    one, ten = (estimate(Reparameterized(n), psi, rho, q, 1000)[:, 3].var() for n in (1, 10))
    assert 6 < one / ten < 16


def test_mirror_images_remove_most_of_the_noise():
    """Against the estimator with only its linear term in closed form, on a session of five views."""
    psi, rho, loc, scale, _ = story(2)
    q = posterior(loc, 0.3 * scale, None, full=False)
    mirrored = estimate(Reparameterized(), psi, rho, q, 2000)[:, 3].var()
    normalizer = (q.sample((2000,))[:, 3] @ psi.T + rho).logsumexp(-1)
    assert mirrored < 0.2 * (5 * normalizer).var()
