"""`BLO`: the organic model, fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from blob_pyro import storage
from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.guides import ENCODERS, AmortizedGuide
from blob_pyro.infer import BOUNDS, GuidedELBO, Training, seeded, train
from blob_pyro.models import OrganicBatch, OrganicModel

__all__ = ["BLO"]


class BLO:
    """Bayesian latent organic model: a Gaussian posterior over each user's interest, from views alone.

    Sakhi et al. (2020), sections 2 and 3.1. ``model`` and ``guide`` are plain Pyro callables.

    Args:
        num_items: size ``P`` of the catalogue.
        embedding_dim: ``K``, at most ``num_items``.
        encoder: how a history becomes a posterior: "precision" (default), "linear", or an ``nn.Module`` of your
            own; see `blob_pyro.guides.encoders`.
        bound: on the expected log-likelihood: "reparameterized"; see `blob_pyro.infer.bounds`.

    Raises:
        ValueError: for sizes that make no sense, or an unknown name, listing the known ones.

    Example:
        >>> log = EventLog.from_tables(views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")})
        >>> blo = BLO(log.num_items, embedding_dim=2)
        >>> history = blo.fit(log, num_epochs=5, progress=False)
        >>> blo.predict_next([["a", "b"], []]).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_items: int,
        embedding_dim: int = 20,
        encoder: str | nn.Module = "precision",
        bound: str = "reparameterized",
    ) -> None:
        if not 1 <= embedding_dim <= num_items:
            raise ValueError(
                f"embedding_dim: must lie between 1 and num_items={num_items}, got {embedding_dim}; more dimensions "
                "than items cannot be told apart"
            )
        if bound not in BOUNDS:
            raise ValueError(f"bound: unknown name {bound!r}; known: {', '.join(sorted(BOUNDS))}")
        if isinstance(encoder, str) and encoder not in ENCODERS:
            raise ValueError(f"encoder: unknown name {encoder!r}; known: {', '.join(sorted(ENCODERS))}")
        self.num_items = num_items
        self.embedding_dim = embedding_dim
        self.encoder_name = encoder if isinstance(encoder, str) else None
        self.bound = bound
        self.items = Vocabulary.numbered(num_items)
        self.fitted = False
        self.model = OrganicModel(num_items, embedding_dim)
        self.guide = AmortizedGuide(
            ENCODERS[encoder](num_items, embedding_dim) if isinstance(encoder, str) else encoder
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.model.item_embedding.device

    def to(self, device: torch.device | str) -> BLO:
        """Move the parameters, in place."""
        self.model.to(device)
        self.guide.to(device)
        return self

    def batch(self, log: EventLog) -> OrganicBatch:
        """The log's sessions on this model's device, as ``model`` and ``guide`` take them."""
        return OrganicBatch(log.sessions.to(self.device), len(log.sessions))

    def fit(
        self,
        log: EventLog,
        *,
        seed: int = 0,
        num_epochs: int = 60,
        batch_size: int = 1024,
        learning_rate: float = 0.03,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Learn item embeddings and encoder from all sessions of a log, from a fresh start.

        Args:
            log: a log with views; its catalogue becomes the model's.
            seed: of the start, of the order of sessions and of the noise; the same seed gives the same fit.
            num_epochs: passes over the sessions.
            batch_size: sessions per step.
            learning_rate: peak of Adam's one-cycle schedule.
            device: where to train; default CUDA where there is one.
            progress: whether to show a progress bar.

        Returns:
            One row per epoch: ``epoch``, ``elbo`` (nats per session), ``seconds``, ``learning_rate``.

        Raises:
            ValueError: if the log has no views or another number of items.
        """
        training = Training(num_epochs, batch_size, learning_rate)
        log.require_views()
        if log.num_items != self.num_items:
            raise ValueError(f"log: has {log.num_items} items, but this model was made with num_items={self.num_items}")
        self.items = log.items
        self.to(default_device(device))
        with seeded(seed, self.device):
            for module in (self.model, *self.guide.modules()):
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            elbo = GuidedELBO(BOUNDS[self.bound])
            data = self.batch(log)
            history = train(self.model, self.guide, elbo, data, training, progress=progress, description="BLO")
        self.fitted = True
        return history

    def user_posterior(self, histories: Histories | Any) -> dist.Independent:
        """Posterior of the latent interest omega after each history.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.

        Returns:
            Independent normal: batch ``N``, event ``K``.
        """
        with torch.no_grad():
            return self.guide.posterior(as_histories(histories, self.items).to(self.device))

    def embed(self, histories: Histories | Any, chunk_size: int = 65_536) -> Tensor:
        """Posterior means of omega, ``N x K``, computed in chunks of ``chunk_size`` histories."""
        history = as_histories(histories, self.items)
        starts = range(0, max(len(history), 1), chunk_size)
        return torch.cat([self.user_posterior(history[i : i + chunk_size]).mean for i in starts])

    def predict_next(self, histories: Histories | Any, method: str = "mean", num_samples: int = 100) -> Tensor:
        """Probability of each item to be the next view (paper, section 6.4).

        Args:
            histories: as `user_posterior`.
            method: "mean" puts the posterior mean into the softmax; "monte_carlo" averages the softmax over draws.
            num_samples: draws for "monte_carlo".

        Returns:
            ``N x P``; rows sum to 1.
        """
        if method not in ("mean", "monte_carlo"):
            raise ValueError(f"method: expected 'mean' or 'monte_carlo', got {method!r}")
        with torch.no_grad():
            posterior = self.user_posterior(histories)
            if method == "mean":
                return self._logits(posterior.mean).softmax(-1)
            total = torch.zeros(*posterior.batch_shape, self.num_items, device=self.device)
            for _ in range(num_samples):
                total += self._logits(posterior.sample()).softmax(-1)
            return total / num_samples

    def scores(self, histories: Histories | Any) -> Tensor:
        """Unnormalised log-probability of each item to be viewed next, at the posterior mean, ``N x P``."""
        with torch.no_grad():
            return self._logits(self.embed(histories))

    def _logits(self, interest: Tensor) -> Tensor:
        return interest @ self.model.item_embedding.mT + self.model.item_intercept

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: ``config.json`` and ``state.safetensors``, no pickle; all or nothing.

        Raises:
            ValueError: if item ids are not strings or integers, which JSON could not give back.
        """
        storage.save(path, self._config(), {"model": self.model, "guide": self.guide})

    @classmethod
    def load(cls, path: str | Path, encoder: nn.Module | None = None, device: torch.device | str | None = None) -> BLO:
        """Read a model from a folder, in a new process, without data.

        Args:
            path: what `save` wrote.
            encoder: your own encoder, freshly constructed, if the model was saved with one.
            device: where to put it; default CUDA where there is one.

        Raises:
            ValueError: if the folder does not hold a BLO that this version can read, saying why.
        """
        config, state = storage.load(path, "BLO")
        blo = cls._from_config(config, encoder)
        storage.restore({"model": blo.model, "guide": blo.guide}, state, path)
        return blo.to(default_device(device))

    def _config(self) -> dict[str, Any]:
        return {
            "class": "BLO",
            "num_items": self.num_items,
            "embedding_dim": self.embedding_dim,
            "encoder": self.encoder_name,
            "bound": self.bound,
            "fitted": self.fitted,
            "items": storage.vocabulary_to_json(self.items),
        }

    @classmethod
    def _from_config(cls, config: dict[str, Any], encoder: nn.Module | None) -> BLO:
        if encoder is None and config["encoder"] is None:
            raise ValueError("encoder: this model was saved with an encoder of your own; pass a fresh one, encoder=...")
        blo = cls(config["num_items"], config["embedding_dim"], encoder or config["encoder"], config["bound"])
        blo.fitted = config["fitted"]
        blo.items = storage.vocabulary_from_json(config["items"])
        return blo


def default_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, else CUDA where there is one."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
