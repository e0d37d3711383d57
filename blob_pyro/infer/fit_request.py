"""A request to fit a guide: everything but the guide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.settings import Training
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch

__all__ = ["FitRequest"]


@dataclass(frozen=True)
class FitRequest:
    """The one argument, beside the guide, of whatever fits one: see `blob_pyro.infer.fit_guide`.

    Attributes:
        model: whose posterior the guide approximates; its learned scales are fitted too.
        batch: all events, in memory or on disk.
        training: settings of SVI, for guides that it trains.
        extend: whether training may go on for as long as the test of convergence asks for, because the caller has not
            said how long.
        progress: whether to show a progress bar.
        checkpoint: a file, or a `Checkpoint`, to go on from after an interruption: see `blob_pyro.infer.train`.
        workers: who fit together, where ``batch`` is one worker's part; only SVI does.
    """

    model: BanditModel
    batch: BanditBatch | StreamedBatch
    training: Training
    extend: bool = False
    progress: bool = True
    checkpoint: str | Path | Checkpoint | None = None
    workers: Workers | None = None

    def events_in_memory(self, guide: str) -> BanditBatch:
        """Return the events, for a guide that looks at all of them at every step.

        Args:
            guide: its name, for the error message.

        Raises:
            ValueError: if they are on disk.
        """
        if isinstance(self.batch, BanditBatch):
            return self.batch
        raise ValueError(
            f"guide {guide!r}: looks at all events at every step, and these are on disk; use 'normal' or "
            "'matrix_normal', or read the log with EventLog.read_parquet"
        )
