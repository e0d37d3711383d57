"""Sites as location, noise of their own and loadings: the covariance is that of the distribution they came from."""

import pyro.distributions as dist
import pytest
import torch
from torch import Size

from blob_pyro.distributions.multivariate import MultivariatePart
from blob_pyro.models.sites import KAPPA, W_A
from blob_pyro.posteriors.site_vectors import num_shared_factors, site_vector

P = 3


def covariance(vector) -> torch.Tensor:
    return vector.factor.mT @ vector.factor + vector.scale.square().diag()


def parts(vector):
    """A number and then kappa, of one Gaussian vector."""
    draw = vector.sample()
    return {W_A: MultivariatePart(draw, vector, 0, Size()), KAPPA: MultivariatePart(draw, vector, 1, Size((P,)))}


def make(family):
    torch.manual_seed(0)
    loc = torch.randn(1 + P).double()
    factor = torch.randn(1 + P, 1 + P).double()
    if family == "full":
        return dist.MultivariateNormal(loc, factor @ factor.mT + torch.eye(1 + P))
    if family == "low rank":
        return dist.LowRankMultivariateNormal(loc, factor[:, :2], 0.1 + torch.rand(1 + P).double())
    raise AssertionError(family)


@pytest.mark.parametrize("family", ["full", "low rank"])
def test_parts_of_a_vector_keep_their_covariance(family):
    vector = make(family)
    posterior = parts(vector)
    size = num_shared_factors(posterior)
    kappa, w_a = site_vector(posterior, KAPPA, size), site_vector(posterior, W_A, size)
    torch.testing.assert_close(kappa.loc, vector.loc[1:])
    torch.testing.assert_close(covariance(kappa), vector.covariance_matrix[1:, 1:])
    torch.testing.assert_close(w_a.factor @ kappa.factor, vector.covariance_matrix[0, 1:])
    assert (kappa.scale > 0).all(), "propensities need some noise of each item's own"


def test_sites_by_themselves_share_nothing():
    normal = dist.Normal(torch.arange(3.0), torch.tensor([0.1, 0.2, 0.3])).to_event(1)
    posterior = {KAPPA: normal, W_A: dist.Delta(torch.tensor(2.0))}
    assert num_shared_factors(posterior) == 0
    kappa, w_a = site_vector(posterior, KAPPA, 0), site_vector(posterior, W_A, 0)
    assert torch.equal(kappa.scale, normal.base_dist.scale)
    assert kappa.factor.shape == (0, 3)
    assert (w_a.loc, w_a.scale) == (2.0, 0.0)


def test_two_vectors_are_refused():
    posterior = {W_A: parts(make("full"))[W_A], KAPPA: parts(make("low rank"))[KAPPA]}
    with pytest.raises(ValueError, match="posterior: its sites are parts of several Gaussian vectors"):
        num_shared_factors(posterior)


@pytest.mark.parametrize(("name", "wanted"), [(KAPPA, "an independent normal"), (W_A, "a normal")])
def test_another_family_is_named(name, wanted):
    posterior = {name: dist.StudentT(3.0, torch.zeros(P), 1.0)}
    with pytest.raises(ValueError, match=f"site '{name}': click_logits needs {wanted} posterior, got StudentT"):
        site_vector(posterior, name, 0)
