"""Events of a `ScannedLog` for a click model: each distinct context embedded once, the events left on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blob_pyro.data import Histories, ScannedLog, Vocabulary
from blob_pyro.guides.registry import guide_name
from blob_pyro.models import BanditModel, StreamedBatch
from blob_pyro.ops.memory import require_memory
from blob_pyro.recommenders.interest_model import AT_ONCE

__all__ = ["require_scannable", "streamed_batch"]


def require_scannable(log: ScannedLog, items: Vocabulary, model: BanditModel, guide: nn.Module) -> None:
    """Refuse what cannot be learned from a log on disk, before anything is computed.

    Args:
        log: the log.
        items: the model's catalogue, which the log's must be.
        model: the bandit model, whose terms may ask for what such a log does not keep.
        guide: of the model, which must be fitted in epochs.

    Raises:
        ValueError: naming what stands against it, and the remedy.
    """
    log.require_impressions()
    if log.items != items:
        raise ValueError(
            f"log: its catalogue ({log.num_items:,} items) is not the model's ({len(items):,}); scan the files with "
            "items=blo.items.ids"
        )
    if model.num_covariates:
        raise ValueError(
            "log: a scanned log keeps no covariates and no positions, and the priors have terms that ask for them; "
            "read the log with EventLog.read_parquet, or leave the terms out"
        )
    if model.priors.positions is not None and len(log.positions) > 1:
        raise ValueError(
            f"log: has {len(log.positions):,} positions, whose effects the priors ask for, and a scanned log does not "
            "keep which is which; leave them out, with columns={'position': None} or BanditPriors(positions=None), or "
            "read the log with EventLog.read_parquet"
        )
    if not getattr(guide, "takes_checkpoint", True):
        raise ValueError(
            f"log: guide {guide_name(guide)} looks at all events at every step, and those of a scanned log are on "
            "disk; use 'normal' or 'matrix_normal', or read the log with EventLog.read_parquet"
        )


@torch.no_grad()
def streamed_batch(
    log: ScannedLog,
    interest_of: Callable[[Histories], tuple[Tensor, Tensor | None]],
    covariates: Any,
    device: torch.device,
) -> StreamedBatch:
    """Make the batch of a log on disk, whose contexts are embedded a few at a time.

    Args:
        log: with impressions.
        interest_of: omega of some histories, ``n x K``, and its scale or None.
        covariates: must be None.
        device: where the interests are to be.

    Raises:
        ValueError: for covariates, or files that are no longer what they were.
        MemoryError: if the interests do not fit, naming their bytes.
    """
    if covariates is not None:
        raise ValueError("covariates: a scanned log takes none; read the log with EventLog.read_parquet")
    log.check()
    found: list[Tensor | None] = [None, None]
    for start in range(0, log.num_contexts, AT_ONCE):
        for kind, some in enumerate(interest_of(log.contexts(start, start + AT_ONCE))):
            if some is None:
                continue
            whole = found[kind]
            if whole is None:
                shape = (log.num_contexts, *some.shape[1:])
                whole = found[kind] = _empty(some.to(device), shape)
            whole[start : start + len(some)] = some
    interest, scale = found
    assert interest is not None, "there are impressions"
    return StreamedBatch(log.events, interest, scale, log.num_clicks, log.buffer_size, log.check)


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    num_bytes = like.element_size() * torch.Size(shape).numel()
    remedy = "fit a BLO of a smaller embedding_dim, or scan fewer files"
    require_memory(num_bytes, f"the interests of {shape[0]:,} distinct contexts", remedy, like.device)
    return like.new_empty(shape)
