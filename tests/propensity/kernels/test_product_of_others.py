"""Counts of the other items, against products over each item in turn."""

import numpy as np
import pytest
import torch

from blob_pyro.propensity.kernels.product_of_others import product_of_others


@pytest.mark.parametrize("num_items", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_against_a_loop_over_items(num_items, num_ranks):
    come = np.random.default_rng(num_items).uniform(0.05, 0.95, (3, num_items))
    found = product_of_others([torch.tensor(1 - come), torch.tensor(come)], num_ranks)
    for row in range(3):
        for item in range(num_items):
            polynomial = np.ones(1)
            for other in range(num_items):
                if other != item:
                    polynomial = np.convolve(polynomial, [1 - come[row, other], come[row, other]])
            for k, coefficient in enumerate(found):
                expected = polynomial[k] if k < len(polynomial) else 0.0
                assert float(coefficient[row, item]) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert len(found) <= num_ranks
