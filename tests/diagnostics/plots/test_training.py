"""The picture of a fit shows its beginning, its end, and the verdict."""

import numpy as np
import pandas as pd
import pytest

from blob_pyro.diagnostics import plots


def trace(values, column="elbo", rows="epoch", **attrs):
    frame = pd.DataFrame({rows: np.arange(len(values)), column: values})
    frame.attrs.update(attrs)
    return frame


@pytest.fixture
def noisy():
    """Forty epochs of a hundred rise by 10 nats; the rest is noise of .01."""
    epoch = np.arange(100)
    values = -1 - 10 * np.exp(-epoch / 5) + 0.01 * np.random.default_rng(0).standard_normal(100)
    return trace(values, converged=False, convergence="the last quarter gained .1 nats: train for longer")


def test_first_epochs_and_noise_are_both_within_the_picture(noisy):
    ax = plots.plot_training(noisy)
    ax.figure.canvas.draw()
    level = noisy.elbo[-25:].mean()
    drawn = ax.get_lines()[0].get_ydata()
    np.testing.assert_allclose(drawn, noisy.elbo - level)
    low, high = ax.get_ylim()
    assert low < drawn.min()
    assert drawn.max() < high
    place = ax.transAxes.inverted().transform(ax.transData.transform(np.stack([np.arange(100), drawn], 1)))[:, 1]
    rising, flat = place[:25], place[-25:]  # shares of the axis' height
    assert np.ptp(rising) > 0.5
    assert 0.02 < np.ptp(flat) < 0.4


def test_the_verdict_stands_over_it(noisy):
    ax = plots.plot_training(noisy)
    assert ax.get_title().replace("\n", " ") == "not converged: the last quarter gained .1 nats: train for longer"
    assert ax.get_ylabel().endswith("nats per row")
    assert plots.plot_training(trace([1.0, 2.0], converged=True, convergence="flat")).get_title() == "converged: flat"
    named = plots.plot_training({"BLO": noisy})
    assert named.get_title().startswith("BLO, not converged: the last quarter")
    assert [text.get_text() for text in named.get_legend().get_texts()] == ["mean over 5 epochs"]  # once is enough
    cut = trace([1.0, 2.0], converged=False, convergence="2 steps are too few", interrupted=True)
    assert plots.plot_training(cut).get_title().startswith("interrupted")
    assert plots.plot_training(trace([1.0, 2.0])).get_title() == ""


def test_several_fits_have_one_level(noisy):
    other = trace(noisy.elbo - 3, converged=True)
    ax = plots.plot_training({"a": other, "b": noisy})
    curves = {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}
    assert set(curves) == {"a: converged", "b: not converged"}
    assert curves["a: converged"].get_ydata()[-1] == pytest.approx(-3, abs=0.05)
    assert curves["b: not converged"].get_ydata()[-1] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("rows", "column", "label"),
    [("step", "log_joint", "log joint density minus"), ("draw", "log_joint", "log joint"), ("epoch", "elbo", "ELBO")],
)
def test_axes_are_named_after_the_columns(rows, column, label):
    ax = plots.plot_training(trace([-3.0, -2.0, -1.9], column, rows))
    assert ax.get_xlabel() == rows
    assert ax.get_ylabel().startswith(label)


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="traces: expected what a fit returns, with a row at least"):
        plots.plot_training({})
    with pytest.raises(ValueError, match="trace: expected what a fit returns, with a column 'epoch'"):
        plots.plot_training(pd.DataFrame({"loss": [1.0]}))


def test_the_old_name_still_draws(noisy):
    with pytest.warns(DeprecationWarning, match="'plot_elbo' is now called 'plot_training'"):
        old = plots.plot_elbo
    assert old is plots.plot_training


def test_ticks_have_one_digit_and_the_verdict_fits():
    """A fit that starts where it ends: no power of ten lies within its noise."""
    values = -0.066 + 2e-4 * np.random.default_rng(1).standard_normal(120)
    said = "the last quarter of the steps gained -1.75e-05 +- 5e-05 nats per row, less than 0.2 % of the ELBO"
    ax = plots.plot_training(trace(values, converged=True, convergence=said))
    figure = ax.figure
    figure.canvas.draw()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 3
    assert all(len(label.lstrip("\N{MINUS SIGN}").replace("0.", "").lstrip("0")) <= 1 for label in labels)
    title = ax.title.get_window_extent()
    assert title.x0 > 0
    assert title.x1 < figure.bbox.width
