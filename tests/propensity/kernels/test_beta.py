"""The kernel of Beta scores against SciPy's quadrature."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from blob_pyro.propensity.kernels.beta import argmax_beta_log_probs

CASES = {"around one": ([1.0, 2.0, 1.5], [1.0, 1.0, 3.0]), "unequal": ([12.0, 0.7, 3.0], [300.0, 20.0, 41.0])}


@pytest.mark.parametrize(("a", "b"), CASES.values(), ids=CASES)
def test_against_scipy(a, b):
    found = argmax_beta_log_probs(torch.tensor(a).double(), torch.tensor(b).double()).exp().numpy()

    def density(y, i):
        others = [stats.beta.cdf(y, a[j], b[j]) for j in range(3) if j != i]
        return stats.beta.pdf(y, a[i], b[i]) * np.prod(others)

    expected = [integrate.quad(density, 0, 1, (i,), points=[0.05, 0.2], epsabs=1e-11, limit=400)[0] for i in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_one_arm_wins_and_its_gradient_is_zero():
    a = torch.tensor([2.0], requires_grad=True)
    found = argmax_beta_log_probs(a, torch.tensor([3.0]))
    assert found.tolist() == [0]
    assert float(torch.autograd.grad(found.sum(), a)[0]) == 0
