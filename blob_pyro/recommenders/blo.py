"""`BLO`: the organic model, fitted."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from contextlib import nullcontext
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories, ScannedLog, Vocabulary
from blob_pyro.guides import ENCODERS, AmortizedGuide, ItemGuide
from blob_pyro.guides.encoders import Covariance
from blob_pyro.infer import BOUNDS, Bound, GuidedELBO, NotFiniteError, Training, train, warn_unless_converged
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.item_shards import ItemShards
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import OrganicBatch, OrganicModel, OrganicPriors
from blob_pyro.ops.arguments import one_of, true_or_false, whole_number
from blob_pyro.ops.device import default_device
from blob_pyro.ops.fingerprints import content_hash, describe
from blob_pyro.ops.gradients import ordinary, with_gradients
from blob_pyro.ops.modules import own_copies, own_copy
from blob_pyro.ops.seeds import check_seed, seeded
from blob_pyro.recommenders.extension import extended_blo
from blob_pyro.recommenders.interest_model import InterestModel, TopItems
from blob_pyro.recommenders.interest_model_parts import OrganicParts, sessions_of
from blob_pyro.recommenders.saving import fingerprint_blo, load_blo, save_blo

__all__ = ["BLO", "TopItems"]


class BLO(InterestModel):
    """Bayesian latent organic model: a Gaussian posterior over each user's interest, from views alone.

    Sakhi et al. (2020), sections 2 and 3.1. ``model`` and ``guide`` are plain Pyro callables.

    Args:
        num_items: size ``P`` of the catalogue.
        embedding_dim: ``K``, at most ``num_items``.
        encoder: how a history becomes a posterior: "precision" (default), "linear", "deep", or an ``nn.Module`` of
            your own, of which a copy is taken; see `blob_pyro.guides.encoders`. Every fit starts it anew: where it has
            no ``reset_parameters``, with the parameters that it came with.
        bound: on the expected log-likelihood: "reparameterized" (default), "bouchard", "log_concave", "one_vs_each",
            or a `blob_pyro.infer.Bound`, such as ``Bouchard(num_negatives=256)``. What of it is trained is in
            ``blo.bound``.
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
        num_items, embedding_dim = whole_number(num_items, "num_items"), whole_number(embedding_dim, "embedding_dim")
        if embedding_dim > num_items:
            raise ValueError(
                f"embedding_dim: must lie between 1 and num_items={num_items}, got {embedding_dim}; more dimensions "
                "than items cannot be told apart"
            )
        if isinstance(bound, str) and bound not in BOUNDS:
            raise ValueError(f"bound: unknown name {bound!r}; known: {', '.join(sorted(BOUNDS))}")
        if not isinstance(bound, (str, Bound)):
            raise TypeError(f"bound: expected a name or a blob_pyro.infer.Bound, got a {type(bound).__name__}")
        if isinstance(encoder, str) and encoder not in ENCODERS:
            raise ValueError(f"encoder: unknown name {encoder!r}; known: {', '.join(sorted(ENCODERS))}")
        if not isinstance(encoder, (str, nn.Module)):
            raise TypeError(f"encoder: expected a name or an nn.Module, got a {type(encoder).__name__}")
        one_of(covariance, "covariance", ("diagonal", "full"))
        self.embedding_dim = embedding_dim
        self.encoder_name = encoder if isinstance(encoder, str) else None
        self.covariance = covariance
        self.fits: list[dict[str, Any]] = []
        self._is_frozen = False
        with with_gradients(), seeded(0, "cpu"):  # a fit draws its own start
            model = OrganicModel(num_items, embedding_dim, priors, true_or_false(sparse, "sparse"))
            if isinstance(encoder, str):
                encoder = ENCODERS[encoder](num_items, embedding_dim, covariance=covariance, sparse=sparse)
            else:
                encoder = own_copy(encoder, "encoder")
            items = ItemGuide(model) if model.priors.inference == "posterior" else None
            guide = AmortizedGuide(encoder, items)
        given = BOUNDS[bound]() if isinstance(bound, str) else bound
        self._given_bound: Bound | None = given
        self._given_encoder = {} if self.encoder_name else _values(encoder)
        self._parts = OrganicParts(model, guide, given, Vocabulary.numbered(num_items))

    @property
    def bound(self) -> Bound | None:
        """The bound, with what of it is trained; None where a saved one could not be read."""
        return self._parts.bound

    @bound.setter
    def bound(self, bound: Bound | None) -> None:
        self._given_bound = bound
        self._parts = self._parts._replace(bound=bound)

    def to(self, device: torch.device | str) -> BLO:
        """Move the parameters, in place; not while other threads ask."""
        self._require_thawed("to", "move the BLOB, blob.to(device)")
        for module in self._parts.trained():
            module.to(default_device(device))
        return self

    def frozen(self, device: torch.device | None = None, *, anew: bool = False) -> BLO:
        """Copy the model so that nothing can change it: the copy cannot be fitted or moved.

        Args:
            device: where the copy is to be; default where this model is.
            anew: whether to copy a model, too, that is frozen already; it is returned otherwise.
        """
        device = self.device if device is None else device
        if self._is_frozen and self.device == device and not anew:
            return self
        frozen, parts = copy(self), self._parts
        model, guide, bound = own_copies(parts.model, parts.guide, parts.bound, argument="encoder")
        frozen._parts = OrganicParts(model, guide, bound, parts.items)
        for module in frozen._parts.trained():
            module.to(device)
        frozen._is_frozen, frozen._given_encoder, frozen.fits = True, {}, deepcopy(self.fits)
        return frozen

    def _require_thawed(self, call: str, remedy: str) -> None:
        if self._is_frozen:
            raise ValueError(
                f"{call}: this BLO belongs to a BLOB, which would then stand on another organic model than the one it "
                f"was fitted on; {remedy}"
            )

    def mark_fitted(self, log: EventLog | Histories) -> None:
        """Declare the model fitted on a log; see `InterestModel.mark_fitted`."""
        self._require_thawed("mark_fitted", "mark the BLO that it was made from")
        super().mark_fitted(log)

    def batch(self, log: EventLog | Histories) -> OrganicBatch:
        """Put the log's sessions on this model's device, as ``model`` and ``guide`` take them."""
        return self._batch(log, self.device)

    def _batch(self, log: EventLog | ScannedLog | Histories, device: torch.device) -> OrganicBatch:
        sessions = sessions_of(log)
        return OrganicBatch(sessions.to(device), len(sessions))

    def fit(
        self,
        log: EventLog | ScannedLog | Histories,
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
        shard_items: bool = False,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Learn item embeddings and encoder from all sessions of a log, from a fresh start.

        A copy of the model is trained, while this one goes on answering, and takes its place at the end. A refusal, or
        whatever stops the fit in its first epoch, leaves the model as it was. Ctrl-C later leaves it at the last
        finished epoch, a loss or a gradient that is not finite at the last good one. Fits of one process wait for each
        other: see `blob_pyro.ops.exclusive`.

        Args:
            log: a log with views, whose catalogue becomes the model's; or its sessions, as item numbers. Of one on disk
                (`EventLog.scan_parquet`) all sessions are brought into memory. If it is a
                shard (`EventLog.shard`) all workers' fits are one, which ends where that of the whole log does: see
                `blob_pyro.infer.training.workers`.
            seed: of the start, of the order of sessions and of the noise; the same seed gives the same fit.
            num_epochs: passes over the sessions.
            batch_size: sessions per step.
            learning_rate: peak of the schedule.
            schedule: of the learning rate; see `blob_pyro.infer.Training`.
            optimizer: "adam", or "rmsprop" as in the paper.
            clip_norm: gradients are scaled down to this norm.
            validation: sessions that are not trained on, of the same catalogue; whole where ``log`` is a shard. The fit
                of the epoch with the best ELBO on them is kept.
            patience: stop after so many epochs in a row without a better one.
            checkpoint: a file, written after every epoch. If it is there already the fit goes on from it, to the same
                floats as if it had never stopped; if it is finished, its result is restored and nothing is trained:
                ``attrs["resumed_from_epoch"]`` of the result says how many epochs were the file's. A checkpoint of any
                other fit is refused, and leaves the model as it is.
            shard_items: for shards of logs of very many items: each worker trains the rows of its own items only, with
                its part of the optimiser's state, and fetches those that a step needs: see
                `blob_pyro.infer.training.item_shards`. At the end the model is whole at every worker; a checkpoint is
                whole, too. For a model with ``sparse=True``, a bound with ``num_negatives``, and an encoder of this
                package.
            device: where to train; default CUDA where there is one.
            progress: whether to show a progress bar.

        Returns:
            One row per epoch: ``epoch``, ``elbo`` (nats per session), ``validation_elbo`` (likewise, if asked for),
            ``seconds``, ``learning_rate``. ``attrs["converged"]`` says whether the fit has arrived,
            ``attrs["convergence"]`` why one thinks so: see `blob_pyro.infer.training.convergence`.

        Warns:
            ConvergenceWarning: if it has not.

        Raises:
            ValueError: if the log has no views or another number of items, or is a shard and there are no other workers
                or theirs are of another log, naming the worker; if the checkpoint cannot be
                written, is damaged, or is of another fit, naming what differs; if this is a BLOB's own BLO.
            TypeError: for an argument of another type, naming it.
            NotFiniteError: (a FloatingPointError) if the loss or a gradient is not finite, naming epoch, step, and the
                site or the parameter. The model is then as it was after the last good epoch, as after Ctrl-C.
        """
        self._require_thawed("fit", "fit the BLO that it was made from (or a new one), and make a BLOB of that")
        capture: Literal["auto", False] = False  # what an encoder or a bound of the user's own does is not known
        if self.encoder_name is not None and self._given_bound is not None and self._given_bound.is_same_every_step:
            capture = "auto"
        training = Training(num_epochs, batch_size, learning_rate, clip_norm, schedule, optimizer, patience, capture)
        device, seed = default_device(device), check_seed(seed)
        true_or_false(progress, "progress")
        true_or_false(shard_items, "shard_items")
        if self._given_bound is None:
            raise ValueError("bound: this model was saved with a bound of your own; set blo.bound to one to fit again")
        workers = Workers.of(log.part_of, "sessions") if isinstance(log, EventLog) else None
        items = self._catalogue(log)
        if isinstance(validation, EventLog) and validation.part_of is not None:
            raise ValueError("validation: is a shard; pass the whole log, of which each worker takes its part")
        if validation is not None and self._catalogue(validation, "validation") != items:
            raise ValueError("validation: its items are not those of log; split one log's sessions instead")
        kept = Checkpoint.at(checkpoint, seed=seed, encoder=self.encoder_name, priors=self.model.priors)
        # Ctrl-C is told to the others, or waits: none is to be left in an exchange, or without a table.
        listening = nullcontext() if workers is None else workers.listening()
        with with_gradients(), seeded(seed, device), listening:
            fresh = self._fresh(items, device)
            data = self._batch(log, device)
            num_rows = len(data) if workers is None else workers.share.num_rows
            data = ordinary(OrganicBatch(data.sessions, num_rows))
            hashed = content_hash(data) if workers is None else workers.fingerprint
            record = training.record("fit", seed, num_rows, data=hashed)
            held_out = None
            if validation is not None:
                held_out = ordinary(OrganicBatch(self._batch(validation, device).sessions, num_rows))
            assert fresh.bound is not None, "it has been asked for above"
            if workers is not None:
                told = {"model": fresh.model, "encoder": fresh.guide.encoder, "bound": fresh.bound}
                workers.require_same({"shard_items": shard_items, "sparse": fresh.model.sparse, **describe(told)})
            shards = ItemShards.of(workers, fresh.model, fresh.guide.encoder, fresh.bound) if shard_items else None
            if workers is not None:
                workers.items = shards
            try:
                trace = train(
                    fresh.model,
                    fresh.guide,
                    GuidedELBO(fresh.bound),
                    data,
                    training,
                    validation=held_out,
                    modules=fresh.trained()[2:],
                    workers=workers,
                    checkpoint=kept,
                    progress=progress,
                    description="BLO",
                )
            except NotFiniteError as error:
                if shards is not None:
                    shards.give_back()
                    shards.workers.leave_together()
                self._take(fresh, error.trace, record)
                raise
            if shards is not None:
                shards.give_back()
            self._take(fresh, trace, record)
            if workers is not None:
                workers.leave_together()
        if not trace.attrs["interrupted"]:
            warn_unless_converged(trace, what="BLO.fit")
        return trace

    def _take(self, fresh: OrganicParts, trace: pd.DataFrame, record: dict[str, Any]) -> None:
        """Let what was trained answer, unless it was stopped before its first epoch was over."""
        if len(trace):
            self._parts, self.fits = fresh, [record]

    def _fresh(self, items: Vocabulary, device: torch.device) -> OrganicParts:
        """Parts at their start: what can draw one does, an encoder of the user's is as it came otherwise."""
        parts = self._parts
        model, guide, bound = own_copies(parts.model, parts.guide, self._given_bound, argument="encoder")
        fresh = OrganicParts(model, guide, bound, items)
        if self._given_encoder:
            guide.encoder.load_state_dict(self._given_encoder)
        for module in fresh.trained():
            module.to(device)
        for module in (m for outer in fresh.trained() for m in outer.modules()):
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        return fresh

    def extend(self, items: Iterable[Hashable], *, log: EventLog | None = None) -> None:
        """Add items that the model has not seen; what is known of the others stays as it is, to the bit.

        A new item's embedding and intercept are, with a log whose users viewed it, the most probable ones given these
        views (of known items and it), under a normal prior: that of `OrganicPriors`, or with the mean and variance that
        known items have. Without views they are the prior's mean. The encoder's rows follow from them by ridge
        regression on the known items, so that views of the new item count.

        Args:
            items: ids, all new, of the type that known ones have. They follow the known ones in their order.
            log: whose views say who views the new items.

        Raises:
            ValueError: for an id that is known, recurs, or has another type; for an encoder of yours without
                ``item_tables``, see `blob_pyro.guides.encoders`; for a shard; if the model is not fitted, or a BLOB's
                own.
        """
        self._require_thawed("extend", "extend the BLOB, blob.extend(items)")
        self._require_fitted("extend")
        if log is not None:
            log.require_whole("BLO.extend")
        with with_gradients():
            more = extended_blo(self, self.items.extended(items), log)
        self._parts, self.fits, self._given_encoder = more._parts, more.fits, more._given_encoder

    def fingerprint(self) -> str:
        """Hash the parameters and what they mean, SHA-256: equal for models that answer alike, saved and loaded ones.

        64 hexadecimal digits. How the model came to be, its ``fits``, does not count.
        """
        return fingerprint_blo(self)

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


def _values(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
