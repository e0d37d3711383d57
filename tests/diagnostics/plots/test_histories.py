"""What a history says is drawn view by view, as the models say it of each prefix."""

import numpy as np
import pytest

from blob_pyro.diagnostics import plots

VIEWS = [5, 5, 2]
PREFIXES = [[], [5], [5, 5], [5, 5, 2]]


def test_click_probabilities_of_every_prefix(fitted):
    blob = fitted["laplace"][0]
    ax = plots.plot_growing_history(blob, VIEWS, items=[5, 0])
    mean = 100 * blob.click_probabilities(PREFIXES).numpy()
    low, high = (100 * ends.numpy() for ends in blob.click_intervals(PREFIXES, 0.9))
    for line, band, item in zip(ax.get_lines()[::3], ax.collections, [5, 0]):
        assert line.get_label() == f"item {item}"
        np.testing.assert_allclose(line.get_ydata(), mean[:, item], rtol=1e-5)
        edges = band.get_paths()[0].vertices[:, 1]
        assert edges.min() == pytest.approx(low[:, item].min(), rel=1e-5)
        assert edges.max() == pytest.approx(high[:, item].max(), rel=1e-5)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["none", "1\n5", "2\n5", "3\n2"]


def test_of_many_items_and_views_a_few(large):
    ax = plots.plot_growing_history(large, list(range(300)))
    assert len(ax.collections) == 3
    assert {len(line.get_xdata()) for line in ax.get_lines()} == {40}
    assert ax.get_lines()[0].get_xdata()[[0, -1]].tolist() == [0, 300]
    assert ax.get_title() == "the 3 of 10,000 items that change the most; 40 of 301 lengths"


def test_interest_of_every_prefix(blo):
    ax = plots.plot_growing_interest(blo, VIEWS, most=3, method="em")
    posterior = blo.user_posterior(PREFIXES, method="em")
    for line, band in zip(ax.get_lines()[::3], ax.collections):
        k = int(line.get_label().removeprefix("coordinate "))
        np.testing.assert_allclose(line.get_ydata(), posterior.mean[:, k].numpy(), rtol=1e-5)
        top = (posterior.mean + posterior.stddev)[:, k].max()
        assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(float(top), rel=1e-5)
    assert ax.get_lines()[0].get_ydata()[0] == pytest.approx(0, abs=1e-6)  # nothing is known of no views
    assert "prior standard deviations" in ax.get_ylabel().replace("\n", " ")
