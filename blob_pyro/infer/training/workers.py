"""Workers that take every step together: what they tell each other, through ``torch.distributed``, and agree on.

Each has some rows of the data. A step is one sum over workers, of one tensor that holds all gradients, the loss, and
whether somebody has pressed Ctrl-C; clipping, the optimiser and every decision after that see the same bits everywhere.
Nothing is pickled: what is sent is numbers and text.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from blob_pyro.data import Shard
from blob_pyro.infer.training.capture import CannotCapture
from blob_pyro.infer.training.process_group import join_workers
from blob_pyro.infer.training.settings import Training
from blob_pyro.infer.training.shares import Share
from blob_pyro.ops.fingerprints import differences
from blob_pyro.ops.item_tables import holder_of

if TYPE_CHECKING:
    from blob_pyro.infer.training.item_shards import ItemShards

__all__ = ["Traffic", "WorkerLost", "Workers", "WorkersDiffer"]

_TOGETHER = 1.0  # seconds in which several signals are one Ctrl-C: a launcher passes on what the terminal sent, too


class WorkersDiffer(ValueError):
    """Workers that were to take steps together have different logs, versions or settings; no step was taken."""


class WorkerLost(RuntimeError):
    """A worker cannot reach the others: one has ended. A fit with a checkpoint goes on from it, once all run again."""


@dataclass
class Traffic:
    """The traffic of a fit: what was sent, and how long that took, waiting for others included.

    Attributes:
        num_sums: sums over workers, one for each step and few beside.
        num_bytes: of what was summed, and of rows with sparse gradients; a ring sends twice that, less a worker's
            share.
        seconds: spent in them.
    """

    num_sums: int = 0
    num_bytes: int = 0
    seconds: float = 0.0


class Workers:
    """The workers of one fit, seen from one of them.

    Args:
        rank: of this one.
        world: how many there are; one needs no process group.
        share: rows of the batch that it has.
        fingerprint: of the log that they share.

    Attributes:
        items: tables of items that are dealt out among them, if any are.
    """

    def __init__(self, rank: int, world: int, share: Share, fingerprint: str) -> None:
        self.rank, self.world, self.share, self.fingerprint = rank, world, share, fingerprint
        self.traffic = Traffic()
        self.items: ItemShards | None = None
        self.asked_to_stop = False
        self.device = torch.device("cpu")
        if world > 1 and "nccl" in dist.get_backend():
            self.device = torch.device("cuda", torch.cuda.current_device())

    @classmethod
    def of(cls, shard: Shard | None, rows: str) -> Workers | None:
        """Find the other workers that have a shard of the same log; None where a log is no shard.

        Args:
            shard: of the log that is fitted to.
            rows: what the model learns from, "impressions" or "sessions".

        Raises:
            ValueError: if there is no process group of that many workers, or one of them has nothing to learn from,
                naming it.
            WorkersDiffer: for another log, naming the worker that has it.
        """
        if shard is None:
            return None
        if shard.world > 1:
            join_workers()
            here = (dist.get_rank(), dist.get_world_size())
            if here != (shard.rank, shard.world):
                raise ValueError(
                    f"log: is shard {shard.rank} of {shard.world}, and this process is worker {here[0]} of {here[1]}; "
                    f"use log.shard({here[0]}, {here[1]})"
                )
        share = Share(getattr(shard, rows), getattr(shard.whole, f"num_{rows}"))
        workers = cls(shard.rank, shard.world, share, shard.whole.fingerprint)
        workers.require_same({"log": shard.whole.fingerprint, "workers": shard.world, "rows": rows})
        what = {"impressions": "bandit events", "sessions": "views"}[rows]
        lacking = "" if len(share.rows) or not share.num_rows else f"its shard has no {what}; use fewer workers"
        workers.require_none(lacking)
        return workers

    def __str__(self) -> str:
        return f"worker {self.rank} of {self.world}"

    def deal(self, batch: Any) -> tuple[Any, Share]:
        """Take a part of a batch that every worker has whole: its rows, and which they are."""
        rows = torch.arange(self.rank, len(batch), self.world)
        return batch[rows if len(rows) else torch.zeros(1, dtype=torch.int64)], Share(rows, len(batch))

    def can_capture(self, training: Training, steps_per_epoch: int) -> bool:
        """Say whether a step has the same rows here every time, so that it may be recorded.

        Raises:
            CannotCapture: if it has not, and must be.
        """
        if steps_per_epoch > 1 and training.capture is True:
            raise CannotCapture(
                "capture: workers have other numbers of rows in every step unless a step takes all of them; use "
                'capture="auto", or a batch_size of all rows'
            )
        return steps_per_epoch == 1

    def sum_step(
        self, loss: Tensor, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], num_dense: int
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Add up what a step's workers have found: one sum of one tensor, and one exchange for each sparse gradient.

        Args:
            loss: this worker's.
            gradients: likewise; None counts as zero.
            parameters: what they are gradients of.
            num_dense: how many of these, the first ones, have dense gradients; the others' are sparse.

        Returns:
            The loss, whether somebody is to stop (above zero), and the gradients, of the whole step.
        """
        pairs = list(zip(parameters, gradients))
        dense = [torch.zeros_like(p) if g is None else g for p, g in pairs[:num_dense]]
        kind = max((g.dtype for g in dense), key=lambda t: t.itemsize, default=loss.dtype)
        stop = loss.new_tensor([float(self.asked_to_stop)])
        flat = torch.cat([*(g.reshape(-1).to(kind) for g in dense), loss.reshape(1).to(kind), stop.to(kind)])
        *parts, loss, stop = self.sum(flat).split([*(g.numel() for g in dense), 1, 1])
        summed = [part.view(g.shape).to(g.dtype) for part, g in zip(parts, dense)]
        return loss.squeeze(0), stop.squeeze(0), summed + [self._sum_sparse(p, g) for p, g in pairs[num_dense:]]

    def norms(self, parameters: Sequence[Tensor], norms: Tensor) -> Tensor:
        """Return norms of gradients, of which this worker may have but some rows, as those of all rows."""
        return norms if self.items is None else self.items.norms(parameters, norms)

    def everyone(self, values: Tensor) -> list[Tensor]:
        """Return all workers' tensors, in the order of their ranks; their first dimensions may differ."""
        return [values] if self.world == 1 else [part.to(values.device) for part in self._gather(values)]

    def exchange(self, values: Tensor, counts: list[int]) -> tuple[Tensor, list[int]]:
        """Give each worker its part, and return what the others give this one; all are to call it.

        Args:
            values: parts one after another, in the order of the ranks.
            counts: rows of each part.

        Returns:
            What came, likewise, and rows of each part.
        """
        if self.world == 1:
            return values, counts
        start, sent = time.perf_counter(), values.detach().contiguous().to(self.device)
        sizes = torch.tensor(counts, device=self.device)
        came = torch.empty_like(sizes)
        with self._in_touch():
            dist.all_to_all_single(came, sizes)
            received = came.tolist()
            found = sent.new_empty((sum(received), *sent.shape[1:]))
            dist.all_to_all_single(found, sent, received, counts)
        self._note(sent, start, 0)
        return found.to(values.device), received

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all workers."""
        if self.world == 1:
            return values
        start, sent = time.perf_counter(), values.detach().to(self.device, copy=True)
        with self._in_touch():
            dist.all_reduce(sent)
        self._note(sent, start)
        return sent.to(values.device)

    def _sum_sparse(self, table: Tensor, gradient: Tensor | None) -> Tensor:
        """Add up gradients of some rows of a table, of as many rows as workers have."""
        if gradient is None:
            none = torch.zeros(1, 0, dtype=torch.int64, device=table.device)
            gradient = torch.sparse_coo_tensor(none, table.detach()[none[0]], table.shape, check_invariants=False)
        gradient = gradient.coalesce()
        if self.world == 1 or holder_of(table) is not None:  # whose gradients have gone to who holds the row
            return gradient
        start = time.perf_counter()
        rows, values = self._gather(gradient.indices()[0]), self._gather(gradient.values())
        self._note(gradient.values(), start, 0)
        self.traffic.num_bytes += rows[self.rank].numel() * rows[self.rank].element_size()
        index = torch.cat(rows).unsqueeze(0).to(gradient.device)
        found = torch.cat(values).to(gradient.device)
        return torch.sparse_coo_tensor(index, found, gradient.shape, check_invariants=False).coalesce()

    def _gather(self, values: Tensor) -> list[Tensor]:
        """All workers' tensors, whose first dimensions may differ."""
        values = values.detach().contiguous().to(self.device)
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world)]
        with self._in_touch():
            dist.all_gather(sizes, torch.tensor([len(values)], device=self.device))
            lengths = [int(size) for size in sizes]
            padded = values.new_zeros((max(lengths), *values.shape[1:]))
            padded[: len(values)] = values
            found = [torch.empty_like(padded) for _ in lengths]
            dist.all_gather(found, padded)
        return [part[:length] for part, length in zip(found, lengths)]

    def gather(self, text: str) -> list[str]:
        """Return every worker's text, in the order of their ranks."""
        if self.world == 1:
            return [text]
        coded = torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8)
        return [bytes(part.cpu().tolist()).decode()[:-1] for part in self._gather(coded)]

    def first(self, values: Tensor) -> Tensor:
        """Return worker 0's tensor, which has the same shape everywhere."""
        if self.world == 1:
            return values
        sent = values.detach().to(self.device, copy=True)
        with self._in_touch():
            dist.broadcast(sent, 0)
        return sent.to(values.device)

    def content(self, read: Callable[[], bytes | None]) -> bytes | None:
        """Return what worker 0 reads, which the others may have no file of; None where there is nothing.

        Raises:
            ValueError: on all, if it cannot.
        """
        content, problem = None, ""
        if self.rank == 0:
            try:
                content = read()
            except (OSError, ValueError) as error:
                problem = str(error)
        self.require_none(problem)
        size = int(self.first(torch.tensor([-1 if content is None else len(content)]))[0])
        if size < 0:
            return None
        coded = torch.zeros(size, dtype=torch.uint8)
        if content is not None:
            coded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return content if self.world == 1 else self.first(coded).numpy().tobytes()

    def let_first(self, act: Callable[[], None]) -> None:
        """Let worker 0 do something; what it fails with, all fail with, naming it.

        Raises:
            OSError: for that of worker 0: a full disk, a folder that went away.
        """
        problem = ""
        if self.rank == 0:
            try:
                act()
            except OSError as error:
                problem = f"{type(error).__name__}: {error}"
        self.require_none(problem, OSError)

    def require_none(self, problem: str, kind: type[Exception] = ValueError) -> None:
        """Raise an error on all workers if one has a problem, naming it.

        Args:
            problem: this worker's; empty for none.
            kind: of the error.
        """
        for rank, text in enumerate(self.gather(problem)):
            if text:
                self.leave_together()
                raise kind(f"worker {rank} of {self.world}: {text}")

    def require_same(self, identity: dict[str, Any]) -> None:
        """Raise an error on all workers if one says something else of itself than worker 0.

        Raises:
            WorkersDiffer: naming the worker and what differs.
        """
        first, *others = (json.loads(text) for text in self.gather(json.dumps(identity)))
        for rank, other in enumerate(others, 1):
            found = list(differences(first, other, places=("there", "here")))
            causes = [d for d in found if not d.startswith(("start:", "random_state:", "constants:"))] or found
            if causes:
                self.leave_together()
                raise WorkersDiffer(
                    f"worker {rank} of {self.world}: is not at one with worker 0 (there): {'; '.join(causes[:8])}. "
                    "Give all workers one log, one version of everything, and the same arguments"
                )

    def leave_together(self) -> None:
        """Wait until all workers have what was last sent: one that ends before that takes their connections with it."""
        with suppress(WorkerLost):  # of one that knew, and has ended
            self.gather("")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep Ctrl-C in mind until a step, at which all workers stop. A second one ends at once.

        Raises:
            KeyboardInterrupt: at the end, if Ctrl-C came after the last sum that it could be told in.
        """
        usual = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
            yield
            return
        came: list[float] = []

        def note(*event: Any) -> None:
            now = time.monotonic()
            if came:
                if now - came[0] > _TOGETHER:
                    raise KeyboardInterrupt
                return
            came.append(now)
            self.asked_to_stop = True

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)
            untold, self.asked_to_stop = self.asked_to_stop, False
        if untold:
            raise KeyboardInterrupt

    def stop_if_asked(self) -> None:
        """Stop all workers if Ctrl-C has come to one of them since the last step.

        Raises:
            KeyboardInterrupt: on all of them.
        """
        if self.sum(torch.tensor(float(self.asked_to_stop))) > 0:
            raise KeyboardInterrupt

    @contextmanager
    def _in_touch(self) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise WorkerLost(
                f"{self}: cannot reach the others, one of which has ended ({str(error).splitlines()[0][:200]}). Start "
                "all of them again (torchrun --max-restarts does): with checkpoint=... a fit goes on where it was"
            ) from error

    def _note(self, sent: Tensor, start: float, num_sums: int = 1) -> None:
        self.traffic.num_sums += num_sums
        self.traffic.num_bytes += sent.numel() * sent.element_size()
        self.traffic.seconds += time.perf_counter() - start
