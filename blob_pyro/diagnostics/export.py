"""A fitted model and a log as the groups that ArviZ's functions ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from blob_pyro.data import EventLog
from blob_pyro.diagnostics.export_plan import Plan, Sizes, plan_export
from blob_pyro.diagnostics.inference_data import DIMS, Coordinates, container, draws_dataset, labels_of
from blob_pyro.guides import DrawsGuide
from blob_pyro.guides.registry import guide_name
from blob_pyro.models import BanditBatch
from blob_pyro.models.sites import CLICK
from blob_pyro.ops.seeds import derived_seed, seeded
from blob_pyro.posteriors.event_densities import event_log_likelihoods, log_priors
from blob_pyro.posteriors.guide_posterior import GuidePosterior

if TYPE_CHECKING:
    from blob_pyro.recommenders.click_model import ClickModel

__all__ = ["export"]

_OF_PRIOR, _OF_CLICKS = 3, 4  # what further seeds are derived for
_NUMBERS = 1 << 25  # of draws, at once


def export(
    model: ClickModel,
    log: EventLog | None,
    num_draws: int,
    *,
    groups: Sequence[str] | None,
    sites: Sequence[str] | None,
    items: Sequence[Any] | None,
    num_events: int | None,
    covariates: Any,
    seed: int,
    max_bytes: float,
    stacklevel: int,
) -> Any:
    """Put draws, densities and data into ArviZ's container: see `blob_pyro.BLOB.to_inference_data`."""
    known = model._parts.known
    guide = known.guide if isinstance(known.guide, DrawsGuide) else None
    if guide is not None:
        num_draws = guide.num_chains * min(max(1, num_draws // guide.num_chains), guide.num_draws // guide.num_chains)
    batch = None if log is None else model.batch(log, covariates)
    shapes = {name: prior.event_shape for name, prior in known.model.site_priors().items()}
    named: dict[str, dict[str, Any]] = {}
    of_items = {name for name, dims in DIMS.items() if dims[0] == "item"}
    for term in known.model.terms:
        named.update(term.coordinates())
        of_items.update(term.item_sites)
    sizes = Sizes(
        num_draws,
        model.num_items,
        0 if batch is None else len(batch),
        {name: shape.numel() for name, shape in shapes.items()},
        of_items & set(shapes),
        known.model.item_intercept.double().cpu().numpy(),
    )
    numbers = None if items is None else np.sort(np.asarray(model.items.encode(list(items))))
    plan = plan_export(sizes, groups, sites, numbers, num_events, max_bytes)
    writer = _Writer(known, batch, plan, sizes, named, labels_of([model.items.ids[i] for i in plan.items.tolist()]))
    datasets: dict[str, xr.Dataset] = {}
    with torch.no_grad():
        datasets |= writer.posterior(guide, seed)
        datasets |= writer.prior(derived_seed(seed, _OF_PRIOR))
    if log is not None:
        datasets |= _data_of(log, plan, model)
    says = "NUTS" if guide is not None else f"independent draws from the guide {guide_name(known.guide)}"
    for name, data in datasets.items():
        data.attrs.update(inference_library="blob_pyro", left_out="; ".join(plan.left_out))
        if "draw" in data.dims:
            data.attrs["draws"] = "independent draws from the prior" if name.startswith("prior") else says
    plan.warn(stacklevel + 1)
    return container({name: datasets[name] for name in plan.groups if name in datasets})


class _Writer:
    """Draws, a few at a time, and what is computed from them, into arrays of the size that is kept."""

    def __init__(
        self,
        known: GuidePosterior,
        batch: BanditBatch | None,
        plan: Plan,
        sizes: Sizes,
        coordinates: Coordinates,
        item_labels: np.ndarray,
    ) -> None:
        self.known, self.plan, self.sizes = known, plan, sizes
        self.coordinates, self.item_labels = coordinates, item_labels
        self.batch = batch
        self.kept = torch.from_numpy(plan.events)
        self.whole = "sample_stats" in plan.groups
        if batch is not None and not self.whole:
            self.batch = batch[self.kept]

    def posterior(self, guide: DrawsGuide | None, seed: int) -> dict[str, xr.Dataset]:
        """Everything that is computed from draws of the posterior."""
        chains = 1 if guide is None else guide.num_chains
        of_events = {"posterior_predictive", "log_likelihood", "sample_stats"}
        wanted = {"posterior", "log_prior", *of_events} & set(self.plan.groups)
        if not wanted:
            return {}
        draws, clicks, likelihood = self._arrays("posterior", "posterior_predictive", "log_likelihood")
        total, density = np.zeros((2, self.sizes.num_draws))
        priors: dict[str, np.ndarray] = {}
        for here, values, log_q in self._posterior_draws(guide, seed):
            self._keep(draws, values, here)
            density[here] = np.nan if log_q is None else log_q.cpu().numpy()
            if wanted & {"log_prior", "sample_stats"}:
                for name, value in log_priors(self.known.model, values).items():
                    priors.setdefault(name, np.zeros(self.sizes.num_draws))[here] = value.cpu().numpy()
            if wanted & of_events and self.batch is not None:
                total[here] = self._events(values, here, clicks, likelihood, derived_seed(seed, _OF_CLICKS))
        found = {}
        if "posterior" in wanted:
            found["posterior"] = self._dataset(draws, chains)
        if "log_prior" in wanted:
            found["log_prior"] = draws_dataset(priors, [], {}, num_chains=chains)
        if "sample_stats" in wanted:
            stats = {"log_p": total + sum(priors.values())}
            stats["lp"] = stats["log_p"]
            if guide is None and np.isfinite(density).all():
                stats["log_q"] = density
            found["sample_stats"] = draws_dataset(stats, [], {}, num_chains=chains)
        return found | self._event_sets(clicks, likelihood, "posterior_predictive", chains)

    def prior(self, seed: int) -> dict[str, xr.Dataset]:
        """Everything that is computed from draws of the prior."""
        wanted = {"prior", "prior_predictive"} & set(self.plan.groups)
        if not wanted:
            return {}
        draws, clicks, _ = self._arrays("prior", "prior_predictive", None)
        with seeded(seed, self.known.device):
            for here in self._chunks():
                values = self.known.model.prior_draws(here.stop - here.start)
                self._keep(draws, values, here)
                if clicks is not None and self.batch is not None:
                    batch = self.batch[self.kept] if self.whole else self.batch
                    for rows, log_p in event_log_likelihoods(self.known.model, batch, values):
                        clicks[here, rows] = _clicks(log_p, _reward(batch)[rows]).cpu().numpy()
        found = {"prior": self._dataset(draws, 1)} if "prior" in wanted else {}
        return found | self._event_sets(clicks, None, "prior_predictive", 1)

    def _posterior_draws(
        self, guide: DrawsGuide | None, seed: int
    ) -> Iterator[tuple[slice, dict[str, Tensor], Tensor | None]]:
        if guide is not None:
            each, kept = guide.num_draws // guide.num_chains, self.sizes.num_draws // guide.num_chains
            within = torch.linspace(0, each - 1, kept).round().long()
            rows = torch.cat([within + chain * each for chain in range(guide.num_chains)])
            for here in self._chunks():
                yield here, {name: values[rows[here]] for name, values in guide.draws.items()}, None
            return
        for number, here in enumerate(self._chunks()):
            with seeded(derived_seed(seed, number) if number else seed, self.known.device):
                values, log_q = self.known.sample_with_density(here.stop - here.start)
            yield here, values, log_q

    def _chunks(self) -> Iterator[slice]:
        size = max(1, _NUMBERS // sum(self.sizes.sites.values()))
        for start in range(0, self.sizes.num_draws, size):
            yield slice(start, min(start + size, self.sizes.num_draws))

    def _arrays(
        self, group: str, predictive: str, likelihood: str | None
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray | None]:
        groups, num_draws = self.plan.groups, self.sizes.num_draws
        shape = (num_draws, len(self.kept))
        return (
            {name: np.empty(0) for name in self.plan.sites} if group in groups else {},
            np.empty(shape, dtype=np.int8) if predictive in groups else None,
            np.empty(shape, dtype=np.float32) if likelihood in groups else None,
        )

    def _keep(self, arrays: dict[str, np.ndarray], values: dict[str, Tensor], here: slice) -> None:
        for name in arrays:
            value = values[name]
            if name in self.sizes.of_items and len(self.plan.items) < self.sizes.num_items:
                value = value[:, torch.from_numpy(self.plan.items).to(value.device)]
            if not len(arrays[name]):
                arrays[name] = np.empty((self.sizes.num_draws, *value.shape[1:]), dtype=np.float32)
            arrays[name][here] = value.cpu().numpy()

    def _events(
        self,
        values: dict[str, Tensor],
        here: slice,
        clicks: np.ndarray | None,
        likelihood: np.ndarray | None,
        seed: int,
    ) -> np.ndarray:
        """Fill in what is asked of the events that are kept; returns the log-likelihood of all, by draw."""
        assert self.batch is not None, "asked for by whoever has events"
        total = np.zeros(here.stop - here.start)
        with seeded(derived_seed(seed, here.start), self.known.device):
            for rows, log_p in event_log_likelihoods(self.known.model, self.batch, values):
                total += log_p.double().sum(-1).cpu().numpy()
                into, of = slice(rows.start, rows.stop), slice(None)
                if self.whole:
                    low, high = np.searchsorted(self.plan.events, [rows.start, rows.stop])
                    into, of = slice(low, high), self.kept[low:high] - rows.start
                some = log_p[:, of]
                if likelihood is not None:
                    likelihood[here, into] = some.cpu().numpy()
                if clicks is not None:
                    clicks[here, into] = _clicks(some, _reward(self.batch)[rows][of]).cpu().numpy()
        return total

    def _dataset(self, arrays: dict[str, np.ndarray], chains: int) -> xr.Dataset:
        items = self.item_labels.tolist()
        of_items = tuple(self.sizes.of_items)
        return draws_dataset(arrays, items, self.coordinates, num_chains=chains, item_sites=of_items)

    def _event_sets(
        self, clicks: np.ndarray | None, likelihood: np.ndarray | None, predictive: str, chains: int
    ) -> dict[str, xr.Dataset]:
        of_events = {CLICK: {"event": self.plan.events.tolist()}}
        parts = {predictive: clicks, "log_likelihood": likelihood}
        return {
            name: draws_dataset({CLICK: value}, [], of_events, num_chains=chains)
            for name, value in parts.items()
            if value is not None
        }


def _reward(batch: BanditBatch) -> Tensor:
    assert batch.reward is not None, "it is made of a log"
    return batch.reward


def _clicks(log_p: Tensor, reward: Tensor) -> Tensor:
    """Draw clicks of events from the log-probability of what was observed of them."""
    probability = log_p.exp()
    return torch.bernoulli(torch.where(reward > 0, probability, 1 - probability).clamp(0, 1)).to(torch.int8)


def _data_of(log: EventLog, plan: Plan, model: ClickModel) -> dict[str, xr.Dataset]:
    """What was observed, and what it depended on."""
    rows = torch.from_numpy(plan.events)
    found = {}
    if "observed_data" in plan.groups:
        found["observed_data"] = xr.Dataset({CLICK: ("event", log.reward[rows].to(torch.int8).numpy())})
    if "constant_data" in plan.groups:
        constants = {
            "action": labels_of(model.items.decode(log.action[rows])),
            "user": labels_of(log.users.decode(log.user[rows])),
            "context": log.context[rows].numpy(),
            "history_length": log.contexts.lengths[log.context[rows]].numpy(),
            "time": log.time[rows].numpy(),
        }
        for name in ("position", "propensity"):
            values = getattr(log, name)
            if values is not None:
                constants[name] = values[rows].numpy()
        found["constant_data"] = xr.Dataset({name: ("event", value) for name, value in constants.items()})
    return {name: data.assign_coords(event=plan.events) for name, data in found.items()}
