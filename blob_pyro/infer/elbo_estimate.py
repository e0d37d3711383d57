r"""The evidence lower bound of a fitted guide: one quantity, whatever the guide and however it was fitted.

.. math:: \frac{1}{N} \left( E_q \sum_{n=1}^N \log p(c_n \mid \theta) - KL(q \,\|\, p) \right)

in nats per event. It is what the columns ``elbo`` of training traces estimate with the noise of one draw, while the
parameters still move; here they stand still, and the noise is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from blob_pyro.guides.certainty import certain_sites, is_a_set_of_draws
from blob_pyro.guides.registry import guide_name
from blob_pyro.infer.elbo import GuidedELBO
from blob_pyro.infer.local_reparameterization.handler import LocalReparameterization
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.row_noise import placed, rows_of_a_whole
from blob_pyro.ops.seeds import seeded

__all__ = ["ELBOEstimate", "HasNoELBO", "estimate_elbo", "require_density", "rough_elbo"]

_ROWS = 1 << 17  # events at once


class HasNoELBO(ValueError):
    """A guide that is not a probability density, so that no lower bound of the evidence belongs to it."""


class ELBOEstimate(NamedTuple):
    """An ELBO by Monte Carlo.

    Attributes:
        value: nats per event.
        standard_error: of ``value``, nats per event.
    """

    value: float
    standard_error: float


def estimate_elbo(
    model: BanditModel,
    guide: Callable[..., Any],
    batch: BanditBatch | StreamedBatch,
    *,
    num_draws: int = 100,
    seed: int = 0,
    elbo: GuidedELBO | None = None,
) -> ELBOEstimate:
    """Estimate the ELBO of a guide on events, without bias.

    Divergences are taken in closed form and event logits are drawn from their own distributions where the guide has
    them (`blob_pyro.infer.LocalReparameterization`): that takes noise away and leaves the quantity as it is. Scales
    that the model learns are taken as they are. Where events propagate their interest, the expectation is over omega
    too.

    Args:
        model: the bandit model.
        guide: see `blob_pyro.guides.bandit`.
        batch: all events.
        num_draws: independent evaluations of the bound, 2 at least.
        seed: of the draws.
        elbo: the estimator; default the one that training uses.

    Raises:
        HasNoELBO: for point masses and sets of draws: see `require_density`.
        ValueError: for fewer than two draws, which have no standard error.

    Example:
        >>> from blob_pyro.guides import make_guide
        >>> model = BanditModel(torch.eye(3))
        >>> rows = torch.arange(30) % 3
        >>> batch = BanditBatch(torch.eye(3), rows, rows, (rows == 0).float(), 30)
        >>> found = estimate_elbo(model, make_guide("normal", model), batch, num_draws=20)
        >>> found.value < 0 < found.standard_error
        True
    """
    if num_draws < 2:
        raise ValueError(f"num_draws: must be at least 2, or there is no standard error; got {num_draws}")
    require_density(guide, model)
    elbo = GuidedELBO(LocalReparameterization) if elbo is None else elbo
    return _estimate(lambda: _whole(elbo, model, guide, batch), model, batch, num_draws, seed)


def rough_elbo(
    model: BanditModel,
    guide: Callable[..., Any],
    batch: BanditBatch | StreamedBatch,
    *,
    num_draws: int = 10,
    seed: int = 0,
    elbo: GuidedELBO | None = None,
    workers: Workers | None = None,
) -> ELBOEstimate:
    """Estimate the ELBO at a small cost: a draw looks at no more than some 100,000 events, picked at random.

    Of a point mass it is the log joint density, less an entropy that is minus infinity.

    Args:
        model: the bandit model.
        guide: see `blob_pyro.guides.bandit`.
        batch: all events.
        num_draws: independent evaluations, 2 at least.
        seed: of the draws.
        elbo: the estimator; default the one that training uses.
        workers: who have the other events, where there are some: the estimate is of all, and every worker's.
    """
    elbo = GuidedELBO(LocalReparameterization) if elbo is None else elbo
    share, where = None if workers is None else workers.share, None
    if share is not None and share.num_rows <= _ROWS:
        where = placed(share.rows, share.num_rows, batch.interest.device)

    def one_draw() -> Tensor:
        if len(batch) <= _ROWS:
            return _whole(elbo, model, guide, batch)
        return -elbo.differentiable_loss(model, guide, batch[torch.randint(len(batch), (_ROWS,))]).double()

    if share is None:
        return _estimate(one_draw, model, batch, num_draws, seed)
    with rows_of_a_whole(where):
        return _estimate(lambda: one_draw() * len(share.rows) / share.num_rows, model, batch, num_draws, seed, workers)


def _estimate(
    one_draw: Callable[[], Tensor],
    model: BanditModel,
    batch: BanditBatch | StreamedBatch,
    num_draws: int,
    seed: int,
    workers: Workers | None = None,
) -> ELBOEstimate:
    device = model.item_embedding.device
    with seeded(seed, device), torch.no_grad(), own_parameter_store(), pyro.validation_enabled(False):
        values = torch.stack([one_draw() for _ in range(num_draws)]) / batch.num_events
        if workers is not None:
            values = workers.sum(values)
    return ELBOEstimate(float(values.mean()), float(values.std() / num_draws**0.5))


def _whole(
    elbo: GuidedELBO, model: BanditModel, guide: Callable[..., Any], batch: BanditBatch | StreamedBatch
) -> Tensor:
    """One draw of the bound in nats; a chunk of the events stands for all of them, and the chunks are averaged."""
    chunks = torch.arange(len(batch)).split(_ROWS)
    losses = [elbo.differentiable_loss(model, guide, batch[rows]).double() * len(rows) for rows in chunks]
    return -torch.stack(losses).sum() / len(batch)


def require_density(guide: Callable[..., Any], model: BanditModel) -> None:
    """Refuse a guide that no ELBO belongs to.

    Raises:
        HasNoELBO: for a guide that always draws the same value of a site, whose entropy is minus infinity, or that has
            finitely many draws, naming it and what to compare instead.
    """
    name = guide_name(guide)
    if is_a_set_of_draws(guide, model):
        raise HasNoELBO(
            f"elbo: the guide {name} is a set of draws, which has no density and so no ELBO; compare posteriors by the "
            "log-likelihood of clicks that were held out"
        )
    certain = certain_sites(guide, model)
    if certain:
        raise HasNoELBO(
            f"elbo: the guide {name} is a point mass at {', '.join(certain)}: its ELBO is minus infinity (the column "
            "that its fit reports is a log joint density). Use guide 'laplace', a Gaussian around the mode"
        )
