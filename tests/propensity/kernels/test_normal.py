"""The kernel of independent normal scores against SciPy's quadrature."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from blob_pyro.propensity.kernels.normal import EXACT, QUICK, argmax_normal_log_probs, without_the_rest

LOC, SCALE = np.array([0.0, 0.4, -1.0, 0.2]), np.array([1.0, 0.3, 2.5, 0.7])


def by_quadrature(loc, scale):
    def density(y, i):
        return stats.norm.pdf(y, loc[i], scale[i]) * np.prod(
            [stats.norm.cdf(y, loc[j], scale[j]) for j in range(len(loc)) if j != i]
        )

    return np.array([integrate.quad(density, -20, 20, (i,), points=[0.4], epsabs=1e-12)[0] for i in range(len(loc))])


@pytest.mark.parametrize(("accuracy", "tolerance"), [(EXACT, 1e-10), (QUICK, 1e-7)], ids=["exact", "quick"])
def test_against_scipy(accuracy, tolerance):
    found = argmax_normal_log_probs(torch.tensor(LOC), torch.tensor(SCALE), accuracy).exp().numpy()
    np.testing.assert_allclose(found, by_quadrature(LOC, SCALE), atol=tolerance)


def test_what_is_not_allowed_changes_nothing():
    allowed = torch.tensor([True, False, True, True])
    loc, scale = without_the_rest(torch.tensor(LOC), torch.tensor(SCALE), allowed)
    found = argmax_normal_log_probs(loc, scale).exp().numpy()
    keep = allowed.numpy()
    np.testing.assert_allclose(found[keep], by_quadrature(LOC[keep], SCALE[keep]), atol=1e-10)
    assert found[1] == 0
