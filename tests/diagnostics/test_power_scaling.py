"""Sensitivities are ArviZ's, and those of Gaussians are what they must be."""

import numpy as np
import pytest

from blob_pyro.diagnostics.inference_data import import_arviz
from blob_pyro.diagnostics.power_scaling import sensitivity


@pytest.mark.parametrize("prior_scale", [0.5, 1.0, 5.0])
def test_sensitivities_are_arvizs(prior_scale):
    az = import_arviz()
    if not hasattr(az, "psens"):
        pytest.skip("ArviZ 1.x computes another distance")
    x = np.random.default_rng(0).standard_normal(2000) * 0.7 + 1
    log_prior = -0.5 * (x / prior_scale) ** 2
    data = az.from_dict(posterior={"x": x[None]}, log_likelihood={"y": (-0.5 * (x - 2) ** 2)[None, :, None]})
    data.add_groups({"log_prior": {"x": log_prior[None]}})
    expected = float(az.psens(data, component="prior")["x"])
    assert sensitivity(x, log_prior) == pytest.approx(expected, rel=1e-3)


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
