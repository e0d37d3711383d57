"""Pictures show the draws that they were given, on either line of ArviZ."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot

from blob_pyro.diagnostics import plot_prior_posterior, to_inference_data

matplotlib.use("Agg")


@pytest.fixture
def data():
    """Priors N(0, 1) and N(-3, 2^2); posteriors N(1, 0.1^2) and N(-5, 0.5^2)."""
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    prior = {"w_a": z, "w_c": 2 * z - 3, "kappa": torch.zeros(20_000, 3)}
    posterior = {"w_a": 0.1 * z + 1, "w_c": 0.5 * z - 5, "kappa": torch.zeros(20_000, 3)}
    return to_inference_data({"posterior": posterior, "prior": prior}, ["a", "b", "c"])


def test_densities_are_those_of_the_draws(data):
    axes = plot_prior_posterior(data, ["w_c", "w_a"])
    assert [ax.get_xlabel() for ax in axes] == ["w_c", "w_a"]
    expected = [{"prior": (-3, 2), "posterior": (-5, 0.5)}, {"prior": (0, 1), "posterior": (1, 0.1)}]
    for ax, moments in zip(axes, expected):
        lines = {line.get_label(): line.get_xydata().T for line in ax.get_lines()}
        assert set(lines) == set(moments)
        for group, (loc, scale) in moments.items():
            grid, density = lines[group]
            normal = np.exp(-0.5 * ((grid - loc) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
            assert np.abs(density - normal).max() < 0.04 * normal.max()
    pyplot.close("all")


def test_given_axes_are_used(data):
    _, row = pyplot.subplots(1, 1, squeeze=False)
    assert plot_prior_posterior(data, ["w_a"], axes=row[0])[0] is row[0, 0]
    pyplot.close("all")


@pytest.mark.parametrize(
    ("var_names", "message"),
    [
        pytest.param("w_a", r"var_names must be a list of names, at least one, got 'w_a'", id="string"),
        pytest.param([], r"var_names must be a list of names, at least one, got \[\]", id="empty"),
        pytest.param(["w_b"], r"var_names: prior has no 'w_b'; it has \['kappa', 'w_a', 'w_c'\]", id="unknown"),
        pytest.param(["kappa"], r"var_names: 'kappa' is no scalar, it has the dimensions \['item'\]", id="vector"),
    ],
)
def test_names_that_cannot_be_drawn_are_refused(data, var_names, message):
    with pytest.raises(ValueError, match=message):
        plot_prior_posterior(data, var_names)


def test_one_axes_for_each_name(data):
    with pytest.raises(ValueError, match="axes must be as many as var_names, 2, got 0"):
        plot_prior_posterior(data, ["w_a", "w_c"], axes=[])
