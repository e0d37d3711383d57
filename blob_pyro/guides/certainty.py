"""Guides that are not a density: point masses, and sets of draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine

from blob_pyro.models import BanditModel
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.seeds import seeded

__all__ = ["certain_sites", "is_a_set_of_draws"]

_DRAWS = 4  # of a continuous site: two may round to the same number, four do not


def certain_sites(guide: Callable[..., Any], model: BanditModel) -> list[str]:
    """Name the model's sites of which the guide always draws the same value, in some number at least.

    Args:
        guide: see `blob_pyro.guides.bandit`.
        model: whose sites it covers.
    """
    with seeded(0, model.item_embedding.device), torch.no_grad(), own_parameter_store():
        traces = [poutine.trace(guide).get_trace(None) for _ in range(_DRAWS)]
        names = list(model.site_priors())
    draws = {name: torch.stack([trace.nodes[name]["value"] for trace in traces]) for name in names}
    return [name for name, values in draws.items() if (values == values[0]).all(0).any()]


def is_a_set_of_draws(guide: Callable[..., Any], model: BanditModel) -> bool:
    """Say whether a guide draws from finitely many values, as what is left by MCMC does: it has no density then."""
    with seeded(0, model.item_embedding.device), torch.no_grad(), own_parameter_store():
        trace = poutine.trace(guide).get_trace(None)
    distributions = (site["fn"] for site in trace.nodes.values() if site["type"] == "sample")
    return any(getattr(distribution.support, "is_discrete", False) for distribution in distributions)
