"""Click logits by draws answer what those in closed form do."""

import pytest
import torch
from torch.nn.functional import softplus

from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits
from tests.posteriors.posteriors import P, posterior, zetas


def test_draws_answer_the_same_questions(problem):
    """`DrawnClickLogits` against the closed form, from draws of the parameters."""
    psi, factor, interest = problem
    q = posterior(zetas()["matrix normal"])
    exact = ClickLogits(q, psi, factor, interest)
    draws = {name: site.sample((20_000,)) for name, site in q.items()}
    beta = softplus(draws[W_A])[:, None, None] * psi + softplus(draws[W_B])[:, None, None] * (
        psi @ draws[ZETA] @ factor.mT
    )
    kappa = (draws[KAPPA] + draws[W_C][:, None]).unsqueeze(-1)
    features = torch.cat([interest, torch.ones(3, 1).double()], -1)
    d = DrawnClickLogits(torch.cat([beta, kappa], -1), features)
    assert (d.batch_shape, d.event_shape) == ((3,), (P,))
    scale = exact.variance.sqrt() / 20_000**0.5
    assert ((d.mean - exact.mean).abs() < 4.5 * scale).all()
    assert torch.allclose(d.variance, exact.variance, rtol=0.1)
    assert torch.allclose(d.icdf(0.2), exact.icdf(0.2), atol=0.1)
    assert torch.allclose(d.cdf(exact.mean), exact.cdf(exact.mean), atol=0.02)
    assert torch.allclose(d.click_probability(), exact.click_probability(), atol=0.01)
    own = d.sample((5000,))
    assert ((own.mean(0) - d.mean).abs() < 4.5 * d.variance.sqrt() / 5000**0.5).all()
    assert torch.allclose(d[1:].mean, d.mean[1:])
    assert torch.allclose(d[:1].expand((2,)).variance, d.variance[:1].expand(2, -1))
    for distribution in (d, exact):
        with pytest.raises(ValueError, match="probability: must lie between 0 and 1, got 1"):
            distribution.icdf(1.0)


def test_some_items_are_those_of_all():
    generator = torch.Generator().manual_seed(0)
    logits = DrawnClickLogits(torch.randn(7, 5, 3, generator=generator), torch.randn(4, 3, generator=generator))
    index = torch.tensor([3, 0])
    some = logits.of_items(index)
    assert some.event_shape == (2,)
    assert torch.equal(some.click_probability(), logits.click_probability()[:, index])
