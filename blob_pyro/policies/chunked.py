"""Distributions over actions of more contexts than fit in memory times the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import constraints

from blob_pyro.data import Histories
from blob_pyro.ops.memory import require_memory
from blob_pyro.policies.repeated import log_prob_each, sample_each
from blob_pyro.propensity import Propensity
from blob_pyro.propensity._types import checked_mask

__all__ = ["PROBABILITIES_AT_ONCE", "ChunkedActions", "in_chunks", "propensity_of"]

PROBABILITIES_AT_ONCE = 1 << 24
"""Probabilities of a policy that exist at once, contexts times items, unless ``probs`` is asked for: 64 to 128 MiB."""


def in_chunks(
    actions: Callable[[Histories, slice], TorchDistribution],
    histories: Histories,
    num_items: int,
    at_once: int | None = None,
) -> TorchDistribution:
    """Return the ``actions`` of all histories, or a `ChunkedActions` where that would hold too many probabilities.

    Args:
        actions: from ``n`` of the histories, and which of them they are, to a distribution over items with
            ``batch_shape`` ``(n,)``.
        histories: of all contexts.
        num_items: size ``P`` of the catalogue.
        at_once: ``N x P`` of one call, at most; `PROBABILITIES_AT_ONCE` by default.
    """
    rows = max(1, (PROBABILITIES_AT_ONCE if at_once is None else at_once) // num_items)
    if len(histories) <= rows:
        return actions(histories, slice(0, len(histories)))
    return ChunkedActions(actions, histories, num_items, rows)


def propensity_of(actions: TorchDistribution, value: Tensor) -> Propensity:
    """Return the probability of what was played, and its error: 0 for a distribution that says of none."""
    own = getattr(actions, "propensity", None)
    if own is not None:
        result: Propensity = own(value)
        return result
    probability = actions.log_prob(value).exp()
    return Propensity(probability, torch.zeros_like(probability))


class ChunkedActions(TorchDistribution):
    """A policy's distribution over actions, computed for a few contexts at a time whenever it is asked something.

    `sample`, `log_prob`, `entropy` and `mode` never hold ``N x P`` numbers; `probs` is ``N x P`` and refused before it
    is allocated where it does not fit in memory.

    Args:
        actions: see `in_chunks`.
        histories: of all ``N`` contexts.
        num_items: size ``P`` of the catalogue.
        rows: contexts of one call.

    Raises:
        MemoryError: by `probs`, naming its size.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        actions: Callable[[Histories, slice], TorchDistribution],
        histories: Histories,
        num_items: int,
        rows: int,
    ) -> None:
        self.actions, self.histories, self.num_items, self.rows = actions, histories, num_items, rows
        super().__init__((len(histories),), validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The numbers of the items."""
        return constraints.integer_interval(0, self.num_items - 1)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> ChunkedActions:
        """Return the same distribution, for the batch shape that it has."""
        if tuple(batch_shape) != tuple(self.batch_shape):
            raise ValueError(f"batch_shape: expected {tuple(self.batch_shape)}, got {tuple(batch_shape)}")
        return self

    def restrict(self, mask: Tensor) -> ChunkedActions:
        """Return the distribution over some of the items only: see `blob_pyro.propensity.ArgmaxNormal.restrict`.

        Args:
            mask: booleans, ``P`` for all contexts alike, or ``N x P``.
        """
        shape = torch.Size((*self.batch_shape, self.num_items))
        allowed = checked_mask(type(self).__name__, mask, None, shape, mask.device)

        def actions(histories: Histories, rows: slice) -> Any:
            whole: Any = self.actions(histories, rows)
            return whole.restrict(allowed[rows])

        return ChunkedActions(actions, self.histories, self.num_items, self.rows)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw the items played, ``sample_shape x N`` int64."""
        draws = torch.Size(sample_shape).numel()
        # As many draws for one context as the chunk has contexts would be as many scores: fewer contexts at a time.
        return torch.cat([d.sample(sample_shape) for d, _ in self._parts(max(1, self.rows // max(draws, 1)))], -1)

    def sample_each(self, counts: Tensor) -> Tensor:
        """Draw ``counts[n]`` independent times for each context; see `repeated.sample_each`."""
        return torch.cat([sample_each(d, counts[rows], self.num_items) for d, rows in self._parts()])

    def log_prob_each(self, counts: Tensor, actions: Tensor) -> Tensor:
        """Return the log-propensities of each context's actions; see `blob_pyro.policies.repeated.log_prob_each`."""
        end = [0, *counts.cumsum(0).tolist()]
        parts = [
            log_prob_each(d, counts[rows], actions[end[rows.start] : end[min(rows.stop, len(counts))]])
            for d, rows in self._parts()
        ]
        return torch.cat(parts)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-propensity of the items ``value``, whose shape broadcasts with ``N``."""
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        return torch.cat([d.log_prob(value[..., rows]) for d, rows in self._parts()], -1)

    def propensity(self, value: Tensor) -> Propensity:
        """Return the probability of the items ``value``, broadcast with ``N``, and its error; 0 where it is exact."""
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        found = [propensity_of(d, value[..., rows]) for d, rows in self._parts()]
        return Propensity(*(torch.cat(parts, -1) for parts in zip(*found)))

    @property
    def probs(self) -> Tensor:
        """The probability of every item, ``N x P``."""
        require_memory(
            16 * len(self.histories) * self.num_items,  # double precision, and the parts beside the whole
            f"probs of {len(self.histories):,} contexts x {self.num_items:,} items",
            "ask for log_prob of what was played, or for fewer contexts at a time",
            self.histories.device,
        )
        return torch.cat([d.probs for d, _ in self._parts()])

    @property
    def mode(self) -> Tensor:
        """The likeliest item of each context, ``N`` int64."""
        return torch.cat([d.mode for d, _ in self._parts()])

    def entropy(self) -> Tensor:
        """Return the entropy in nats, ``N``."""
        return torch.cat([d.entropy() for d, _ in self._parts()])

    def _parts(self, rows: int | None = None) -> Iterator[tuple[TorchDistribution, slice]]:
        rows = self.rows if rows is None else rows
        for start in range(0, len(self.histories), rows):
            part = slice(start, start + rows)
            yield self.actions(self.histories[part], part), part
