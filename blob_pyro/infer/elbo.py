"""An ELBO whose model run knows the guide's distributions: analytic KL, and handlers that use what they know."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.util import check_fully_reparametrized, is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

__all__ = ["GuidedELBO", "RecordDistributions"]

Posterior = dict[str, TorchDistribution]
"""The guide's distribution of each site, by name; filled while the guide runs."""


class GuidedELBO(TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO` that runs the model under handlers built from the guide's distributions.

    KL terms are analytic where registered. The expectation of the likelihood is a matter of the handlers: each may
    replace a step of the model by one with the same expectation and less variance, or by a bound.

    Args:
        handlers: each is called with a dict, which holds the guide's distribution of every site by the time the
            model runs, and returns a Pyro messenger for the model.
        **kwargs: as `pyro.infer.ELBO`; ``vectorize_particles`` is not supported with handlers that project.

    Example:
        >>> from pyro.infer import SVI
        >>> from blob_pyro.infer import LocalReparameterization
        >>> elbo = GuidedELBO(LocalReparameterization)  # SVI(blob.model, blob.guide, optimizer, elbo)
    """

    def __init__(self, *handlers: Callable[[Posterior], Messenger], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.handlers = handlers

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:  # the guide runs before the model, so the record is full by the time it is read
        record = RecordDistributions()
        for handler in self.handlers:
            model = handler(record.posterior)(model)
        result: tuple[Trace, Trace] = super()._get_trace(model, record(guide), args, kwargs)
        return result

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Compute the loss as `pyro.infer.TraceMeanField_ELBO` does, reading nothing off the device: for capture."""
        traces = self._get_traces(model, guide, args, kwargs)
        losses = [self._differentiable_loss_particle(*pair)[1] for pair in traces]
        result: Tensor = sum(losses[1:], losses[0]) / self.num_particles
        return result

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor]:
        loss = -reduce(operator.add, _terms(model_trace, guide_trace))
        return loss.detach(), loss

    def find_bad_site(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> str | None:
        """Find the first site whose value or log-probability is not finite, in the guide or else the model; or None.

        Draws anew: a site that is bad for some draws only may escape.
        """
        with torch.no_grad(), pyro.validation_enabled(False):
            return next((_first_bad_site(*pair) for pair in self._get_traces(model, guide, args, kwargs)), None)


def _terms(model_trace: Trace, guide_trace: Trace) -> Iterator[Tensor]:
    """What the ELBO adds up: log-likelihoods, and negative divergences, analytic where there is a formula."""
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            yield site["log_prob_sum"]
            continue
        guide_site = guide_trace.nodes[name]
        if is_validation_enabled():
            check_fully_reparametrized(guide_site)
        try:
            divergence = kl_divergence(guide_site["fn"], site["fn"])
        except NotImplementedError:
            yield site["log_prob_sum"] - guide_site["score_parts"].entropy_term.sum()
        else:
            yield -scale_and_mask(divergence, scale=guide_site["scale"], mask=guide_site["mask"]).sum()
    for name, guide_site in guide_trace.nodes.items():
        if guide_site["type"] == "sample" and name not in model_trace.nodes:
            if is_validation_enabled():
                check_fully_reparametrized(guide_site)
            yield -guide_site["score_parts"].entropy_term.sum()


def _first_bad_site(model_trace: Trace, guide_trace: Trace) -> str | None:
    for trace in (guide_trace, model_trace):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site["infer"].get("_do_not_score"):
                log_prob = site.get("log_prob_sum")
                bad_value = torch.is_tensor(site["value"]) and not torch.isfinite(site["value"]).all()
                if bad_value or (log_prob is not None and not torch.isfinite(log_prob)):
                    return str(name)
    return None


class RecordDistributions(Messenger):
    """Notes the distribution of every site that is sampled.

    Pyro's ``AutoNormal`` draws ``<site>_unconstrained`` and then the site as a point mass there: where nothing was
    transformed, the site's distribution is the former's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.posterior: Posterior = {}
        self._values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        name, distribution = msg["name"], msg["fn"]
        before = self._values.get(f"{name}_unconstrained")
        if before is not None and isinstance(distribution, Delta) and distribution.v is before:
            distribution = self.posterior[f"{name}_unconstrained"]
        self.posterior[name] = distribution
        self._values[name] = msg["value"]
