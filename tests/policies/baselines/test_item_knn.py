"""Nearest neighbours of items, against correlations by hand."""

import numpy as np
import pytest

from blob_pyro.data import Histories
from blob_pyro.policies.baselines import ItemKNN, SessionItemKNN


def correlation(matrix):
    covariance = np.cov(matrix, rowvar=False, bias=True) + np.eye(matrix.shape[1])
    scale = np.sqrt(np.diag(covariance))
    return covariance / scale / scale[:, None]


def test_item_knn_looks_at_the_last_item(sessions):
    sessions = sessions[:3]
    expected = correlation(sessions.counts().numpy())
    scores = ItemKNN(sessions).scores([[0, 2], [], [4]])
    assert np.allclose(scores[0], expected[2], atol=1e-6)
    assert (scores[1] == 0).all()
    assert scores[2].tolist() == [0, 0, 0, 0, 1]  # never viewed: like nothing but itself


def test_session_item_knn_averages_over_distinct_items(sessions):
    expected = correlation((sessions.counts() > 0).double().numpy())
    scores = SessionItemKNN(sessions).scores([[0, 2, 2, 2], []])
    assert np.allclose(scores[0], (expected[0] + expected[2]) / 2, atol=1e-6)
    assert (scores[1] == 0).all()


@pytest.mark.parametrize("baseline", [ItemKNN, SessionItemKNN])
def test_no_sessions_have_no_correlation(baseline):
    with pytest.raises(ValueError, match="sessions: there are none"):
        baseline(Histories.from_sequences([], 3))
