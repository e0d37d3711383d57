"""The warning where an interval should not be believed, and its thresholds."""

import numpy as np
import pytest

from blob_pyro.ope import UnreliableIntervalWarning, ips, snips
from blob_pyro.ope.reliability import MIN_EFFECTIVE_SAMPLE_SIZE, interval_doubts


def test_no_warning_where_the_interval_may_be_believed(large):
    estimate = snips(large.reward, large.target, large.logging)
    assert estimate.effective_sample_size > MIN_EFFECTIVE_SAMPLE_SIZE
    assert estimate.warnings == ()
    estimate.interval()


@pytest.mark.parametrize("method", ["normal", "bootstrap"])
def test_warning_of_a_small_effective_sample_size(method, sample):
    estimate = snips(sample.reward, sample.target, sample.logging)
    with pytest.warns(UnreliableIntervalWarning, match=rf"snips: .* {method} interval: the effective sample size is"):
        estimate.interval(method=method)
    assert "warning: the effective sample size" in repr(estimate)


def planted(reward, weight, **options):
    logging = np.full(len(reward), 0.01)
    return ips(reward, logging * weight, logging, **options)


def test_warnings_name_what_is_wrong():
    rng = np.random.default_rng(0)
    n = 5000
    reward, ones = (rng.random(n) < 0.3).astype(float), np.ones(n)
    assert planted(reward, ones).warnings == ()
    heavy = ones.copy()
    heavy[0] = 60.0
    heavy[1:2500] = 0.0
    assert any("of all weight" in d for d in planted(reward, heavy).warnings)
    rare = np.zeros(n)
    rare[:10] = 1
    assert any("few rows decide the estimate" in d for d in planted(rare, ones).warnings)
    assert any("there are 20 groups" in d for d in planted(reward, ones, groups=np.arange(n) % 20).warnings)
    wrong = 1 + rng.random(n)
    assert any("the weights average 1.5" in d and "not those of this log" in d for d in planted(reward, wrong).warnings)


def test_thresholds_are_sharp():
    class Weights:
        effective_sample_size = MIN_EFFECTIVE_SAMPLE_SIZE
        largest_share = 0.02
        mean_doubt = None

    import torch

    even = torch.tensor([1.0, -1.0])
    assert interval_doubts(Weights, even, 50) == []
    Weights.effective_sample_size -= 1
    assert len(interval_doubts(Weights, even, 49)) == 2
