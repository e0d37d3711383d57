"""A learned scale starts positive."""

import pytest

from blob_pyro.models.priors.learned import Learned


@pytest.mark.parametrize("start", [0.0, -1.0, float("nan")])
def test_where_it_cannot_start(start):
    with pytest.raises(ValueError, match=f"Learned: start: must be positive and finite, got {start}"):
        Learned(start)


def test_equal_starts_are_equal():
    assert Learned(0.5) == Learned(0.5) != Learned(0.6)
