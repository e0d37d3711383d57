"""Features of a history by latent semantic analysis of the sessions of a log."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import diags_array
from scipy.sparse.linalg import svds
from torch import Tensor

from blob_pyro.data import EventLog, Histories
from blob_pyro.ops.arguments import whole_number
from blob_pyro.policies.baselines.sessions import count_matrix, sessions_of

__all__ = ["ViewFactors"]


class ViewFactors:
    """One, and a history's views projected on the leading right singular vectors of the sessions' view counts.

    Counts of sessions and of histories are scaled to length one; each feature is scaled to a mean square of one over
    the sessions. For `LinUCB` and `LinTS`, whose arms each need ``D x D`` numbers.

    Args:
        sessions: a log with views, or its sessions as item numbers.
        num_factors: singular vectors, fewer than items and sessions.
    """

    def __init__(self, sessions: EventLog | Histories, num_factors: int = 10) -> None:
        self.items, histories = sessions_of(sessions)
        most = min(len(self.items), len(histories)) - 1
        self.num_factors = whole_number(num_factors, "num_factors", at_most=max(1, most))
        counts = count_matrix(histories)
        length = np.sqrt(np.asarray((counts * counts).sum(1)).ravel())
        scaled = diags_array(1 / np.maximum(length, 1e-300)) @ counts
        start = np.ones(min(scaled.shape))  # of the iteration: without one it is random
        _, value, vectors = svds(scaled, k=num_factors, v0=start)
        order = np.argsort(-value)
        scale = np.maximum(value[order] / len(histories) ** 0.5, 1e-12)
        self.projection = torch.from_numpy(np.ascontiguousarray((vectors[order] / scale[:, None]).T))

    @property
    def num_features(self) -> int:
        """The number of features, ``D``, one more than the factors."""
        return self.num_factors + 1

    def __call__(self, histories: Histories) -> Tensor:
        """``N x D`` float64; an empty history has the one only."""
        histories = histories.to("cpu")
        projected = histories.sum_rows(self.projection)
        squares = histories.counts(torch.float64).square().sum(-1, keepdim=True)
        return torch.cat(
            [torch.ones(len(histories), 1, dtype=torch.float64), projected / squares.clamp(min=1).sqrt()], -1
        )
