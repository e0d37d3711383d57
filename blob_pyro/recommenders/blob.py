"""`BLOB`: the organic and the bandit model together, fitted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from blob_pyro.data import EventLog, ScannedLog, Vocabulary
from blob_pyro.guides import make_guide
from blob_pyro.guides.registry import registered_name
from blob_pyro.infer import (
    ELBOEstimate,
    estimate_elbo,
)
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.models import BanditModel, BanditPriors
from blob_pyro.models.item_factors import ItemBasis
from blob_pyro.ops.arguments import number_between, one_of, true_or_false, whole_number
from blob_pyro.ops.device import default_device
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.ops.gradients import ordinary, with_gradients
from blob_pyro.ops.modules import own_copy
from blob_pyro.ops.seeds import check_seed, derived_seed
from blob_pyro.posteriors.guide_posterior import GuidePosterior
from blob_pyro.posteriors.next_priors import next_priors
from blob_pyro.recommenders.blo import BLO
from blob_pyro.recommenders.blob_fit import fit_parts, training_of, workers_of
from blob_pyro.recommenders.click_model import ClickModel
from blob_pyro.recommenders.click_model_parts import ClickParts
from blob_pyro.recommenders.extension import extended_parts, ready_for
from blob_pyro.recommenders.saving import fingerprint_blob, load_blob, save_blob

__all__ = ["BLOB"]

_OF_GUIDE = 2  # what a second seed is derived for


class BLOB(ClickModel):
    """Bayesian latent organic bandit model: a posterior over every item's click logit.

    Sakhi et al. (2020), section 3.2. The organic model says what a user is interested in; the bandit log says which
    recommendations are clicked. ``model`` and ``guide`` are plain Pyro callables over ``batch(log)``: SVI,
    Predictive and NUTS work on them.

    Args:
        blo: a fitted `BLO`. A copy of it is kept, ``blob.blo``, which takes as much memory as its parameters (the item
            embedding, ``P x K``, and the encoder) and cannot be fitted: what happens to ``blo`` afterwards, another
            fit for example, changes nothing here. BLOBs made from one ``blob.blo`` share it.
        guide: how the posterior is approximated: "arrowhead_normal" (default: independent normals, and then how
            uncertain the three weights are and what follows them; see `blob_pyro.infer.weights.posterior`), "normal"
            (independent normals alone: the paper's NQ, whose weights are two to four times as certain as they may be),
            "matrix_normal" (MNQ), "matrix_normal_full", "low_rank", "full", "laplace" (mode and full curvature,
            integrated over ``w_b``; see `blob_pyro.infer.laplace.fit` for where it misleads), "delta" (MAP), "nuts"
            (exact draws, for small logs), or the name of one of yours, see `blob_pyro.register_guide`; a class that is
            constructed from the bandit model, as Pyro's AutoGuides are; a module, of which a copy is taken; or a
            function of the batch. See `blob_pyro.guides.bandit`. Every fit makes it anew under its seed; a module
            starts with the parameters that it came with.
        priors: see `BanditPriors`.
        omega: "mean" takes the user's interest at its posterior mean, as the paper; "sample" draws it anew for every
            event, and propagates what the organic model does not know.
        interest: how that posterior is found: "encoder", one pass through the organic model's encoder, at a cost free
            of the catalogue's size; "newton", `blob_pyro.infer.newton_posterior`, ``O(P K^2)`` for each history and
            step. None is "encoder" for ``omega="mean"`` and "newton" for "sample": standard deviations of the encoder
            fall short of exact ones, the more the longer the history.
        jitter: see `BanditModel`.

    Raises:
        ValueError: if ``blo`` is not fitted, for an unknown guide name, a guide whose sites are not the model's, a
            prior of the wrong shape, or embeddings of deficient rank.
    """

    def __init__(
        self,
        blo: BLO,
        guide: str | Callable[..., Any] = "arrowhead_normal",
        priors: BanditPriors | None = None,
        *,
        omega: Literal["mean", "sample"] = "mean",
        interest: Literal["encoder", "newton"] | None = None,
        jitter: float = 0.0,
    ) -> None:
        if not isinstance(blo, BLO):
            raise TypeError(f"blo: expected a fitted BLO, got {blo!r} (a {type(blo).__name__})")
        if not blo.fitted:
            raise ValueError("blo: is not fitted; call blo.fit(log) first")
        one_of(omega, "omega", ("mean", "sample"))
        if interest is not None:
            one_of(interest, "interest", ("encoder", "newton"))
        self.omega = omega
        self.interest = interest or ("newton" if omega == "sample" else "encoder")
        self.guide_name = registered_name(guide)
        self.fits = []
        with with_gradients():
            self._recipe = own_copy(guide, "guide") if isinstance(guide, nn.Module) else guide
            self._parts = self._build(blo.frozen(), priors, jitter, self._recipe, seed=0)

    @staticmethod
    def _build(
        blo: BLO,
        priors: BanditPriors | None,
        jitter: float,
        recipe: str | Callable[..., Any],
        seed: int,
        basis: ItemBasis | None = None,
    ) -> ClickParts:
        """A model of the items as ``blo`` has them, and a guide of it at its start."""
        model = BanditModel(blo.model.item_embedding, priors, blo.model.item_intercept, jitter, basis)
        guide = make_guide(recipe, model, seed=derived_seed(seed, _OF_GUIDE))
        return ClickParts(blo, GuidePosterior(model, guide.to(blo.device)))

    def to(self, device: torch.device | str) -> BLOB:
        """Move all parameters, the organic model's too, in place; not while other threads ask."""
        blo, (model, guide) = self.blo.frozen(default_device(device)), (self.model, self.guide)
        if blo is not self.blo:
            tied = not model.priors.normalize_embeddings
            model.to(blo.device), guide.to(blo.device)
            if tied:  # as it was constructed: Psi is there once
                model.item_embedding = blo.model.item_embedding.detach()
            self._parts = ClickParts(blo, GuidePosterior(model, guide))
        return self

    def fit(
        self,
        log: EventLog | ScannedLog,
        *,
        seed: int = 0,
        num_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        covariates: Any = None,
        checkpoint: str | Path | None = None,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Fit the guide to the bandit events of a log, from a fresh start; the organic model stays as it is.

        A new guide is trained beside the old one, which goes on answering, and takes its place at the end. A refusal,
        or whatever stops the fit in its first epoch, leaves the model as it was. Ctrl-C later leaves it at the last
        finished epoch, a loss or a gradient that is not finite at the last good one. Fits of one process wait for each
        other: see `blob_pyro.ops.exclusive`.

        Args:
            log: a log with bandit events over the organic model's catalogue; or one on disk, as
                `EventLog.scan_parquet` makes it, for guides that are fitted in epochs. If it is a shard
                (`EventLog.shard`) all workers' fits are one, which ends where that of the whole log does.
            seed: of the guide's start, of the order of events and of the noise; the same seed gives the same fit.
            num_epochs: passes over the events; default as the guide's `TrainingDefaults` say, or as suits its family,
                and on, twice as long each time, while the ELBO still rises at the end (up to seven times as long).
            batch_size: events per step; default likewise.
            learning_rate: peak of Adam's one-cycle schedule; default likewise.
            covariates: see `batch`.
            checkpoint: a file, written after every epoch of SVI: if it is there, the fit goes on from it, to the same
                floats as if it had never stopped; if it is finished, its result is restored and nothing is trained:
                ``attrs["resumed_from_epoch"]`` of the result says how many epochs were the file's. A checkpoint of any
                other fit is refused, and leaves the model as it is. "laplace" and "nuts" take none.
            device: where to train; default CUDA where there is one.
            progress: whether to show a progress bar.

        Returns:
            The training trace, whose columns hold what their names say, whatever the guide: with SVI a row per epoch,
            ``epoch``, ``elbo`` (nats per event, while the parameters move), ``seconds``, ``learning_rate``; "laplace",
            "delta" and "nuts" report a ``log_joint``, which is no ELBO. All in `blob_pyro.infer.training.trace`. What
            guides can be compared by is `elbo`. ``attrs["converged"]`` says whether the fit has arrived,
            ``attrs["convergence"]`` why one thinks so.

        Raises:
            ValueError: as `batch`, and if all rewards are equal; if the checkpoint cannot be written, is damaged, or is
                of another fit, naming what differs; if the guide takes none; for a shard, if there are no other
                workers, theirs are of another log, naming the worker, or the guide is not fitted by SVI alone.
            TypeError: for an argument of another type, naming it.
            NotFiniteError: (a FloatingPointError) if the loss or a gradient is not finite, naming epoch, step, and the
                site or the parameter. The model is then as it was after the last good epoch, as after Ctrl-C.

        Warns:
            UserWarning: of items that were never shown: nothing but the prior and zeta speaks for or against them.
            ConvergenceWarning: of a fit that has not arrived: see `blob_pyro.infer.training.convergence`.
            PoorFitWarning: of an ELBO below that of one click rate for all events, or of the prior.
        """
        seed = check_seed(seed)
        true_or_false(progress, "progress")
        workers = workers_of(log, self.guide)
        device = default_device(device)
        with with_gradients():
            blo = self.blo.frozen(device)
            log = self._learnable(log)
            priors = self.model.priors
            if priors.positions is not None and priors.initial is None:
                positions = log.all_positions if isinstance(log, EventLog) else None
                priors = replace(priors, positions=priors.positions.of(positions))
            fresh = self._build(blo, priors, self.model.jitter, self._recipe, seed)
            log.require_contrast()
            training = training_of(fresh, log, num_epochs, batch_size, learning_rate)
            batch = ordinary(self._events(fresh, log, covariates))
            kept = Checkpoint.at(checkpoint, fresh.known.guide, **{**self._about(seed), "priors": priors})
            settings = {"call": "fit", "seed": seed}
            return fit_parts(self, fresh, batch, training, num_epochs is None, settings, [], kept, progress, workers)

    def elbo(
        self, log: EventLog | ScannedLog, *, num_draws: int = 100, seed: int = 0, covariates: Any = None
    ) -> ELBOEstimate:
        """Estimate the evidence lower bound of the fitted guide on a log: the same quantity for every guide.

        ``(E_q log p(clicks | theta) - KL(q || prior)) / N``, with the noise of the estimate measured: what guides of
        one model can be compared by, on the log that they were fitted to. See `blob_pyro.infer.estimate_elbo`.

        Args:
            log: with bandit events over the model's catalogue; the one that it was fitted to. One on disk is
                read once for each draw.
            num_draws: independent evaluations of the bound, 2 at least.
            seed: of the draws.
            covariates: see `batch`.

        Returns:
            ``value`` and ``standard_error``, both in nats per event.

        Raises:
            ValueError: as `batch`; for a shard; if the model is not fitted; for guides that have no ELBO (`HasNoELBO`):
                "delta" and other point masses, whose entropy is minus infinity, and "nuts" and other sets of draws.
        """
        self._require_fitted("elbo")
        if isinstance(log, EventLog):
            log.require_whole("BLOB.elbo")
        num_draws, seed = whole_number(num_draws, "num_draws", at_least=2), check_seed(seed)
        batch = self._events(self._parts, self._learnable(log), covariates)
        return estimate_elbo(self.model, self.guide, batch, num_draws=num_draws, seed=seed)

    def extend(
        self, items: Iterable[Hashable], *, item_values: Mapping[str, Any] | None = None, log: EventLog | None = None
    ) -> None:
        """Add items that the model has not seen: each starts from its prior, and what is known of others stays.

        Kappa, and whatever else an item has of its own, has its prior's distribution; the other parameters' stay what
        they are to the bit, and so does every old item's click logit after a history of old items. An item's embedding
        is predicted from what the terms know of it (`ItemFeatures`, `ItemCategories`), by ridge regression on the known
        items; if there is a log whose users viewed it, it is the most probable one given their views, with that
        prediction as the prior's mean. Without either it is the prior's mean, or that of the known items. The encoder's
        rows follow from it likewise, so that views of new items count. Guides that ship take part; one of yours by a
        method ``take_over``, see `blob_pyro.guides.takeover`.

        Args:
            items: ids, all new, of the type that known ones have. They follow the known ones in their order.
            item_values: what terms ask for of new items, ``{"categories": ..., "features": ...}``, or by the name of
                the term: a mapping from id to value, or a value for each of ``items`` in order.
            log: whose views say who views the new items.

        Raises:
            ValueError: for an id that is known, recurs, or has another type; values that are missing, by their name; a
                prior or a guide that says nothing of new items; for a log that is a shard; if the model is not fitted.

        Example:
            >>> log = EventLog.from_tables(
            ...     views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")},
            ...     impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": list("cab"), "reward": [1, 0, 0]},
            ... )
            >>> blo = BLO(log.num_items, embedding_dim=2)
            >>> trace = blo.fit(log, num_epochs=5, progress=False)
            >>> blob = BLOB(blo)
            >>> trace = blob.fit(log, num_epochs=5, progress=False)
            >>> before = blob.scores([["a"]])
            >>> blob.extend(["d"])
            >>> blob.num_items, bool((blob.scores([["a"]])[:, :3] == before).all())
            (4, True)
        """
        self._require_fitted("extend")
        if log is not None:
            log.require_whole("BLOB.extend")
        with with_gradients():
            parts = self._extended(self.items.extended(items), item_values, log)
            parts.known.ask()
        self._parts, self.fits = parts, [*self.fits, {"call": "extend", "num_items": len(parts.blo.items)}]

    def _extended(self, items: Vocabulary, values: Mapping[str, Any] | None, log: EventLog | None) -> ClickParts:
        return extended_parts(self._parts, self._recipe, items, values, log)

    def update(
        self,
        log: EventLog | ScannedLog,
        *,
        forgetting: float = 1.0,
        new_items: Literal["refuse", "prior"] = "refuse",
        item_values: Mapping[str, Any] | None = None,
        seed: int = 0,
        num_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        covariates: Any = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Learn from *new* events: the posterior becomes the prior.

        What the guide correlates stays correlated: after "arrowhead_normal", "low_rank", "full" and "laplace" the prior
        is one Gaussian over all sites, `BanditPriors.vector`. Scales are learned again, from what all events say of
        them, as far as it is Gaussian: see `BanditModel.earlier_evidence`. The cost does not grow with the number of
        updates. A guide given as an instance goes on from where it is; others start anew. What stops an update early
        leaves the model as `fit` says.

        Args:
            log: events that the model has not seen; its items are found by id.
            forgetting: in (0, 1]: what events have said counts as this fraction of itself, so that old ones fade: a
                power prior (Ibrahim & Chen 2000), in which the initial prior stays. What is never observed again
                returns to it, and goes no further. 1 forgets nothing.
            new_items: of the log, which the model does not know: "refuse", or "prior" to start each from its prior, as
                `extend` does with the log's views, before learning from the events.
            item_values: see `extend`; by id.
            seed: see `fit`.
            num_epochs: see `fit`.
            batch_size: see `fit`.
            learning_rate: see `fit`.
            covariates: see `batch`.
            progress: see `fit`.

        Returns:
            As `fit`.

        Raises:
            ValueError: as `batch`; if the model is not fitted; for a posterior that is not Gaussian; if something is to
                be forgotten, for an initial prior that has no variance, or that correlates its numbers.
        """
        self._require_fitted("update")
        if isinstance(log, EventLog):
            log.require_whole("BLOB.update")
        seed, forgetting = check_seed(seed), number_between(forgetting, "forgetting", 0, 1)
        true_or_false(progress, "progress")
        one_of(new_items, "new_items", ("refuse", "prior"))
        with with_gradients():
            new = self._new_items(log) if new_items == "prior" and isinstance(log, EventLog) else []
            if item_values is not None and not new:
                raise ValueError('item_values: the log has no new items to say them of, with new_items="prior"')
            known = log if new else self._learnable(log)
            parts, log = ready_for(self._parts, self._recipe, known, new, item_values)
            model = parts.known.model
            priors = next_priors(model, parts.known.distributions(), forgetting)
            recipe = parts.known.guide if isinstance(self._recipe, nn.Module) else self._recipe
            fresh = self._build(parts.blo, priors, model.jitter, recipe, seed, model.basis)
            training = training_of(fresh, log, num_epochs, batch_size, learning_rate)
            batch = ordinary(self._events(fresh, log, covariates))
            settings = {"call": "update", "seed": seed, "forgetting": forgetting}
            return fit_parts(self, fresh, batch, training, num_epochs is None, settings, self.fits, None, progress)

    def _about(self, seed: int) -> dict[str, Any]:
        """What makes a fit the one it is, beyond what training sees: see `Checkpoint`."""
        return {
            "seed": seed,
            "guide_given": self._recipe,
            "priors": self.model.priors,
            "omega": self.omega,
            **({} if self.interest == "encoder" else {"interest": self.interest}),
            "jitter": self.model.jitter,
            "organic_model": content_hash(self.blo.model),
            "organic_guide": content_hash(self.blo.guide),
        }

    def fingerprint(self) -> str:
        """Hash the parameters and what they mean, SHA-256: equal for models that answer alike, saved and loaded ones.

        64 hexadecimal digits. How the model came to be, its ``fits``, does not count.
        """
        return fingerprint_blob(self)

    def save(self, path: str | Path) -> None:
        """Write both models to a folder: a manifest, ``config.json``, ``state.safetensors``; no pickle, all or nothing.

        An older model in the folder is replaced in one move: whoever loads meanwhile gets the old one or the new one.
        Priors that are functions, and terms of a class that is not registered (`blob_pyro.register_term`), are not
        written: pass them to `load` again.

        Raises:
            ValueError: if item ids are not strings or integers, which JSON could not give back; if something else is in
                the folder.
            OSError: if it cannot be written; an older model is then still there.
        """
        save_blob(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        guide: Callable[..., Any] | None = None,
        encoder: nn.Module | None = None,
        device: torch.device | str | None = None,
        priors: BanditPriors | None = None,
    ) -> BLOB:
        """Read a model from a folder, in a new process, without data.

        What a class saves, the same class loads; a class also loads what its subclasses save, as one of them.

        Args:
            path: what `save` wrote.
            guide: your own guide (its class, or a fresh instance), if the model was saved with one that has no name;
                one that has is registered again before, see `blob_pyro.register_guide`.
            encoder: your own encoder, freshly constructed, if the organic model was saved with one.
            device: where to put it; default CUDA where there is one.
            priors: your own priors, if the model was saved with some that JSON cannot hold.

        Raises:
            SavedModelError: if the folder does not hold a BLOB that this version can read, or not as it was written,
                naming the file and the field. It is a ValueError.
        """
        classes = [cls, *cls.__subclasses__()]
        return load_blob(classes, BLO, path, guide, encoder, priors).to(default_device(device))

    @classmethod
    def _assemble(cls, blo: BLO, guide: str | Callable[..., Any], priors: BanditPriors | None, **options: Any) -> BLOB:
        """A model that is about to be given its saved state."""
        return cls(blo, guide, priors, **options)

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "guide": self.guide}
