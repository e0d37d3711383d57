"""A linear operation is one object: its value, its square and its Jacobian belong together; planted faults are seen."""

import pytest
import torch

from blob_pyro.models.operations import LinearOperation, bilinear, broadcast, gather, inner, row_product
from blob_pyro.testing import check_operation

N = 4
LEFT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [0.0, 0.0, 0.0], [2.0, 2.0, -1.0]]).double()
RIGHT = torch.tensor([[0.3, 1.0], [-2.0, 0.7], [1.0, 1.0], [0.0, -4.0]]).double()
FIRST, SECOND = torch.tensor([2, 0, 1, 1]), torch.tensor([1, 1, 1, 0])
OPERATIONS = {
    "bilinear": (bilinear, (3, 2), (LEFT, RIGHT)),
    "row product": (row_product, (3, 2), (FIRST, RIGHT)),
    "inner": (inner, (3,), (LEFT,)),
    "gather": (gather, (3,), (FIRST,)),
    "broadcast": (broadcast, (), (FIRST,)),
}


@pytest.mark.parametrize(("operation", "shape", "coefficients"), OPERATIONS.values(), ids=OPERATIONS)
def test_value_square_and_jacobian_belong_together(operation, shape, coefficients):
    check_operation(operation, shape, *coefficients)
    default = LinearOperation.jacobian(operation, torch.Size(shape), *coefficients)
    assert torch.allclose(operation.jacobian(torch.Size(shape), *coefficients).double(), default.double())


class Difference(LinearOperation):
    """``x[i_n] - x[j_n]``; nothing, where the two are one."""

    event_dim = 1

    def value(self, x, *coefficients):
        first, second = coefficients
        return x[..., first] - x[..., second]


def test_one_method_is_enough():
    check_operation(Difference(), (3,), FIRST, SECOND)


class Squared(Difference):
    def square(self, variance, *coefficients):
        first, second = coefficients
        return variance[first] + variance[second]  # not where they are one


class Affine(Difference):
    def value(self, x, *coefficients):
        return super().value(x, *coefficients) + 1


class OneByOne(Difference):
    def value(self, x, *coefficients):
        first, second = coefficients
        return x[first] - x[second]  # the first dimension, whatever it is


class Transposed(Difference):
    def jacobian(self, shape, *coefficients):
        return -super().jacobian(shape, *coefficients)


class Swapped(type(bilinear)):
    def outer_factors(self, *coefficients):
        left, right = coefficients
        return right, left


BAD = {
    "square": (Squared(), (3,), (FIRST, SECOND), "square is off by"),
    "affine": (Affine(), (3,), (FIRST, SECOND), r"is not linear: value\(2 x - 3 y\) is off by"),
    "jacobian": (Transposed(), (3,), (FIRST, SECOND), "jacobian is off by"),
    "factors": (Swapped(), (3, 2), (LEFT, RIGHT), "outer_factors"),
    "shape": (inner, (3, 2), (LEFT,), r"its event_dim is 1, and the shape \(3, 2\)"),
}


@pytest.mark.parametrize(("operation", "shape", "coefficients", "message"), BAD.values(), ids=BAD)
def test_planted_faults_are_seen(operation, shape, coefficients, message):
    with pytest.raises(ValueError, match=message):
        check_operation(operation, shape, *coefficients)


def test_leading_dimensions_are_checked():
    with pytest.raises((ValueError, IndexError)):
        check_operation(OneByOne(), (3,), FIRST, SECOND)
