"""Logs for other off-policy libraries: the Open Bandit Pipeline's dictionary, Vowpal Wabbit's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from blob_pyro.data import EventLog
from blob_pyro.ope import checks

__all__ = ["to_obp", "to_vowpal_wabbit"]

_LARGEST_DENSE = 500_000_000


def to_obp(
    log: EventLog, *, context: Any = None, action_context: Any = None, logging_probs: Any = None
) -> dict[str, Any]:
    """Write a log as the Open Bandit Pipeline's ``bandit_feedback`` (obp 0.5), for its estimators and reward models.

    Args:
        log: with impressions and propensities.
        context: ``N x D`` features of the contexts, in the log's order. Default: how often the user had viewed each
            item, ``N x P``.
        action_context: ``P x D`` features of the items. Default: one indicator each.
        logging_probs: ``N x P`` probabilities of all items; then ``pi_b`` is there too.

    Returns:
        ``n_rounds, n_actions, context, action_context, action, position, reward, pscore, pi_b``, as NumPy arrays.
        ``position`` counts from 0, and is None where the log has none; ``pi_b`` is ``N x P x 1`` or None.

    Raises:
        ValueError: for a log without impressions or propensities, for arrays that do not belong to it, and for
            defaults that would take more than 4 GB.

    Example:
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 1], "time": [0, 1], "item": ["mug", "mug"]},
        ...     impressions={"user": [1], "time": [2], "action": ["tea"], "reward": [1], "propensity": [0.25]},
        ... )
        >>> feedback = to_obp(log)
        >>> feedback["context"].tolist(), feedback["action"].tolist(), feedback["pscore"].tolist()
        ([[2.0, 0.0]], [1], [0.25])
    """
    propensity = _propensity(log)
    rows, items = log.num_impressions, log.num_items
    if context is None:
        _require_small("context", rows, items)
        context = log.contexts.counts(torch.float64)[log.context].cpu().numpy()
    if action_context is None:
        _require_small("action_context", items, items)
        action_context = np.eye(items)
    features = checks.as_matrix("context", context).cpu().numpy()
    of_items = checks.as_matrix("action_context", action_context).cpu().numpy()
    for name, array, expected in (("context", features, rows), ("action_context", of_items, items)):
        if len(array) != expected:
            raise ValueError(f"{name}: has {len(array):,} rows, expected {expected:,}, in the log's own order")
    everything = None
    if logging_probs is not None:
        everything = checks.probabilities("logging_probs", logging_probs).cpu().numpy()
        if everything.shape != (rows, items):
            raise ValueError(f"logging_probs: has shape {everything.shape}, expected {(rows, items)}")
        everything = everything.astype(np.float64)[:, :, None]
    return {
        "n_rounds": rows,
        "n_actions": items,
        "context": features,
        "action_context": of_items,
        "action": log.action.cpu().numpy(),
        "position": None if log.position is None else np.unique(log.position.cpu().numpy(), return_inverse=True)[1],
        "reward": log.reward.cpu().numpy().astype(np.float64),
        "pscore": propensity,
        "pi_b": everything,
    }


def to_vowpal_wabbit(log: EventLog, path: str | Path | None = None) -> list[str]:
    """Write a log as Vowpal Wabbit's text of contextual bandits, ``--cb P``: one line per impression.

    ``action:cost:probability | feature:value ...`` with actions numbered from 1, the reward's negative as cost, and one
    feature ``v<item number>`` for each item that the user had viewed, with the number of views.

    Args:
        log: with impressions and propensities.
        path: where to write the lines, too; optional.

    Returns:
        The lines, without line ends.

    Raises:
        ValueError: for a log without impressions or propensities.

    Example:
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 1, 1], "time": [0, 1, 2], "item": [3, 0, 3]},
        ...     impressions={
        ...         "user": [1, 2], "time": [9, 9], "action": [2, 0], "reward": [1, 0], "propensity": [0.5, 0.25]
        ...     },
        ...     num_items=4,
        ... )
        >>> to_vowpal_wabbit(log)
        ['3:-1:0.5 | v0:1 v3:2', '1:0:0.25 |']
    """
    propensity = _propensity(log)
    item, row = log.contexts.flatten()
    key, count = torch.unique(row * log.num_items + item, return_counts=True)
    context = (key // log.num_items).cpu().numpy()
    feature = pc.binary_join_element_wise(
        pa.scalar(" v"), _text(key % log.num_items), pa.scalar(":"), _text(count), pa.scalar("")
    )
    offsets = np.searchsorted(context, np.arange(len(log.contexts) + 1))
    features = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), feature), "")
    label = pc.binary_join_element_wise(
        _text(log.action + 1), _text((-log.reward).to(torch.int64)), _text(propensity), pa.scalar(":")
    ).cast(pa.large_string())
    shown = features.cast(pa.large_string()).take(pa.array(log.context.cpu().numpy()))
    lines: list[str] = pc.binary_join_element_wise(label, shown, pa.scalar(" |", pa.large_string())).to_pylist()
    if path is not None:
        Path(path).write_text("".join(f"{line}\n" for line in lines))
    return lines


def _text(values: Any) -> pa.Array:
    return pc.cast(pa.array(values.cpu().numpy() if isinstance(values, torch.Tensor) else values), pa.string())


def _propensity(log: EventLog) -> np.ndarray:
    log.require_impressions()
    if log.propensity is None:
        raise ValueError("log: has no column 'propensity'; log the probability of each action that is played")
    return log.propensity.cpu().numpy().astype(np.float64)


def _require_small(name: str, rows: int, columns: int) -> None:
    if rows * columns > _LARGEST_DENSE:
        raise ValueError(f"{name}: the default would be {rows:,} x {columns:,} numbers; pass features of your own")
