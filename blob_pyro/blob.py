"""`BLOB`: the organic and the bandit model together, fitted."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from blob_pyro import storage
from blob_pyro.blo import BLO, default_device
from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.diagnostics import to_inference_data
from blob_pyro.guides import GUIDES
from blob_pyro.infer import GuidedELBO, LocalReparameterization, Training, seeded, train
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors, Learned
from blob_pyro.models.sites import W_A, W_B, ZETA
from blob_pyro.posterior import ClickLogits

__all__ = ["BLOB"]


class BLOB:
    """Bayesian latent organic bandit model: a posterior over every item's click logit.

    Sakhi et al. (2020), section 3.2. The organic model says what a user is interested in; the bandit log says which
    recommendations are clicked. ``model`` and ``guide`` are plain Pyro callables over ``batch(log)``: SVI,
    Predictive and NUTS work on them.

    Args:
        blo: a fitted `BLO`; kept as it is.
        guide: "normal" (the paper's NQ, default), "matrix_normal" (MNQ), a class that is constructed from the
            bandit model, or a guide: see `blob_pyro.guides.bandit`.
        priors: see `BanditPriors`.

    Raises:
        ValueError: if ``blo`` is not fitted, for an unknown guide name, or for embeddings of deficient rank.
    """

    def __init__(
        self, blo: BLO, guide: str | Callable[..., Any] = "normal", priors: BanditPriors | None = None
    ) -> None:
        if not blo.fitted:
            raise ValueError("blo: is not fitted; call blo.fit(log) first")
        if isinstance(guide, str) and guide not in GUIDES:
            raise ValueError(f"guide: unknown name {guide!r}; known: {', '.join(sorted(GUIDES))}")
        self.blo = blo
        self.guide_name = guide if isinstance(guide, str) else None
        self.model = BanditModel(blo.model.item_embedding, priors)
        make = GUIDES[guide] if isinstance(guide, str) else guide
        is_recipe = isinstance(guide, (str, type))
        self.guide = make(self.model) if is_recipe else make
        self.fitted = False
        self._start = {name: _copy(module) for name, module in self._modules().items()}

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

    def batch(self, log: EventLog) -> BanditBatch:
        """The log's bandit events on this model's device, as ``model`` and ``guide`` take them.

        Every distinct context is embedded once, from all the user's views before the decision.

        Raises:
            ValueError: if the log has no bandit events, or its items are not the organic model's.
        """
        log.require_impressions()
        if log.items != self.items:
            raise ValueError(f"log: its items ({log.items!r}) are not those the organic model knows ({self.items!r})")
        context, action, reward = (t.to(self.device) for t in (log.context, log.action, log.reward))
        interest = self.blo.embed(log.contexts)
        return BanditBatch(interest, context, action, reward.to(interest.dtype), log.num_impressions)

    def fit(
        self,
        log: EventLog,
        *,
        seed: int = 0,
        num_epochs: int | None = None,
        batch_size: int = 4096,
        learning_rate: float = 0.03,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Fit the guide to the bandit events of a log, from a fresh start; the organic model stays as it is.

        Args:
            log: a log with bandit events over the organic model's catalogue.
            seed: of the order of events and of the noise; the same seed gives the same fit.
            num_epochs: passes over the events; default 40, or more where that is fewer than 1,000 steps.
            batch_size: events per step.
            learning_rate: peak of Adam's one-cycle schedule.
            device: where to train; default CUDA where there is one.
            progress: whether to show a progress bar.

        Returns:
            One row per epoch: ``epoch``, ``elbo`` (nats per event), ``seconds``, ``learning_rate``.

        Raises:
            ValueError: as `batch`.
        """
        self.to(default_device(device))
        batch = self.batch(log)
        if num_epochs is None:
            steps = -(-len(batch) // batch_size)
            num_epochs = max(40, -(-1000 // steps))
        training = Training(num_epochs, batch_size, learning_rate)
        for name, module in self._modules().items():
            module.load_state_dict(self._start[name])
        with seeded(seed, self.device):
            elbo = GuidedELBO(LocalReparameterization)
            history = train(self.model, self.guide, elbo, batch, training, progress=progress, description="BLOB")
        self.fitted = True
        return history

    def posterior(self) -> dict[str, TorchDistribution]:
        """The guide's distribution of each site, by name, detached from its parameters."""
        with torch.no_grad():
            trace = poutine.trace(self.guide).get_trace(None)
        return {name: _detached(site["fn"]) for name, site in trace.nodes.items() if site["type"] == "sample"}

    def sample(self, num_samples: int) -> dict[str, Tensor]:
        """Joint draws of the parameters from the guide, each ``num_samples x shape of the site``."""
        with torch.no_grad():
            return {name: d.sample((num_samples,)) for name, d in self.posterior().items()}

    def click_logits(self, histories: Histories | Any) -> ClickLogits:
        """Posterior of all items' click logits after each history.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.

        Returns:
            A distribution with batch ``N`` and event ``P``: ``mean``, ``variance``, ``sample``.
        """
        interest = self.blo.embed(as_histories(histories, self.items))
        return ClickLogits(self.posterior(), self.model.item_embedding, self.model.whitening, interest)

    def scores(self, histories: Histories | Any) -> Tensor:
        """Posterior mean of each item's click logit, ``N x P``."""
        with torch.no_grad():
            return self.click_logits(histories).mean

    @property
    def beta_hat(self) -> Tensor:
        """Point estimate of the bandit embedding, ``P x K``: ``sp(E w_a) Psi + sp(E w_b) Psi E[zeta] L'``."""
        psi, whitening, q = self.model.item_embedding, self.model.whitening, self.posterior()
        return softplus(q[W_A].mean) * psi + softplus(q[W_B].mean) * psi @ q[ZETA].mean @ whitening.mT

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
            prior = {name: d.sample((num_samples,)) for name, d in self.model.site_priors().items()}
        return to_inference_data({"posterior": posterior, "prior": prior}, list(self.items.ids))

    def save(self, path: str | Path) -> None:
        """Write both models to a folder: ``config.json`` and ``state.safetensors``, no pickle; all or nothing.

        Raises:
            ValueError: if item ids are not strings or integers, which JSON could not give back.
        """
        scale = self.model.priors.kappa_scale
        priors = {
            name: storage.distribution_to_json(getattr(self.model.priors, name)) for name in ("w_a", "w_b", "w_c")
        }
        config = {
            "class": "BLOB",
            "guide": self.guide_name,
            "priors": {**priors, "kappa_scale": {"learned": scale.start} if isinstance(scale, Learned) else scale},
            "fitted": self.fitted,
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
    ) -> BLOB:
        """Read a model from a folder, in a new process, without data.

        Args:
            path: what `save` wrote.
            guide: your own guide (its class, or a fresh instance), if the model was saved with one.
            encoder: your own encoder, freshly constructed, if the organic model was saved with one.
            device: where to put it; default CUDA where there is one.

        Raises:
            ValueError: if the folder does not hold a BLOB that this version can read, saying why.
        """
        config, state = storage.load(path, "BLOB")
        if guide is None and config["guide"] is None:
            raise ValueError("guide: this model was saved with a guide of your own; pass its class, guide=...")
        blo = BLO._from_config(config["blo"], encoder)
        storage.restore({"organic_model": blo.model, "organic_guide": blo.guide}, state, path)
        scale = config["priors"].pop("kappa_scale")
        weights = {name: storage.distribution_from_json(value) for name, value in config["priors"].items()}
        priors = BanditPriors(**weights, kappa_scale=Learned(scale["learned"]) if isinstance(scale, dict) else scale)
        blob = cls(blo, guide or config["guide"], priors)
        storage.restore(blob._all_modules(), state, path)
        blob.fitted = config["fitted"]
        return blob.to(default_device(device))

    def _modules(self) -> dict[str, nn.Module]:
        return {n: m for n, m in (("model", self.model), ("guide", self.guide)) if isinstance(m, nn.Module)}

    def _all_modules(self) -> dict[str, nn.Module]:
        return {**self._modules(), "organic_model": self.blo.model, "organic_guide": self.blo.guide}


def _detached(d: TorchDistribution) -> TorchDistribution:
    """The same distribution without a graph: what is computed from a posterior keeps no memory of its guide."""
    new = copy(d)
    for name, value in vars(d).items():
        if isinstance(value, Tensor):
            setattr(new, name, value.detach())
        elif isinstance(value, Distribution):
            setattr(new, name, _detached(value))
    return new


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
