"""What no fit may be worse than, against SciPy and against a loop over draws."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate

from blob_pyro.infer.references import elbo_of_constant_rate, elbo_of_prior
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors


def batch(clicks, events, embedding_dim=2):
    rows = torch.arange(events)
    reward = (rows < clicks).float()
    interest = torch.randn(events, embedding_dim, generator=torch.Generator().manual_seed(0))
    return BanditBatch(interest, rows, rows % 5, reward, events)


@pytest.mark.parametrize(("clicks", "events"), [(0, 3), (2, 7), (7, 7)])
def test_the_evidence_of_one_rate_is_an_integral(clicks, events):
    integral = integrate.quad(lambda r: r**clicks * (1 - r) ** (events - clicks), 0, 1)[0]
    assert elbo_of_constant_rate(batch(clicks, events)) == pytest.approx(np.log(integral) / events)


def test_the_prior_s_elbo_is_the_average_over_its_draws():
    torch.manual_seed(0)
    model, events = BanditModel(torch.randn(5, 2)), batch(3, 40)
    draws = model.prior_draws(4000)
    logits = torch.stack([model.logit({n: v[i] for n, v in draws.items()}, events) for i in range(4000)])
    log_prob = torch.where(events.reward.bool(), logits, -logits).sigmoid().log().clamp(min=-80).mean(-1)
    error = float(log_prob.std()) * (1 / 4000**0.5 + 1 / 16**0.5)
    assert elbo_of_prior(model, events) == pytest.approx(float(log_prob.mean()), abs=4 * error)


def test_how_many_clicks_the_rows_looked_at_have_does_not_matter():
    """By chance alone 2 % of 32,768 rows are known to 4 %; what is left is how unlike their logits are."""
    priors = BanditPriors(w_a=dist.Normal(-3.0, 0.01), w_b=dist.Normal(-6.0, 0.01), w_c=dist.Normal(-4.0, 0.01))
    model, events = BanditModel(torch.randn(5, 2), priors), batch(6_000, 300_000)
    draws = model.prior_draws(1)
    logits = model.logit({name: value[0] for name, value in draws.items()}, events)
    every = float(torch.where(events.reward.bool(), logits, -logits).double().sigmoid().log().mean())
    found = torch.tensor([elbo_of_prior(model, events, seed) for seed in range(8)])
    assert (found / every - 1).abs().max() < 0.02
    assert found.std() < 0.005 * abs(every)
