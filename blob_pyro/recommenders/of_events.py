"""Each event of a log gets its own entry of what a bandit model says, a few decision points or events at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.posteriors.event_densities import event_logits
from blob_pyro.recommenders.covariates import DecisionPoints

__all__ = ["averaged_over_draws", "picked_for_events"]

_AT_ONCE = 1 << 22  # decision points times items of a chunk


def picked_for_events(
    log: EventLog, points: DecisionPoints, rows: Callable[[Histories, Tensor | None], Tensor]
) -> Tensor:
    """Compute a matrix of decision points times items, and keep each event's own entry.

    Each distinct decision point is computed once, and no matrix of all of them times all items is made.

    Args:
        log: ``N`` events.
        points: its decision points, ``C``.
        rows: from some of their histories and covariates, ``n x F``, to ``n x P`` numbers.

    Returns:
        ``N``, on the CPU, in the log's order.
    """
    histories = points.histories(log)
    order = points.context.argsort(stable=True)
    context, action = points.context[order], log.action[order]
    found: list[Tensor] = []
    size = max(1, _AT_ONCE // log.num_items)
    for start in range(0, len(histories), size):
        covariates = None if points.covariates is None else points.covariates[start : start + size]
        some = rows(histories[start : start + size], covariates).cpu()
        low, high = torch.searchsorted(context, torch.tensor([start, start + size])).tolist()
        found.append(some[context[low:high] - start, action[low:high]])
    result = torch.empty(log.num_impressions, dtype=found[0].dtype if found else torch.get_default_dtype())
    result[order] = torch.cat(found) if found else result
    return result


@torch.no_grad()
def averaged_over_draws(model: BanditModel, batch: BanditBatch, draws: dict[str, Tensor]) -> Tensor:
    """Average the click probability of each event over draws of the parameters; of no other item in its context.

    Args:
        model: the bandit model.
        batch: ``N`` events, with interests at their means.
        draws: of every site, ``D x shape``.

    Returns:
        ``N``, on the CPU, in the batch's order. The standard error is that of a mean of ``D`` draws.
    """
    num_draws = len(next(iter(draws.values())))
    events = torch.arange(len(batch), device=batch.interest.device).split(max(1, MAX_ELEMENTS // num_draws))
    parts = [torch.sigmoid(event_logits(model, batch[some], draws)[0]).mean(0).cpu() for some in events]
    return torch.cat(parts)
