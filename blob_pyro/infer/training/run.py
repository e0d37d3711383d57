"""A training run: everything that the next epoch depends on, and the epoch itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from blob_pyro._version import __version__
from blob_pyro.infer.training.capture import CannotCapture, CapturedStep
from blob_pyro.infer.training.checkpoints import CheckpointError, generator_state, restore_generators
from blob_pyro.infer.training.convergence import FEWEST_BLOCKS, Convergence, assess
from blob_pyro.infer.training.not_finite import NotFiniteError
from blob_pyro.infer.training.settings import Training, clip_gradients, make_optimizers, relative_rate
from blob_pyro.infer.training.trace import ELBO as ELBO_COLUMN
from blob_pyro.infer.training.trace import EPOCH, LEARNING_RATE, SECONDS, VALIDATION_ELBO
from blob_pyro.ops.fingerprints import content_hash, describe
from blob_pyro.ops.interrupts import uninterrupted
from blob_pyro.ops.seeds import seeded

__all__ = ["Batch", "Run"]

_LOOKS = 3  # at the loss, before an epoch is said to be a good one
_WORTH_CAPTURING = 200  # steps: recording one takes as long as some hundred of them


class Batch(Protocol):
    """Rows that can be learned from, counted and picked. See `blob_pyro.models.BanditBatch`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Batch: ...


