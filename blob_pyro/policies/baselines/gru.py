"""A recurrent network that predicts the next view (Sakhi et al. 2020, section 4.1, after Hidasi et al. 2016)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.infer import Training, train
from blob_pyro.models import OrganicBatch
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.device import default_device
from blob_pyro.ops.names import unique_name
from blob_pyro.ops.row_chunks import in_row_chunks
from blob_pyro.ops.seeds import seeded

__all__ = ["GRU"]


class GRU:
    """An embedding layer, a gated recurrent unit and a softmax over items, fitted by maximum likelihood.

    Args:
        num_items: size ``P`` of the catalogue.
        hidden_dim: units; the paper's 64 by default.
        embedding_dim: of the input; ``hidden_dim`` by default.

    Raises:
        TypeError: for a size that is no whole number.
        ValueError: for one below 1.

    Example:
        >>> log = EventLog.from_tables(views={"user": [1] * 6, "time": list(range(6)), "item": list("ababab")})
        >>> gru = GRU(log.num_items, hidden_dim=8)
        >>> trace = gru.fit(log, num_epochs=60, learning_rate=0.05, progress=False, device="cpu")
        >>> gru.scores([["a"], ["a", "b"]]).argmax(-1)
        tensor([1, 0])
    """

    def __init__(self, num_items: int, hidden_dim: int = 64, embedding_dim: int | None = None) -> None:
        self.num_items = num_items
        self.items = Vocabulary.numbered(num_items)
        self.fitted = False
        hidden_dim = whole_number(hidden_dim, "hidden_dim")
        embedding_dim = hidden_dim if embedding_dim is None else whole_number(embedding_dim, "embedding_dim")
        with seeded(0, "cpu"):
            self.model = _NextItem(num_items, hidden_dim, embedding_dim)

    def fit(
        self,
        log: EventLog | Histories,
        *,
        seed: int = 0,
        num_epochs: int = 30,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        validation: Histories | None = None,
        patience: int | None = None,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Learn from all sessions, from a fresh start. See `blob_pyro.BLO.fit` for the arguments.

        Returns:
            One row per epoch, as `blob_pyro.infer.train`; the ELBO is the log-likelihood per session.

        Raises:
            TypeError: if ``log`` or ``validation`` is no log or sessions.
            ValueError: if one is of another catalogue, or ``log`` has no view.
        """
        if not isinstance(log, EventLog | Histories):
            raise TypeError(f"log: expected an EventLog or its sessions as Histories, got {type(log).__name__}")
        if not isinstance(validation, Histories | None):
            raise TypeError(f"validation: expected sessions as Histories, got {type(validation).__name__}")
        sessions = log.sessions if isinstance(log, EventLog) else log
        if isinstance(log, EventLog):
            log.require_views()
            self.items = log.items
        if sessions.num_items != self.num_items:
            raise ValueError(f"log: has {sessions.num_items} items, but this model has num_items={self.num_items}")
        if sessions.num_views == 0:
            raise ValueError("log: has no views, and there is nothing to learn from; pass sessions with views")
        if validation is not None and validation.num_items != self.num_items:
            raise ValueError(
                f"validation: has {validation.num_items} items, but this model has num_items={self.num_items}"
            )
        device = default_device(device)
        self.model.to(device)
        with seeded(seed, device):
            self.model.reset_parameters()
            held_out = None if validation is None else OrganicBatch(validation.to(device), len(sessions))
            trace = train(
                self.model,
                _no_latents,
                Trace_ELBO(),
                OrganicBatch(sessions.to(device), len(sessions)),
                Training(num_epochs, batch_size, learning_rate, patience=patience),
                validation=held_out,
                progress=progress,
                description="GRU",
            )
        self.fitted = self.fitted or len(trace) > 0
        return trace

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the log-probability of each item to be viewed next, ``N x P``.

        Raises:
            ValueError: if it is not fitted.
        """
        if not self.fitted:
            raise ValueError("scores: the model is not fitted; call fit(log) first")
        history = as_histories(histories, self.items).to(self.model.intercept.device)
        if not len(history):  # the recurrent layer refuses a batch of nothing
            return self.model.intercept.detach().new_zeros(0, self.num_items)
        with torch.no_grad():
            return self.model.logits(self.model.final_states(history)).log_softmax(-1)


class _NextItem(PyroModule):
    """Views one after another, each given those before it."""

    def __init__(self, num_items: int, hidden_dim: int, embedding_dim: int) -> None:
        super().__init__(unique_name("gru"))
        self.start = num_items  # the row of the input that stands for no view yet
        self.embedding = nn.Embedding(num_items + 1, embedding_dim)
        self.recurrent = nn.GRU(embedding_dim, hidden_dim)
        self.weight = nn.Parameter(torch.empty(num_items, hidden_dim))
        self.intercept = nn.Parameter(torch.empty(num_items))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh start."""
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.recurrent.reset_parameters()
        nn.init.normal_(self.weight, std=0.1)
        nn.init.zeros_(self.intercept)

    def logits(self, state: Tensor) -> Tensor:
        """Unnormalised log-probability of each item, ``... x P``."""
        return state @ self.weight.mT + self.intercept

    def final_states(self, histories: Histories) -> Tensor:
        """The state after each history, ``N x hidden_dim``."""
        sequences = [items.new_tensor([self.start, *items.tolist()]) for items in self._split(histories)]
        result: Tensor = self.recurrent(self._embedded(sequences))[1][0]
        return result

    def _embedded(self, sequences: list[Tensor]) -> PackedSequence:
        packed = pack_sequence(sequences, enforce_sorted=False)
        return packed._replace(data=self.embedding(packed.data))  # once for all sequences

    def forward(self, batch: OrganicBatch) -> None:
        """Score every view of every session."""
        sessions = [items for items in self._split(batch.sessions) if len(items)]
        inputs = [torch.cat([items.new_tensor([self.start]), items[:-1]]) for items in sessions]
        state = self.recurrent(self._embedded(inputs))[0].data
        target = pack_sequence(sessions, enforce_sorted=False).data
        weight, intercept = self.weight, self.intercept

        def log_prob(state: Tensor, target: Tensor) -> Tensor:
            log_prob: Tensor = dist.Categorical(logits=state @ weight.mT + intercept, validate_args=False).log_prob(
                target
            )
            return log_prob

        with batch.plate() as rows:
            value = in_row_chunks(log_prob, state, target, width=len(intercept)).sum()
            pyro.factor("views", value.expand(len(rows)) / max(len(rows), 1))

    @staticmethod
    def _split(histories: Histories) -> list[Tensor]:
        items, _ = histories.flatten()
        return list(items.split(histories.lengths.tolist()))


def _no_latents(batch: OrganicBatch) -> None:
    """The guide of a model without latent variables."""
