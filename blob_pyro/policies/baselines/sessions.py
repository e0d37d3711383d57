"""Data that baselines learn from: the sessions of a log as a sparse matrix, and clicks as rows of contexts."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array

from blob_pyro.data import EventLog, Histories, Vocabulary

__all__ = ["clicks_of", "count_matrix", "distinct", "sessions_of"]


def sessions_of(sessions: EventLog | Histories) -> tuple[Vocabulary, Histories]:
    """Return the catalogue, and all the views of each user who has any.

    Raises:
        TypeError: for neither a log nor sessions.
        ValueError: if there is nothing to learn from.
    """
    if isinstance(sessions, EventLog):
        sessions.require_views()
        return sessions.items, sessions.sessions
    if not isinstance(sessions, Histories):
        raise TypeError(f"sessions: expected an EventLog or its sessions as Histories, got {type(sessions).__name__}")
    if not len(sessions):
        raise ValueError("sessions: there are none, and correlations over none are not defined; pass at least one")
    return Vocabulary.numbered(sessions.num_items), sessions


def clicks_of(log: EventLog, num_items: int) -> EventLog:
    """Return the log, after a look at whether clicks can be learned from it.

    Raises:
        TypeError: for what is no log.
        ValueError: for another catalogue, no impressions, or rewards that are all equal.
    """
    if not isinstance(log, EventLog):
        raise TypeError(f"log: expected an EventLog with impressions, got {type(log).__name__}")
    if log.num_items != num_items:
        raise ValueError(f"log: has {log.num_items} items, but this model has num_items={num_items}")
    log.require_impressions()
    rewarded = int(log.reward.sum())
    if rewarded in (0, log.num_impressions):
        raise ValueError(
            f"log: all {log.num_impressions:,} rewards are {int(rewarded > 0)}, so no item can be told from another; "
            "check the reward column, or log more events"
        )
    return log


def count_matrix(histories: Histories) -> csr_array:
    """Count views, ``N x P``, float64."""
    items, row = (t.cpu().numpy() for t in histories.flatten())
    counts = csr_array((np.ones(len(items)), (row, items)), shape=(len(histories), histories.num_items))
    counts.sum_duplicates()
    return counts


def distinct(histories: Histories) -> Histories:
    """Return each history's items once, in the order of their numbers."""
    items, row = histories.flatten()
    cell = torch.unique(row * histories.num_items + items)
    lengths = torch.bincount(cell // histories.num_items, minlength=len(histories))
    return Histories.from_ragged(cell % histories.num_items, lengths, histories.num_items)
