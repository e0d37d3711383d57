"""An ELBO whose model run knows the guide's distributions: analytic KL, and handlers that use what they know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.distributions import TorchDistribution
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger

__all__ = ["GuidedELBO"]

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
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:  # the guide runs before the model, so the record is full by the time it is read
        record = _RecordDistributions()
        for handler in self.handlers:
            model = handler(record.posterior)(model)
        return super()._get_trace(model, record(guide), args, kwargs)


class _RecordDistributions(Messenger):
    """Notes the distribution of every site that is sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.posterior: Posterior = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self.posterior[msg["name"]] = msg["fn"]
