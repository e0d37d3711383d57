"""Averages over the two weights, against draws and SciPy's own integrals."""

import numpy as np
import torch
from scipy import integrate, stats

from blob_pyro.posteriors.site_vectors import SiteVector
from blob_pyro.posteriors.weight_quadrature import WeightQuadrature


def vector(loc: float, scale: float, *factor: float) -> SiteVector:
    return SiteVector(*(torch.tensor(v).double() for v in (loc, scale, list(factor))))


W_A, W_B = vector(0.4, 0.8, 0.5, -0.3), vector(-0.9, 0.2, -0.7, 1.1)
COVARIANCE = np.array([[0.64 + 0.25 + 0.09, -0.35 - 0.33], [-0.35 - 0.33, 0.04 + 0.49 + 1.21]])


def test_the_factor_is_that_of_the_weights_covariance():
    tril = WeightQuadrature(W_A, W_B).tril.numpy()
    np.testing.assert_allclose(tril @ tril.T, COVARIANCE, atol=1e-12)
    assert tril[0, 1] == 0


def test_features_average_to_the_integrals():
    features, weights = WeightQuadrature(W_A, W_B).features(32)
    normal = stats.multivariate_normal([0.4, -0.9], COVARIANCE)

    def expected(function) -> float:
        return integrate.dblquad(lambda b, a: function(a, b) * normal.pdf([a, b]), -7, 8, -12, 11, epsabs=1e-7)[0]

    a, b = features[:, 0], features[:, 1]
    for average, function in (
        (weights @ a, lambda a, b: np.logaddexp(0, a)),
        (weights @ b, lambda a, b: np.logaddexp(0, b)),
        (weights @ (a * b), lambda a, b: np.logaddexp(0, a) * np.logaddexp(0, b)),
    ):
        np.testing.assert_allclose(float(average), expected(function), atol=1e-5)
    u, v = features[:, 5], features[:, 6]
    torch.testing.assert_close(features[:, 2], b * u)
    torch.testing.assert_close(features[:, 3], b * v)
    assert torch.equal(features[:, 4], torch.ones_like(u))


def test_loadings_are_covariances_with_the_shared_numbers():
    """``E z (u, v)'``: with ``w = loc + tril (u, v)``, it is the factor times the inverse of ``tril'``."""
    quadrature = WeightQuadrature(W_A, W_B)
    factor = torch.stack([W_A.factor, W_B.factor], -1)
    torch.testing.assert_close(quadrature.loadings, factor @ torch.linalg.inv(quadrature.tril).mT)


def test_weights_without_doubt_have_no_spread():
    quadrature = WeightQuadrature(vector(0.4, 0.0, 0.0), vector(-0.9, 0.0, 0.0))
    features, weights = quadrature.features(4)
    assert (quadrature.tril == 0).all()
    assert (quadrature.loadings == 0).all()
    np.testing.assert_allclose(float(weights @ features[:, 0]), np.logaddexp(0, 0.4))
