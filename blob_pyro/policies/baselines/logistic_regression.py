"""Logistic regression of clicks on the history crossed with the recommended item."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array, hstack
from scipy.special import expit, log1p
from torch import Tensor

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.ops.arguments import positive_number, whole_number
from blob_pyro.policies.baselines.sessions import clicks_of, count_matrix

__all__ = ["LogisticRegression"]


class LogisticRegression:
    """``logit P(click on a) = b + b_a + sum over viewed items v of count_v W[v, a]`` (Sakhi et al. 2020, section 4.2).

    Every pair of a viewed and a recommended item has a weight of its own, every recommended item an intercept; all but
    the common intercept are penalised. This is what RecoGym's ``LogregPolyAgent`` fits. The likelihood is concave and
    maximised by L-BFGS from zero: there is no seed.

    Args:
        num_items: size ``P`` of the catalogue; ``P x P`` weights are held in memory.
        l2: ridge penalty, ``l2 / 2`` times the squared weights against the log-likelihood of all rows.

    Example:
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 2], "time": [0, 0], "item": [0, 1]},
        ...     impressions={"user": [1, 1, 2, 2], "time": [1, 2] * 2, "action": [0, 1] * 2, "reward": [1, 0, 0, 1]},
        ...     num_items=2,
        ... )
        >>> model = LogisticRegression(2)
        >>> model.fit(log)
        >>> model.scores([[0], [1]]).argmax(-1)
        tensor([0, 1])
    """

    def __init__(self, num_items: int, l2: float = 1.0) -> None:
        self.num_items = whole_number(num_items, "num_items")
        self.items = Vocabulary.numbered(num_items)
        self.l2 = positive_number(l2, "l2")
        self.weight: Tensor | None = None
        self.intercept: Tensor | None = None

    def fit(self, log: EventLog, *, max_iterations: int = 2000) -> None:
        """Learn from all impressions.

        Raises:
            TypeError: for what is no log.
            ValueError: for another catalogue, or a log that clicks cannot be learned from.
            RuntimeError: if L-BFGS has not arrived after ``max_iterations``.
        """
        clicks_of(log, self.num_items)
        design, size = _crossed(count_matrix(log.contexts), log), self.num_items
        click = log.reward.numpy().astype(float)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            logit = design @ weights[1:] + weights[0]
            value = np.maximum(logit, 0) - click * logit + log1p(np.exp(-np.abs(logit)))
            residual = expit(logit) - click
            gradient = np.concatenate([[residual.sum()], design.T @ residual + self.l2 * weights[1:]])
            return float(value.sum() + self.l2 / 2 * weights[1:] @ weights[1:]), gradient

        options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": 1e-8, "gtol": 1e-5, "maxcor": 30}
        found = minimize(loss, np.zeros(1 + design.shape[1]), jac=True, method="L-BFGS-B", options=options)
        if found.nit >= max_iterations:
            raise RuntimeError(f"fit: no optimum after {found.nit} iterations; pass a larger max_iterations or l2")
        weights = torch.from_numpy(found.x)
        self.items = log.items
        self.weight = weights[1 + size :].view(size, size)
        self.intercept = weights[0] + weights[1 : 1 + size]

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the click logits of all items, ``N x P`` float64.

        Raises:
            ValueError: if it is not fitted.
        """
        if self.weight is None or self.intercept is None:
            raise ValueError("scores: the model is not fitted; call fit(log) first")
        return as_histories(histories, self.items).to("cpu").sum_rows(self.weight) + self.intercept


def _crossed(counts: csr_array, log: EventLog) -> csr_array:
    """``N x (P + P^2)``: the action, and every viewed item with the action."""
    size, action = counts.shape[1], log.action.numpy()
    rows = counts[log.context.numpy()].tocoo()
    crossed = csr_array((rows.data, (rows.row, rows.col * size + action[rows.row])), shape=(len(action), size * size))
    one = csr_array((np.ones(len(action)), (np.arange(len(action)), action)), shape=(len(action), size))
    return csr_array(hstack([one, crossed], format="csr"))
