"""`BLO`: the organic model, fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import pandas as pd
import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.guides import ENCODERS, AmortizedGuide, ItemGuide
from blob_pyro.guides.encoders import Covariance
from blob_pyro.infer import (
    BOUNDS,
    Bound,
    GuidedELBO,
    Training,
    expectation_maximization,
    online_expectation_maximization,
    train,
)
from blob_pyro.infer.training.checkpoints import Checkpoint, untouched_if_refused
from blob_pyro.models import OrganicBatch, OrganicModel, OrganicPriors
from blob_pyro.ops.device import default_device
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.ops.memory import require_memory
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.ops.seeds import seeded, standard_normal
from blob_pyro.recommenders.saving import load_blo, save_blo

__all__ = ["BLO", "TopItems"]


class TopItems(NamedTuple):
    """The likeliest next items of each history.

    Attributes:
        item: item *numbers*, likeliest first, ``N x k``; ``blo.items.decode`` gives their ids.
        probability: of each to be the next view, ``N x k``.
    """

    item: Tensor
    probability: Tensor


class BLO:
    """Bayesian latent organic model: a Gaussian posterior over each user's interest, from views alone.

    Sakhi et al. (2020), sections 2 and 3.1. ``model`` and ``guide`` are plain Pyro callables.

    Args:
        num_items: size ``P`` of the catalogue.
        embedding_dim: ``K``, at most ``num_items``.
        encoder: how a history becomes a posterior: "precision" (default), "linear", "deep", or an ``nn.Module`` of
            your own; see `blob_pyro.guides.encoders`.
        bound: on the expected log-likelihood: "reparameterized" (default), "bouchard", "log_concave", "one_vs_each",
            or a `blob_pyro.infer.Bound`, such as ``Bouchard(num_negatives=256)``.
        covariance: of the posterior, "diagonal" or "full"; a module of your own decides for itself.
        priors: of the item parameters; none by default, as in the paper. See `OrganicPriors`.
        sparse: for a catalogue so large that a step must not visit it: tables of item rows get sparse gradients.
            Together with a bound with ``num_negatives``, and without priors, a step is free of ``P``.

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
        bound: str | Bound = "reparameterized",
        *,
        covariance: Covariance = "diagonal",
        priors: OrganicPriors | None = None,
        sparse: bool = False,
    ) -> None:
        if not 1 <= embedding_dim <= num_items:
            raise ValueError(
                f"embedding_dim: must lie between 1 and num_items={num_items}, got {embedding_dim}; more dimensions "
                "than items cannot be told apart"
            )
        if isinstance(bound, str) and bound not in BOUNDS:
            raise ValueError(f"bound: unknown name {bound!r}; known: {', '.join(sorted(BOUNDS))}")
        if isinstance(encoder, str) and encoder not in ENCODERS:
            raise ValueError(f"encoder: unknown name {encoder!r}; known: {', '.join(sorted(ENCODERS))}")
        self.num_items = num_items
        self.embedding_dim = embedding_dim
        self.encoder_name = encoder if isinstance(encoder, str) else None
        self.covariance = covariance
        self.bound: Bound | None = BOUNDS[bound]() if isinstance(bound, str) else bound
        self.items = Vocabulary.numbered(num_items)
        self.fits: list[dict[str, Any]] = []
        with seeded(0, "cpu"):  # a fit draws its own start
            self.model = OrganicModel(num_items, embedding_dim, priors, sparse)
            if isinstance(encoder, str):
                encoder = ENCODERS[encoder](num_items, embedding_dim, covariance=covariance, sparse=sparse)
        items = ItemGuide(self.model) if self.model.priors.inference == "posterior" else None
        self.guide = AmortizedGuide(encoder, items)

    @property
    def fitted(self) -> bool:
        """Whether there has been a fit; ``fits`` has the settings of each."""
        return bool(self.fits)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.model.item_embedding.device

    def to(self, device: torch.device | str) -> BLO:
        """Move the parameters, in place."""
        for module in self._trained():
            module.to(device)
        return self

    def batch(self, log: EventLog | Histories) -> OrganicBatch:
        """The log's sessions on this model's device, as ``model`` and ``guide`` take them."""
        sessions = log.sessions if isinstance(log, EventLog) else log
        return OrganicBatch(sessions.to(self.device), len(sessions))

    def fit(
        self,
        log: EventLog | Histories,
        *,
        seed: int = 0,
        num_epochs: int = 60,
        batch_size: int = 1024,
        learning_rate: float = 0.03,
        schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle",
        optimizer: Literal["adam", "rmsprop"] = "adam",
        clip_norm: float = 10.0,
        validation: EventLog | Histories | None = None,
        patience: int | None = None,
        checkpoint: str | Path | None = None,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Learn item embeddings and encoder from all sessions of a log, from a fresh start.

        Args:
            log: a log with views, whose catalogue becomes the model's; or its sessions, as item numbers.
            seed: of the start, of the order of sessions and of the noise; the same seed gives the same fit.
            num_epochs: passes over the sessions.
            batch_size: sessions per step.
            learning_rate: peak of the schedule.
            schedule: of the learning rate; see `blob_pyro.infer.Training`.
            optimizer: "adam", or "rmsprop" as in the paper.
            clip_norm: gradients are scaled down to this norm.
            validation: sessions that are not trained on, of the same catalogue. The fit of the epoch with the best
                ELBO on them is kept.
            patience: stop after so many epochs in a row without a better one.
            checkpoint: a file, written after every epoch. If it is there already the fit goes on from it, to the same
                floats as if it had never stopped; if it is finished, its result is restored and nothing is trained:
                ``attrs["resumed_from_epoch"]`` of the result says how many epochs were the file's. A checkpoint of any
                other fit is refused, and leaves the model as it is.
            device: where to train; default CUDA where there is one.
            progress: whether to show a progress bar.

        Returns:
            One row per epoch: ``epoch``, ``elbo`` (nats per session), ``validation_elbo`` (likewise, if asked for),
            ``seconds``, ``learning_rate``.

        Raises:
            ValueError: if the log has no views or another number of items; if the checkpoint cannot be
                written, is damaged, or is of another fit, naming what differs.
        """
        training = Training(num_epochs, batch_size, learning_rate, clip_norm, schedule, optimizer, patience)
        if self.bound is None:
            raise ValueError("bound: this model was saved with a bound of your own; set blo.bound to one to fit again")
        items = self._catalogue(log)
        if validation is not None and self._catalogue(validation, "validation") != items:
            raise ValueError("validation: its items are not those of log; split one log's sessions instead")
        kept = Checkpoint.at(checkpoint, seed=seed, encoder=self.encoder_name, priors=self.model.priors)
        self.to(default_device(device))
        modules = self._trained()
        with untouched_if_refused(self, modules, kept), seeded(seed, self.device):
            for module in (m for outer in modules for m in outer.modules()):
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
            data = self.batch(log)
            content = content_hash(data)
            held_out = None if validation is None else OrganicBatch(self.batch(validation).sessions, len(data))
            history = train(
                self.model,
                self.guide,
                GuidedELBO(self.bound),
                data,
                training,
                validation=held_out,
                modules=modules[2:],
                checkpoint=kept,
                progress=progress,
                description="BLO",
            )
        self.items = items
        self.fits = [training.record("fit", seed, len(data), data=content)] if len(history) else []
        return history

    def user_posterior(self, histories: Histories | Any, method: str = "encoder", **options: Any) -> TorchDistribution:
        """Posterior of the latent interest omega after each history.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.
            method: "encoder", one pass through the trained encoder; "em", the best Gaussian under Bouchard's bound,
                with a full covariance and no use of the encoder; "online_em", the same from a few items at a time.
            **options: of `blob_pyro.infer.expectation_maximization` (``num_cycles``, ``tolerance``) or of
                `blob_pyro.infer.online_expectation_maximization` (``num_steps``, ``num_negatives``, ``decay``).

        Returns:
            Independent normals or a `MultivariateNormal`: batch ``N``, event ``K``.

        Raises:
            ValueError: for an unknown method.
        """
        history = as_histories(histories, self.items).to(self.device)
        with torch.no_grad():
            items = self.model.item_embedding, self.model.item_intercept
            if method == "encoder":
                if options:
                    raise TypeError(f"options: method='encoder' takes none, got {', '.join(sorted(options))}")
                return self.guide.posterior(history)
            if method == "em":
                return expectation_maximization(history, *items, **options)
            if method == "online_em":
                return online_expectation_maximization(history, *items, **options)
        raise ValueError(f"method: expected 'encoder', 'em' or 'online_em', got {method!r}")

    def embed(
        self, histories: Histories | Any, chunk_size: int = 65_536, method: str = "encoder", **options: Any
    ) -> Tensor:
        """Posterior means of omega, ``N x K``, computed in chunks of ``chunk_size`` histories."""
        history = as_histories(histories, self.items)
        starts = range(0, max(len(history), 1), chunk_size)
        parts = (history[i : i + chunk_size] for i in starts)
        return torch.cat([self.user_posterior(part, method, **options).mean for part in parts])

    @overload
    def predict_next(
        self,
        histories: Histories | Any,
        method: str = ...,
        num_samples: int = ...,
        *,
        posterior: str | TorchDistribution = ...,
        exclude_seen: bool = ...,
        top_k: None = ...,
        seed: int = ...,
    ) -> Tensor: ...

    @overload
    def predict_next(
        self,
        histories: Histories | Any,
        method: str = ...,
        num_samples: int = ...,
        *,
        posterior: str | TorchDistribution = ...,
        exclude_seen: bool = ...,
        top_k: int,
        seed: int = ...,
    ) -> TopItems: ...

    def predict_next(
        self,
        histories: Histories | Any,
        method: str = "mean",
        num_samples: int = 100,
        *,
        posterior: str | TorchDistribution = "encoder",
        exclude_seen: bool = False,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Tensor | TopItems:
        """Probability of each item to be the next view (paper, section 6.4).

        Args:
            histories: as `user_posterior`.
            method: "mean" puts the posterior mean into the softmax; "monte_carlo" averages the softmax over draws.
            num_samples: draws for "monte_carlo".
            posterior: how to find it, as `user_posterior`'s ``method``; or what that returned.
            exclude_seen: the next *new* item: items of the history get probability zero, the others what is left,
                in proportion. After a history of all items nothing is left and the row is zero.
            top_k: only the likeliest items; the ``N x P`` matrix is then never formed.
            seed: of the draws.

        Returns:
            ``N x P``, rows sum to 1; with ``top_k``, a `TopItems`.

        Raises:
            ValueError: for an unknown method, or a ``top_k`` that is not between 1 and ``num_items``.
        """
        if method not in ("mean", "monte_carlo"):
            raise ValueError(f"method: expected 'mean' or 'monte_carlo', got {method!r}")
        if top_k is not None and not 1 <= top_k <= self.num_items:
            raise ValueError(f"top_k: must lie between 1 and num_items={self.num_items}, got {top_k}")
        history = as_histories(histories, self.items).to(self.device)
        if top_k is None:
            self._require_memory(len(history), "predict_next", "pass top_k=10, or ask for fewer histories at a time")
        with torch.no_grad():
            q = self.user_posterior(history, posterior) if isinstance(posterior, str) else posterior
            draws = q.mean.unsqueeze(0) if method == "mean" else _draws(q, num_samples, seed)
            rows = max(1, MAX_ELEMENTS // self.num_items)
            parts = [
                self._next_items(history[i : i + rows], draws[:, i : i + rows], exclude_seen, top_k)
                for i in range(0, max(len(history), 1), rows)
            ]
        probability, item = (torch.cat(part) for part in zip(*parts))
        return probability if top_k is None else TopItems(item, probability)

    def _next_items(
        self, history: Histories, draws: Tensor, exclude_seen: bool, top_k: int | None
    ) -> tuple[Tensor, Tensor]:
        probs = torch.zeros(draws.shape[1], self.num_items, dtype=draws.dtype, device=draws.device)
        for interest in draws:  # one after another: a hundred softmaxes at once leave the cache
            probs += self._logits(interest).softmax(-1)
        probs /= len(draws)
        if exclude_seen:
            items, row = history.flatten()
            probs[row, items] = 0.0
            probs /= probs.sum(-1, keepdim=True).clamp(min=torch.finfo(probs.dtype).tiny)
        return probs.topk(top_k) if top_k is not None else (probs, probs.new_empty(0))

    def scores(self, histories: Histories | Any) -> Tensor:
        """Unnormalised log-probability of each item to be viewed next, at the posterior mean, ``N x P``."""
        history = as_histories(histories, self.items)
        self._require_memory(
            len(history), "scores", "ask for fewer histories at a time, or predict_next(..., top_k=10)"
        )
        with torch.no_grad():
            return self._logits(self.embed(history))

    def _require_memory(self, num_histories: int, what: str, remedy: str) -> None:
        num_bytes = 2 * num_histories * self.num_items * self.model.item_intercept.element_size()
        shape = f"{num_histories:,} histories x {self.num_items:,} items"
        require_memory(num_bytes, f"{what} of {shape}", remedy, self.device)

    def _logits(self, interest: Tensor) -> Tensor:
        return torch.addmm(self.model.item_intercept, interest, self.model.item_embedding.mT)

    def _catalogue(self, log: EventLog | Histories, argument: str = "log") -> Vocabulary:
        if log.num_items != self.num_items:
            raise ValueError(
                f"{argument}: has {log.num_items} items, but this model was made with num_items={self.num_items}"
            )
        if isinstance(log, EventLog):
            log.require_views()
            return log.items
        if not len(log):
            raise ValueError(f"{argument}: has no sessions; the organic model needs some")
        return self.items if argument == "validation" else Vocabulary.numbered(self.num_items)

    def _trained(self) -> list[nn.Module]:
        """The modules that training changes: model, guide, and the bound's own if it has one."""
        own = None if self.bound is None else self.bound.module
        return [self.model, self.guide, *([] if own is None else [own])]

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: a manifest, ``config.json``, ``state.safetensors``; no pickle, all or nothing.

        An older model in the folder is replaced in one move: whoever loads meanwhile gets the old one or the new one.

        Raises:
            ValueError: if item ids are not strings or integers, which JSON could not give back; if something else is in
                the folder.
            OSError: if it cannot be written; an older model is then still there.
        """
        save_blo(self, path)

    @classmethod
    def load(cls, path: str | Path, encoder: nn.Module | None = None, device: torch.device | str | None = None) -> BLO:
        """Read a model from a folder, in a new process, without data.

        Args:
            path: what `save` wrote.
            encoder: your own encoder, freshly constructed, if the model was saved with one.
            device: where to put it; default CUDA where there is one.

        Raises:
            SavedModelError: if the folder does not hold a BLO that this version can read, or not as it was written,
                naming the file and the field. It is a ValueError.
        """
        return load_blo(cls, path, encoder).to(default_device(device))


def _draws(posterior: TorchDistribution, num_samples: int, seed: int) -> Tensor:
    """``num_samples x N x K`` under a seed; of Gaussians without torch's default generator, so that no thread waits."""
    loc, scale = posterior.mean, getattr(posterior, "scale_tril", None)
    if scale is not None:
        noise = standard_normal((num_samples, *loc.shape), seed, loc)
        return loc + (scale @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(getattr(posterior, "base_dist", None), Normal):
        return loc + posterior.stddev * standard_normal((num_samples, *loc.shape), seed, loc)
    with seeded(seed, loc.device):
        return posterior.sample((num_samples,))
