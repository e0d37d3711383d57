"""Bands hold uniform ranks with the probability that they say, and nothing else."""

import numpy as np
import pytest

from blob_pyro.diagnostics.ecdf_bands import ecdf_band


@pytest.mark.parametrize(("size", "num_points", "level"), [(30, 10, 0.9), (80, 20, 0.95), (50, 1, 0.95)])
def test_uniform_ranks_stay_inside_as_often_as_said(size, num_points, level):
    low, high = ecdf_band(size, num_points, level)
    ranks = np.random.default_rng(0).integers(10 * num_points, size=(20_000, size))
    counts = (ranks[:, :, None] < 10 * np.arange(1, num_points + 1)).sum(1)
    inside = ((counts >= low) & (counts <= high)).all(1).mean()
    if num_points == 1:  # all of them are below one
        assert inside == 1
    else:
        assert level - 0.01 < inside < level + 0.05  # counts are whole numbers: the level cannot be met exactly
    assert (low <= high).all()


def test_ranks_that_are_not_uniform_leave_it():
    low, high = ecdf_band(100, 20)
    rng = np.random.default_rng(1)
    for ranks in (rng.beta(0.4, 0.4, 100), rng.beta(3, 3, 100), rng.beta(2, 1, 100)):
        counts = (ranks[:, None] < np.arange(1, 21) / 20).sum(0)
        assert ((counts < low) | (counts > high)).any()
