"""The fit of a `BLOB`: its settings, the workers who take part, and parts that answer once they are trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from blob_pyro.data import EventLog, ScannedLog
from blob_pyro.guides.registry import guide_name
from blob_pyro.infer import (
    FitRequest,
    NotFiniteError,
    Training,
    fit_guide,
    training_defaults,
    verdict,
    warn_if_poor,
    warn_of_own_betas,
    warn_unless_converged,
)
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import BanditBatch, StreamedBatch
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.ops.seeds import seeded

if TYPE_CHECKING:
    from blob_pyro.recommenders.blob import BLOB
    from blob_pyro.recommenders.click_model_parts import ClickParts

__all__ = ["fit_parts", "take", "training_of", "workers_of"]


def workers_of(log: Any, guide: nn.Module) -> Workers | None:
    """Find who fit together, where a log is a shard; None where it is not.

    Args:
        log: that a model is to be fitted to.
        guide: of it, which SVI must fit, or that says that its own fit ``takes_workers``.

    Raises:
        ValueError: for a guide that is fitted to all events at once; if there are no other workers.
    """
    if not isinstance(log, EventLog) or log.part_of is None:
        return None
    by_svi = fit_guide.dispatch(type(guide)) is fit_guide.dispatch(object)
    if not by_svi and not getattr(guide, "takes_workers", False):
        raise ValueError(
            f"log: is a shard, and guide {guide_name(guide)} is fitted to all events at once, not by SVI; fit the "
            "whole log, or use 'normal', 'arrowhead_normal', 'matrix_normal', 'matrix_normal_full' or 'delta'"
        )
    return Workers.of(log.part_of, "impressions")


def training_of(
    fresh: ClickParts,
    log: EventLog | ScannedLog,
    num_epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
) -> Training:
    """Return how parts are trained: as the user says, and else as suits their guide.

    Args:
        fresh: that are to be trained.
        log: the events, or a shard of them.
        num_epochs: None for the guide's.
        batch_size: likewise.
        learning_rate: likewise.
    """
    usual = training_defaults(fresh.known.guide, fresh.known.model)
    size = usual.batch_size if batch_size is None else whole_number(batch_size, "batch_size")
    num_events = log.num_impressions if log.part_of is None else log.part_of.whole.num_impressions
    size = min(size, num_events)
    return Training(
        usual.epochs(num_events, size) if num_epochs is None else num_epochs,
        size,
        usual.learning_rate if learning_rate is None else learning_rate,
        capture=usual.capture,
    )


def fit_parts(
    blob: BLOB,
    fresh: ClickParts,
    batch: BanditBatch | StreamedBatch,
    training: Training,
    go_on: bool,
    settings: dict[str, Any],
    earlier: list[dict[str, Any]],
    checkpoint: Checkpoint | None,
    progress: bool,
    workers: Workers | None = None,
) -> pd.DataFrame:
    """Train fresh parts, and let them answer once they are trained: what stops before leaves all as it was.

    Args:
        blob: that they are to become.
        fresh: a model, and its guide at its start.
        batch: the events; of a worker, its own.
        training: how.
        go_on: see `FitRequest`, ``extend``.
        settings: what is remembered of this fit: ``call`` and ``seed`` at least.
        earlier: what is remembered of fits before.
        checkpoint: to go on from.
        progress: whether to show a bar.
        workers: who fit together.

    Returns:
        The training trace.
    """
    guide, model = fresh.known.guide, fresh.known.model
    num_rows, data = len(batch), content_hash(batch) if workers is None else workers.fingerprint
    if workers is not None:
        assert isinstance(batch, BanditBatch), "a log on disk has no shards"
        num_rows = workers.share.num_rows
        batch = replace(batch, num_events=num_rows)
    warn_of_own_betas(guide, model, stacklevel=3)
    fits = [*earlier, training.record(**settings, num_rows=num_rows, data=data)]
    with seeded(settings["seed"], fresh.known.device):
        try:
            trace = fit_guide(guide, FitRequest(model, batch, training, go_on, progress, checkpoint, workers))
        except NotFiniteError as error:
            take(blob, fresh, error.trace, fits)
            raise
        take(blob, fresh, trace, fits)
    if len(trace):
        warn_if_poor(trace, model, guide, batch, f"BLOB.{settings['call']}", workers, stacklevel=3)
    if workers is not None:
        workers.leave_together()
    if not trace.attrs["interrupted"]:
        warn_unless_converged(trace, what=f"BLOB.{settings['call']}", stacklevel=3)
    return trace


def take(blob: BLOB, fresh: ClickParts, trace: pd.DataFrame, fits: list[dict[str, Any]]) -> None:
    """Let what was trained answer, unless it was stopped before its first epoch was over.

    Args:
        blob: whose parts it becomes.
        fresh: what was trained.
        trace: of that.
        fits: what is remembered of fits, this one's verdict excepted.
    """
    if len(trace):
        fresh.known.ask()  # while Pyro is ours: from now on nobody has to wait for it
        blob._parts, blob.fits = fresh, [*fits[:-1], {**fits[-1], **verdict(trace)}]
