"""The factorisation machine against two loops."""

import numpy as np
import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.baselines import (
    FactorizationMachine,
)
from blob_pyro.policies.baselines import factorization_machine as fm


def test_factorization_machine_by_two_loops():
    generator = torch.Generator().manual_seed(3)
    shapes = {"bias": (), "view_weight": (5,), "action_weight": (5,), "view_factor": (5, 3), "action_factor": (5, 3)}
    q = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    model = FactorizationMachine(5, embedding_dim=3)
    model.parameters = q
    histories = [[0, 2, 2], [], [1], [4, 3, 3, 0, 4]]
    scores = model.scores(histories)
    for n, history in enumerate(histories):
        for action in range(5):
            x = np.concatenate([np.bincount(history, minlength=5) / max(len(history), 1), np.eye(5)[action]])
            w = torch.cat([q["view_weight"], q["action_weight"]]).numpy()
            factor = torch.cat([q["view_factor"], q["action_factor"]]).numpy()
            expected = float(q["bias"]) + x @ w
            for i in range(10):
                for j in range(i + 1, 10):
                    expected += x[i] * x[j] * factor[i] @ factor[j]
            assert float(scores[n, action]) == pytest.approx(expected, abs=1e-5)
    row, action = torch.tensor([3, 0, 3]), torch.tensor([1, 4, 2])
    logits = fm.click_logits(q, Histories.from_sequences(histories, 5), row, action)
    assert torch.allclose(logits, scores[row, action], atol=1e-5)
