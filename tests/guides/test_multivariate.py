"""Guides of one Gaussian vector: limits, correlations, old names."""

import copy

import pytest
import torch

from blob_pyro import BLOB, BanditPriors
from blob_pyro.guides import FullGuide
from blob_pyro.guides.multivariate import LaplaceGuide
from blob_pyro.models import BanditModel
from blob_pyro.models.sites import MULTIVARIATE, W_C


def test_full_covariance_has_a_limit():
    with pytest.raises(ValueError, match="use 'low_rank' or 'laplace' beyond 5000 numbers"):
        FullGuide(BanditModel(torch.randn(5000, 1)))


def test_full_finds_the_correlation_that_normal_cannot(blo, log):
    """w_c and the kappas trade off against each other: mean-field is too sure of w_c."""
    priors = BanditPriors(kappa_scale=0.5)
    spread = {}
    for guide in ("normal", "full", "laplace"):
        blob = BLOB(blo, guide=guide, priors=priors)
        blob.fit(log, num_epochs=150, batch_size=8192, progress=False, device="cpu")
        spread[guide] = float(blob.posterior()[W_C].variance.sqrt())
    assert spread["normal"] < 0.85 * spread["laplace"]
    assert spread["full"] == pytest.approx(spread["laplace"], rel=0.3)


def test_laplace_is_one_object_until_it_changes():
    """What it knows of itself is computed once, and never kept beyond a change, of whatever kind."""
    model = BanditModel(torch.randn(4, 2))
    guide, other = LaplaceGuide(model), LaplaceGuide(model)
    other.loc += 1.0
    first = guide.multivariate()
    assert guide.multivariate() is first
    changes = (
        lambda: guide.take(other.multivariate()),
        lambda: guide.loc.mul_(2.0),
        lambda: guide.load_state_dict(LaplaceGuide(model).state_dict()),
        lambda: guide.double(),
        lambda: setattr(guide, "loc", guide.loc + 3.0),
    )
    for change in changes:
        before = guide.multivariate()
        change()
        assert guide.multivariate() is not before
        assert torch.equal(guide.multivariate().loc, guide.loc)
        assert guide.multivariate().loc.dtype == guide.loc.dtype
    again = copy.deepcopy(guide)
    again.loc.zero_()
    assert again.multivariate().loc.abs().max() == 0 < guide.multivariate().loc.abs().max()


def test_the_multivariate_distribution_by_its_old_name():
    guide = FullGuide(BanditModel(torch.randn(4, 1)))
    with pytest.warns(DeprecationWarning, match="FullGuide: 'joint' is now called 'multivariate'"):
        old = guide.joint()
    assert torch.equal(old.covariance_matrix, guide.multivariate().covariance_matrix)
    with pytest.warns(DeprecationWarning, match="'JOINT' is now called 'MULTIVARIATE'"):
        from blob_pyro.models.sites import JOINT
    assert JOINT == MULTIVARIATE
