"""A factorisation machine of clicks on history and recommended item."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.ops.arguments import positive_number, whole_number
from blob_pyro.ops.seeds import check_seed, seeded
from blob_pyro.policies.baselines.sessions import clicks_of

__all__ = ["FactorizationMachine"]


class FactorizationMachine:
    """Logistic factorisation machine of degree two (Rendle 2010, eq. 1), fitted by Adam with weight decay.

    Its features are, as in SVD++ (his section V), the share ``x_v`` that each item has in the history, and an
    indicator of the recommended item ``a``::

        logit = w_0 + sum_v x_v w_v + w_a + sum_{v < u} x_v x_u <q_v, q_u> + sum_v x_v <q_v, q_a>

    where an item has one ``w`` and ``q`` as a view and another as a recommendation. The sum over pairs takes time
    linear in the views (his lemma 3.1).

    Args:
        num_items: size ``P`` of the catalogue.
        embedding_dim: length of the factors ``q``.
        l2: ridge penalty of all but ``w_0``, against the log-likelihood of all rows.
    """

    def __init__(self, num_items: int, embedding_dim: int = 10, l2: float = 1.0) -> None:
        self.num_items, self.embedding_dim = (
            whole_number(num_items, "num_items"),
            whole_number(embedding_dim, "embedding_dim"),
        )
        self.items = Vocabulary.numbered(num_items)
        self.l2 = positive_number(l2, "l2")
        self.parameters: dict[str, Tensor] | None = None

    def fit(
        self,
        log: EventLog,
        *,
        seed: int = 0,
        num_epochs: int = 20,
        batch_size: int = 4096,
        learning_rate: float = 0.02,
    ) -> None:
        """Learn from all impressions, from a fresh start.

        Args:
            log: with clicks.
            seed: of the start and of the order of impressions.
            num_epochs: passes over the impressions.
            batch_size: impressions per step.
            learning_rate: peak of Adam's one-cycle schedule.

        Raises:
            TypeError: for what is no log.
            ValueError: for another catalogue, or a log that clicks cannot be learned from.
        """
        clicks_of(log, self.num_items)
        whole_number(num_epochs, "num_epochs")
        whole_number(batch_size, "batch_size")
        positive_number(learning_rate, "learning_rate")
        size, rows = self.num_items, log.num_impressions
        with seeded(check_seed(seed), "cpu"), torch.enable_grad():
            parameters = {
                "bias": torch.zeros(()),
                "view_weight": torch.zeros(size),
                "action_weight": torch.zeros(size),
                "view_factor": 0.1 * torch.randn(size, self.embedding_dim),
                "action_factor": 0.1 * torch.randn(size, self.embedding_dim),
            }
            rate = log.reward.mean()
            parameters["bias"] += (rate / (1 - rate)).log()
            leaves = {name: value.requires_grad_() for name, value in parameters.items()}
            optimizer = torch.optim.Adam(leaves.values(), learning_rate)
            steps = num_epochs * -(-rows // batch_size)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
            for _ in range(num_epochs):
                for some in torch.randperm(rows).split(batch_size):
                    contexts, row = log.context[some].unique(return_inverse=True)
                    logits = click_logits(leaves, log.contexts[contexts], row, log.action[some])
                    penalty = sum((value.square().sum() for name, value in leaves.items() if name != "bias"), 0.0)
                    loss = binary_cross_entropy_with_logits(logits, log.reward[some]) + self.l2 / (2 * rows) * penalty
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        self.items = log.items
        self.parameters = {name: value.detach() for name, value in leaves.items()}

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the click logits of all items, ``N x P``.

        Raises:
            ValueError: if it is not fitted.
        """
        if self.parameters is None:
            raise ValueError("scores: the model is not fitted; call fit(log) first")
        history = as_histories(histories, self.items).to("cpu")
        alone, along = _of_history(self.parameters, history)
        return (alone + self.parameters["bias"]).unsqueeze(-1) + (
            self.parameters["action_weight"] + along @ self.parameters["action_factor"].mT
        )


def click_logits(parameters: dict[str, Tensor], histories: Histories, row: Tensor, action: Tensor) -> Tensor:
    """Compute the click logit of the recommendation of each ``action`` after history ``row``; ``M``."""
    alone, along = _of_history(parameters, histories)
    cross = (along[row] * parameters["action_factor"][action]).sum(-1)
    return parameters["bias"] + alone[row] + parameters["action_weight"][action] + cross


def _of_history(parameters: dict[str, Tensor], histories: Histories) -> tuple[Tensor, Tensor]:
    """What the views say by themselves, ``N``; and their factor, which meets the recommendation's, ``N x D``."""
    share = 1 / histories.lengths.clamp(min=1).to(parameters["bias"].dtype)
    factor, weight = parameters["view_factor"], parameters["view_weight"]
    along = histories.sum_rows(factor) * share.unsqueeze(-1)
    # Shares squared need counts: views of one item add up before they are squared.
    items, row = histories.flatten()
    cell, place = (row * histories.num_items + items).unique(return_inverse=True)
    count = torch.bincount(place, minlength=len(cell)).to(share.dtype)
    which = cell // histories.num_items
    own = (count * share[which]).square() * factor[cell % histories.num_items].square().sum(-1)
    squares = torch.zeros_like(share).index_add(0, which, own)
    alone = histories.sum_rows(weight.unsqueeze(-1)).squeeze(-1) * share + (along.square().sum(-1) - squares) / 2
    return alone, along