class Run:
    """A training run between two epochs: all that the next one depends on."""

    def __init__(
        self,
        model: nn.Module,
        guide: Callable[..., Any],
        elbo: ELBO,
        batch: Batch,
        training: Training,
        validation: Batch | None,
        modules: Sequence[nn.Module],
    ) -> None:
        self.model, self.guide, self.elbo, self.training = model, guide, elbo, training
        self.batch, self.validation = batch, validation
        self.device = _device_of(model)
        self.modules = [m for m in (model, guide, *modules) if isinstance(m, nn.Module)]
        self.batch_size = min(training.batch_size, len(batch))
        self.steps_per_epoch = -(-len(batch) // self.batch_size)
        self.watched = "elbo" if validation is None else "validation_elbo"
        dense, sparse = self._parameters(modules)
        self.parameters = dense + sparse
        num_steps = training.num_epochs * self.steps_per_epoch
        self.optimizers, self.schedules = make_optimizers(training, dense, sparse, num_steps)
        self.capture = training.capture is True or (training.capture == "auto" and num_steps >= _WORTH_CAPTURING)
        self.captured: CapturedStep | None = None
        # Reading a number off a device waits for it, so there the loss is looked at once an epoch, and the optimiser
        # is told on the device not to move once a loss was bad.
        self.reads_late = self.device.type != "cpu"
        self.failed, self.healthy_steps = torch.zeros(2, device=self.device)
        self.norms = torch.zeros((), device=self.device)  # of the last step's gradients, or of the first bad one's
        adam = [o for o in self.optimizers if isinstance(o, torch.optim.Adam)]
        for optimizer in adam if self.reads_late else []:
            optimizer.found_inf = self.failed  # type: ignore[attr-defined] # as torch.amp.GradScaler sets it
        self.drops_gradients = self.reads_late and len(adam) < len(self.optimizers)  # the others then stand still
        self.rows: list[dict[str, float]] = []
        self.blocks: list[float] = []
        self.blocks_per_epoch = min(self.steps_per_epoch, -(-FEWEST_BLOCKS // training.num_epochs))
        owned = {id(p) for m in self.modules for p in m.parameters()}
        self.loose = [p for p in self.parameters if id(p) not in owned]  # of pyro.param statements
        self.last = [v.clone() for v in self._values()]
        self.before = [v.clone() for v in self.last]  # the last one's last step may have led to where no loss is finite
        self.best = [] if validation is None else [v.clone() for v in self.last]

    @property
    def finished(self) -> bool:
        """True where all epochs are done, or patience is at its end."""
        done = len(self.rows)
        patience = self.training.patience
        return done >= self.training.num_epochs or (patience is not None and done - self._best_epoch() >= patience)

    def epoch(self) -> None:
        """Visit every row once. Values are read off the device once, at the end: losses, and whether all were finite.

        The order is drawn on the host, which has to know what it sends to the device: how many views, for example.
        """
        num_rows, start = len(self.batch), time.perf_counter()
        sums = torch.zeros(self.blocks_per_epoch, device=self.device)  # of losses, in blocks of steps
        self.healthy_steps.zero_()
        # Rows in their own order are read faster, and it is of no matter where a step takes all of them.
        rows = torch.arange(num_rows) if self.steps_per_epoch == 1 else torch.randperm(num_rows)
        order = rows.split(self.batch_size)
        size = -(-len(order) // len(sums))
        for step, index in enumerate(order):
            sums[step // size] += self._step(index) * len(index)
            if not self.reads_late and self.failed:
                self._fail(order)
        held_out = torch.zeros_like(self.failed) if self.validation is None else self._validate(self.validation)
        failed, held_out_loss, *losses = torch.cat([torch.stack([self.failed, held_out]), sums]).tolist()
        if failed:
            self._fail(order)
        num_rows_of = [sum(map(len, order[i : i + size])) for i in range(0, len(order), size)]
        self.blocks += [-loss / rows for loss, rows in zip(losses, num_rows_of)]
        row: dict[str, float] = {"epoch": len(self.rows) + 1, "elbo": -sum(losses) / num_rows}
        if self.validation is not None:
            row["validation_elbo"] = -held_out_loss / len(self.validation) / num_rows
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        row["seconds"] = before + time.perf_counter() - start
        row["learning_rate"] = self.optimizers[0].param_groups[0]["lr"]
        with uninterrupted():  # Ctrl-C finds the last epoch whole
            self.rows.append(row)
            self.before, self.last = self.last, self.before
            _copy(self._values(), self.last)
            if self._best_epoch() == len(self.rows):
                _copy(self.last, self.best)

    def _step(self, index: Tensor) -> Tensor:
        loss: Tensor
        loss, norms, *gradients = self._gradients(index)
        self.norms = torch.where(self.failed.bool(), self.norms, norms)
        torch.maximum(self.failed, (~torch.isfinite(loss + norms.sum())).to(self.failed), out=self.failed)
        for parameter, gradient in zip(self.parameters, gradients):
            drop = self.drops_gradients and gradient is not None
            parameter.grad = self._unless_failed(gradient) if drop else gradient
        self.healthy_steps += 1 - self.failed
        if self.reads_late or not self.failed:
            for optimizer, schedule in zip(self.optimizers, self.schedules):
                optimizer.step()
                schedule.step()
        return loss

    def _unless_failed(self, gradient: Tensor) -> Tensor:
        """The gradient, or zero once a loss was bad."""
        if gradient.is_sparse:
            values = self._unless_failed(gradient.values())
            return torch.sparse_coo_tensor(gradient.indices(), values, gradient.shape, is_coalesced=True)
        return gradient.masked_fill_(self.failed.bool(), 0.0)

    def _gradients(self, index: Tensor) -> Sequence[Any]:
        """Loss per row, norm of its gradient by parameter, and the gradient of each parameter, clipped."""
        if self.capture and len(index) == self.batch_size:
            if self.captured is None:
                self._try_to_capture(index)
            if self.captured is not None:
                return self.captured(index)
        return self._eager_gradients(index)

    def _eager_gradients(self, index: Tensor) -> Sequence[Any]:
        loss = self.elbo.differentiable_loss(self.model, self.guide, self.batch[index]) / len(self.batch)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        with torch.no_grad():
            return [loss.detach(), *clip_gradients(self.parameters, gradients, self.training.clip_norm)]

    def _try_to_capture(self, index: Tensor) -> None:
        try:
            whole = self.steps_per_epoch == 1
            rows = index.to(self.device)
            self.captured = CapturedStep(self._eager_gradients, rows, self.parameters, same_rows=whole)
        except CannotCapture:
            if self.training.capture is True:
                raise
            self.capture = False

    def _fail(self, order: Sequence[Tensor]) -> NoReturn:
        """Stop because a step's loss was not finite, at the last good epoch."""
        bad, epoch = int(self.healthy_steps), len(self.rows) + 1
        batch = self.batch[order[bad]]
        where = self._where(batch)
        self._back_to_good_epoch(batch)
        kept = "the model is as it was before"
        if done := len(self.rows):
            kept = f"the model is as it was after epoch {done}, and can be used and saved"
        raise NotFiniteError(
            f"the loss or its gradient is not finite at epoch {epoch} of {self.training.num_epochs}, step {bad + 1} of "
            f"{self.steps_per_epoch} ({where}); {kept}. Lower learning_rate ({self.training.learning_rate}), or check "
            "the priors"
        )

    def _where(self, batch: Batch) -> str:
        """What was not finite; parameters are as they were before that step."""
        find = getattr(self.elbo, "find_bad_site", lambda *_: None)
        if site := find(self.model, self.guide, batch):
            return f"first at site {site!r}"
        names = {id(p): name for m in self.modules for name, p in m.named_parameters()}
        bad = [
            names.get(id(p), "a parameter of pyro.param")
            for p, norm in zip(self.parameters, self.norms.tolist(), strict=True)
            if not math.isfinite(norm)
        ]
        if len(bad) == len(self.norms) > 1:
            return "in the loss or in all gradients, of some draws only"
        return f"in the gradient of {', '.join(bad)}" if bad else "in the norm of all gradients, which overflows"

    def _back_to_good_epoch(self, batch: Batch) -> None:
        """Go to the end of the last epoch after which the loss is finite: the last one, or the one before."""
        self.back_to_last_epoch()
        if self.rows and not self._is_good(batch):
            self.last, self.before = self.before, self.last
            self.back_to_last_epoch()
            self.rows.pop()
            del self.blocks[len(self.rows) * self.blocks_per_epoch :]

    @torch.no_grad()
    def _is_good(self, batch: Batch) -> bool:
        losses = [self.elbo.differentiable_loss(self.model, self.guide, batch) for _ in range(_LOOKS)]
        finite = [torch.isfinite(value).all() for value in (*losses, *self.last) if value.is_floating_point()]
        return bool(torch.stack(finite).all())

    @torch.no_grad()
    def _validate(self, validation: Batch) -> Tensor:
        """The loss summed over the rows held out."""
        total = torch.zeros((), device=self.device)
        with seeded(0, self.device):
            for index in torch.arange(len(validation)).split(self.batch_size):
                total += self.elbo.differentiable_loss(self.model, self.guide, validation[index]) * len(index)
        return total

    def _best_epoch(self) -> int:
        values = [row[self.watched] for row in self.rows]
        return 1 + values.index(max(values)) if values else 0

    def trace(self, stopped: str = "") -> pd.DataFrame:
        """Return a row per epoch, and in ``attrs`` what one wants to know of the run.

        Args:
            stopped: what ended it before its time, in a word.
        """
        columns = [EPOCH, ELBO_COLUMN, VALIDATION_ELBO, SECONDS, LEARNING_RATE]
        if self.validation is None:
            columns.remove(VALIDATION_ELBO)
        trace = pd.DataFrame(self.rows, columns=columns).astype({EPOCH: int})
        trace.attrs.update(captured=self.captured is not None)
        self._convergence(stopped).write(trace)
        return trace

    def _convergence(self, stopped: str) -> Convergence:
        """Whether the run has arrived."""
        done, best = len(self.rows), self._best_epoch()
        if stopped:
            return Convergence(False, f"{stopped} after epoch {done} of {self.training.num_epochs}")
        if self.validation is not None and 0 < best < 0.9 * done:
            return Convergence(True, f"the validation ELBO was best after epoch {best} of {done}, which is kept")
        size = -(-self.steps_per_epoch // self.blocks_per_epoch)
        blocks = [epoch + min(1.0, (block + 0.5) * size / self.steps_per_epoch)
                  for epoch in range(done) for block in range(self.blocks_per_epoch)]  # fmt: skip
        schedule, epochs = self.training.schedule, self.training.num_epochs
        return assess(self.blocks, [relative_rate(schedule, at / epochs) for at in blocks])

    def back_to_last_epoch(self) -> None:
        """Undo the steps of an epoch that did not finish, or was given up."""
        _copy(self.last, self._values())

    def keep_best(self) -> None:
        """Leave, of all epochs, the one that validates best."""
        _copy(self.best, self._values())

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        return {
            "finished": self.finished,
            "rows": self.rows,
            "blocks": self.blocks,
            "last": self.last,
            "before": self.before,
            "best": self.best,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedules": [_plain(s.state_dict()) for s in self.schedules],
            "generators": generator_state(self.device),
        }

    def restore(self, state: dict[str, Any], path: str | Path) -> None:
        """Go back to where `state` was taken."""
        try:
            self._restore(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"checkpoint: {path} is damaged ({error!r}); delete it to start afresh") from error

    def _restore(self, state: dict[str, Any]) -> None:
        kept = [(state[name], getattr(self, name)) for name in ("last", "before", "best")]
        for saved, own in kept:
            if [v.shape for v in saved] != [v.shape for v in own]:
                raise ValueError("its parameters have other shapes")
        self.rows = [{name: float(row[name]) for name in row} for row in state["rows"]]
        self.blocks = [float(value) for value in state["blocks"]]
        for saved, own in (*kept, (state["last"], self._values())):
            _copy(saved, own)
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        for schedule, values in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(values)
        restore_generators(state["generators"], self.device)

    def _values(self) -> list[Tensor]:
        """All that training changes, not copied."""
        return [v.detach() for m in self.modules for v in m.state_dict().values()] + [p.detach() for p in self.loose]

    def identity(self) -> dict[str, Any]:
        """Say what makes this run the one it is, taken before its first epoch: see `Checkpoint`."""
        versions = {"blob_pyro": __version__, "torch": torch.__version__, "pyro": pyro.__version__}
        return {
            "training": describe(self.training),
            "data": content_hash(self.batch),
            "num_rows": len(self.batch),
            "validation": None if self.validation is None else content_hash(self.validation),
            "bound": describe(list(getattr(self.elbo, "handlers", [type(self.elbo)]))),
            "model": describe(self.model),
            "guide": describe(self.guide),
            "modules": describe(self.modules[2:]),
            "parameters": [str(tuple(p.shape)) for p in self.parameters],
            "constants": content_hash([dict(m.named_buffers()) for m in self.modules]),
            "versions": versions,
            "device": self.device.type,
            "start": content_hash(self.last),
            "random_state": content_hash(generator_state(self.device)),
        }

    def _parameters(self, modules: Sequence[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Every parameter that a step touches, of modules and of ``pyro.param`` statements: dense ones, sparse ones."""
        few = self.batch[torch.arange(min(2, len(self.batch)))]
        with poutine.trace(param_only=True) as capture:
            loss = self.elbo.differentiable_loss(self.model, self.guide, few)
        found = {id(p): p for p in (site["value"].unconstrained() for site in capture.trace.nodes.values())}
        found.update({id(p): p for module in modules for p in module.parameters()})
        parameters = [p for p in found.values() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        sparse = [g is not None and g.is_sparse for g in gradients]
        return [p for p, s in zip(parameters, sparse) if not s], [p for p, s in zip(parameters, sparse) if s]


def _device_of(model: nn.Module) -> torch.device:
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    """In place, so that a table of a million rows is held twice at most."""
    for old, new in zip(target, source):
        old.copy_(new)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's numbers, without the functions that torch keeps among them."""
    return {k: v for k, v in state.items() if isinstance(v, (int, float, str, bool, list, dict, type(None)))}
