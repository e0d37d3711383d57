"""The facts that an audit's tests look at: a log's impressions as plain arrays, in the order of time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from blob_pyro.data import EventLog, Histories

__all__ = ["LogFacts"]

_LEAST = 1e-150  # the square of its inverse is a number still


@dataclass(frozen=True)
class LogFacts:
    """``N`` impressions in the order of time.

    Attributes:
        num_actions: size ``A`` of the catalogue.
        row: the row of each in the log.
        action, propensity, reward: one entry each.
        time: as the log gives it.
        slot: number of the position on the page, 0 where the log has none.
        history: a key of what the user had viewed: equal histories have equal keys.
        clock: what ``time`` counts: "number", or nanoseconds (see `EventLog`).
        logging_probs: ``N x A``, or None.
        significance: probability of a false alarm that one test may have.
    """

    num_actions: int
    row: np.ndarray
    action: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray
    time: np.ndarray
    slot: np.ndarray
    history: np.ndarray
    clock: str
    logging_probs: np.ndarray | None
    significance: float

    @classmethod
    def of(cls, log: EventLog, logging_probs: np.ndarray | None, significance: float) -> LogFacts:
        """Collect the facts of a log that has propensities."""
        assert log.propensity is not None
        time = log.time.cpu().numpy()
        order = np.argsort(time, kind="stable")
        slot = np.zeros(len(time), dtype=np.int64) if log.position is None else log.position.cpu().numpy()
        key = _history_keys(log.contexts)[log.context.cpu().numpy()]
        return cls(
            num_actions=log.num_items,
            row=order,
            action=log.action.cpu().numpy()[order],
            propensity=log.propensity.cpu().numpy()[order].astype(np.float64),
            reward=log.reward.cpu().numpy()[order].astype(np.float64),
            time=time[order],
            slot=np.unique(slot, return_inverse=True)[1][order],
            history=key[order],
            clock=log.clock,
            logging_probs=None if logging_probs is None else logging_probs[order],
            significance=significance,
        )

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def usable(self) -> np.ndarray:
        """The rows whose propensity is a probability that something was played with, and a weight can be made of."""
        return (self.propensity > _LEAST) & (self.propensity <= 1)

    @cached_property
    def uniform_weight(self) -> np.ndarray:
        """The weights of the uniform policy, ``1 / (A p)``, of the usable rows."""
        weight: np.ndarray = 1 / (self.num_actions * self.propensity[self.usable])
        return weight


def _history_keys(contexts: Histories) -> np.ndarray:
    """One int64 per history: the sum of random numbers of its items, so that order and storage do not matter."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**62), 2**62, (contexts.num_items,), generator=generator).numpy()
    with np.errstate(over="ignore"):
        sums = np.concatenate([[0], np.cumsum(numbers[contexts.views.cpu().numpy()])])
        starts = contexts.starts.cpu().numpy()
        result: np.ndarray = sums[starts + contexts.lengths.cpu().numpy()] - sums[starts]
        return result
