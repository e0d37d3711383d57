"""A guide's posterior of a bandit model's parameters, asked of Pyro once and known from then on.

Asking a guide means running Pyro, which is one thread's at a time: see `blob_pyro.ops.exclusive`. What answers from a
fitted model must not wait for a fit, so the answers are kept for as long as every parameter and buffer is what it was:
whoever trains the guide on gets the new answers. (Torch does not count what is written through ``tensor.data``.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Empirical, TorchDistribution
from torch import Tensor, nn

from blob_pyro.distributions.multivariate import MultivariatePart
from blob_pyro.guides.certainty import certain_sites, is_a_set_of_draws
from blob_pyro.infer.elbo import RecordDistributions
from blob_pyro.models import BanditModel
from blob_pyro.models.operations import unhandled
from blob_pyro.models.sites import BETA_DEVIATION
from blob_pyro.ops.exclusive import exclusive, own_parameter_store
from blob_pyro.ops.gradients import ordinary_tensors
from blob_pyro.ops.seeds import seeded
from blob_pyro.ops.tensors import detached
from blob_pyro.posteriors.click_logits import ClickLogits, has_closed_form
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts
from blob_pyro.posteriors.mixed_click_logits import AtNodes, MixedClickLogits, at_nodes

__all__ = ["GuidePosterior"]

T = TypeVar("T")

_DRAWS_FOR_MOMENTS = 1000
_NUMBERS_KEPT = 1 << 24  # of draws: 64 MiB; more are drawn anew each time


class _Distributions(NamedTuple):
    """The guide's distributions, and the sites that it can only draw."""

    sites: dict[str, TorchDistribution]
    drawn: list[str]


class _Seen(NamedTuple):
    """A parameter or buffer, how often it has been changed in place, and where it lies."""

    tensor: Tensor
    version: int
    address: int


