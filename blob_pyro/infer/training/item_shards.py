"""Tables of items dealt out to workers by rows: each holds, and moves, the rows of its own items.

A step fetches the rows of the items that its sessions and negatives name from the workers that hold them, and their
gradients go back there, where the optimiser keeps what it knows of a row: three exchanges of all with all for each
table and use. So a worker holds ``1 / n`` of every table, of the optimiser's state, and of the copies that a fit keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.optim import Optimizer

from blob_pyro.guides.encoders import DeepEncoder, LinearEncoder, PrecisionEncoder
from blob_pyro.infer.bounds.bouchard import Bouchard
from blob_pyro.infer.bounds.log_concave import LogConcave
from blob_pyro.infer.bounds.one_vs_each import OneVsEach
from blob_pyro.infer.bounds.sum_over_items import OFFSET_ITEMS, SumOverItems
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import OrganicModel
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.ops.item_tables import deal_out, holder_of

__all__ = ["ItemShards"]

_BOUNDS, _ENCODERS = (Bouchard, LogConcave, OneVsEach), (DeepEncoder, LinearEncoder, PrecisionEncoder)


class ItemShards:
    """Tables whose row ``p`` is held by worker ``p % world``: `blob_pyro.ops.item_tables.Holder` of them.

    Args:
        workers: who take every step together.
        tables: modules and the names of their parameters with a row for each item; each is cut to this worker's rows.

    Attributes:
        hashes: of the tables before they were cut, by module and name.
    """

    def __init__(self, workers: Workers, tables: Sequence[tuple[nn.Module, str]]) -> None:
        self.workers, self.tables = workers, list(tables)
        self.hashes: dict[str, str] = {}
        (self.num_items,) = {getattr(module, name).shape[0] for module, name in self.tables}
        for module, name in self.tables:
            whole = getattr(module, name).detach()
            self.hashes[f"{type(module).__name__}.{name}"] = content_hash(whole)
            part = nn.Parameter(self.own(whole).clone())
            deal_out(part, self)
            setattr(module, name, part)

    @classmethod
    def of(cls, workers: Workers | None, model: OrganicModel, encoder: nn.Module, bound: Any) -> ItemShards:
        """Deal out the tables of an organic model.

        Raises:
            ValueError: for a log that is no shard, and for a model of which a step looks at every item, or whose
                encoder or bound reads tables in ways of its own: naming the argument.
        """
        if workers is None:
            raise ValueError("shard_items: is for several workers; fit log.shard(rank, world), or leave it out")
        kinds = [c.__name__ for c in _BOUNDS]
        if not model.sparse:
            raise ValueError(
                "shard_items: a step of this model has a gradient for every item; make it with sparse=True"
            )
        if type(bound) not in _BOUNDS or bound.num_negatives is None:
            raise ValueError(
                f"shard_items: bound {bound!r} looks at every item at every step; take one of {', '.join(kinds)} with "
                "num_negatives"
            )
        if isinstance(bound, SumOverItems) and bound.offsets is None and bound.num_negatives >= model.num_items:
            raise ValueError(
                f"shard_items: bound {bound!r} finds its offsets from all {model.num_items} items; take num_negatives "
                "below that"
            )
        if type(encoder) not in _ENCODERS:
            raise ValueError(
                f"shard_items: the encoder is a {type(encoder).__name__}, which may read rows that are elsewhere; take "
                "'precision', 'linear' or 'deep'"
            )
        if model.num_items <= OFFSET_ITEMS or workers.world > model.num_items:
            raise ValueError(
                f"shard_items: is for catalogues of more than {OFFSET_ITEMS} items, got {model.num_items}; leave it out"
            )
        item_tables: tuple[str, ...] = encoder.item_tables  # type: ignore[assignment]
        tables: list[tuple[nn.Module, str]] = [(model, "item_embedding"), (model, "item_intercept")]
        return cls(workers, tables + [(encoder, name) for name in item_tables])

    def own(self, whole: Tensor) -> Tensor:
        """Return this worker's rows of a whole table."""
        return whole[self.workers.rank :: self.workers.world]

    def whole(self, part: Tensor) -> Tensor:
        """Put all workers' rows of a table together, at each of them; all are to call it."""
        return part if self.workers.world == 1 else self._together(self.workers.everyone(part))

    def whole_at_first(self, part: Tensor) -> Tensor:
        """Put all workers' rows together on the host of the first, and nothing at the others; all are to call it."""
        if self.workers.world == 1:
            return part
        rows, counts = self.workers.exchange(part, [len(part), *[0] * (self.workers.world - 1)])
        return self._together(rows.cpu().split(counts)) if self.workers.rank == 0 else rows

    def _together(self, parts: Sequence[Tensor]) -> Tensor:
        whole = parts[0].new_empty((self.num_items, *parts[0].shape[1:]))
        for rank, rows in enumerate(parts):
            whole[rank :: self.workers.world] = rows
        return whole

    def give_back(self) -> None:
        """Make the tables whole again, at every worker; all are to call it."""
        for module, name in self.tables:
            setattr(module, name, nn.Parameter(self.whole(getattr(module, name).detach())))

    # --- as a holder of tables -----------------------------------------------------------------------------------

    def num_rows(self, table: Tensor) -> int:
        """Return how many items there are."""
        number: int = self.num_items
        return number

    def fetch(self, table: Tensor, items: Tensor) -> Tensor:
        """Return rows from whoever has them; all workers are to ask at the same time, each for rows of its own."""
        found: Tensor = _Fetch.apply(table, items, self.workers)  # type: ignore[no-untyped-call]
        return found

    # --- what a run keeps ----------------------------------------------------------------------------------------

    def norms(self, parameters: Iterable[Tensor], norms: Tensor) -> Tensor:
        """Make norms of what this worker has of each gradient those of the whole ones."""
        dealt = torch.tensor([holder_of(p) is not None for p in parameters], device=norms.device)
        return torch.where(dealt, self.workers.sum(torch.where(dealt, norms.square(), 0.0)).sqrt(), norms)

    def whole_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return what an optimiser knows, at the first worker of all rows; all are to call it."""
        return self._of_rows(optimizer, optimizer.state_dict(), self.whole_at_first)

    def own_state(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """Return this worker's rows of what an optimiser knew of all."""
        return self._of_rows(optimizer, state, lambda whole: self.own(whole).clone())  # a view would keep it all

    @staticmethod
    def _of_rows(optimizer: Optimizer, state: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        changed = {
            number: {name: change(value) for name, value in known.items()} if holder_of(parameters[number]) else known
            for number, known in state["state"].items()
        }
        return {**state, "state": changed}


class _Fetch(torch.autograd.Function):
    """Rows of a table by item number, from the workers that hold them; the gradient goes to these, sparse."""

    @staticmethod
    def forward(ctx: FunctionCtx, table: Tensor, items: Tensor, workers: Workers) -> Tensor:
        owner = items % workers.world
        order = owner.argsort(stable=True)
        counts = torch.bincount(owner, minlength=workers.world).tolist()
        asked, asked_counts = workers.exchange(items[order] // workers.world, counts)
        rows, _ = workers.exchange(table.detach()[asked], asked_counts)
        ctx.save_for_backward(order, asked)
        ctx.workers, ctx.counts, ctx.shape = workers, counts, table.shape  # type: ignore[attr-defined]
        found = torch.empty_like(rows)
        found[order] = rows
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, asked = ctx.saved_tensors
        values, _ = ctx.workers.exchange(gradient[order], ctx.counts)
        return torch.sparse_coo_tensor(asked.unsqueeze(0), values, ctx.shape, check_invariants=False), None, None
