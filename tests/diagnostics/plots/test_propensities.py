"""Propensities are drawn as the policy has them, with their errors; what is not drawn is summed up."""

import numpy as np

from blob_pyro.diagnostics import plots
from blob_pyro.policies import SessionPopularity, ThompsonSampling


def test_bars_are_the_policys(fitted):
    blob = fitted["normal"][0]
    ax = plots.plot_propensities(blob, [1, 2], most=4)
    actions = ThompsonSampling(blob).action_distribution([[1, 2]])
    found, order = actions.probs[0].sort(descending=True)
    probs = found.numpy()
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), probs[:4])
    assert [label.get_text() for label in ax.get_yticklabels()] == [str(i) for i in order[:4].tolist()]
    reach = np.array(ax.collections[0].get_segments())[:, :, 0]
    error = 1.96 * actions.error_estimate[0][order[:4]].numpy()
    np.testing.assert_allclose(reach[:, 1], np.minimum(probs[:4] + error, 1.0))
    assert ax.get_title() == f"ThompsonSampling: 4 of 12 items; the other 8 share {float(probs[4:].sum()):.2g}"
    assert ax.get_xlabel() == "probability of being played after 2 views"


def test_exact_propensities_have_no_error():
    ax = plots.plot_propensities(SessionPopularity(10_000, epsilon=0.5), [3, 3, 9])
    assert not ax.collections
    assert len(ax.get_yticklabels()) == 30
    assert ax.get_yticklabels()[0].get_text() == "3"
    assert "30 of 10,000 items; the other 9,970 share 0.5" in ax.get_title()
