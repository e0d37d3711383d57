"""Bounds on the organic model's expected log-likelihood: interchangeable handlers over one model and one guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer.elbo import Posterior
from blob_pyro.models.sites import INTEREST

__all__ = ["BOUNDS", "Reparameterized"]


class Reparameterized(Messenger):
    r"""The reparameterisation bound (Sakhi et al. 2020, section 3.1.1), Rao-Blackwellised.

    Of :math:`E_q \sum_t (\Psi_{v_t} \omega + \rho_{v_t}) - T\, E_q \log \sum_p \exp(\Psi_p \omega + \rho_p)` the
    first term is taken in closed form, at the mean of ``q``; the normaliser is sampled, with its first-order noise
    removed by a control variate (`SoftmaxViews.centered_at`).

    Args:
        posterior: the guide's distribution of each site, by name; see `GuidedELBO`.
    """

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and isinstance(msg["fn"], SoftmaxViews):
            msg["fn"] = msg["fn"].centered_at(self.posterior[INTEREST].mean)


BOUNDS: dict[str, Callable[[Posterior], Messenger]] = {"reparameterized": Reparameterized}
