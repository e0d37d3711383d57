"""Densities of draws of a bandit model's parameters: of the clicks given them, and of them under the prior.

A guide's ELBO needs neither; leave-one-out cross-validation, importance weights and power-scaling need both, by draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.operations import unhandled
from blob_pyro.models.sites import MULTIVARIATE
from blob_pyro.ops.logistic_normal import expected_sigmoid
from blob_pyro.ops.tensors import like

__all__ = ["click_log_probability", "event_log_likelihoods", "event_logits", "log_priors"]

_NUMBERS = 1 << 24  # in one intermediate result


def event_logits(model: BanditModel, batch: BanditBatch, draws: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Compute the logit of each event under each draw of the parameters.

    Args:
        model: the bandit model.
        batch: ``N`` events.
        draws: of every site, ``D x shape``.

    Returns:
        ``D x N`` logits, and None. Where events propagate their interest, ``batch.interest_scale``, the logit is normal
        given the parameters: its mean and its standard deviation.
    """
    at_mean = replace(batch, interest_scale=None)
    loc = _logits(model, at_mean, draws)
    if batch.interest_scale is None:
        return loc, None
    scale = batch.interest_scale
    factor = scale if scale.dim() == 3 else torch.diag_embed(scale)
    variance = torch.zeros_like(loc)
    for column in factor.unbind(-1):  # logits are affine in the interest, so a difference is the whole slope
        variance += (_logits(model, replace(at_mean, interest=batch.interest + column), draws) - loc).square()
    return loc, variance.sqrt()


def click_log_probability(reward: Tensor, loc: Tensor, scale: Tensor | None) -> Tensor:
    """Compute the log-probability of a click, or of none, where the logit is ``loc``, or normal around it.

    Args:
        reward: 0 or 1, broadcast against ``loc``.
        loc: logits.
        scale: their standard deviation, or None.
    """
    signed = torch.where(reward > 0, loc, -loc)
    return logsigmoid(signed) if scale is None else expected_sigmoid(signed, scale).log()


def event_log_likelihoods(
    model: BanditModel, batch: BanditBatch, draws: dict[str, Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """Compute the log-probability of each event's click under each draw, a few events at a time.

    Args:
        model: the bandit model.
        batch: ``N`` events with rewards.
        draws: of every site, ``D x shape``.

    Yields:
        Which events, and ``D x`` these.

    Raises:
        ValueError: if the batch has no rewards.
    """
    if batch.reward is None:
        raise ValueError("batch: has no rewards, so that there is no likelihood; make it of a log, blob.batch(log)")
    num_draws = len(next(iter(draws.values())))
    size = max(1, _NUMBERS // num_draws)
    for start in range(0, len(batch), size):
        here = slice(start, min(start + size, len(batch)))
        part = batch[torch.arange(here.start, here.stop)]
        yield here, click_log_probability(batch.reward[here], *event_logits(model, part, draws))


def log_priors(model: BanditModel, draws: dict[str, Tensor]) -> dict[str, Tensor]:
    """Evaluate the log density of each draw under the prior, ``D`` float64 for each site.

    Where the prior correlates sites, it has one entry, `blob_pyro.models.sites.MULTIVARIATE`.

    Args:
        model: whose priors they are, at the present values of learned scales.
        draws: of every site, ``D x shape``.
    """
    wide = {name: values.double() for name, values in draws.items()}
    vector = model.vector_prior
    if vector is None:
        priors = model.site_priors().items()
        return {name: like(prior, wide[name]).log_prob(wide[name]).detach() for name, prior in priors}
    flat = torch.cat([wide[name].reshape(len(wide[name]), -1) for name in vector.shapes], -1)
    return {MULTIVARIATE: like(vector.distribution, flat).log_prob(flat).detach()}


def _logits(model: BanditModel, batch: BanditBatch, draws: dict[str, Tensor]) -> Tensor:
    chunk = max(1, _NUMBERS // (len(batch) * model.embedding_dim))
    with torch.no_grad(), unhandled():
        return torch.vmap(lambda values: model.logit(values, batch), chunk_size=chunk)(draws)
