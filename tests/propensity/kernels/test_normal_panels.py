"""Panels that resolve every integrand: their weights integrate each one to rounding error."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from blob_pyro.propensity.kernels.normal_arms import EXACT, NormalArms
from blob_pyro.propensity.kernels.normal_panels import normal_panels


@pytest.mark.parametrize("narrow", [1.0, 1e-2, 1e-5])
def test_integrals_over_the_panels_are_scipy_s(narrow):
    loc, scale = np.array([0.0, 0.7, -0.4]), np.array([1.0, narrow, 3.0])
    arms = NormalArms.place(torch.tensor(loc)[None], torch.tensor(scale)[None], EXACT)
    total = np.zeros(3)
    for _, nodes, weights in normal_panels(arms, EXACT).blocks(1000):
        z = (nodes[..., None] - arms.offset) * arms.rate
        density = torch.exp(-z.square() / 2) * arms.rate / (2 * np.pi) ** 0.5
        others = torch.special.ndtr(z).prod(-1, keepdim=True) / torch.special.ndtr(z).clamp(min=1e-300)
        total += (density * others * weights[..., None]).sum((0, 1)).numpy()

    def integrand(y, i):
        cdfs = [stats.norm.cdf(y, loc[j], scale[j]) for j in range(3) if j != i]
        return stats.norm.pdf(y, loc[i], scale[i]) * np.prod(cdfs)

    edges = sorted({-30.0, 0.7 - 8 * narrow, 0.7, 0.7 + 8 * narrow, 30.0})
    expected = [
        sum(integrate.quad(integrand, a, b, (i,), epsabs=1e-12, limit=200)[0] for a, b in itertools.pairwise(edges))
        for i in range(3)
    ]
    np.testing.assert_allclose(total, expected, atol=1e-9)
    assert total.sum() == pytest.approx(1, abs=1e-12)
