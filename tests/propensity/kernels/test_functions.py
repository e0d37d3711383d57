"""What kernels' autograd functions share: a refusal of vmap, and gradients that stay finite."""

import pytest
import torch

from blob_pyro.propensity.kernels.functions import WithoutVmap, to_dtype


class Double(WithoutVmap):
    """Two of it."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_it_is_differentiated_and_not_batched():
    assert float(torch.func.grad(lambda x: Double.apply(x))(torch.tensor(3.0))) == 2
    with pytest.raises(ValueError, match=r"propensities were called inside torch\.func\.vmap"):
        torch.func.vmap(Double.apply)(torch.ones(3))


def test_what_overflows_becomes_the_largest_number():
    largest = torch.finfo(torch.float32).max
    found = to_dtype(torch.tensor([1e300, -1e300, 2.0], dtype=torch.float64), torch.float32)
    assert found.tolist() == [largest, -largest, 2]
