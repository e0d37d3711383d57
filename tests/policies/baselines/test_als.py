"""Alternating least squares: what is asked of implicit, which may be absent."""

import builtins
import sys
import types

import numpy as np
import pytest

from blob_pyro.data import Histories
from blob_pyro.policies.baselines import (
    ALS,
)


class Solver:
    """Stands in for `implicit`: Hu, Koren & Volinsky (2008) by dense solves, with the library's conventions."""

    def __init__(self, factors, regularization, iterations, random_state, num_threads, use_cg):
        self.size, self.l2, self.sweeps = factors, regularization, iterations
        self.rng = np.random.default_rng(random_state)

    def _solve(self, confidence, factor):
        gram, rows = factor.T @ factor + self.l2 * np.eye(self.size), []
        for c in confidence:
            seen = c > 0
            a = gram + factor[seen].T @ ((c[seen] - 1)[:, None] * factor[seen])
            rows.append(np.linalg.solve(a, c[seen] @ factor[seen]))
        return np.array(rows)

    def fit(self, matrix, show_progress):
        dense = matrix.toarray()
        self.item_factors = self.rng.normal(size=(dense.shape[1], self.size)) * 0.1
        for _ in range(self.sweeps):
            self.item_factors = self._solve(dense.T, self._solve(dense, self.item_factors))

    def recalculate_user(self, users, matrix):
        assert len(users) == matrix.shape[0]
        return self._solve(matrix.toarray(), self.item_factors)


def test_als_asks_implicit_for_confidences(monkeypatch):
    module = types.ModuleType("implicit.cpu.als")
    module.AlternatingLeastSquares = Solver
    for name, part in (("implicit", types.ModuleType("implicit")), ("implicit.cpu", types.ModuleType("implicit.cpu")),
                       ("implicit.cpu.als", module)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, part)
    sessions = Histories.from_sequences([[0, 1, 2]] * 20 + [[3, 4, 4]] * 10, 5)
    als = ALS(sessions, 2, alpha=5.0)
    assert sorted(set(als._confidence(sessions).data.tolist())) == [6.0, 11.0]  # 1 + alpha count
    scores = als.scores([[3], [0], []])
    assert set(scores[0].topk(2).indices.tolist()) == {3, 4}
    assert set(scores[1].topk(3).indices.tolist()) == {0, 1, 2}
    assert scores[2].tolist() == [0.0] * 5
    assert als.scores([]).shape == (0, 5)


def test_als_without_implicit(monkeypatch, sessions):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("implicit"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"ALS needs implicit: pip install 'blob-pyro\[als\]'"):
        ALS(sessions)
