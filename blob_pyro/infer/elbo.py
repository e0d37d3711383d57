"""An ELBO whose model run knows the guide's distributions: analytic KL, and handlers that use what they know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

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
        self.bad_site: str | None = None
        """The first site whose log-probability was not finite when the loss last was not."""

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:  # the guide runs before the model, so the record is full by the time it is read
        record = RecordDistributions()
        for handler in self.handlers:
            model = handler(record.posterior)(model)
        traces = super()._get_trace(model, record(guide), args, kwargs)
        self._traces = traces
        return traces

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """See `pyro.infer.TraceMeanField_ELBO`; a loss that is not finite is traced to its site, `bad_site`."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        finite = torch.isfinite(loss.detach()) if torch.is_tensor(loss) else torch.tensor(True)
        self.bad_site = None if bool(finite) else _first_bad_site(*self._traces)
        del self._traces  # it holds the graph
        return loss


def _first_bad_site(model_trace: Trace, guide_trace: Trace) -> str:
    for trace in (guide_trace, model_trace):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site["infer"].get("_do_not_score"):
                log_prob = site.get("log_prob_sum")
                bad_value = torch.is_tensor(site["value"]) and not torch.isfinite(site["value"]).all()
                if bad_value or (log_prob is not None and not torch.isfinite(log_prob)):
                    return name
    return "an analytic divergence"


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
        name, law = msg["name"], msg["fn"]
        before = self._values.get(f"{name}_unconstrained")
        if before is not None and torch.equal(before, msg["value"]):
            law = self.posterior[f"{name}_unconstrained"]
        self.posterior[name] = law
        self._values[name] = msg["value"]
