"""A learned scale starts positive."""

import pytest

from blob_pyro.models.priors.learned import Learned


@pytest.mark.parametrize("start", [0.0, -1.0, float("nan")])
def test_where_it_cannot_start(start):
    with pytest.raises(ValueError, match=f"Learned: start: must be positive and finite, got {start}"):
        Learned(start)


@pytest.mark.parametrize("rate", [-1.0, float("inf")])
def test_rates_that_are_none(rate):
    with pytest.raises(ValueError, match="Learned: rate: "):
        Learned(0.1, rate)


def test_equal_starts_are_equal():
    assert Learned(0.5) == Learned(0.5) != Learned(0.6)
    assert Learned(0.5, 3.0) != Learned(0.5)
