"""Probabilities that are right pass; those that are too extreme, or worse than a constant, are flagged."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from scipy.special import expit, logit

from blob_pyro.diagnostics.click_calibration import calibration_of

matplotlib.use("Agg")


def simulated(stretch, size=20_000, seed=0):
    """Events whose logits are N(-3, 1); predicted are logits ``stretch`` times as far from -3."""
    rng = np.random.default_rng(seed)
    p = expit(rng.standard_normal(size) - 3)
    reward = (rng.random(size) < p).astype(float)
    predicted = expit(-3 + stretch * (logit(p) + 3))
    constant = np.full(size, reward.mean())
    return predicted, reward, constant, constant, rng.integers(500, size=size), "simulated"


@pytest.mark.parametrize(("stretch", "flagged"), [(1.0, False), (2.5, True), (0.0, True)])
def test_wrong_probabilities_are_flagged(stretch, flagged):
    found = calibration_of(*simulated(stretch))
    assert found.flagged == flagged
    assert len(found.bins) == (10)
    inside = (found.bins.observed >= found.bins.low) & (found.bins.observed <= found.bins.high)
    assert inside.all() == (not flagged)


def test_scores_are_what_they_are():
    predicted, reward, constant, _, user, _ = simulated(1.0)
    found = calibration_of(predicted, reward, constant, constant, user, "simulated")
    brier = np.mean((predicted - reward) ** 2)
    log = -np.mean(reward * np.log(predicted) + (1 - reward) * np.log(1 - predicted))
    assert found.scores.loc["model", "brier"] == pytest.approx(brier)
    assert found.scores.loc["model", "log"] == pytest.approx(log)
    assert found.scores.loc["constant", "log_gain"] == pytest.approx(found.scores.loc["constant", "log"] - log)
    assert found.scores.loc["constant", "log_gain"] > 4 * found.scores.loc["constant", "log_gain_error"] > 0


def test_errors_are_clustered_by_user():
    predicted, reward, constant, *_ = simulated(1.0, size=2000)
    twice = [np.repeat(v, 5) for v in (predicted, reward, constant, constant, np.arange(2000))]
    once = calibration_of(predicted, reward, constant, constant, np.arange(2000), "once")
    found = calibration_of(*twice, "each five times")
    gain = "log_gain_error"
    assert found.scores.loc["constant", gain] == pytest.approx(once.scores.loc["constant", gain], rel=0.01)


def test_the_curve_shows_the_bins():
    found = calibration_of(*simulated(1.0))
    ax = found.plot()
    line = next(line for line in ax.get_lines() if line.get_label() == "observed")
    assert np.allclose(line.get_xdata(), 100 * found.bins.predicted)
    assert np.allclose(line.get_ydata(), 100 * found.bins.observed)
    pyplot.close("all")
