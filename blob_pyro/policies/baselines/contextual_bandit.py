"""A policy learned by inverse propensity scoring."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from torch import Tensor

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.ops.arguments import positive_number, whole_number
from blob_pyro.policies.baselines.sessions import clicks_of, count_matrix

__all__ = ["ContextualBandit"]


class ContextualBandit:
    """A softmax policy over view counts that imitates what was clicked, weighted by inverse propensities.

    Maximises ``sum over clicks of log pi(action | history) / propensity``, a lower bound of the IPS estimate of the
    policy's clicks up to a constant (log x <= x - 1), concave in the weights of ``pi(a | history) proportional to
    exp(b_a + sum over viewed items v of count_v W[v, a])``. This is the contextual bandit of Sakhi et al. (2020,
    section 4.2), RecoGym's ``LogregMulticlassIpsAgent``. L-BFGS starts from zero: there is no seed.

    Args:
        num_items: size ``P`` of the catalogue; ``P x P`` weights are held in memory.
        l2: ridge penalty, ``l2 / 2`` times the squares of all b and W, in clicks: weights are divided by their mean.
            Without one there is no optimum where an item was never clicked.

    Example:
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 2], "time": [0, 0], "item": [0, 1]},
        ...     impressions={
        ...         "user": [1, 1, 2, 2], "time": [1, 2, 1, 2], "action": [0, 1, 0, 1], "reward": [1, 0, 0, 1],
        ...         "propensity": [0.5] * 4,
        ...     },
        ...     num_items=2,
        ... )
        >>> model = ContextualBandit(2)
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

    def fit(self, log: EventLog, *, max_iterations: int = 1000) -> None:
        """Learn from the impressions that were clicked.

        Raises:
            TypeError: for what is no log.
            ValueError: for another catalogue, no propensities, or a log that clicks cannot be learned from.
            RuntimeError: if L-BFGS has not arrived after ``max_iterations``.
        """
        clicks_of(log, self.num_items)
        if log.propensity is None:
            raise ValueError("log: has no propensities (column 'propensity'), which this baseline weighs clicks by")
        clicked, size = log.reward.numpy() > 0, self.num_items
        counts = count_matrix(log.contexts)[log.context.numpy()[clicked]]
        action, weight = log.action.numpy()[clicked], 1 / log.propensity.numpy()[clicked]
        weight, rows = weight / weight.mean(), np.arange(len(action))

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            intercept, matrix = parameters[:size], parameters[size:].reshape(size, size)
            logits = counts @ matrix + intercept
            value = weight @ (logsumexp(logits, axis=1) - logits[rows, action])
            residual = softmax(logits, axis=1)
            residual[rows, action] -= 1
            residual *= weight[:, None]
            gradient = counts.T @ residual + self.l2 * matrix
            slope = np.concatenate([residual.sum(0) + self.l2 * intercept, gradient.ravel()])
            return float(value + self.l2 / 2 * parameters @ parameters), slope

        options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": 1e-9, "gtol": 1e-4, "maxcor": 30}
        found = minimize(loss, np.zeros(size + size * size), jac=True, method="L-BFGS-B", options=options)
        if found.nit >= max_iterations:
            raise RuntimeError(f"fit: no optimum after {found.nit} iterations; pass a larger max_iterations or l2")
        parameters = torch.from_numpy(found.x)
        self.items, self.intercept, self.weight = log.items, parameters[:size], parameters[size:].view(size, size)

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the learned policy's log-probabilities up to a constant, ``N x P``: for `Greedy` or `Softmax`.

        Raises:
            ValueError: if it is not fitted.
        """
        if self.weight is None or self.intercept is None:
            raise ValueError("scores: the model is not fitted; call fit(log) first")
        return as_histories(histories, self.items).to("cpu").sum_rows(self.weight) + self.intercept
