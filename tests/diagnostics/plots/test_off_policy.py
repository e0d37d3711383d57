"""Importance weights are drawn as a log has them."""

import numpy as np
import pytest

from blob_pyro import EventLog
from blob_pyro.diagnostics import plots
from blob_pyro.policies import Uniform


def test_weights_fall_and_their_shares_add_up(log):
    ax = plots.plot_importance_weights(log, Uniform(12))
    weights = np.sort(1 / 12 / log.propensity.double().numpy())[::-1]
    (falling, _), (shares,) = ax.get_lines(), ax.figure.axes[1].get_lines()
    rank = falling.get_xdata()
    np.testing.assert_allclose(falling.get_ydata(), weights[rank - 1])
    np.testing.assert_allclose(shares.get_ydata(), 100 * weights.cumsum()[rank - 1] / weights.sum())
    assert (rank[0], rank[-1]) == (1, len(weights))
    assert len(rank) <= 400
    size = weights.sum() ** 2 / (weights**2).sum()
    assert f"{len(weights):,} rows, effective sample size {size:,.0f}" in ax.get_title()


def test_few_effective_rows_are_said(log):
    few = EventLog.from_arrays(
        log.num_items, log.view_user, log.view_time, log.view_item, log.user[:50], log.time[:50], log.action[:50],
        log.reward[:50], log.propensity[:50],
    )  # fmt: skip
    ax = plots.plot_importance_weights(few, Uniform(12))
    assert "(below 1,000)" in ax.get_title()
    assert ax.title.get_color() == "C3"


def test_what_cannot_be_weighted_is_refused(log):
    with pytest.raises(ValueError, match="policy: chooses among 3 items, the log has 12"):
        plots.plot_importance_weights(log, Uniform(3))
    columns = (log.user, log.time, log.action, log.reward)
    bare = EventLog.from_arrays(log.num_items, log.view_user, log.view_time, log.view_item, *columns)
    with pytest.raises(ValueError, match="log: has no column 'propensity'"):
        plots.plot_importance_weights(bare, Uniform(12))
