"""The training loop: minibatch SVI over tensors that stay on the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
from pyro.infer import ELBO
from torch import nn
from tqdm.auto import tqdm

from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.not_finite import NotFiniteError
from blob_pyro.infer.training.run import Batch, Run
from blob_pyro.infer.training.settings import Training
from blob_pyro.infer.training.workers import Workers
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.ops.interrupts import uninterrupted

__all__ = ["train"]


def train(
    model: nn.Module,
    guide: Callable[..., Any],
    elbo: ELBO,
    batch: Batch,
    training: Training,
    *,
    validation: Batch | None = None,
    modules: Sequence[nn.Module] = (),
    workers: Workers | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = True,
    description: str = "fit",
) -> pd.DataFrame:
    """Maximise an ELBO over the parameters of a model and a guide, in place.

    Every epoch visits every row once, in a fresh order. Ctrl-C stops at the last finished epoch, with a warning;
    model and guide are then what they were at its end.

    Args:
        model: a Pyro model; called with a part of ``batch``.
        guide: its guide, called alike.
        elbo: the loss.
        batch: all rows, on the device they are to be trained on.
        training: see `Training`.
        validation: rows that are not trained on, weighted so that they stand for as many as ``batch`` has. Their ELBO
            is computed after each epoch, always with the same noise, and model and guide end as they were at its best.
        modules: what else is trained, if the loss has parameters of its own.
        workers: who take every step together, each on the rows that ``batch`` has of all: see `Workers`. What they end
            with is, up to rounding, what one with all rows does; every one of them is to call this, with the same
            arguments. ``validation`` is whole at each. The first writes checkpoints, and reads them for all.
        checkpoint: a file, or a `Checkpoint`. It is written after every epoch; if it is there already, training goes on
            from it, to the same floats as if it had never stopped. One that is finished is restored, and nothing is
            trained.
        progress: whether to show a progress bar.
        description: its title.

    Returns:
        One row per finished epoch: ``epoch``, ``elbo`` (nats per row, mean over the epoch's steps),
        ``validation_elbo`` (if asked for; nats per row), ``seconds`` spent training, ``learning_rate``.
        ``attrs["interrupted"]`` says whether Ctrl-C ended it, ``attrs["captured"]`` whether steps were captured,
        ``attrs["resumed_from_epoch"]`` how many of the epochs were a checkpoint's: 0 for a fresh start, all of them
        where it was finished; ``attrs["converged"]`` whether it arrived, and ``attrs["convergence"]`` why one thinks
        so: see `blob_pyro.infer.training.convergence`.

    Raises:
        CannotCapture: if ``training.capture`` is True, and the step is not the same list of operations every time.
        NotFiniteError: (a FloatingPointError) if the loss or a gradient is not finite, naming epoch, step, and site or
            parameter; model and guide are as they were at the end of the last epoch after which the loss was finite.
        CheckpointError: if the checkpoint is damaged, or of another run: other data, settings, bound, parameters, start
            or versions, naming them.
        ValueError: if the checkpoint cannot be written.
    """
    checkpoint = Checkpoint.at(checkpoint, guide)
    with own_parameter_store(), nullcontext() if workers is None else workers.listening():
        run = Run(model, guide, elbo, batch, training, validation, modules, workers)
        identity = {} if checkpoint is None and workers is None else run.identity()
        if workers is not None:
            workers.require_same({**identity, "checkpoint": checkpoint is not None})
        state = None if checkpoint is None else checkpoint.load(identity, workers)
        if checkpoint is not None and state is not None:
            run.restore(state, checkpoint.path)
        interrupted = False
        done, asked = len(run.rows), training.num_epochs
        first = workers is None or workers.rank == 0
        bar = tqdm(total=asked, initial=done, desc=description, unit="epoch", disable=not (progress and first))
        try:
            while not run.finished:
                with pyro.validation_enabled(False):  # the first look at the model has checked
                    run.epoch()
                if checkpoint is not None:
                    save = partial(checkpoint.save, identity, run.state())
                    save() if workers is None else workers.let_first(save)
                bar.update()
                bar.set_postfix_str(f"ELBO {run.rows[-1][run.watched]:.4f}")
            if workers is not None:
                workers.stop_if_asked()  # since the last step: another round of training is not to begin
            run.keep_best()
        except KeyboardInterrupt:
            interrupted = True
            if workers is not None:
                workers.asked_to_stop = False  # it is done
            with uninterrupted():
                run.back_to_last_epoch()
            warnings.warn(
                f"{description}: interrupted; the model is as it was after epoch {len(run.rows)} of {asked}, "
                "and can be used and saved",
                stacklevel=2,
            )
        except NotFiniteError as error:
            error.args = (f"{description}: {error}",)
            error.trace = run.trace(stopped="not finite")
            error.trace.attrs.update(interrupted=False, resumed_from_epoch=done)
            raise
        finally:
            bar.close()
        if workers is not None:
            workers.require_same({"what was learned": content_hash(run.common)})
    trace = run.trace(stopped="interrupted" if interrupted else "")
    trace.attrs.update(interrupted=interrupted, resumed_from_epoch=done)
    return trace