class GuidePosterior:
    """The posterior of a model's parameters that a guide stands for.

    Safe to ask from many threads. Only the first question after the guide has changed runs Pyro, and waits for a fit.

    Args:
        model: the bandit model.
        guide: see `blob_pyro.guides.bandit`.
    """

    def __init__(self, model: BanditModel, guide: nn.Module) -> None:
        self.model, self.guide = model, guide
        self._known: dict[str, tuple[Any, list[_Seen], Any]] = {}

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return self.model.item_embedding.device

    def distributions(self) -> dict[str, TorchDistribution]:
        """Return the posterior of each site, by name; see `blob_pyro.BLOB.posterior`."""
        sites, drawn = self._distributions()
        if not drawn:
            return dict(sites)
        draws = self.draws(_DRAWS_FOR_MOMENTS, seed=0)
        return {**sites, **{n: Empirical(draws[n], draws[n].new_zeros(_DRAWS_FOR_MOMENTS)) for n in drawn}}

    def click_logits(self, interest: Tensor, up_to_common: bool = False) -> LogitsOfContexts | None:
        """Return the posterior of the click logits in contexts of these interests; None if it has no closed form.

        Args:
            interest: omega as the model takes it, in units of its column norms, ``N x K``.
            up_to_common: whether to leave out terms that move all items alike, such as `UserCovariates`: which item is
                best does not depend on them, and without them a posterior may have a closed form.
        """
        known = self._once(f"click logits, {up_to_common=}", None, lambda: self._answers(up_to_common))
        return None if known is None else known.in_contexts(interest)

    def ask(self) -> None:
        """Ask what answering needs, now: whoever holds the lock spares others to wait for it."""
        for up_to_common in (False, True):
            self.click_logits(self.model.item_embedding[:0], up_to_common)

    def sample(self, num_samples: int) -> dict[str, Tensor]:
        """Draw the parameters jointly from torch's default generator, each ``num_samples x shape of the site``."""
        return self._sample(num_samples)[0]

    def sample_with_density(self, num_samples: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Draw as `sample`, with the guide's log density at each draw, ``num_samples`` float64.

        None in its place for a guide that is no density: a point mass in some number, or a set of draws.
        """
        values, trace = self._sample(num_samples)
        if is_a_set_of_draws(self.guide, self.model) or certain_sites(self.guide, self.model):
            return values, None
        trace.compute_log_prob()
        density = torch.zeros(num_samples, dtype=torch.float64, device=self.device)
        for site in trace.nodes.values():
            if site["type"] == "sample":
                log_prob = site["log_prob"].detach().double()
                density += log_prob.reshape(num_samples, -1).sum(-1) if log_prob.dim() else log_prob
        return values, density

    def draws(self, num_samples: int, seed: int) -> dict[str, Tensor]:
        """Draw the parameters jointly under a seed; the last draws are kept, unless they take more than 64 MiB."""

        def compute() -> dict[str, Tensor]:
            with seeded(seed, self.device):
                return self.sample(num_samples)

        size = sum(d.event_shape.numel() for d in self._distributions().sites.values())
        if num_samples * size > _NUMBERS_KEPT:
            return compute()
        return dict(self._once("draws", (num_samples, seed), compute))

    def coefficients(self, draws: dict[str, Tensor]) -> Tensor:
        """Return each item's logit as a linear form of the context, for each draw: ``num_samples x P x F``."""
        with torch.no_grad(), unhandled():
            return torch.vmap(self.model.coefficients, chunk_size=64)(draws)

    def mean_coefficients(self) -> Tensor:
        """Return the coefficients at the posterior mean of every parameter, ``P x F``."""
        means = self._once("means", None, lambda: {name: d.mean for name, d in self.distributions().items()})
        with torch.no_grad(), unhandled():
            return self.model.coefficients(means)

    def kept(self, name: str) -> Any:
        """Return what `keep` was last given under this name, if every parameter is what it was then; else None."""
        known = self._known.get(name)
        return known[2] if known is not None and self._unchanged(known[1]) else None

    def keep(self, name: str, compute: Callable[[], T]) -> T:
        """Compute something that follows from the parameters, without Pyro's lock, and keep it until they change."""
        state = self._state()
        value = compute()
        self._known[name] = (None, state, value)
        return value

    def _sample(self, num_samples: int) -> tuple[dict[str, Tensor], poutine.Trace]:
        with torch.no_grad(), own_parameter_store():
            plate = pyro.plate("draws", num_samples, dim=-2)  # -1 is the plate of events
            trace = poutine.trace(plate(self.guide)).get_trace(None)
            shapes = {name: prior.event_shape for name, prior in self.model.site_priors().items()}
        found = {name: trace.nodes[name]["value"].detach() for name in shapes}
        return {n: value.expand(num_samples, 1, *shapes[n])[:, 0] for n, value in found.items()}, trace

    def _distributions(self) -> _Distributions:
        return self._once("distributions", None, self._run_guide)

    def _run_guide(self) -> _Distributions:
        record = RecordDistributions()
        with seeded(0, self.device), own_parameter_store():
            trace = poutine.trace(record(self.guide)).get_trace(None)
            priors = self.model.site_priors()
        sites = {n: d for n, d in record.posterior.items() if n in priors}
        is_random = any(site["infer"].get("is_auxiliary") for site in trace.nodes.values() if site["type"] == "sample")
        drawn = [
            n for n, d in sites.items() if is_random and isinstance(d, Delta) and not isinstance(d, MultivariatePart)
        ]
        fixed = {n: Delta(v, event_dim=v.dim()) for n, v in self.model.fixed_values().items()}
        return _Distributions(detached({**sites, **fixed}), drawn)

    def _answers(self, up_to_common: bool) -> LogitsOfContexts | None:
        """Click logits in no context."""
        nodes = self._fold(up_to_common)
        if nodes is None:
            return None
        none = self.model.item_embedding[:0]
        parts = [ClickLogits(posterior, *self.model.item_factors, none) for posterior in nodes.posteriors]
        if len(parts) == 1:
            return parts[0]
        mixed = MixedClickLogits(parts, nodes.weights)
        return MixedClickLogits(parts, nodes.weights, mixed.mean_slopes())

    def _fold(self, up_to_common: bool) -> AtNodes | None:
        """The posterior of the paper's sites with every term's share in them; None if it has no closed form.

        Of a guide that is Gaussian only given ``w_b``, at each node of it; of others at the only one there is.
        """
        sites, drawn = self._distributions()
        if drawn:
            return None
        nodes = at_nodes(sites)
        if nodes is None:
            nodes = AtNodes([dict(sites)], self.model.item_embedding.new_ones(1))
        folded = [self._fold_terms(posterior, up_to_common) for posterior in nodes.posteriors]
        found = [posterior for posterior in folded if posterior is not None]
        return nodes._replace(posteriors=found) if len(found) == len(folded) else None

    def _fold_terms(
        self, sites: dict[str, TorchDistribution], up_to_common: bool
    ) -> dict[str, TorchDistribution] | None:
        posterior: dict[str, TorchDistribution] | None = sites
        for term in self.model.terms:
            if up_to_common and term.moves_all_items_alike:
                continue
            posterior = None if posterior is None else term.fold(self.model, posterior)
        if posterior is None:
            return None
        own = [term.items_own for term in self.model.terms if term.items_own in posterior]
        if len(own) > 1:
            return None
        if own:  # a named term calls it otherwise
            posterior[BETA_DEVIATION] = posterior.pop(own[0])
        return posterior if has_closed_form(posterior) else None

    def _once(self, name: str, arguments: Any, compute: Callable[[], T]) -> T:
        """What ``compute`` returned when the same was last asked in the same state; the lock is held to ask anew."""
        known = self._known.get(name)
        if known is None or known[0] != arguments or not self._unchanged(known[1]):
            with exclusive(), ordinary_tensors(), torch.no_grad():
                known = self._known.get(name)
                if known is None or known[0] != arguments or not self._unchanged(known[1]):
                    known = self._known[name] = (arguments, self._state(), compute())
        return known[2]

    def _state(self) -> list[_Seen]:
        modules = (self.model, self.guide)
        return [_Seen(t, t._version, _address(t)) for m in modules for t in (*m.parameters(), *m.buffers())]

    def _unchanged(self, before: list[_Seen]) -> bool:
        now = self._state()
        return len(now) == len(before) and all(a.tensor is b.tensor and a[1:] == b[1:] for a, b in zip(now, before))


def _address(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # of a subclass that has no memory of its own
        return 0
