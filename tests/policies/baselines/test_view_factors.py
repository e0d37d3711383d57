"""View factors against NumPy's singular value decomposition."""

import numpy as np
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.baselines import (
    ViewFactors,
)


def test_view_factors_are_the_singular_value_decomposition_s(sessions):
    counts = sessions.counts(torch.float64).numpy()
    scaled = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    features = ViewFactors(sessions, 3)(sessions).numpy()
    assert np.allclose(features[:, 0], 1)
    assert np.allclose((features[:, 1:] ** 2).mean(0), 1)
    u, _, _ = np.linalg.svd(scaled, full_matrices=False)
    assert np.allclose(np.abs(features[:, 1:]), np.abs(u[:, :3]) * len(counts) ** 0.5)
    assert ViewFactors(sessions, 3)(Histories.from_sequences([[]], 5)).tolist() == [[1, 0, 0, 0]]
