"""The gradients of a training step: recorded or not, of one process or the sum of several workers', clipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blob_pyro.infer.training.buffers import Batch
from blob_pyro.infer.training.capture import CannotCapture, CapturedStep
from blob_pyro.infer.training.ragged_capture import CapturedRaggedStep, Ragged
from blob_pyro.infer.training.settings import clip_gradients
from blob_pyro.infer.training.shares import Part, Share
from blob_pyro.ops.row_noise import rows_of_a_whole

if TYPE_CHECKING:
    from blob_pyro.infer.training.run import Run

__all__ = ["WORTH_CAPTURING", "StepGradients"]

WORTH_CAPTURING = 200
"""Steps of a run from which on one is recorded: that takes as long as some hundred of them."""

_WORTH_CAPTURING_RAGGED = 800
"""Likewise where sizes are left open, which takes twice as long, and four times in a process that has not done it."""


class StepGradients:
    """Loss and gradients of a run's steps, as its optimisers take them.

    Args:
        run: whose rows, parameters, loss and workers they are of.
        num_steps: of all its epochs.

    Attributes:
        captured: the step as it was recorded; None where it was not, or not yet.

    Raises:
        CannotCapture: if a step must be recorded, and workers have other rows in each.
    """

    def __init__(self, run: Run, num_steps: int) -> None:
        self.run, capture = run, run.training.capture
        self.captured: CapturedStep | CapturedRaggedStep | None = None
        self._whole_parts: dict[Share, Part] = {}
        enough = _WORTH_CAPTURING_RAGGED if isinstance(run.batch, Ragged) else WORTH_CAPTURING
        self._capture = capture is True or (capture == "auto" and num_steps >= enough)
        if isinstance(run.batch, Ragged) and (run.workers is not None or run.device.type != "cpu"):
            if capture is True:
                raise CannotCapture(
                    f"capture: a step of a {type(run.batch).__name__}, whose rows are of different sizes, is recorded "
                    'on the CPU and by one process only; use capture="auto"'
                )
            self._capture = False
        elif run.workers is not None:
            self._capture = run.workers.can_capture(run.training, run.steps_per_epoch) and self._capture

    def __call__(self, index: Tensor) -> Sequence[Any]:
        """Compute loss per row, norm of its gradient by parameter, and the gradient of each parameter, clipped.

        Args:
            index: of the step's rows, of all workers'.
        """
        run, found = self.run, None
        if self._capture and len(index) == run.batch_size:
            if self.captured is None:
                self._try_to_capture(index)
            if isinstance(self.captured, CapturedRaggedStep):
                found = self.captured(self._tensors(index))
            elif self.captured is not None:
                found = self.captured(index)
        if found is None:
            found = self.eager(index)
        if run.workers is None:
            return found
        loss, *gradients = found
        loss, stop, summed = run.workers.sum_step(loss, gradients, run.parameters, run.num_dense)
        torch.maximum(run.stopped, stop.to(run.stopped), out=run.stopped)
        with torch.no_grad():
            return [loss, *clip_gradients(run.parameters, summed, run.training.clip_norm, run.workers.norms)]

    def eager(self, index: Tensor) -> Sequence[Any]:
        """Compute loss and gradients of the rows here, which are of ``index``.

        They are clipped, with their norms before, where there is no other worker.
        """
        return self._of(self.part(index, self.run.share))

    def part(self, index: Tensor, share: Share | None) -> Part:
        """Find the rows of a step that are here.

        Args:
            index: rows of the whole.
            share: of them that is here; None for all.
        """
        if share is None:
            return Part(index)
        if len(index) < share.num_rows:
            return share.part(index, self.run.device)
        if share not in self._whole_parts:
            self._whole_parts[share] = share.part(index, self.run.device)
        return self._whole_parts[share]

    def loss(self, batch: Batch, part: Part) -> Tensor:
        """Compute the loss of some rows of all, in nats.

        Args:
            batch: that they are rows of.
            part: those that are here, weighted so that the workers' sum is the step's.
        """
        run = self.run
        with rows_of_a_whole(part.where):
            loss: Tensor = run.elbo.differentiable_loss(run.model, run.guide, batch[part.own])
        return loss if part.weight == 1.0 else loss * part.weight

    def _tensors(self, index: Tensor) -> tuple[Tensor, ...]:
        rows: Any = self.run.batch[index]
        tensors: tuple[Tensor, ...] = rows.tensors()
        return tensors

    def _of_tensors(self, *tensors: Tensor) -> Sequence[Any]:
        run, batch = self.run, self.run.batch
        assert isinstance(batch, Ragged)
        return self._of_loss(run.elbo.differentiable_loss(run.model, run.guide, batch.of_tensors(*tensors)))

    def _of(self, part: Part) -> Sequence[Any]:
        return self._of_loss(self.loss(self.run.buffer.batch, part))

    def _of_loss(self, whole: Tensor) -> Sequence[Any]:
        run = self.run
        loss = whole / run.num_rows
        gradients = torch.autograd.grad(loss, run.parameters, allow_unused=True)
        if run.workers is not None:
            return [loss.detach(), *gradients]
        with torch.no_grad():
            return [loss.detach(), *clip_gradients(run.parameters, gradients, run.training.clip_norm)]

    def _try_to_capture(self, index: Tensor) -> None:
        run = self.run
        try:
            if isinstance(run.batch, Ragged):
                self.captured = CapturedRaggedStep(self._of_tensors, self._tensors(index), run.parameters)
                return
            part = self.part(index, run.share)
            self.captured = CapturedStep(
                lambda own: self._of(part._replace(own=own)),
                part.own.to(run.device),
                [*run.parameters, *run.buffer.changing],
                same_rows=run.steps_per_epoch == 1,
            )
        except CannotCapture:
            if run.training.capture is True:
                raise
            self._capture = False
