"""Averages over a standard normal number, against its moments."""

import numpy as np
import torch
from scipy import stats

from blob_pyro.ops.quadrature import hermite


def test_hermite_integrates_polynomials_over_a_standard_normal():
    nodes, weights = hermite(5, torch.zeros((), dtype=torch.float64))
    moments = [float(weights @ nodes**n) for n in range(10)]
    np.testing.assert_allclose(moments, [stats.norm.moment(n) if n else 1.0 for n in range(10)], atol=1e-11)
