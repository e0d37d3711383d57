"""A training run: everything that the next epoch depends on, and the epoch itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from blob_pyro._version import __version__
from blob_pyro.infer.training.buffers import Batch, buffer_of
from blob_pyro.infer.training.checkpoints import CheckpointError, generator_state, restore_generators
from blob_pyro.infer.training.convergence import FEWEST_BLOCKS, Convergence, assess
from blob_pyro.infer.training.gradients import StepGradients
from blob_pyro.infer.training.not_finite import NotFiniteError
from blob_pyro.infer.training.settings import Training, make_optimizers, relative_rate
from blob_pyro.infer.training.trace import ELBO as ELBO_COLUMN
from blob_pyro.infer.training.trace import EPOCH, LEARNING_RATE, SECONDS, VALIDATION_ELBO
from blob_pyro.infer.training.workers import Workers
from blob_pyro.ops.fingerprints import content_hash, describe
from blob_pyro.ops.interrupts import uninterrupted
from blob_pyro.ops.item_tables import holder_of, whole_shape
from blob_pyro.ops.row_noise import placed, rows_of_a_whole
from blob_pyro.ops.seeds import seeded

__all__ = ["Batch", "Run"]

_LOOKS = 3  # at the loss, before an epoch is said to be a good one
_STEPS_APART = 100  # that workers draw on without looking whether their generators agree, where a step is an epoch


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
        workers: Workers | None = None,
    ) -> None:
        self.model, self.guide, self.elbo, self.training = model, guide, elbo, training
        self.batch, self.validation, self.workers = batch, validation, workers
        self.share, self.held_out, self.num_rows = None, None, len(batch)
        self.own_validation = validation
        if workers is not None:
            self.share, self.num_rows = workers.share, workers.share.num_rows
            if validation is not None:
                self.own_validation, self.held_out = workers.deal(validation)
        self.device = _device_of(model)
        self.modules = [m for m in (model, guide, *modules) if isinstance(m, nn.Module)]
        self.batch_size = min(training.batch_size, self.num_rows)
        self.steps_per_epoch = -(-self.num_rows // self.batch_size)
        self.buffer = buffer_of(batch, self.batch_size, self.num_rows)
        self.watched = "elbo" if validation is None else "validation_elbo"
        dense, sparse = self._parameters(modules)
        self.parameters, self.num_dense = dense + sparse, len(dense)
        num_steps = training.num_epochs * self.steps_per_epoch
        self.optimizers, self.schedules = make_optimizers(training, dense, sparse, num_steps)
        self.gradients = StepGradients(self, num_steps)
        # Reading a number off a device waits for it, so there the loss is looked at once an epoch, and the optimiser
        # is told on the device not to move once a loss was bad.
        self.reads_late = self.device.type != "cpu"
        self.failed, self.healthy_steps, self.stopped = torch.zeros(3, device=self.device)
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
        self.items = None if workers is None else workers.items  # whose rows workers hold by shares, if any are
        held = [v for m in self.modules for v in m.state_dict(keep_vars=True).values()]
        self.dealt = [holder_of(v) is not None for v in held] + [False] * len(self.loose)
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
        num_rows, start = self.num_rows, time.perf_counter()
        sums = torch.zeros(self.blocks_per_epoch, device=self.device)  # of losses, in blocks of steps
        self.healthy_steps.zero_()
        if self.workers is not None and (self.steps_per_epoch > 1 or len(self.rows) % _STEPS_APART == 0):
            # In case a draw has taken more numbers here than there, as those that reject some may.
            restore_generators({k: self.workers.first(v) for k, v in generator_state(self.device).items()}, self.device)
        size, step = -(-self.steps_per_epoch // len(sums)), 0
        order: Sequence[Tensor] = ()
        for num_loaded in self.buffer.refills():
            # Rows in their own order are read faster, and it is of no matter where a step takes all of them.
            rows = torch.arange(num_loaded) if self.steps_per_epoch == 1 else torch.randperm(num_loaded)
            order = rows.split(self.batch_size)
            for index in order:
                sums[step // size] += self._step(index) * len(index)
                step += 1
                if not self.reads_late:
                    self._stop_if_asked(bool(self.stopped))
                    if self.failed:
                        self._fail(order)
            if self.buffer.is_refilled and self.failed:  # while the rows are there to look at
                self._fail(order)
        held_out = torch.zeros_like(self.failed) if self.validation is None else self._validate()
        found = torch.cat([torch.stack([self.failed, self.stopped, held_out]), sums])
        failed, stopped, held_out_loss, *losses = found.tolist()
        self._stop_if_asked(bool(stopped))
        if failed:
            self._fail(order)
        ends = [min(end * self.batch_size, num_rows) for end in range(0, self.steps_per_epoch + size, size)]
        num_rows_of = [end - begin for begin, end in pairwise(ends)]
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

    def _stop_if_asked(self, asked: bool) -> None:
        """Stop where somebody has pressed Ctrl-C at some worker: all do, at the same step."""
        if asked:
            self.stopped.zero_()
            raise KeyboardInterrupt

    def _step(self, index: Tensor) -> Tensor:
        loss: Tensor
        loss, norms, *gradients = self.gradients(index)
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

    def _fail(self, order: Sequence[Tensor]) -> NoReturn:
        """Stop because a step's loss was not finite, at the last good epoch; ``order`` is of the rows at hand."""
        bad, epoch = int(self.healthy_steps), len(self.rows) + 1
        batch = self.buffer.batch[self.gradients.part(order[bad % self.buffer.num_steps], self.share).own]
        where = self._where(batch)
        if self.workers is not None:
            said = [f"{text}, of worker {rank}" for rank, text in enumerate(self.workers.gather(where))]
            where = next((text for text in said if text.startswith("first at")), said[0])
        self._back_to_good_epoch(batch)
        kept = "the model is as it was before"
        if done := len(self.rows):
            kept = f"the model is as it was after epoch {done}, and can be used and saved"
        if self.workers is not None:
            self.workers.leave_together()
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
        good = torch.stack(finite).all()
        return bool(good) if self.workers is None else self.workers.sum(1.0 - good.float()).item() == 0

    @torch.no_grad()
    def _validate(self) -> Tensor:
        """The loss summed over the rows held out."""
        assert self.validation is not None
        assert self.own_validation is not None
        total = torch.zeros((), device=self.device)
        with seeded(0, self.device):
            for index in torch.arange(len(self.validation)).split(self.batch_size):
                part = self.gradients.part(index, self.held_out)
                total += self.gradients.loss(self.own_validation, part) * len(index)
        return total if self.workers is None else self.workers.sum(total)

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
        trace.attrs.update(captured=self.gradients.captured is not None)
        if self.workers is not None:
            trace.attrs.update(num_workers=self.workers.world, traffic=asdict(self.workers.traffic))
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
        """Return everything that the next epoch depends on, for the first worker to write; all are to call it."""
        return {
            "finished": self.finished,
            "rows": self.rows,
            "blocks": self.blocks,
            "last": self._whole_at_first(self.last),
            "before": self._whole_at_first(self.before),
            "best": self._whole_at_first(self.best),
            "optimizers": [self.items.whole_state(o) if self.items else o.state_dict() for o in self.optimizers],
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
        kept = [(self._own(state[name]), getattr(self, name)) for name in ("last", "before", "best")]
        for saved, own in kept:
            if [v.shape for v in saved] != [v.shape for v in own]:
                raise ValueError("its parameters have other shapes")
        self.rows = [{name: float(row[name]) for name in row} for row in state["rows"]]
        self.blocks = [float(value) for value in state["blocks"]]
        for saved, own in (*kept, (kept[0][0], self._values())):
            _copy(saved, own)
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(self.items.own_state(optimizer, values) if self.items else values)
        for schedule, values in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(values)
        restore_generators(state["generators"], self.device)

    @property
    def common(self) -> list[Tensor]:
        """The values that every worker has alike: all but tables that are dealt out."""
        return [value for value, dealt in zip(self.last, self.dealt) if not dealt]

    def _whole_at_first(self, values: list[Tensor]) -> list[Tensor]:
        if self.items is None:
            return values
        return [self.items.whole_at_first(value) if dealt else value for value, dealt in zip(values, self.dealt)]

    def _own(self, values: list[Tensor]) -> list[Tensor]:
        if self.items is None:
            return values
        return [self.items.own(value) if dealt else value for value, dealt in zip(values, self.dealt)]

    def _values(self) -> list[Tensor]:
        """All that training changes, not copied."""
        return [v.detach() for m in self.modules for v in m.state_dict().values()] + [p.detach() for p in self.loose]

    def identity(self) -> dict[str, Any]:
        """Say what makes this run the one it is, taken before its first epoch: see `Checkpoint`."""
        versions = {"blob_pyro": __version__, "torch": torch.__version__, "pyro": pyro.__version__}
        return {
            "training": describe(self.training),
            "data": content_hash(self.batch) if self.workers is None else self.workers.fingerprint,
            "num_rows": self.num_rows,
            "validation": None if self.validation is None else content_hash(self.validation),
            "bound": describe(list(getattr(self.elbo, "handlers", [type(self.elbo)]))),
            "model": describe(self.model),
            "guide": describe(self.guide),
            "modules": describe(self.modules[2:]),
            "parameters": [str(tuple(whole_shape(p))) for p in self.parameters],
            "constants": content_hash([dict(m.named_buffers()) for m in self.modules]),
            "versions": versions,
            "device": self.device.type,
            "start": content_hash([*self.common, self.items.hashes] if self.items else self.last),
            "random_state": content_hash(generator_state(self.device)),
        }

    def _parameters(self, modules: Sequence[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Every parameter that a step touches, of modules and of ``pyro.param`` statements: dense ones, sparse ones."""
        few = self.batch[torch.arange(min(2, len(self.batch)))]
        # Every worker draws as many numbers, whether it has a row more or not.
        where = None if self.share is None else placed(torch.arange(len(few)), 2, self.device)
        with poutine.trace(param_only=True) as capture, rows_of_a_whole(where):
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
