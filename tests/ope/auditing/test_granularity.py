"""The number of draws that propensities were counted from is found, and not where there is none."""

import numpy as np
import pytest

from blob_pyro.ope.auditing.granularity import number_of_draws


@pytest.mark.parametrize("draws", [64, 100, 997, 1000, 8192, 10_000, 65_536, 1_000_000])
def test_the_number_of_draws_is_found_exactly(draws):
    probs = np.random.default_rng(0).beta(1, 8, size=3000)
    counts = np.maximum(np.random.default_rng(1).binomial(draws, probs), 1)
    assert number_of_draws(counts / draws, 10) == draws


def test_exact_numbers_and_small_ratios_are_not_counts():
    rng = np.random.default_rng(0)
    assert number_of_draws(rng.beta(1, 8, size=3000), 10) is None
    total = rng.integers(1, 9, size=3000)
    shares = 0.7 * rng.integers(1, total + 1) / total
    assert number_of_draws(np.concatenate([shares, 0.3 / rng.integers(5, 12, size=3000)]), 12) is None
    assert number_of_draws(np.full(100, 0.125), 4) is None
    few = np.array([0.7 * views / total for total in range(1, 7) for views in range(1, total + 1)])
    assert len(np.unique(few)) > 8  # all of them multiples of 1/600, and none needs it
    assert number_of_draws(few.repeat(50), 7) is None
