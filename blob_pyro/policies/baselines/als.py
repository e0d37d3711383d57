"""Implicit-feedback matrix factorisation, by the library `implicit`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from blob_pyro.data import EventLog, Histories, as_histories
from blob_pyro.ops.arguments import positive_number, whole_number
from blob_pyro.ops.seeds import check_seed
from blob_pyro.policies.baselines.sessions import count_matrix, sessions_of

__all__ = ["ALS"]


class ALS:
    """Scores items by weighted matrix factorisation of view counts, fitted by alternating least squares.

    Hu, Koren & Volinsky (2008): views have confidence ``1 + alpha count``, what was not viewed has 1. A history's
    factor is that of a new user with these views.

    Args:
        sessions: a log with views, or its sessions as item numbers.
        embedding_dim: length of the factors.
        l2: ridge penalty.
        alpha: confidence in a view.
        num_iterations: sweeps.
        seed: of the start.

    Raises:
        ImportError: without `implicit`, which ``pip install 'blob-pyro[als]'`` brings.
        TypeError: for neither a log nor sessions.
        ValueError: if there are no views, or for an argument outside its range.
    """

    def __init__(
        self,
        sessions: EventLog | Histories,
        embedding_dim: int = 20,
        *,
        l2: float = 1.0,
        alpha: float = 10.0,
        num_iterations: int = 15,
        seed: int = 0,
    ) -> None:
        self.items, histories = sessions_of(sessions)
        positive_number(alpha, "alpha")
        options = {
            "factors": whole_number(embedding_dim, "embedding_dim"),
            "regularization": positive_number(l2, "l2"),
            "iterations": whole_number(num_iterations, "num_iterations"),
            "random_state": check_seed(seed),
        }
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ImportError as error:
            raise ImportError("ALS needs implicit: pip install 'blob-pyro[als]'") from error
        self.alpha = alpha
        self.model = AlternatingLeastSquares(**options, num_threads=1, use_cg=False)  # threads would change the floats
        self.model.fit(self._confidence(histories), show_progress=False)

    def _confidence(self, histories: Histories) -> Any:
        """Of what was viewed; what was not has 1, which `implicit` takes for granted."""
        confidence = csr_matrix(count_matrix(histories).astype(np.float32))  # it knows no sparse arrays
        confidence.data = 1 + self.alpha * confidence.data
        return confidence

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the predicted preference of each item, ``N x P``; zero after an empty history."""
        history = as_histories(histories, self.items).to("cpu")
        if not len(history):
            return torch.zeros(0, len(self.items))
        factors = self.model.recalculate_user(np.arange(len(history)), self._confidence(history))
        return torch.from_numpy(factors @ self.model.item_factors.T)
