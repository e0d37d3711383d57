"""`BLOB`: the organic and the bandit model together, fitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Empirical, TorchDistribution
from torch import Tensor, nn

from blob_pyro import storage
from blob_pyro.blo import BLO, default_device
from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.diagnostics import to_inference_data
from blob_pyro.distributions.joint_normal import JointPart
from blob_pyro.distributions.tensors import detached
from blob_pyro.guides import DrawsGuide, TrainingDefaults, make_guide
from blob_pyro.infer import Training, fit_guide, seeded
from blob_pyro.infer.elbo import RecordDistributions
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors
from blob_pyro.models.prior_json import from_json, to_json
from blob_pyro.online import next_priors
from blob_pyro.posterior import ClickLogits, has_closed_form
from blob_pyro.posterior_draws import DrawnClickLogits, linear_features

__all__ = ["BLOB"]

_DRAWS_FOR_MOMENTS = 1000


class BLOB:
    """Bayesian latent organic bandit model: a posterior over every item's click logit.

    Sakhi et al. (2020), section 3.2. The organic model says what a user is interested in; the bandit log says which
    recommendations are clicked. ``model`` and ``guide`` are plain Pyro callables over ``batch(log)``: SVI,
    Predictive and NUTS work on them.

    Args:
        blo: a fitted `BLO`; kept as it is.
        guide: how the posterior is approximated: "normal" (the paper's NQ, default), "matrix_normal" (MNQ),
            "matrix_normal_full", "low_rank", "full", "laplace" (mode and full curvature; see
            `blob_pyro.infer.laplace` for where the mode misleads), "delta" (MAP), "nuts" (exact draws, for small
            logs); a class that is constructed from the bandit
            model, as Pyro's AutoGuides are; a module; or a function of the batch. See `blob_pyro.guides.bandit`.
        priors: see `BanditPriors`.
        omega: "mean" takes the user's interest at its posterior mean, as the paper; "sample" draws it anew for every
            event, and propagates what the organic model does not know.
        jitter: see `BanditModel`.

    Raises:
        ValueError: if ``blo`` is not fitted, for an unknown guide name, a guide whose sites are not the model's, a
            prior of the wrong shape, or embeddings of deficient rank.
    """

    def __init__(
        self,
        blo: BLO,
        guide: str | Callable[..., Any] = "normal",
        priors: BanditPriors | None = None,
        *,
        omega: Literal["mean", "sample"] = "mean",
        jitter: float = 0.0,
    ) -> None:
        if not blo.fitted:
            raise ValueError("blo: is not fitted; call blo.fit(log) first")
        if omega not in ("mean", "sample"):
            raise ValueError(f"omega: expected 'mean' or 'sample', got {omega!r}")
        self.blo, self.omega = blo, omega
        self.guide_name = guide if isinstance(guide, str) else None
        self._recipe = guide
        self.fits: list[dict[str, Any]] = []
        self._build(priors, jitter)

    def _build(self, priors: BanditPriors | None, jitter: float) -> None:
        self.model = BanditModel(self.blo.model.item_embedding, priors, self.blo.model.item_intercept, jitter)
        self.guide = make_guide(self._recipe, self.model)
        self._start = {name: _copy(module) for name, module in self._modules().items()}

    @property
    def fitted(self) -> bool:
        """Whether there has been a fit; ``fits`` has the settings of it and of every update since."""
        return bool(self.fits)

    @property
    def items(self) -> Vocabulary:
        """The catalogue."""
        return self.blo.items

    @property
    def num_items(self) -> int:
        """Size ``P`` of the catalogue."""
        return self.blo.num_items

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.model.item_embedding.device

    def to(self, device: torch.device | str) -> BLOB:
        """Move all parameters, the organic model's too, in place."""
        self.blo.to(device)
        for module in self._modules().values():
            module.to(device)
        return self

    def batch(self, log: EventLog, covariates: Tensor | None = None) -> BanditBatch:
        """The log's bandit events on this model's device, as ``model`` and ``guide`` take them.

        Every distinct context is embedded once, from all the user's views before the decision.

        Args:
            log: with bandit events over the organic model's catalogue.
            covariates: of each user, ``log.num_users x F`` in the order of ``log.users``, for `UserCovariates`.

        Raises:
            ValueError: if the log has no bandit events, its items are not the organic model's, or covariates are
                missing or misshapen.
        """
        log.require_impressions()
        if log.items != self.items:
            raise ValueError(f"log: its items ({log.items!r}) are not those the organic model knows ({self.items!r})")
        context, action, reward = (t.to(self.device) for t in (log.context, log.action, log.reward))
        interest, scale = self._interest(log.contexts)
        rows = self._covariates(covariates, log.num_users, "log.num_users")
        if rows is not None:
            user_of_context = torch.zeros(len(log.contexts), dtype=torch.int64, device=self.device)
            user_of_context[context] = log.user.to(self.device)
            rows = rows[user_of_context]
        reward = reward.to(interest.dtype)
        return BanditBatch(interest, context, action, reward, log.num_impressions, rows, scale)

    def fit(
        self,
        log: EventLog,
        *,
        seed: int = 0,
        num_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        covariates: Tensor | None = None,
        checkpoint: str | Path | None = None,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Fit the guide to the bandit events of a log, from a fresh start; the organic model stays as it is.

        Args:
            log: a log with bandit events over the organic model's catalogue.
            seed: of the order of events and of the noise; the same seed gives the same fit.
            num_epochs: passes over the events; default as the guide's `TrainingDefaults` say.
            batch_size: events per step; default likewise.
            learning_rate: peak of Adam's one-cycle schedule; default likewise.
            covariates: see `batch`.
            checkpoint: a file, written after every epoch of SVI: if it is there, the fit goes on from it, to the same
                floats as if it had never stopped.
            device: where to train; default CUDA where there is one.
            progress: whether to show a progress bar.

        Returns:
            One row per epoch: ``epoch``, ``elbo`` (nats per event), ``seconds``, ``learning_rate``.

        Raises:
            ValueError: as `batch`, and if all rewards are equal.
            FloatingPointError: if the loss is not finite, naming the site and the step; the last good state is kept.

        Warns:
            UserWarning: of items that were never shown: nothing but the prior and zeta speaks for or against them.
        """
        self.to(default_device(device))
        batch = self.batch(log, covariates)
        log.require_contrast()
        for name, module in self._modules().items():
            module.load_state_dict(self._start[name])
        self.fits = []
        settings = {"call": "fit", "seed": seed}
        return self._fit(batch, settings, num_epochs, batch_size, learning_rate, checkpoint, progress)

    def update(
        self,
        log: EventLog,
        *,
        forgetting: float = 1.0,
        seed: int = 0,
        num_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        covariates: Tensor | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Learn from *new* events: the posterior becomes the prior.

        What the guide correlates stays correlated: after "low_rank", "full" and "laplace" the prior is one Gaussian
        over all sites, `BanditPriors.vector`. Learned scales stay where they are. A guide given as an instance goes on
        from where it is; others start anew.

        Args:
            log: events that the model has not seen, over the same catalogue.
            forgetting: in (0, 1]: what is known counts as this fraction of its observations, so that old events fade
                (a power prior; Ibrahim & Chen 2000). 1 forgets nothing.
            seed: see `fit`.
            num_epochs: see `fit`.
            batch_size: see `fit`.
            learning_rate: see `fit`.
            covariates: see `batch`.
            progress: see `fit`.

        Returns:
            As `fit`.

        Raises:
            ValueError: as `batch`; if the model is not fitted; for a posterior that is not Gaussian.
        """
        if not self.fitted:
            raise ValueError("update: the model is not fitted; call fit(log) first")
        batch = self.batch(log, covariates)
        device, before = self.device, (self.model, self.guide, self._start)
        self._build(next_priors(self.model, self.posterior(), forgetting), self.model.jitter)
        self.to(device)
        settings = {"call": "update", "seed": seed, "forgetting": forgetting}
        history = self._fit(batch, settings, num_epochs, batch_size, learning_rate, None, progress)
        if not len(history):
            self.model, self.guide, self._start = before
        return history

    def _fit(
        self,
        batch: BanditBatch,
        settings: dict[str, Any],
        num_epochs: int | None,
        batch_size: int | None,
        learning_rate: float | None,
        checkpoint: str | Path | None,
        progress: bool,
    ) -> pd.DataFrame:
        usual = getattr(self.guide, "training_defaults", TrainingDefaults())
        batch_size = min(usual.batch_size if batch_size is None else batch_size, len(batch))
        training = Training(
            usual.epochs(len(batch), batch_size) if num_epochs is None else num_epochs,
            batch_size,
            usual.learning_rate if learning_rate is None else learning_rate,
            capture=usual.capture,
        )
        with seeded(settings["seed"], self.device):
            history = fit_guide(self.guide, self.model, batch, training, progress=progress, checkpoint=checkpoint)
        if len(history):  # not interrupted at once
            self.fits = [*self.fits, training.record(**settings, num_rows=len(batch))]
        return history

    def posterior(self) -> dict[str, TorchDistribution]:
        """The guide's distribution of each site, by name, detached from its parameters.

        Parameters that a number holds fixed are ``Delta``; a site that the guide can only draw is ``Empirical``, over
        1,000 draws. Sites of a joint guide are `JointPart`: their ``mean`` and ``variance`` are the marginals'.
        """
        record = RecordDistributions()
        with torch.no_grad(), pyro.get_param_store().scope():
            trace = poutine.trace(record(self.guide)).get_trace(None)
            priors = self.model.site_priors()
        sites = {n: d for n, d in record.posterior.items() if n in priors}
        is_random = any(site["infer"].get("is_auxiliary") for site in trace.nodes.values() if site["type"] == "sample")
        drawn = [n for n, d in sites.items() if is_random and isinstance(d, Delta) and not isinstance(d, JointPart)]
        if drawn:
            with seeded(0, self.device):
                draws = self.sample(_DRAWS_FOR_MOMENTS)
            sites.update({n: Empirical(draws[n], draws[n].new_zeros(_DRAWS_FOR_MOMENTS)) for n in drawn})
        fixed = {n: Delta(v, event_dim=v.dim()) for n, v in self.model.fixed_values().items()}
        return detached({**sites, **fixed})

    def sample(self, num_samples: int) -> dict[str, Tensor]:
        """Joint draws of the parameters from the guide, each ``num_samples x shape of the site``."""
        with torch.no_grad(), pyro.get_param_store().scope():
            plate = pyro.plate("draws", num_samples, dim=-2)  # -1 is the plate of events
            trace = poutine.trace(plate(self.guide)).get_trace(None)
            names = self.model.site_priors()
        return {n: trace.nodes[n]["value"].detach().expand(num_samples, 1, *names[n].event_shape)[:, 0] for n in names}

    def click_logits(
        self,
        histories: Histories | Any,
        covariates: Tensor | None = None,
        *,
        num_draws: int = 500,
        seed: int = 0,
    ) -> ClickLogits | DrawnClickLogits:
        """Posterior of all items' click logits after each history.

        In closed form where the guide is Gaussian, the model the paper's and omega at its mean; by draws otherwise.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.
            covariates: of each history's user, ``N x F``, for `UserCovariates`.
            num_draws: of the parameters, where there is no closed form.
            seed: of these draws.

        Returns:
            A distribution with batch ``N`` and event ``P``: ``mean``, ``variance``, ``sample``, ``icdf``,
            ``click_probability``.
        """
        contexts = as_histories(histories, self.items)
        interest, scale = self._interest(contexts)
        rows = self._covariates(covariates, len(contexts), "the number of histories")
        posterior = self._folded_posterior() if scale is None else None
        if posterior is not None and has_closed_form(posterior):
            return ClickLogits(posterior, *self.model.items, interest * self.model.column_norms)
        with seeded(seed, self.device), torch.no_grad():
            coefficients = self._coefficients(self.sample(num_draws))
            if scale is not None:
                noise = torch.randn(num_draws, *interest.shape, dtype=interest.dtype, device=self.device)
                full = scale.dim() == 3  # a Cholesky factor
                interest = interest + ((scale @ noise.unsqueeze(-1)).squeeze(-1) if full else scale * noise)
            return DrawnClickLogits(coefficients, linear_features(interest, rows))

    def scores(self, histories: Histories | Any) -> Tensor:
        """Posterior mean of each item's click logit, ``N x P``."""
        with torch.no_grad():
            return self.click_logits(histories).mean

    def click_probabilities(
        self,
        histories: Histories | Any,
        method: Literal["averaged", "plug_in"] = "averaged",
        covariates: Tensor | None = None,
    ) -> Tensor:
        """Probability of a click on each item, ``N x P``.

        Args:
            histories: as `click_logits`.
            method: "averaged" over the posterior, ``E sigmoid(logit)``; "plug_in" at the posterior mean of every
                parameter, which is faster and, where little is known, too extreme.
            covariates: as `click_logits`.
        """
        if method not in ("averaged", "plug_in"):
            raise ValueError(f"method: expected 'averaged' or 'plug_in', got {method!r}")
        if method == "averaged":
            return self.click_logits(histories, covariates).click_probability()
        contexts = as_histories(histories, self.items)
        rows = self._covariates(covariates, len(contexts), "the number of histories")
        return torch.sigmoid(linear_features(self._interest(contexts)[0], rows) @ self._mean_coefficients().mT)

    def click_intervals(
        self, histories: Histories | Any, level: float = 0.95, covariates: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Central credible interval of each item's click probability: lower and upper ends, ``N x P`` each.

        Args:
            histories: as `click_logits`.
            level: probability that it holds.
            covariates: as `click_logits`.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: must lie between 0 and 1, got {level}")
        logits = self.click_logits(histories, covariates)
        return torch.sigmoid(logits.icdf((1 - level) / 2)), torch.sigmoid(logits.icdf((1 + level) / 2))

    def prior_click_rates(
        self, histories: Histories | Any, num_samples: int = 200, seed: int = 0, covariates: Tensor | None = None
    ) -> Tensor:
        """Click probabilities that the *prior* implies, before any event: ``num_samples x N x P``.

        Each sample is one catalogue that the prior holds possible. A prior whose samples click at 40 %, or whose best
        item is never better than its worst, says what nobody believes.

        Args:
            histories: as `click_logits`.
            num_samples: draws of the parameters.
            seed: of the draws.
            covariates: as `click_logits`.
        """
        contexts = as_histories(histories, self.items)
        interest, _ = self._interest(contexts)
        rows = self._covariates(covariates, len(contexts), "the number of histories")
        with seeded(seed, self.device), torch.no_grad():
            draws = self.model.prior_draws(num_samples)
            return torch.sigmoid(linear_features(interest, rows) @ self._coefficients(draws).mT)

    @property
    def beta_hat(self) -> Tensor:
        """Point estimate of the bandit embedding, ``P x K``: ``sp(E w_a) Psi + sp(E w_b) Psi E[zeta] L'`` and terms."""
        return self._mean_coefficients()[:, : self.model.embedding_dim]

    def to_inference_data(self, num_samples: int = 1000, seed: int = 0) -> Any:
        """Draws from the posterior and the prior for ArviZ, along one ``sample`` dimension.

        Args:
            num_samples: draws of each.
            seed: of the draws.

        Returns:
            ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x): groups ``posterior`` and ``prior``.
        """
        with seeded(seed, self.device), torch.no_grad():
            posterior = self.sample(num_samples)
            prior = self.model.prior_draws(num_samples)
        return to_inference_data({"posterior": posterior, "prior": prior}, list(self.items.ids))

    def save(self, path: str | Path) -> None:
        """Write both models to a folder: ``config.json`` and ``state.safetensors``, no pickle; all or nothing.

        Priors that are functions, and terms of your own, are not written: pass them to `load` again.

        Raises:
            ValueError: if item ids are not strings or integers, which JSON could not give back.
        """
        try:
            priors = to_json(self.model.priors)
        except ValueError:
            priors = None
        config = {
            "class": "BLOB",
            "guide": self.guide_name,
            "num_draws": self.guide.num_draws if isinstance(self.guide, DrawsGuide) else None,
            "omega": self.omega,
            "jitter": self.model.jitter,
            "priors": priors,
            "fits": self.fits,
            "blo": self.blo._config(),
        }
        storage.save(path, config, self._all_modules())

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

        Args:
            path: what `save` wrote.
            guide: your own guide (its class, or a fresh instance), if the model was saved with one.
            encoder: your own encoder, freshly constructed, if the organic model was saved with one.
            device: where to put it; default CUDA where there is one.
            priors: your own priors, if the model was saved with some that JSON cannot hold.

        Raises:
            ValueError: if the folder does not hold a BLOB that this version can read, saying why.
        """
        config, state = storage.load(path, "BLOB")
        if guide is None and config["guide"] is None:
            raise ValueError("guide: this model was saved with a guide of your own; pass its class, guide=...")
        if priors is None and config["priors"] is None:
            raise ValueError("priors: this model was saved with functions as priors or terms; pass them, priors=...")
        blo = BLO._from_config(config["blo"], encoder)
        storage.restore({"organic_model": blo.model, "organic_guide": blo.guide}, state, path)
        priors = from_json(config["priors"]) if priors is None else priors
        blob = cls(blo, guide or config["guide"], priors, omega=config["omega"], jitter=config["jitter"])
        if isinstance(blob.guide, DrawsGuide):
            blob.guide = DrawsGuide(blob.model, config["num_draws"])
        storage.restore(blob._all_modules(), state, path)
        blob.fits = config["fits"]
        return blob.to(default_device(device))

    def _folded_posterior(self) -> dict[str, TorchDistribution] | None:
        """The posterior of the paper's sites with every term's share in them; None if a term has no such."""
        posterior: dict[str, TorchDistribution] | None = self.posterior()
        for term in self.model.terms:
            fold = getattr(term, "fold", None)
            posterior = None if fold is None or posterior is None else fold(self.model, posterior)
        return posterior

    def _interest(self, histories: Histories) -> tuple[Tensor, Tensor | None]:
        """Posterior mean of omega, and its scale (or Cholesky factor) if it is to be propagated."""
        if self.omega == "mean":
            return self.blo.embed(histories), None
        posterior = self.blo.user_posterior(histories)
        return posterior.mean, getattr(posterior, "scale_tril", posterior.stddev)

    def _covariates(self, covariates: Tensor | None, expected: int, what: str) -> Tensor | None:
        num_covariates = self.model.num_covariates
        if covariates is None and not num_covariates:
            return None
        found = None if covariates is None else tuple(covariates.shape)
        if found != (expected, num_covariates):
            raise ValueError(
                f"covariates: expected {expected} x {num_covariates} ({what} x the model's num_covariates), got {found}"
            )
        assert covariates is not None
        return covariates.to(self.model.item_embedding)

    def _coefficients(self, draws: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return torch.vmap(self.model.coefficients, chunk_size=64)(draws)

    def _mean_coefficients(self) -> Tensor:
        means = {name: d.mean for name, d in self.posterior().items()}
        with torch.no_grad():
            return self.model.coefficients(means)

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "guide": self.guide}

    def _all_modules(self) -> dict[str, nn.Module]:
        return {**self._modules(), "organic_model": self.blo.model, "organic_guide": self.blo.guide}


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
