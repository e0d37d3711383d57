"""How far one policy is from another, in chunks and of nothing."""

import pytest
import torch

from blob_pyro import BLOB
from blob_pyro.models import BanditPriors
from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies.thompson import MixtureThompsonActions, ThompsonActions
from tests.policies.test_thompson_conditional import HISTORIES, Known
from tests.policies.test_thompson_mixture import posterior


def test_the_distance_falls_as_points_are_added():
    distances = [
        ThompsonSampling(Known(), shared_draws=m).total_variation([[]] * 4, shared_draws=2**11) for m in (2, 16, 128)
    ]
    values = torch.stack([d.value for d in distances]).mean(-1)
    assert (values.diff() < 0).all()
    assert values[-1] < 0.04 < 0.1 < values[0]
    whole = ThompsonActions(posterior(), num_points=256, num_replicates=16).probs
    exact = (MixtureThompsonActions(posterior(), 2).probs - whole).abs().sum(-1) / 2
    assert ((distances[0].value - exact).abs() < 6 * distances[0].error).all()
    assert (distances[0].error < 0.02).all()


def test_the_distance_of_a_policy_by_draws(blo, log):
    blob = BLOB(blo, omega="sample", priors=BanditPriors(kappa_scale=0.3))
    blob.fit(log, num_epochs=3, progress=False, device="cpu")
    few, many = (ThompsonSampling(blob, shared_draws=m).total_variation(HISTORIES) for m in (10, 1000))
    assert few.value.shape == few.error.shape == (7,)
    assert (few.value > many.value).all()
    assert (many.value < 3 * many.error + 0.1).all()


def test_distances_in_chunks_and_of_nothing(blob, monkeypatch):
    policy = ThompsonSampling(blob, shared_draws=4)
    whole = policy.total_variation(HISTORIES, shared_draws=64)
    monkeypatch.setattr("blob_pyro.policies.thompson.MAX_ELEMENTS", 30)
    parts = policy.total_variation(HISTORIES, shared_draws=64)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-4, atol=1e-6)
    assert policy.total_variation([], shared_draws=64).value.shape == (0,)


def test_distances_of_what_is_no_mixture_are_refused(blob):
    with pytest.raises(ValueError, match="total_variation: what acts is Thompson sampling itself"):
        ThompsonSampling(blob).total_variation(HISTORIES)
    with pytest.raises(ValueError, match="shared_draws: must be a power of two, got 100"):
        ThompsonSampling(blob, shared_draws=4).total_variation(HISTORIES, shared_draws=100)
