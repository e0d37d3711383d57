"""The average of the logistic function over normal numbers, against SciPy's adaptive quadrature."""

import pytest
import torch
from scipy import integrate, special, stats

from blob_pyro.ops.logistic_normal import expected_sigmoid


@pytest.mark.parametrize("scale", [1e-3, 0.3, 0.99, 1.0, 1.5, 4.0, 31.6, 300.0])
@pytest.mark.parametrize("loc", [-40.0, -3.0, -0.5, 0.7, 5.0])
def test_quadrature(loc, scale):
    steep = {0.0, max(-9.9, min(9.9, -loc / scale))}
    expected, _ = integrate.quad(
        lambda z: special.expit(loc + scale * z) * stats.norm.pdf(z), -10, 10, points=sorted(steep), limit=500
    )
    got = expected_sigmoid(torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
    assert got.item() == pytest.approx(expected, abs=1e-9)


def test_no_doubt_is_the_logistic_function_and_shapes_broadcast():
    loc = torch.linspace(-5, 5, 6)
    assert torch.allclose(expected_sigmoid(loc, torch.tensor(0.0)), loc.sigmoid(), atol=1e-7)
    assert expected_sigmoid(loc, torch.rand(3, 1)).shape == (3, 6)


def test_gradients():
    loc = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.4, 1.0, 6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(expected_sigmoid, (loc, scale))
