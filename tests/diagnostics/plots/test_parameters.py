"""Pictures show the draws that they were given, on either line of ArviZ."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from blob_pyro.diagnostics import plot_prior_posterior, to_inference_data


@pytest.fixture
def data():
    """Priors N(0, 1) and N(-3, 2^2); posteriors N(1, 0.1^2) and N(-5, 0.5^2)."""
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    prior = {"w_a": z, "w_c": 2 * z - 3, "kappa": torch.zeros(20_000, 3)}
    posterior = {"w_a": 0.1 * z + 1, "w_c": 0.5 * z - 5, "kappa": torch.zeros(20_000, 3)}
    return to_inference_data({"posterior": posterior, "prior": prior}, ["a", "b", "c"])


def test_densities_are_those_of_the_draws(data):
    axes = plot_prior_posterior(data, ["w_c", "w_a"])
    assert [ax.get_xlabel().split(":")[0].split()[0] for ax in axes] == ["w_c", "w_a"]
    expected = [{"prior": (-3, 2), "posterior": (-5, 0.5)}, {"prior": (0, 1), "posterior": (1, 0.1)}]
    for ax, moments in zip(axes, expected):
        lines = {line.get_label(): line.get_xydata().T for line in ax.get_lines()}
        assert set(lines) == set(moments)
        for group, (loc, scale) in moments.items():
            grid, density = lines[group]
            assert np.abs(density - np.exp(-0.5 * ((grid - loc) / scale) ** 2)).max() < 0.05


def test_given_axes_are_used(data):
    _, row = pyplot.subplots(1, 1, squeeze=False)
    assert plot_prior_posterior(data, ["w_a"], axes=row[0])[0] is row[0, 0]


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


def test_of_a_fitted_model(fitted):
    blob = fitted["laplace"][0]
    axes = plot_prior_posterior(blob)
    assert [ax.get_xlabel().split(":")[0].split()[0] for ax in axes] == ["w_a", "w_b", "w_c"]
    w_c = blob.posterior()["w_c"]
    grid, density = axes[2].get_lines()[1].get_xydata().T
    assert grid[density.argmax()] == pytest.approx(float(w_c.mean), abs=0.5 * float(w_c.variance) ** 0.5)
    title = axes[0].get_title().splitlines()
    middle = float(title[2].removeprefix("posterior ").split()[0])  # the median passes through a softplus
    assert middle == pytest.approx(np.logaddexp(0, float(blob.posterior()["w_a"].mean)), rel=0.1)


def test_what_has_one_value_is_a_line():
    one = {"w_c": torch.full((100,), -3.0)}
    (ax,) = plot_prior_posterior(to_inference_data({"posterior": one, "prior": {"w_c": torch.randn(100)}}, []), ["w_c"])
    line = ax.get_lines()[1]
    assert line.get_label() == "posterior: one value"
    assert set(line.get_xdata()) == {-3.0}
