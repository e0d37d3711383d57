"""Names of sites are one each, and old ones warn."""

import pytest

from blob_pyro.models import sites


def test_no_name_twice():
    names = [getattr(sites, name) for name in sites.__all__]
    assert len(set(names)) == len(names)


def test_the_old_name_of_the_multivariate_site():
    with pytest.warns(DeprecationWarning, match="'JOINT' is now called 'MULTIVARIATE'"):
        assert sites.JOINT == sites.MULTIVARIATE
