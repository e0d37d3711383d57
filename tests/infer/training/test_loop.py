"""The training loop: every row once an epoch, the same floats for a seed, nothing lost when it stops."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from blob_pyro.infer import Training
from tests.infer.training.conjugate import fit


def test_finds_the_conjugate_posterior(rows):
    guide, history = fit(rows)
    precision = 1 / 9 + 40 / 4
    assert guide.loc.item() == pytest.approx(rows.values.sum().item() / 4 / precision, abs=0.1)
    assert guide.scale.item() == pytest.approx(precision**-0.5, rel=0.15)
    covariance = 4 * torch.eye(40).double() + 9
    evidence = dist.MultivariateNormal(torch.zeros(40).double(), covariance).log_prob(rows.values) / 40
    assert history.elbo.iloc[-10:].mean() == pytest.approx(evidence.item(), abs=0.02)


def test_parameter_store_is_left_alone(rows):
    pyro.param("svi_test_guide.loc", torch.tensor(99.0))
    guide, _ = fit(rows, Training(num_epochs=5, batch_size=16, learning_rate=0.1))
    assert abs(guide.loc.item()) < 20
    assert list(pyro.get_param_store()) == ["svi_test_guide.loc"]


@pytest.mark.parametrize("name", ["num_epochs", "batch_size", "learning_rate"])
def test_bad_settings_are_named(name):
    with pytest.raises(ValueError, match=f"{name}: must be (1 or more|positive and finite), got 0"):
        Training(**{"num_epochs": 1, "batch_size": 1, "learning_rate": 0.1, name: 0})
