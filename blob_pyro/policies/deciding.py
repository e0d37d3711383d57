"""Decisions of any policy, a few contexts at a time, as the rows of a log."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from blob_pyro.data import Histories, as_candidates
from blob_pyro.data.clock import read_times
from blob_pyro.data.columns import Column, as_values
from blob_pyro.data.covariates import slice_covariates
from blob_pyro.data.ids import read_ids
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.memory import require_memory
from blob_pyro.ops.seeds import check_seed, derived_seed, generator
from blob_pyro.policies.slates import Contexts, Slates
from blob_pyro.policies.slates.distinct import distinct_contexts

if TYPE_CHECKING:
    from blob_pyro.policies.base import Policy

__all__ = ["BLOCK", "ChunkedSlates", "Slots", "decide"]

BLOCK = 256
"""Contexts that share a seed, where a sequence of contexts is drawn a part at a time."""
_CONTEXTS_AT_ONCE = 1 << 13


class Slots(NamedTuple):
    """The items shown and what is known of them: ``n x L`` each.

    Attributes:
        item: item numbers.
        propensity: of each item to be in its slot, float64.
        error: standard errors of these, 0 where they are exact.
        score: what the policy ranks the items by, NaN where it has no scores.
    """

    item: Tensor
    propensity: Tensor
    error: Tensor
    score: Tensor


class ChunkedSlates:
    """A policy's distribution over slates, computed for a few contexts at a time whenever it is asked something.

    Args:
        policy: whose they are.
        histories: ``N`` contexts.
        slots: ``L``.
        candidates: see `Policy.decide`, as for covariates.
        covariates: of the contexts.

    Raises:
        ValueError: naming argument and row.
    """

    def __init__(
        self, policy: Policy, histories: Histories | Any, slots: int, candidates: Any, covariates: Any
    ) -> None:
        self.policy = policy
        self.histories = policy.histories(histories)
        self.num_slots = whole_number(slots, "slots")
        if self.num_slots > policy.num_items:
            raise ValueError(f"slots: must lie between 1 and num_items={policy.num_items}, got {slots}")
        self.candidates = as_candidates(candidates, policy.items, len(self.histories))
        if self.candidates is not None:
            self.candidates.require(self.num_slots, "slots")
        self._covariates = slice_covariates(covariates, len(self.histories))

    def __len__(self) -> int:
        return len(self.histories)

    @property
    def probs(self) -> Tensor:
        """The probability of every item in every slot, ``N x P x L`` float64.

        Raises:
            MemoryError: if they do not fit, naming their size.
        """
        num_items = self.policy.num_items
        require_memory(
            16 * len(self) * num_items * self.num_slots,
            f"probs of {len(self):,} contexts x {num_items:,} items x {self.num_slots} slots",
            "ask for propensities of what was shown, or for fewer contexts at a time",
            self.histories.device,
        )
        found = []
        for contexts, _ in self._parts():
            every = torch.arange(num_items, device=self.histories.device).expand(len(contexts), -1)
            found.append(self._slates_of(contexts).rank_probs(every).to(self.histories.device))
        return torch.cat(found) if found else torch.zeros(0, num_items, self.num_slots, dtype=torch.float64)

    def propensities(self, items: Any) -> Tensor:
        """Return the probability of items to be where they are, ``N x L`` float64.

        Args:
            items: ``N`` slates of ``L`` ids; or ``N`` ids, where there is one slot.

        Raises:
            ValueError: for an id that is unknown, or not among the candidates of its context, naming the row.
        """
        shown = self._numbers(items)
        self._require_candidates(shown)
        found = [torch.zeros(0, self.num_slots, dtype=torch.float64)]
        for contexts, rows in self._parts():
            slates = shown[rows].to(self.histories.device)
            found.append(self._slates_of(contexts).propensities(slates).cpu())
        return torch.cat(found)

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot, ``N x C x L`` float64; see `Slates.rank_probs`.

        Args:
            items: ``N x C`` item numbers.
        """
        found = [torch.zeros(0, items.shape[-1], self.num_slots, dtype=torch.float64)]
        for contexts, rows in self._parts():
            found.append(self._slates_of(contexts).rank_probs(items[rows].to(self.histories.device)).cpu())
        return torch.cat(found)

    def draw(self, seed: int, first: int | None = None) -> Slots:
        """Draw slates, with what is known of them.

        Args:
            seed: of the draws.
            first: the number of the first context in a sequence that is drawn a part at a time, a multiple of `BLOCK`:
                each block of so many contexts is computed by itself and has a seed of its own, made of ``seed`` and its
                number, so that what is drawn does not depend on the parts. Default: one seed for all.

        Raises:
            FloatingPointError: if what was drawn is found to have probability 0, as an estimate may be, naming the row.
        """
        source = generator(check_seed(seed))
        blocks = None if first is None else _first_block(first)
        parts = []
        with torch.no_grad():
            for contexts, _ in self._parts(BLOCK if blocks is not None else None):
                if blocks is not None and contexts.first % BLOCK == 0:
                    source = generator(derived_seed(seed, blocks + contexts.first // BLOCK))
                slates = self._slates_of(contexts)
                item, propensity, error = self._drawn(slates, contexts, source)
                never = ~(propensity > 0)
                if bool(never.any()):
                    row, slot = never.nonzero()[0].tolist()
                    raise FloatingPointError(
                        f"propensity: histories[{contexts.first + row}], position {slot + 1}: item number "
                        f"{int(item[row, slot])} was drawn, and its propensity is computed as "
                        f"{float(propensity[row, slot])}; a decision without one cannot be logged"
                    )
                nothing, scores = torch.full_like(propensity, torch.nan), self.policy._scores_of(contexts, item)
                score = nothing if scores is None else scores.to(nothing)
                parts.append([t.cpu() for t in (item, propensity.clamp(max=1.0), error, score)])
        if not parts:
            none = torch.zeros(0, self.num_slots, dtype=torch.float64)
            return Slots(none.long(), none, none, none)
        return Slots(*(torch.cat(columns) for columns in zip(*parts)))

    def _drawn(self, slates: Slates, contexts: Contexts, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Slates, propensities and errors; where many contexts are alike these are computed once for each kind."""
        if slates.knows_alike_contexts:
            return slates.draw_known(source)
        first, kind = distinct_contexts(contexts)
        if 2 * len(first) > len(contexts):
            return slates.draw_known(source)
        item, kinds = slates.draw(source), self._slates_of(contexts[first])
        every = torch.arange(self.policy.num_items, device=item.device).expand(len(first), -1)
        at = (kind[:, None].to(item.device), item, torch.arange(self.num_slots, device=item.device))
        return item, kinds.rank_probs(every)[at], kinds.rank_errors(every)[at]

    def _slates_of(self, contexts: Contexts) -> Slates:
        slates = self.policy._slates(contexts, self.num_slots)
        if not isinstance(slates, Slates):
            raise TypeError(f"_slates: {type(self.policy).__name__} must return Slates, got a {type(slates).__name__}")
        return slates

    def _parts(self, block: int | None = None) -> Iterator[tuple[Contexts, slice]]:
        """A few contexts at a time; none of two blocks, where there are blocks."""
        size = min(max(1, self.policy._numbers_at_once // (self.policy.num_items * self.num_slots)), _CONTEXTS_AT_ONCE)
        block = block or max(len(self), 1)
        for begin in range(0, len(self), block):
            end = min(begin + block, len(self))
            for start in range(begin, end, size):
                rows = slice(start, min(start + size, end))
                histories = self.histories[rows]
                allowed = None if self.candidates is None else self.candidates.mask(rows, histories.device)
                yield Contexts(histories, allowed, self._covariates(rows), start), rows

    def _numbers(self, items: Any) -> Tensor:
        """Ids as numbers, ``N x L``."""
        flat = items
        if not isinstance(items, (Tensor, np.ndarray)):
            flat = list(items) if isinstance(items, Sequence) else items
            if isinstance(flat, list) and flat and isinstance(flat[0], (list, Tensor, np.ndarray)):
                flat = [list(slate) for slate in flat]
                if any(len(slate) != self.num_slots for slate in flat):
                    row = next(n for n, slate in enumerate(flat) if len(slate) != self.num_slots)
                    raise ValueError(f"items[{row}]: expected {self.num_slots} ids, one a slot, got {len(flat[row])}")
                flat = [id_ for slate in flat for id_ in slate]
        else:
            flat = items.reshape(-1)
        numbers = torch.from_numpy(self.policy.items.encode(flat, "items").astype(np.int64))
        if len(numbers) != len(self) * self.num_slots:
            raise ValueError(
                f"items: expected {len(self)} slates of {self.num_slots}, got {len(numbers)} ids; pass N x slots"
            )
        return numbers.view(len(self), self.num_slots)

    def _require_candidates(self, slates: Tensor) -> None:
        if self.candidates is None:
            return
        outside = self.candidates.outside(slates.mT).mT
        if bool(outside.any()):
            row, slot = outside.nonzero()[0].tolist()
            (id_,) = self.policy.items.decode([int(slates[row, slot])])
            raise ValueError(
                f"items[{row}], position {slot + 1}: {id_!r} is not among the candidates of this context, so it cannot "
                "have been shown there; pass the candidates of that decision"
            )


def _first_block(first: int) -> int:
    if whole_number(first, "first", at_least=0) % BLOCK:
        raise ValueError(f"first: must be a multiple of {BLOCK}, the contexts of a block, got {first}")
    return first // BLOCK


def decide(slates: ChunkedSlates, user: Any, time: Any, seed: int, first: int | None = None) -> pd.DataFrame:
    """Draw slates and return the rows to be logged of them; see `Policy.decide`, and `ChunkedSlates.draw` for first."""
    policy, count = slates.policy, len(slates)
    users, times = _users(user, count), _times(time, count)
    name, version = policy.name, policy.version
    shown = slates.draw(seed, first)
    context = np.repeat(np.arange(count), slates.num_slots)
    return pd.DataFrame(
        {
            "user": users.take(context).reset_index(drop=True),
            "time": times.take(context).reset_index(drop=True),
            "action": policy.items.column(shown.item.flatten()),
            "position": np.tile(np.arange(1, slates.num_slots + 1), count),
            "score": shown.score.flatten().numpy(),
            "propensity": shown.propensity.flatten().numpy(),
            "propensity_error": shown.error.flatten().numpy(),
            "policy": pd.Series([name] * len(context), dtype=object),
            "policy_version": pd.Series([version] * len(context), dtype=object),
        }
    )


def _users(user: Any, count: int) -> pd.Series:
    if user is None:
        return pd.Series(np.arange(count))
    column, read = _column(user, "user", count)
    read_ids(column, "A decision is logged with its user")
    return read


def _times(time: Any, count: int) -> pd.Series:
    if time is None:
        time = pd.Timestamp(datetime.now(UTC))
    if getattr(time, "ndim", int(hasattr(time, "__len__"))) == 0:  # one for all
        one = time.item() if isinstance(time, Tensor) else time
        read_times(Column([one], "time", lambda _: "time"))
        return pd.Series([one] * count)
    column, read = _column(time, "time", count)
    read_times(column)
    return read


def _column(values: Any, argument: str, count: int) -> tuple[Column, pd.Series]:
    """A caller's column, and as a Series in the type that it came in."""
    read = as_values(values, argument)
    if len(read) != count:
        raise ValueError(f"{argument}: has {len(read)} values for {count} histories; pass one for each")
    column = Column(read, argument, lambda row: f"{argument}[{row}]")
    if isinstance(values, pd.Series):
        return column, values.reset_index(drop=True)
    return column, read.to_pandas() if isinstance(read, pa.ChunkedArray) else _objects(read)


def _objects(values: list[Hashable]) -> pd.Series:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return pd.Series(column).infer_objects()
