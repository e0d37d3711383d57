"""A start for guides that offer none: near the prior, as the library's own guides have it, whatever the family."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from blob_pyro.guides.bandit import prior_moments, start_scale
from blob_pyro.infer.elbo import GuidedELBO
from blob_pyro.infer.elbo_estimate import rough_elbo
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.models.sites import MULTIVARIATE
from blob_pyro.ops.exclusive import own_parameter_store

__all__ = ["move_to_usual_start"]

_STEPS, _RATE = 500, 0.03  # Adam's: locations can move by eight units


def move_to_usual_start(
    guide: nn.Module, model: BanditModel, batch: BanditBatch | StreamedBatch, workers: Workers | None = None
) -> str:
    """Train a guide, in place, to be near the prior, unless it starts at a better place by itself.

    The place is where the library's own guides start: every number at its prior mean, with its prior standard deviation
    but no wider than `blob_pyro.guides.bandit.WIDEST_START`. A guide gets there by SVI on that distribution alone: no
    event is looked at, and the family is of no matter. Whichever of the two starts has the higher ELBO on the events is
    kept.

    Args:
        guide: see `blob_pyro.guides.bandit`.
        model: whose prior it is.
        batch: of events.
        workers: who have the other events, where there are some.

    Returns:
        "prior" if the guide was moved, "guide" if it stays where it was.
    """
    parameters = [p for p in guide.parameters() if p.requires_grad]
    if not parameters:
        return "guide"
    own = {key: value.detach().clone() for key, value in guide.state_dict().items()}
    before = rough_elbo(model, guide, batch, workers=workers).value
    target, elbo, few = _start_distribution(model), GuidedELBO(), batch[torch.arange(1)]
    optimizer = torch.optim.Adam(parameters, lr=_RATE, betas=(0.9, 0.99))  # gradients fall by orders of magnitude
    schedule = OneCycleLR(optimizer, _RATE, total_steps=_STEPS, cycle_momentum=False)
    with own_parameter_store(), pyro.validation_enabled(False), torch.enable_grad():
        for _ in range(_STEPS):
            loss = elbo.differentiable_loss(target, guide, few)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
    optimizer.zero_grad()
    after = rough_elbo(model, guide, batch, workers=workers).value
    if after > before or not before > -float("inf"):
        return "prior"
    guide.load_state_dict(own)
    return "guide"


def _start_distribution(model: BanditModel) -> Callable[[BanditBatch], dict[str, Tensor]]:
    """A model without events, over the sites of a bandit model."""
    vector = model.vector_prior
    distributions = {}
    for name, prior in model.site_priors().items():
        loc, scale = prior_moments(prior)
        distributions[name] = dist.Normal(loc, start_scale(scale)).to_event(len(prior.event_shape))

    def start(batch: BanditBatch) -> dict[str, Tensor]:
        if vector is None:
            return {name: pyro.sample(name, distribution) for name, distribution in distributions.items()}
        pieces = vector.parts(pyro.sample(MULTIVARIATE, vector.distribution))
        return {
            name: pyro.sample(name, dist.Delta(pieces[name].v, event_dim=len(distribution.event_shape)))
            for name, distribution in distributions.items()
        }

    return start
