"""Factors of precision matrices against NumPy's inverses."""

import numpy as np
import pytest
import torch

from blob_pyro.ops.precision import cholesky, scale_tril_from_precision


@pytest.fixture
def precision():
    root = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return root @ root.mT + torch.diag(torch.tensor([0.1, 1.0, 10.0]).double())


@pytest.mark.parametrize("check", [True, False])
def test_the_factor_is_that_of_the_inverse(precision, check):
    tril = scale_tril_from_precision(precision, check=check).numpy()
    np.testing.assert_allclose(tril @ tril.swapaxes(-1, -2), np.linalg.inv(precision.numpy()), rtol=1e-9)
    assert (np.triu(tril, 1) == 0).all()


def test_what_has_no_factor_is_nan_or_an_error(precision):
    precision[2] = -precision[2]
    assert torch.isnan(cholesky(precision)[2]).all()
    np.testing.assert_allclose(cholesky(precision)[0].numpy(), np.linalg.cholesky(precision[0].numpy()))
    assert torch.isnan(scale_tril_from_precision(precision, check=False)[2].diagonal()).any()
    with pytest.raises(torch.linalg.LinAlgError):
        scale_tril_from_precision(precision)
