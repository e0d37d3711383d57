"""The pieces of the bounds: Bouchard's optimum by a direct optimiser, and the curvature's limit."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from blob_pyro.infer.bounds.log_normalizers import bouchard, bouchard_offset, curvature


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("num_items", [3, 40])
def test_bouchard_s_parameters_are_optimal(num_items, spread):
    """Against SciPy minimising the formula of the paper's section 6.1 over a and every xi."""
    generator = torch.Generator().manual_seed(num_items)
    mean = spread * torch.randn(1, num_items, generator=generator).double()
    variance = spread * torch.rand(1, num_items, generator=generator).double()
    offset = bouchard_offset(mean, variance)
    ours = bouchard(mean, variance, offset).item()
    m, v = mean[0].numpy(), variance[0].numpy()

    def formula(parameters):
        a, xi = parameters[0], np.exp(parameters[1:])
        lam = (expit(xi) - 0.5) / (2 * xi)
        return a + np.sum((m - a - xi) / 2 + lam * ((m - a) ** 2 + v - xi**2) + np.logaddexp(0, xi))

    best = minimize(formula, np.zeros(1 + num_items), method="BFGS", options={"gtol": 1e-7, "maxiter": 5000})
    assert ours == pytest.approx(best.fun, rel=1e-6)
    assert ours <= best.fun + 1e-9
    assert offset.item() == pytest.approx(best.x[0], abs=2e-3)


def test_curvature_against_its_definition_and_its_limit():
    xi = torch.tensor([1e-3, 0.5, 3.0, 40.0]).double()
    assert torch.allclose(curvature(xi), (torch.sigmoid(xi) - 0.5) / (2 * xi), rtol=1e-9)
    assert curvature(torch.tensor(0.0)).item() == pytest.approx(1 / 8, rel=1e-6)
