"""Sensitivities are ArviZ's, and those of Gaussians are what they must be."""

import numpy as np
import pytest

from blob_pyro.diagnostics.power_scaling import sensitivity

# What ``arviz.psens(data, component="prior")`` of ArviZ 0.23.4 gives for these draws, with this log prior as their
# group ``log_prior``. ArviZ 1.x computes another distance, so that the figures are kept here.
ARVIZ = {0.5: 0.48202128048315435, 1.0: 0.12051673127686983, 5.0: 0.004820820737974129}


@pytest.mark.parametrize("prior_scale", ARVIZ)
def test_sensitivities_are_arvizs(prior_scale):
    x = np.random.default_rng(0).standard_normal(2000) * 0.7 + 1
    log_prior = -0.5 * (x / prior_scale) ** 2
    assert sensitivity(x, log_prior) == pytest.approx(ARVIZ[prior_scale], rel=1e-8)


def test_a_stronger_prior_matters_more():
    x = np.random.default_rng(1).standard_normal(4000)
    weak, strong = (sensitivity(x, -0.5 * ((x - 1) / scale) ** 2) for scale in (20.0, 1.0))
    assert weak < 0.01 < 0.05 < strong


def test_weights_count():
    """Draws of N(0, 1.5^2) that are weighted to N(0, 1) give what draws of N(0, 1) give."""
    rng = np.random.default_rng(2)
    x, wide = rng.standard_normal(100_000), 1.5 * rng.standard_normal(100_000)
    log_weights = -0.5 * wide**2 + 0.5 * (wide / 1.5) ** 2
    found = sensitivity(wide, -0.5 * (wide - 1) ** 2, log_weights)
    assert found == pytest.approx(sensitivity(x, -0.5 * (x - 1) ** 2), rel=0.1)
    assert sensitivity(wide, -0.5 * (wide - 1) ** 2) > 1.2 * found
