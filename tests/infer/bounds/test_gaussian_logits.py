"""Variances of all items' logits as one product of features, against the quadratic form."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.infer.bounds.gaussian_logits import (
    covariance_features,
    is_gaussian,
    item_features,
    matrix_from_features,
)


@pytest.fixture
def psi():
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def posteriors():
    root = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    full = dist.MultivariateNormal(torch.zeros(4, 3).double(), root @ root.mT + torch.eye(3))
    return {"full": full, "independent": dist.Normal(torch.zeros(4, 3).double(), root[..., 0].abs()).to_event(1)}


@pytest.mark.parametrize("kind", ["full", "independent"])
def test_variances_are_quadratic_forms(kind, psi):
    q = posteriors()[kind]
    covariance = q.covariance_matrix if kind == "full" else q.variance.diag_embed()
    features = covariance_features(q)
    found = features @ item_features(psi, features.shape[-1]).mT
    torch.testing.assert_close(found, torch.einsum("pk,nkl,pl->np", psi, covariance, psi))


def test_a_symmetric_matrix_and_its_triangle():
    matrix = posteriors()["full"].covariance_matrix
    row, column = torch.tril_indices(3, 3)
    torch.testing.assert_close(matrix_from_features(matrix[..., row, column], 3), matrix)


def test_what_is_gaussian():
    assert all(is_gaussian(q) for q in posteriors().values())
    laplace = dist.Laplace(torch.zeros(2, 3), 1.0).to_event(1)
    assert not is_gaussian(laplace)
    assert not is_gaussian(dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    with pytest.raises(TypeError, match=r"q: this bound needs a Gaussian posterior .* got Independent"):
        covariance_features(laplace)
