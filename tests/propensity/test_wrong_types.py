"""What is of the wrong kind is refused by the name of the argument."""

import numpy as np
import pytest
import torch

from blob_pyro.propensity import (
    Argmax,
    ArgmaxBeta,
    ArgmaxConditionallyNormal,
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
    RankNormal,
)

X = torch.ones(3)
NO_TENSORS = {
    "list": [1.0, 2.0, 3.0],
    "text": "abc",
    "number": 1,
    "none": None,
    "array": np.ones(3),
    "integers": torch.ones(3, dtype=torch.long),
    "complex": torch.ones(3, dtype=torch.complex64),
    "booleans": torch.ones(3, dtype=torch.bool),
}
TENSOR_ARGUMENTS = {
    "loc": lambda x: ArgmaxNormal(x, X),
    "scale": lambda x: RankNormal(X, x),
    "concentration1": lambda x: ArgmaxBeta(x, X),
    "cov_factor": lambda x: ArgmaxLowRankNormal(X, x, X),
    "cov_diag": lambda x: ArgmaxLowRankNormal(X, X[:, None], x),
    "covariance_matrix": lambda x: ArgmaxMultivariateNormal(X, x),
}
FULL = {"loc": X, "covariance_matrix": torch.eye(3)}
OPTIONS = {
    "num_points": (lambda x: ArgmaxMultivariateNormal(**FULL, num_points=x), [3, 0, -2, 2.0, "8", True, 96]),
    "num_replicates": (lambda x: ArgmaxMultivariateNormal(**FULL, num_replicates=x), [1, 2.0, "8", None, True]),
    "seed": (lambda x: ArgmaxMultivariateNormal(**FULL, seed=x), [-1, 0.5, "a", None]),
    "method": (lambda x: ArgmaxMultivariateNormal(**FULL, method=x), ["magic", 3, []]),
    "minimum": (lambda x: ArgmaxNormal(X, X, minimum=x), [None, 1, "yes"]),
    "validate_args": (lambda x: ArgmaxNormal(X, X, validate_args=x), [1, "no"]),
    "num_ranks": (lambda x: RankNormal(X, X, num_ranks=x), [0, 4, 2.0, "2", None, True]),
    "num_shared": (lambda x: ArgmaxConditionallyNormal(lambda z: z @ X[None], X, x), [-1, 1.0, None, "1"]),
    "location": (lambda x: ArgmaxConditionallyNormal(x, X, 1), [None, 3, X]),
    "base": (lambda x: Argmax(x), [None, 3, X, [X]]),
    "sample_shape": (lambda x: ArgmaxNormal(X, X).sample(x), [3, "ab", (1.5,), (-1,), None, (True,)]),
    "batch_shape": (lambda x: ArgmaxNormal(X, X).expand(x), [3, "ab", (1.5,), (-1,), None]),
    "value": (lambda x: ArgmaxNormal(X, X).log_prob(x), [0, [0], None, "a", torch.tensor(True), torch.tensor(1j)]),
    "ordering": (lambda x: RankNormal(X, X).ordering_log_prob(x), [0, [0, 1], None, torch.tensor(1), torch.arange(4)]),
}
BAD_OPTIONS = [(name, build, bad) for name, (build, values) in OPTIONS.items() for bad in values]


@pytest.mark.parametrize("value", NO_TENSORS.values(), ids=NO_TENSORS)
@pytest.mark.parametrize("name", TENSOR_ARGUMENTS)
def test_tensors(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a floating-point tensor, got .*Convert"):
        TENSOR_ARGUMENTS[name](value)


@pytest.mark.parametrize(("name", "build", "bad"), BAD_OPTIONS, ids=[f"{name}={bad!r}" for name, _, bad in BAD_OPTIONS])
def test_options(name, build, bad):
    with pytest.raises(ValueError, match=rf"{name}\b.* (must|is|cannot)"):
        build(bad)


def test_an_expansion_that_cannot_be_names_both_shapes():
    with pytest.raises(ValueError, match=r"batch_shape \(2,\) cannot be expanded to \(3,\)"):
        ArgmaxNormal(torch.ones(2, 3), torch.ones(3)).expand((3,))


def test_a_power_of_two_is_proposed():
    with pytest.raises(ValueError, match=r"num_points is 96.*Take 64 or 128"):
        ArgmaxMultivariateNormal(**FULL, num_points=96)
