"""EASE against its closed form with a constraint."""

import numpy as np
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.baselines import (
    EASE,
    Popularity,
)


def test_ease_is_the_constrained_ridge_regression(sessions):
    """Column by column: a regression on all the other items (Steck 2019, eq. 1)."""
    counts, l2 = sessions.counts(torch.float64).numpy(), 0.7
    expected = np.zeros((5, 5))
    for item in range(5):
        others = [i for i in range(5) if i != item]
        x = counts[:, others]
        expected[others, item] = np.linalg.solve(x.T @ x + l2 * np.eye(4), x.T @ counts[:, item])
    assert np.allclose(EASE(sessions, l2).scores([[0], [1], [2], [3], [4]]), expected, atol=1e-6)
    assert EASE(sessions).scores([[]]).tolist() == [[0.0] * 5]


def test_ease_sees_what_goes_together():
    """Three wins for EASE: rare pairs against one popular item."""
    sessions = Histories.from_sequences([[0, 1]] * 20 + [[2, 3]] * 4 + [[0]] * 30, 4)
    assert int(EASE(sessions, 1.0).scores([[2]]).argmax()) == 3
    assert int(Popularity(sessions).scores([[2]]).argmax()) == 0
