"""References that no fit must be worse than: one click rate for all, and the prior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch.nn.functional import logsigmoid

from blob_pyro.guides.certainty import certain_sites, is_a_set_of_draws
from blob_pyro.guides.registry import guide_name
from blob_pyro.infer.elbo import GuidedELBO
from blob_pyro.infer.elbo_estimate import rough_elbo
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.ops.seeds import seeded

__all__ = ["PoorFitWarning", "elbo_of_constant_rate", "elbo_of_prior", "warn_if_poor"]

_MARGIN, _NATS = 0.01, 5.0  # relative, and in all: what a model that is too rich for its log may cost
_PRIOR_DRAWS, _PRIOR_ROWS = 16, 1 << 15


class PoorFitWarning(UserWarning):
    """A fitted guide explains the clicks worse than something that knows nothing of items or users."""


def elbo_of_constant_rate(batch: BanditBatch | StreamedBatch, workers: Workers | None = None) -> float:
    r"""Compute the log evidence of one click rate for all events, uniform a priori, in nats per event.

    .. math:: \frac{1}{N} \log \int_0^1 r^k (1 - r)^{N - k} \, dr = \frac{1}{N} \log B(k + 1, N - k + 1)

    Args:
        batch: of events with rewards, ``k`` of them clicked.
        workers: who have the other events, where there are some.

    Example:
        >>> rows = torch.zeros(2, dtype=torch.int64)
        >>> round(elbo_of_constant_rate(BanditBatch(torch.zeros(1, 1), rows, rows, torch.tensor([1.0, 0.0]), 2)), 4)
        -0.8959
    """
    clicks, num_events = float(batch.num_clicks), len(batch)
    if workers is not None:
        clicks, num_events = float(workers.sum(torch.tensor(clicks).double())), workers.share.num_rows
    log_beta = math.lgamma(clicks + 1) + math.lgamma(num_events - clicks + 1) - math.lgamma(num_events + 2)
    return log_beta / num_events


@torch.no_grad()
def elbo_of_prior(
    model: BanditModel, batch: BanditBatch | StreamedBatch, seed: int = 0, workers: Workers | None = None
) -> float:
    """Estimate the ELBO of a guide that is the prior, ``E_p log p(clicks | theta) / N``, by draws, in nats per event.

    Args:
        model: whose prior it is, with learned scales as they are.
        batch: of events with rewards; no more than some ten thousand, picked at random, are looked at, and how many of
            these are clicked, against all, is made good by one rate for all.
        seed: of the draws.
        workers: who have the other events, where there are some.
    """
    weight = 1.0 if workers is None else len(batch) / workers.share.num_rows
    rate = torch.as_tensor(batch.num_clicks).double() / len(batch)
    with seeded(seed, model.item_embedding.device):
        if len(batch) > _PRIOR_ROWS:
            batch = batch[torch.randint(len(batch), (_PRIOR_ROWS,))]
        elif not isinstance(batch, BanditBatch):
            batch = batch[torch.arange(len(batch))]
        assert batch.reward is not None, "there are clicks to explain"
        draws = model.prior_draws(_PRIOR_DRAWS)
        sign = 2 * batch.reward - 1
        values = [
            logsigmoid(sign * model.logit({name: value[i] for name, value in draws.items()}, batch)).mean()
            for i in range(_PRIOR_DRAWS)
        ]
        excess = sign.double().mean() / 2 + 0.5 - rate
    mean = (torch.stack(values).double().mean() - excess * torch.logit(rate, eps=1e-9)) * weight
    return float(mean if workers is None else workers.sum(mean))


def warn_if_poor(
    trace: pd.DataFrame,
    model: BanditModel,
    guide: Callable[..., Any],
    batch: BanditBatch | StreamedBatch,
    what: str,
    workers: Workers | None = None,
    stacklevel: int = 2,
) -> None:
    """Hold the fit of a guide against one click rate for all and against the prior.

    Args:
        trace: what the fit returned; its ``attrs`` get ``final_elbo`` (nats per event, roughly),
            ``elbo_of_constant_rate`` and ``elbo_of_prior``. Point masses and sets of draws have no ELBO: nothing is
            done.
        model: the bandit model.
        guide: fitted.
        batch: what it was fitted to.
        what: the fit, as its caller knows it: "BLOB.fit".
        workers: who have the other events, where there are some.
        stacklevel: frames between here and the user.

    Warns:
        PoorFitWarning: if the ELBO is more than 1 % and 5 nats in all below one of the two: a model that is too rich
            for its log may cost that much, a fit that went wrong costs more.
    """
    if is_a_set_of_draws(guide, model) or certain_sites(guide, model):
        return
    # Near its optimum a guide's own draws are as quiet as projections (benchmarks/bandit.py), and need no factor of
    # each event: a guide that correlates its sites takes a second for those of 80,000.
    found, error = rough_elbo(model, guide, batch, elbo=GuidedELBO(), workers=workers)
    constant, prior = elbo_of_constant_rate(batch, workers), elbo_of_prior(model, batch, workers=workers)
    trace.attrs.update(final_elbo=found, elbo_of_constant_rate=constant, elbo_of_prior=prior)
    for name, reference in (("one click rate for all events", constant), ("the prior, before any event", prior)):
        margin = max(_MARGIN * abs(reference), _NATS / batch.num_events)
        if not found > reference - margin - min(2 * error, margin):  # a bound of such noise is itself a bad sign
            warnings.warn(
                f"{what}: the ELBO is {found:.4g} +- {error:.1g} nats per event, and {name} has {reference:.4g}: the "
                f"guide {guide_name(guide)} has not found the posterior. Use another, such as 'normal' or "
                "'laplace', start it near the prior, or train it for longer and at a lower learning_rate",
                PoorFitWarning,
                stacklevel=stacklevel + 1,
            )
            return
