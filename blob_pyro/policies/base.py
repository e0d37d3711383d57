"""The policy contract: a view history in, a distribution over actions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Histories, Vocabulary, as_histories

__all__ = ["Policy", "Scorer"]


class Policy(ABC):
    """Chooses one item for each view history; knows the exact probability of each choice.

    Subclasses implement `action_distribution`. Policies are functions of the view history alone: between two
    organic sessions a user's action distribution does not change.

    Args:
        items: the catalogue, or its size when ids are ``0 .. num_items - 1``.
    """

    def __init__(self, items: Vocabulary | int) -> None:
        self.items = items if isinstance(items, Vocabulary) else Vocabulary.numbered(items)

    @property
    def num_items(self) -> int:
        """Size ``P`` of the catalogue."""
        return len(self.items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_items} items)"

    @abstractmethod
    def action_distribution(self, histories: Histories | Any) -> TorchDistribution:
        """The distribution of the item number played after each of ``N`` histories.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.

        Returns:
            A distribution with ``batch_shape`` ``(N,)`` over ``0 .. P - 1``: ``sample``, ``log_prob`` (exact
            log-propensity) and ``probs`` (``N x P``).
        """

    def histories(self, histories: Histories | Any) -> Histories:
        """Whatever the caller holds as `Histories` over this policy's catalogue."""
        return as_histories(histories, self.items)


@runtime_checkable
class Scorer(Protocol):
    """What `Greedy`, `EpsilonGreedy` and `Softmax` need of a model: `blob_pyro.BLO`, `blob_pyro.BLOB`, a baseline."""

    @property
    def items(self) -> Vocabulary:
        """The catalogue."""

    def scores(self, histories: Histories | Any) -> Tensor:
        """``N x P``: higher is better."""


def categorical(probs: Tensor) -> dist.Categorical:
    """A Categorical whose impossible actions have log-probability -inf, not the log of a rounding unit.

    Args:
        probs: ``N x P``; rows sum to one.
    """
    # Checked by whoever calls this; torch's check takes longer than the rest, and cannot reshape what has no rows.
    distribution = dist.Categorical(probs=probs, validate_args=False)
    if len(probs):
        del distribution._validate_args  # from here on as everywhere: what is asked of it is checked
    distribution.logits = distribution.probs.log()  # known, so that torch does not work it out in its own way
    return distribution
